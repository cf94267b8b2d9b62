"""Train a Bradley-Terry reward model on preference pairs: an adapter and a scalar head over the checkpoint.

With `--facts` (image name -> captions) the evaluation turn after each answer lists the image's captions, as in
Fact-RLHF; without, the reward model has only the image. `--resolution` gives it a coarser view of the image. The
last `--held-out` pairs are never trained on; accuracy on them is written to OUT/results.json. OUT/adapter holds the
result. Figures that are left out are the recipe's (`vlm-jax recipe list`). The same command continues a run that was
stopped.
"""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_jax.commands.milestones import held_out_rows, milestones_of
from vlm_jax.commands.reward_options import Options, complete
from vlm_jax.commands.reward_view import evaluation_turn, view_with
from vlm_jax.commands.training import checked, open_for_training, optim_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from vlm_jax.checkpoints.opening import Model
    from vlm_jax.data.sources import Preference
    from vlm_jax.runs.held_out import Measure


def run(options: Options) -> None:
    import jax

    from vlm_jax.checkpoints.adapters import save_adapter
    from vlm_jax.checkpoints.hashes import digest
    from vlm_jax.checkpoints.reward_view import VIEW_FILE, written_view
    from vlm_jax.files import write_json
    from vlm_jax.parallel.compile import jit_step, place
    from vlm_jax.parallel.memory import require_training
    from vlm_jax.runs.begin import begin
    from vlm_jax.runs.loop import Pace, train
    from vlm_jax.runs.work import reward_work
    from vlm_jax.train.optim import start
    from vlm_jax.train.reward import RewardSettings, reward_step

    options = complete(options)
    turn = dataclasses.asdict(evaluation_turn(options.view.reward_prompt))
    # Centring is the mean of each part: how a batch is split is part of what is trained.
    inputs = {"reward_turn": turn, "parts": options.microbatches}
    begun = begin(options, options.out / "adapter", options.out / "run.json", options.checkpoint, **inputs)
    if begun.finished():
        return
    pairs, others = read_pairs(options), held_out_rows(options, options.preferences, reader_of(options))
    model = open_for_training(options)
    encode = encoder_of(options, model)
    learnt, last = split_pairs(options, checked(options, begun, pairs, encode))
    unseen = checked(options, begun, others, encode) if others else last
    steps = max(1, round(options.epochs * len(learnt) / options.batch_size))
    optim = optim_of(options, steps, round(options.warmup * steps))
    # A row an answer.
    rows = 2 * options.batch_size
    require_training(model, rows, options.max_length, options.microbatches, lambda: first_role(options, model))
    state = place(model.mesh, start(optim, first_role(options, model)))
    settings = RewardSettings(optim, options.centring, options.microbatches)
    step = jit_step(reward_step, model.mesh, model.config, settings, state=state)
    pace = Pace(
        "reward",
        steps,
        options.save_every,
        log_every=5,
        shown=("loss", "accuracy"),
        count=reward_work(model.config),
        profile=options.profile,
    )
    batches = batches_of(options, model, learnt)
    view = written_view(view_with(options.view, evaluation_turn(options.view.reward_prompt)))

    def save(folder: Path, role: dict, notes: "Mapping[str, Any]") -> None:
        save_adapter(folder, model.config, role, notes={VIEW_FILE: view, **notes})

    rows = f"the last {options.held_out} of {digest(options.preferences)}"
    milestones = milestones_of(options, lambda: measure(options, model, unseen), save, rows)
    state = train(
        begun, pace, model.mesh, state, lambda state, batch: step(model.base, state, batch), batches, milestones
    )
    accuracy = pair_accuracy(options, model, state.params, last)
    if jax.process_index() == 0:
        write_json(options.out / "results.json", {"held_out_accuracy": accuracy, "held_out_pairs": len(last)})
    save(begun.result, state.params, {})
    told = "" if accuracy is None else f"; {100 * accuracy:.1f} % of {len(last)} held-out pairs right"
    print(f"{begun.result}{told}")


