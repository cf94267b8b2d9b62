"""What a task asks, and what a model may answer with."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass
class GenerationResult:
    """``text`` is declared a string and never checked."""

    text: Any
    token_counts: TokenCounts | None = None


def unwrap_generation_output(output: Any) -> tuple[Any, TokenCounts | None]:
    """On the way from model to task: what is neither text nor a result nor a list of texts becomes a string."""
    match output:
        case GenerationResult(text, counts):
            return text, counts
        case str() as text:
            return text, None
        case [str() as text, TokenCounts() as counts]:
            return text, counts
        case [str() as text, dict() as counts]:
            return text, TokenCounts(*map(counts.get, ("input_tokens", "output_tokens", "reasoning_tokens")))
        case list() if all(isinstance(text, str) for text in output):
            return output, None
    return str(output), None


@dataclass
class Instance:
    """One request; ``task_name``, ``doc_id`` and ``repeats`` are taken out of ``metadata``."""

    request_type: str
    arguments: tuple
    idx: int
    metadata: dict[str, str | int] = field(default_factory=dict)
    resps: list = field(default_factory=list)
    filtered_resps: dict = field(default_factory=dict)
    raw_filtered_resps: dict = field(default_factory=dict)
    token_counts: list[TokenCounts | None] = field(default_factory=list)
    task_name: str | None = None
    doc_id: str | None = None
    repeats: str | None = None
    doc: dict | None = None

    def __post_init__(self) -> None:
        self.task_name, self.doc_id, self.repeats = (self.metadata[key] for key in ("task", "doc_id", "repeats"))

    @property
    def args(self):
        return self.arguments if isinstance(self.arguments, tuple) else (self.arguments,)
