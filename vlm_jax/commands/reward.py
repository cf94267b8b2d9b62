"""Train a Bradley-Terry reward model on preference pairs: an adapter and a scalar head over the checkpoint.

With `--facts` (image name -> captions) the evaluation turn after each answer lists the image's captions, as in
Fact-RLHF; without, the reward model has only the image. `--resolution` gives it a coarser view of the image. The
last `--held-out` pairs are never trained on; accuracy on them is written to OUT/results.json. OUT/adapter holds the
result. The same command continues a run that was stopped.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.commands.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlm_jax.checkpoints.opening import Model
    from vlm_jax.data.evaluation_turn import RewardPrompt
    from vlm_jax.data.sources import Preference


@dataclasses.dataclass(frozen=True)
class RewardView:
    """What a reward model reads beside the answer; PPO must use the same as its training did.

    Attributes:
        facts: JSON of image name -> captions; none for a reward model without facts.
        resolution: Reduce images to this many pixels a side before the tower sees them.
        reward_prompt: Words of the evaluation turn: `short`, `standard`, or a text file with {factual_prompt} in it.
    """

    facts: Path | None = None
    resolution: Annotated[int | None, Range(1, 16384)] = None
    reward_prompt: str = "short"


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        checkpoint: Folder in transformers' LLaVA layout or of `vlm-jax convert`, or `tiny`.
        preferences: Pairs in LLaVA-RLHF's layout (output_1, output_2, preference).
        images: Folder that the rows' image names are relative to.
        out: Folder of the run.
        view: What the reward model reads beside the answer.
        verdict: Two words, such as `Yes No`: the head starts as the model's own preference for saying the first rather
            than the second after the evaluation turn. None: a random start, as LLaVA-RLHF has it.
        epochs: Passes over the pairs.
        batch_size: Pairs a step.
        microbatches: Parts that a batch is worked through in.
        max_length: Positions of conversation and evaluation turn, image included.
        learning_rate: Peak of the cosine schedule.
        warmup: Share of the steps until the peak.
        held_out: Pairs at the end of the file that only measure accuracy.
        save_every: Steps between checkpoints.
        seed: Order of the pairs and facts, and the adapter's start.
        preset: Refuse a checkpoint that is not this preset.
        mesh: Layout of the devices.
    """

    checkpoint: str
    preferences: Path
    images: Path
    out: Path
    view: tyro.conf.OmitArgPrefixes[RewardView] = RewardView()
    verdict: tuple[str, str] | None = None
    epochs: float = 1.0
    batch_size: int = 32
    microbatches: int = 1
    max_length: int = 192
    learning_rate: float = 1e-3
    warmup: float = 0.03
    held_out: int = 200
    save_every: int = 50
    seed: int = 0
    preset: str | None = None
    mesh: MeshOptions = MeshOptions()


VIEW_FILE = "reward_view.json"


def described(view: RewardView) -> dict:
    """What PPO must agree with: the files of facts may differ, whether there are facts may not."""
    from dataclasses import asdict

    turn = evaluation_turn(view.reward_prompt)
    return {"facts": view.facts is not None, "resolution": view.resolution, "reward_prompt": asdict(turn)}


def check_view(view: RewardView, adapter: Path) -> None:
    """Compare with what the reward model in a folder was trained with, where the folder says so.

    Raises:
        InputError: They differ; names in what.
    """
    from vlm_jax.errors import InputError, differences
    from vlm_jax.files import read_json

    if not (adapter / VIEW_FILE).exists():
        return
    trained, now = (
        {key: repr(value) for key, value in values.items()}
        for values in (read_json(adapter / VIEW_FILE), described(view))
    )
    if odd := differences(now, trained):
        raise InputError(odd, "what the reward model was trained with", file=str(adapter / VIEW_FILE))


def evaluation_turn(name: str) -> "RewardPrompt":
    """The evaluation turn that an option names."""
    from vlm_jax.data.evaluation_turn import SHORT, STANDARD, load_reward_prompt

    built_in = {"short": SHORT, "standard": STANDARD}
    return built_in[name] if name in built_in else load_reward_prompt(name)


