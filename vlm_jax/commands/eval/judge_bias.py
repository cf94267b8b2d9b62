"""CALM: what moves the verdicts of a judge or reward model that should not? Twelve biases, and one of image answers.

  vlm-jax eval judge-bias --preferences pairs.json --images DIR --reward ADAPTER --checkpoint BASE --output bias.json
  vlm-jax eval judge-bias --preferences pairs.json --images DIR --output bias.json \\
      --judge https://api.openai.com/v1 --judge-model gpt-4o-2024-11-20

Every pair is put before the judge as it is, a second time, and once perturbed by each bias. RR is the share of verdicts
that a perturbation leaves as they were, CR that of the second time. Perturbations are by rule and favour the answer
that was not preferred. A reward model reads no prompt, so that biases in the prompt do not apply to it.

A second reward model (--against) is compared on the same pairs. With --objects, as `vlm-jax eval chair-objects` writes
them, the thirteenth: an answer that goes on to name what is not in the image.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.commands.eval.files import check_written, making
from vlm_jax.commands.eval.judging import Judging
from vlm_jax.commands.reward_view import RewardView, check_view, turn_of
from vlm_jax.ranges import LARGEST_COUNT, LARGEST_SEED, Range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vlm_jax.evals.calm.biases import Bias, Objects
    from vlm_jax.evals.calm.reward_model import RewardComparer
    from vlm_jax.evals.calm.trial import Trial
    from vlm_jax.evals.statistics.tally import Scored

Name = Literal[
    "position",
    "verbosity",
    "compassion_fade",
    "bandwagon",
    "distraction",
    "fallacy_oversight",
    "authority",
    "sentiment",
    "diversity",
    "chain_of_thought",
    "self_enhancement",
    "refinement_aware",
    "ungrounded_detail",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command takes.

    Attributes:
        preferences: Pairs in LLaVA-RLHF's layout (output_1, output_2, preference).
        images: Folder that the rows' image names are relative to.
        allow_outside: Images may lie outside that folder, where names or links lead out of it.
        output: JSON file for the result; `NAME.samples.jsonl` beside it gets a row for every pair.
        reward: Adapter folder of a reward model, as `vlm-jax reward` writes it.
        checkpoint: What the reward model stands on.
        against: Adapter folder of another one over the same checkpoint: both are compared, pair by pair.
        view: What the reward models read beside the answer, as in their training.
        biases: Which; left out: all that are possible.
        objects: JSON of image id -> objects in it, for ungrounded_detail.
        image_name: An image's file by its id among the objects; for COCO's COCO_train2014_{:012d}.jpg.
        gold: Whether the preferred answer is the better one; without, the answer to favour is drawn by lot.
        limit: Only that many pairs, from the start of the file.
        max_length: Positions of a text that a reward model reads, image included.
        batch_size: Texts at a time.
        seed: Of the perturbations.
        judging: A judge instead of a reward model.
        mesh: Layout of the devices.
    """

    preferences: Path
    images: Path
    allow_outside: bool = False
    output: Path
    reward: Path | None = None
    checkpoint: str | None = None
    against: Path | None = None
    view: tyro.conf.OmitArgPrefixes[RewardView] = RewardView()
    biases: tuple[Name, ...] = ()
    objects: Path | None = None
    image_name: str = "{}"
    gold: bool = True
    limit: Annotated[int | None, Range(1, LARGEST_COUNT)] = None
    max_length: Annotated[int, Range(1, 1_000_000)] = 2048
    batch_size: Annotated[int, Range(1, 65536)] = 64
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    judging: Annotated[Judging, tyro.conf.arg(name="")] = Judging(judge="")
    mesh: MeshOptions = MeshOptions()


def run(options: Options) -> None:
    from vlm_jax.errors import InputError
    from vlm_jax.evals.calm.biases import chosen
    from vlm_jax.evals.result import result_of, write_result
    from vlm_jax.report.benchmark import print_result

    check_written(options)
    _check(options)
    objects = _objects(options)
    trials = read_trials(options)
    _check_images(options, trials, objects)
    biases = chosen(options.biases, objects)
    other = None
    if options.reward is None:
        scored = _judged(options, trials, biases)
    else:
        adapters = [one for one in (options.reward, options.against) if one is not None]
        for adapter in adapters:
            check_view(options.view, adapter)
        scored, *others = [_scored(options, trials, biases, adapter) for adapter in adapters]
        other = others[0] if others else None
    if all(verdict is None for row in scored.per_sample for verdict in row["verdicts"].values()):
        raise InputError("no verdict that can be read, of any pair", "a judge that chooses as it is told")
    result = result_of("CALM", "reward" if options.reward else "judge", scored, making(options), other)
    write_result(options.output, result, scored.per_sample)
    # The others stand in the table, a row for each bias.
    beside = ("cr", "accuracy", *(f"error_{name}" for name in biases))
    print_result({**result, "metrics": {name: value for name, value in scored.metrics.items() if name in beside}})
    print(options.output)


def _check(options: Options) -> None:
    from vlm_jax.errors import InputError

    if (options.reward is None) == (not options.judging.judge):
        found = "neither" if options.reward is None else "both"
        raise InputError(f"{found} of --reward and --judge", "one of them")
    if options.reward is None and options.against is not None:
        raise InputError("--against with a judge", "two reward models")
    if options.reward is not None and options.checkpoint is None:
        raise InputError("--reward without --checkpoint", "what the reward model stands on")
    if "ungrounded_detail" in options.biases and options.objects is None:
        raise InputError("ungrounded_detail without --objects", "what is in the images")


