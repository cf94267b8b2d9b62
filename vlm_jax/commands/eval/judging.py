"""What the judged benchmarks' commands share: which judge, what it may cost, and what is said of it in the result."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vlm_jax.commands.eval.scoring import Scoring
from vlm_jax.ranges import Range

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.judges.interface import Judge, Judgement, JudgeRequest
    from vlm_jax.evals.statistics.tally import Scored

Opener = Callable[[str], "Judge"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging:
    """Who judges.

    Attributes:
        judge: Base URL of an OpenAI-compatible API (https://api.openai.com/v1), replay:FILE for judgements that were
            made before, or checkpoint:DIR (checkpoint:tiny) for a model of ours.
        judge_model: Name of the model at the URL.
        judge_key: Environment variable with the API's key.
        judge_temperature: Instead of the benchmark's own.
        judge_max_tokens: Limit of a judgement, instead of the benchmark's own.
        judge_image: Show the judge the image too, from --images; no published figure was made so.
        judge_prices: Of a million tokens of prompt and of judgement, to count what it costs.
        judge_cache: Folder that keeps every judgement, so that none is paid for twice; left out: NAME.judgements beside
            the output. Several runs may share one.
        judge_concurrency: Requests on their way at one time.
        judge_timeout: Seconds until a request without a whole reply is given up and tried again.
        judge_retries: Tries after the first one.
        judge_batch_size: Judgements at a time of a checkpoint, which lies on --mesh.
    """

    judge: str
    judge_model: str | None = None
    judge_key: str = "OPENAI_API_KEY"
    judge_temperature: Annotated[float | None, Range(0, 100)] = None
    judge_max_tokens: Annotated[int | None, Range(1, 1_000_000)] = None
    judge_image: bool = False
    judge_prices: Annotated[tuple[float, float] | None, Range(0, 1_000_000)] = None
    judge_cache: Path | None = None
    judge_concurrency: Annotated[int, Range(1, 1024)] = 8
    judge_timeout: Annotated[float, Range(0, 86400, open=True)] = 120.0
    judge_retries: Annotated[int, Range(0, 100)] = 6
    judge_batch_size: Annotated[int, Range(1, 65536)] = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged(Scoring):
    """Options of every judged benchmark.

    Attributes:
        judging: Who rates the answers, and what that may take.
    """

    judging: Annotated[Judging, tyro.conf.arg(name="")]

    def judged_by_checkpoint(self) -> bool:
        return self.judging.judge.startswith("checkpoint:")


def open_judge(options: Judged, others: Mapping[str, Opener] = {}) -> "Judge":
    """The judge that the options name.

    Args:
        options: Of the command.
        others: Prefix -> what opens a judge that this benchmark has beside the usual ones.

    Raises:
        InputError: There is no such judge, or the options do not fit it.
    """
    from vlm_jax.errors import InputError
    from vlm_jax.evals.judges.cache import CachedJudge
    from vlm_jax.evals.judges.chat_api import without_password

    judging = options.judging
    if judging.judge_image and options.answering.images is None:
        raise InputError("--judge-image without --images", "the folder of the benchmark's images")
    prefix, _, name = judging.judge.partition(":")
    if prefix in others:
        return others[prefix](name)
    if prefix == "replay":
        _check_nothing_is_asked(judging)
        return _replay(Path(name), several=options.against is not None)
    if prefix not in ("http", "https", "checkpoint"):
        known = ", ".join(f"{one}:..." for one in ("replay", "checkpoint", *others))
        raise InputError(f"--judge {without_password(judging.judge)!r}", f"a URL, {known}")
    cache = judging.judge_cache or options.output.with_suffix(".judgements")
    return CachedJudge(_checkpoint(name, options) if prefix == "checkpoint" else _chat_api(judging), cache)


def _check_nothing_is_asked(judging: Judging) -> None:
    """Of a file nothing is asked: an option that says how would change nothing."""
    from vlm_jax.errors import InputError

    names = ("model", "key", "cache", "concurrency", "timeout", "retries", "batch_size")
    usual = Judging(judge=judging.judge)
    odd = [f"judge_{name}" for name in names]
    if odd := [name for name in odd if getattr(judging, name) != getattr(usual, name)]:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in odd)
        raise InputError(f"{given} with --judge replay:...", "a judge that is asked, which they are for")


def _replay(path: Path, several: bool) -> "Judge":
    from vlm_jax.errors import InputError
    from vlm_jax.evals.judges.replay import ReplayJudge

    judge = ReplayJudge(path)
    if several and not judge.reads_prompts:
        found = "judgements that do not say which answers they are of, and --against with other answers"
        raise InputError(found, "one set of answers, or judgements that this command made", file=str(path))
    return judge


def _checkpoint(name: str, options: Judged) -> "Judge":
    from vlm_jax.evals.judges.checkpoint import CheckpointJudge

    return CheckpointJudge(name, options.judging.judge_batch_size, options.answering.mesh)


def _chat_api(judging: Judging) -> "Judge":
    from vlm_jax.errors import InputError
    from vlm_jax.evals.judges.chat_api import ChatApiJudge

    if judging.judge_model is None:
        raise InputError("no --judge-model", "the name of a model at the judge's URL")
    return ChatApiJudge(
        judging.judge,
        judging.judge_model,
        judging.judge_key,
        concurrency=judging.judge_concurrency,
        timeout=judging.judge_timeout,
        retries=judging.judge_retries,
    )


def judge_all(
    judge: "Judge",
    options: Judged,
    requests: Sequence["JudgeRequest"],
    to_ask: Callable[[Path | None], Sequence["ImageQuestion"]],
    wording: Any,
) -> tuple[list[str], dict[str, Any]]:
    """The judge's texts, and what the result says of the judge; prints that too.

    Args:
        judge: From :func:`open_judge`.
        options: Of the command.
        requests: As the benchmark has them.
        to_ask: The questions, with their images in a folder.
        wording: What the judge was told beside the questions' own texts; its hash goes into the result.

    Raises:
        InputError: The judge cannot go on, or said nothing at all.
    """
    from vlm_jax.errors import InputError
    from vlm_jax.evals.judges.cache import sha256
    from vlm_jax.evals.judges.interface import priced, totals
    from vlm_jax.runs.progress import Meter

    judging, done = options.judging, 0
    asked = _as_wanted(options, requests, to_ask)
    with Meter("judgements", len(asked)) as meter:

        def finished(place: int, judgement: "Judgement") -> None:
            nonlocal done
            done += 1
            meter.update(done)

        judgements = priced(judge(asked, finished), judging.judge_prices)
    told = {
        "temperature": asked[0].temperature,
        "max_tokens": asked[0].max_tokens,
        "sees_image": judging.judge_image,
        "wording_sha256": sha256(wording),
    }
    said = {**judge.identity, **(told if judge.reads_prompts else {}), **totals(judgements)}
    print(_line(said))
    if not any(one.text.strip() for one in judgements):
        raise InputError(f"{len(judgements)} judgements, all of them empty", "a judge that says something")
    return [one.text for one in judgements], said


def with_judge(scored: "Scored", judge: dict[str, Any]) -> "Scored":
    """The result of judgements, and who made them.

    Raises:
        InputError: Nothing was read in any of them: a score would be one of nothing.
    """
    from vlm_jax.errors import InputError

    if scored.unparsed == judge["judgements"]:
        first = scored.per_sample[0]["judgement"][:80]
        found = f"{scored.unparsed} judgements, none of which can be read ({first!r} for one)"
        raise InputError(found, "a judge that rates as it is told, or --mode robust")
    return dataclasses.replace(scored, judge=judge)


def _as_wanted(
    options: Judged,
    requests: Sequence["JudgeRequest"],
    to_ask: Callable[[Path | None], Sequence["ImageQuestion"]],
) -> list["JudgeRequest"]:
    """The requests with what the options put in the place of the benchmark's own."""
    judging = options.judging
    wanted = {"temperature": judging.judge_temperature, "max_tokens": judging.judge_max_tokens}
    changes = {name: value for name, value in wanted.items() if value is not None}
    images = {ask.id: ask.image for ask in to_ask(options.answering.images)} if judging.judge_image else {}
    return [dataclasses.replace(one, image=images.get(one.id), **changes) for one in requests]


def _line(judge: Mapping[str, Any]) -> str:
    """Who judged, how many tokens it took and what it cost."""
    models = ", ".join(judge["models"]) or judge.get("model") or judge["kind"]
    place = next((f" {word} {judge[key]}" for key, word in (("url", "at"), ("file", "from")) if key in judge), "")
    wording = f", wording {judge['wording_sha256'][:12]}" if "wording_sha256" in judge else ""
    parts = [f"Judge: {models}{place}{wording}"]
    parts.append(f"{judge['judgements']} judgements, {judge['made_now']} of them made now")
    parts.append(f"{judge['prompt_tokens']} + {judge['completion_tokens']} tokens")
    if "cost" in judge:
        parts.append(f"cost {judge['cost']:.2f}, of which {judge['cost_now']:.2f} now")
    if judge["cut"]:
        parts.append(f"{judge['cut']} cut off by the limit of tokens")
    return "; ".join(parts)