def read_pairs(options: Options) -> "list[Preference]":
    """All pairs, with their facts where the reward model reads facts.

    Raises:
        InputError: A row is broken, or there are too few to learn from.
    """
    from vlm_jax.errors import InputError, note

    records = reader_of(options)(options.preferences)
    # Before the model is opened; rows that are too long come off later.
    split_pairs(options, records)
    if equal := sum(record.answers[0] == record.answers[1] for record in records):
        told = f"{equal} of {len(records)} pairs have two equal answers, which teach nothing"
        if equal == len(records):
            raise InputError(told, "answers that differ", file=str(options.preferences))
        note(options.preferences, told)
    return records


def reader_of(options: Options) -> "Callable[[Path], list[Preference]]":
    """What reads a file of pairs, with the facts that the reward model reads."""
    from vlm_jax.data.sources import read_captions, read_preferences

    facts = read_captions(options.view.facts) if options.view.facts else None
    return lambda file: read_preferences(file, options.images, facts, allow_outside=options.allow_outside)


def encoder_of(options: Options, model: "Model") -> "Callable[[Preference], Any]":
    """What raises where a pair does not fit."""
    from vlm_jax.data.pipelines import pair_texts

    turn = evaluation_turn(options.view.reward_prompt)
    texts = pair_texts(model.tokenizer, model.config, model.template, options.max_length, turn)
    return lambda record: texts(record, record.facts)


def split_pairs(
    options: Options, records: "Sequence[Preference]"
) -> "tuple[Sequence[Preference], Sequence[Preference]]":
    """The pairs to learn from, and those at the end that are held out.

    Raises:
        InputError: There are too few to learn from.
    """
    from vlm_jax.errors import InputError

    learnt = len(records) - options.held_out
    if learnt < options.batch_size:
        found = f"{len(records)} pairs, {options.held_out} of them to be held out (--held-out)"
        wanted = f"at least {options.batch_size} beside those (--batch-size)"
        raise InputError(found, wanted, file=str(options.preferences))
    return records[:learnt], records[learnt:]


def first_role(options: Options, model: "Model") -> dict:
    """Adapter and head that training starts from.

    Raises:
        InputError: A word of ``verdict`` is not one token of the model's vocabulary, or both are the same.
    """
    from vlm_jax.errors import InputError
    from vlm_jax.models.adapters import init_lora, init_reward_head, verdict_head
    from vlm_jax.randomness import key_for

    lora = init_lora(model.config, key_for(options.seed, "lora"))
    if options.verdict is None:
        return {"lora": lora, "head": init_reward_head(model.config, key_for(options.seed, "head"))}
    pieces = [model.tokenizer(word, add_special_tokens=False)["input_ids"] for word in options.verdict]
    if [len(ids) for ids in pieces] != [1, 1] or pieces[0] == pieces[1]:
        found = ", ".join(f"{word!r} of {len(ids)} tokens" for word, ids in zip(options.verdict, pieces, strict=True))
        raise InputError(f"--verdict {found}", "two different words of one token each")
    (good,), (bad,) = pieces
    return {"lora": lora, "head": verdict_head(model.base, good, bad)}


def pair_accuracy(options: Options, model: "Model", role: dict, records: "Sequence[Preference]") -> float | None:
    """Share of the pairs whose preferred answer scores higher; None of no pairs."""
    return measure(options, model, records)(role)["accuracy"] if records else None


def measure(options: Options, model: "Model", records: "Sequence[Preference]") -> "Measure":
    """Accuracy and loss on held-out pairs."""
    from vlm_jax.runs.held_out import pair_measure

    return pair_measure(model, batches_of(options, model, records), len(records))


def batches_of(options: Options, model: "Model", records: "Sequence[Preference]"):
    from vlm_jax.data.pipelines import preference_batches
    from vlm_jax.parallel.local_rows import held_rows

    return preference_batches(
        records,
        model.tokenizer,
        model.config,
        model.template,
        options.batch_size,
        options.max_length,
        evaluation_turn(options.view.reward_prompt),
        options.seed,
        resolution=options.view.resolution,
        held=functools.partial(held_rows, model.mesh),
    )