def first_head(options: Options, model: "Model") -> dict:
    """The head that training starts from.

    Raises:
        InputError: A word of ``verdict`` is not one token of the model's vocabulary, or both are the same.
    """
    from vlm_jax.errors import InputError
    from vlm_jax.models.adapters import init_reward_head, verdict_head
    from vlm_jax.randomness import key_for

    if options.verdict is None:
        return init_reward_head(model.config, key_for(options.seed, "head"))
    pieces = [model.tokenizer(word, add_special_tokens=False)["input_ids"] for word in options.verdict]
    if [len(ids) for ids in pieces] != [1, 1] or pieces[0] == pieces[1]:
        found = ", ".join(f"{word!r} of {len(ids)} tokens" for word, ids in zip(options.verdict, pieces, strict=True))
        raise InputError(f"--verdict {found}", "two different words of one token each")
    (good,), (bad,) = pieces
    return verdict_head(model.base, good, bad)


def pair_accuracy(options: Options, model: "Model", role: dict, records: "Sequence[Preference]") -> float | None:
    """Share of the pairs whose preferred answer scores higher; None of no pairs."""
    import jax
    import numpy as np

    from vlm_jax.parallel.compile import place_batch
    from vlm_jax.train.reward import reward_scores

    if not records:
        return None
    score = jax.jit(lambda base, role, batch: reward_scores(model.config, base, role, batch))
    right, batches = [], iter(_batches(options, model, records))
    for _ in range(-(-len(records) // options.batch_size)):
        pairs = next(batches)
        first, second = np.split(np.asarray(score(model.base, role, place_batch(model.mesh, pairs.batch))), 2)
        right.extend((second >= first) == (pairs.choice == 1))
    # The first epoch of a pipeline holds every record once; what follows would count twice.
    return float(np.mean(right[: len(records)]))


def read_pairs(options: Options) -> "list[Preference]":
    """All pairs of the file, with their facts where the reward model reads facts."""
    from vlm_jax.data.sources import read_captions, read_preferences

    facts = read_captions(options.view.facts) if options.view.facts else None
    return read_preferences(options.preferences, options.images, facts)


def _batches(options: Options, model: "Model", records: "Sequence[Preference]"):
    from vlm_jax.data.pipelines import preference_batches

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
    )


def run(options: Options) -> None:
    import jax

    from vlm_jax.checkpoints.adapters import save_adapter
    from vlm_jax.checkpoints.opening import open_model
    from vlm_jax.errors import InputError, require_parts, require_positive
    from vlm_jax.files import write_json
    from vlm_jax.models.adapters import init_lora
    from vlm_jax.parallel.compile import jit_step, place
    from vlm_jax.randomness import key_for
    from vlm_jax.runs.begin import begin
    from vlm_jax.runs.loop import Pace, train
    from vlm_jax.train.optim import Optim, start
    from vlm_jax.train.reward import RewardSettings, reward_step

    result = options.out / "adapter"
    require_positive(options, "epochs", "batch_size", "microbatches", "max_length", "save_every")
    require_positive(options.view, "resolution")
    begun = begin(options, result, options.out / "run.json", options.checkpoint)
    if begun.finished():
        return
    require_parts(options.batch_size, options.microbatches, "microbatches")
    records = read_pairs(options)
    pairs = len(records) - options.held_out
    if pairs < options.batch_size:
        found = f"{len(records)} pairs, {options.held_out} of them to be held out (--held-out)"
        wanted = f"at least {options.batch_size} beside those (--batch-size)"
        raise InputError(found, wanted, file=str(options.preferences))
    model = open_model(options.checkpoint, options.mesh, options.preset)
    steps = max(1, round(options.epochs * pairs / options.batch_size))
    optim = Optim(options.learning_rate, steps=steps, warmup_steps=round(options.warmup * steps))
    role = {
        "lora": init_lora(model.config, key_for(options.seed, "lora")),
        "head": first_head(options, model),
    }
    state = place(model.mesh, start(optim, role))
    step = jit_step(
        reward_step, model.mesh, model.config, RewardSettings(optim, microbatches=options.microbatches), state=state
    )
    pace = Pace("reward", steps, options.save_every, log_every=5, shown=("loss", "accuracy"))
    batches = _batches(options, model, records[:pairs])
    state = train(begun, pace, model.mesh, state, lambda state, batch: step(model.base, state, batch), batches)
    with jax.set_mesh(model.mesh):
        accuracy = pair_accuracy(options, model, state.params, records[pairs:])
    write_json(options.out / "results.json", {"held_out_accuracy": accuracy, "held_out_pairs": options.held_out})
    save_adapter(result, model.config, state.params, notes={VIEW_FILE: described(options.view)})
    print(
        f"{result}"
        + ("" if accuracy is None else f"; {100 * accuracy:.1f} % of {options.held_out} held-out pairs right")
    )
