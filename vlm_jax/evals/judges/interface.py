"""What a judge is: requests in, judgements out, in the same order."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclasses.dataclass(frozen=True)
class JudgeRequest:
    """One answer to be judged.

    Attributes:
        id: Of the sample; no two requests of a call share it.
        user: What the judge is asked, the answer on trial included.
        system: What it is told first; empty for nothing.
        temperature: 0 always takes the most likely token.
        max_tokens: Limit of the judgement; None leaves it to the judge.
        image: Shown to the judge as well; None for a judge that reads only.
        answer: The answer on trial once more, for judges that do not read prompts.
    """

    id: str
    user: str
    system: str = ""
    temperature: float = 0.0
    max_tokens: int | None = None
    image: Path | None = None
    answer: str = ""

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat completions have them."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a judge said.

    Attributes:
        text: Empty where it declined.
        model: Who said it, as it calls itself; empty where nobody knows.
        prompt_tokens, completion_tokens: None where they were not counted.
        finish: Why it ended; ``length`` for a text that was cut off.
        cost: In the currency of the prices, whenever it was paid; None without prices or counts.
        cached: Whether it was there before.
    """

    text: str
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish: str | None = None
    cost: float | None = None
    cached: bool = False


Finished = Callable[[int, Judgement], None]


def unnoticed(place: int, judgement: Judgement) -> None:
    """A listener that does not listen."""


@runtime_checkable
class Judge(Protocol):
    """Who judges.

    Attributes:
        identity: What its judgements depend on beside the requests (never a key).
        reads_prompts: Whether its judgements are of what the requests say; those of others are found in other ways.
    """

    identity: Mapping[str, str]
    reads_prompts: bool

    def __call__(self, requests: Sequence[JudgeRequest], finished: Finished = unnoticed) -> list[Judgement]:
        """Judgements in the order of the requests; ``finished`` is told each one, with its request's place, as soon as
        it is there.

        Raises:
            InputError: The judge cannot go on; what was finished until then has been told.
        """
        ...


def priced(judgements: Sequence[Judgement], prices: tuple[float, float] | None) -> list[Judgement]:
    """With what they cost.

    Args:
        judgements: With or without counts of tokens.
        prices: Of a million tokens of prompt and of completion.
    """
    return [dataclasses.replace(one, cost=_cost(one, prices)) for one in judgements]


def _cost(judgement: Judgement, prices: tuple[float, float] | None) -> float | None:
    counts = judgement.prompt_tokens, judgement.completion_tokens
    if prices is None or None in counts:
        return None
    return sum(count * price for count, price in zip(counts, prices, strict=True)) / 1e6


def totals(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """``models`` that judged, ``judgements``, how many were ``made_now``, tokens, how many judgements a limit ``cut``,
    and where prices are known ``cost`` and ``cost_now``; a count that is unknown adds nothing."""
    made = [one for one in judgements if not one.cached]
    found = {
        "models": sorted({one.model for one in judgements if one.model}),
        "judgements": len(judgements),
        "made_now": len(made),
        "prompt_tokens": sum(one.prompt_tokens or 0 for one in judgements),
        "completion_tokens": sum(one.completion_tokens or 0 for one in judgements),
        "cut": sum(one.finish == "length" for one in judgements),
    }
    if any(one.cost is not None for one in judgements):
        found["cost"] = sum(one.cost or 0.0 for one in judgements)
        found["cost_now"] = sum(one.cost or 0.0 for one in made)
    return found