def _objects(options: Options) -> "Objects | None":
    from vlm_jax.commands.eval.scoring import image_file
    from vlm_jax.evals.chair.coco_objects import read_objects

    if options.objects is None:
        return None
    found = read_objects(options.objects)
    return {image_file(options.image_name, image): objects for image, objects in found.items()}


def _check_images(options: Options, trials: "Sequence[Trial]", objects: "Objects | None") -> None:
    from vlm_jax.errors import InputError

    if objects is not None and not any(trial.image and trial.image.name in objects for trial in trials):
        found = f"none of the pairs' images among those such as {next(iter(objects))} (--image-name)"
        raise InputError(found, "the objects of the pairs' images", file=str(options.objects))


def read_trials(options: Options) -> "list[Trial]":
    """The file's pairs, with facts where the reward model reads them."""
    from vlm_jax.data.sources import read_captions, read_preferences
    from vlm_jax.evals.calm.trial import trial_of

    facts = read_captions(options.view.facts) if options.view.facts else None
    pairs = read_preferences(options.preferences, options.images, facts, allow_outside=options.allow_outside)
    trials = [trial_of(pair) for pair in pairs[: options.limit]]
    return trials if options.gold else [dataclasses.replace(trial, gold=None) for trial in trials]


def _scored(options: Options, trials: "Sequence[Trial]", biases: "Mapping[str, Bias]", adapter: Path) -> "Scored":
    """Of one reward model, which is let go of afterwards: two bases at a time may be too many."""
    comparer = _reward_model(options, adapter)
    can, cannot = {}, []
    for name, bias in biases.items():
        if bias.in_prompt:
            cannot.append(name)
        else:
            can[name] = bias
    scored = _measured(options, trials, can, comparer, comparer, cannot)
    if comparer.cut:
        said = f"{comparer.cut} texts were cut at their end to --max-length {options.max_length}"
        scored = dataclasses.replace(scored, remarks=(said,))
    return scored


def _reward_model(options: Options, adapter: Path) -> "RewardComparer":
    from vlm_jax.checkpoints.opening import open_model, open_role
    from vlm_jax.evals.calm.reward_model import RewardComparer

    model = open_model(options.checkpoint, options.mesh, adapter=adapter)
    turn = turn_of(options.view, adapter)
    size, batch = options.max_length, options.batch_size
    return RewardComparer(model, open_role(model, adapter), turn, options.view.resolution, size, batch)


def _judged(options: Options, trials: "Sequence[Trial]", biases: "Mapping[str, Bias]") -> "Scored":
    from vlm_jax.evals.calm.generative import WORDING, JudgeComparer
    from vlm_jax.evals.judges.cache import sha256
    from vlm_jax.evals.judges.interface import priced, totals

    judging = options.judging
    limits = judging.judge_temperature or 0.0, judging.judge_max_tokens, judging.judge_image
    cache = judging.judge_cache or options.output.with_suffix(".judgements")
    judge = _open(options, cache)
    # What is seeded or replayed says the same every time. To others the second time is another question, which the
    # kept answers to the first must not settle.
    repeats = judging.judge.startswith(("replay:", "checkpoint:"))
    compare = JudgeComparer(judge, *limits)
    again = JudgeComparer(judge if repeats else _open(options, cache / "again"), *limits)
    scored = _measured(options, trials, biases, compare, again, [])
    said = priced([*compare.judgements, *again.judgements], judging.judge_prices)
    remarks = ("CR is 1 by construction: this judge repeats itself",) if repeats else ()
    told = {
        "temperature": limits[0],
        "max_tokens": limits[1],
        "sees_image": limits[2],
        "wording_sha256": sha256(WORDING),
    }
    return dataclasses.replace(scored, judge={**judge.identity, **told, **totals(said)}, remarks=remarks)


def _open(options: Options, cache: Path) -> Any:
    from vlm_jax.commands.eval.answering import Answering
    from vlm_jax.commands.eval.judging import Judged, open_judge
    from vlm_jax.errors import InputError

    judging = options.judging
    if not judging.judge.startswith("replay:"):
        judging = dataclasses.replace(judging, judge_cache=cache)
    answering = Answering(images=options.images, mesh=options.mesh)
    judge = open_judge(Judged(output=options.output, judging=judging, answering=answering))
    if not judge.reads_prompts:
        raise InputError("a judge that does not read prompts", "one that is told of two answers")
    return judge


def _measured(
    options: Options, trials: "Sequence[Trial]", biases: "Mapping[str, Bias]", compare: Any, again: Any, cannot: list
) -> "Scored":
    from vlm_jax.evals.calm import measure
    from vlm_jax.runs.progress import Meter

    ruled = measure.put(trials, biases, measure.longer, measure.longer, options.seed)
    with Meter("verdicts", (len(biases) + 2) * len(trials)) as meter:
        found = measure.put(trials, biases, compare, again, options.seed, meter.update)
    return measure.score(trials, biases, found, options.seed, cannot, {"the longer answer": ruled})
