"""Conversations written out in the words of a template, as pieces.

A piece is a stretch of text of one kind, so that nothing is ever found again by counting or searching:

    1. everything between two breaks whose tokens carry no loss: system line, role markers, questions, and the
       ``ASSISTANT:`` that opens an answer. An image breaks it (before: ``... USER: ``, after: ``\\n{question}
       ...``), and so does an end token.
    2. one answer.
    3. the end token of an answer.
    4. a control token of a tokenizer's own chat template (``data/chat_template.py``), which also ends answers there.
    5. an image.

``data/encoding.py`` makes token ids of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

IMAGE = "<image>"

Tokenizer = Any  # A Hugging Face tokenizer: ``tokenizer(texts, ...)["input_ids"]`` and ``tokenizer.tokenize(text)``.


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """One utterance, in the words of the LLaVA JSON format; a system line may stand before the first one."""

    role: Literal["human", "gpt", "system"]
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendering that is tokenised on its own; all texts joined are the whole rendering."""

    text: str
    is_assistant: bool
    kind: Literal["text", "image", "end", "control"] = "text"


@dataclasses.dataclass(frozen=True)
class Template:
    """How a conversation is written out.

    Attributes:
        system: First sentence(s); empty for none.
        roles: Names of the user and of the assistant, without the colon.
        separators: What stands between two parts, and what ends an answer.
    """

    system: str
    roles: tuple[str, str]
    separators: tuple[str, str]

    @property
    def begins(self) -> bool:
        """Whether the config's begin token stands in front of the pieces; otherwise they bring their own, or none."""
        return True

    @property
    def lead(self) -> str:
        """What stands between the end of a prompt and the text of its answer."""
        return " "

    @property
    def end(self) -> str:
        """What a template of its own closes an answer with; empty where that is the end token of the config."""
        return ""

    def with_system(self, text: str) -> "Template":
        """The same with another system line."""
        return dataclasses.replace(self, system=text)

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """Alternating turns, an image at the front of its own, written out."""
        (user, assistant), (between, end) = self.roles, self.separators
        pieces: list[Piece] = []
        opening = f"{self.system}{between}" if self.system else ""
        for turn in turns:
            if turn.role == "gpt":
                pieces += [Piece(f"{self.lead}{turn.text}", True), Piece(end, True, "end")]
                continue
            opening = f"{opening}{user}: "
            if turn.text.startswith(IMAGE):
                pieces += [Piece(opening, False), Piece(IMAGE, False, "image")]
                opening = ""
            pieces.append(Piece(f"{opening}{turn.text.removeprefix(IMAGE)}{between}{assistant}:", False))
            opening = ""
        return pieces


_ROLES = ("USER", "ASSISTANT")
_SEPARATORS = (" ", "</s>")
_SYSTEM = (
    "A chat between a curious {person} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {person}'s questions."
)

TEMPLATES: dict[str, Template] = {
    # What LLaVA-RLHF trains with (LLaVA ``conv_vicuna_v1``).
    "vicuna_v1": Template(_SYSTEM.format(person="user"), _ROLES, _SEPARATORS),
    # What its evaluation scripts use unless told otherwise (LLaVA ``conv_llava_v1``): one word differs.
    "llava_v1": Template(_SYSTEM.format(person="human"), _ROLES, _SEPARATORS),
    "plain": Template("", _ROLES, _SEPARATORS),
}


def place_image(turns: Sequence[Turn], strips: bool = True) -> list[Turn]:
    """Moves ``<image>`` to the front of the human turn that it stands in, as ``<image>\\n`` + its text.

    Source of the rule: LLaVA ``preprocess_multimodal``. One image per conversation; without one nothing changes. In
    an answer the marker is a word like any other.

    Args:
        turns: Of a conversation.
        strips: Whether blanks around the text are lost, as they are in LLaVA; otherwise the line break between marker
            and text alone is.
    """
    front = _stripped if strips else _whole
    return [
        Turn(turn.role, front(turn.text)) if turn.role == "human" and IMAGE in turn.text else turn for turn in turns
    ]


def _stripped(text: str) -> str:
    return f"{IMAGE}\n{text.replace(IMAGE, '').strip()}".strip()


def _whole(text: str) -> str:
    before, _, after = text.partition(IMAGE)
    text = before.removesuffix("\n") + (after if before.removesuffix("\n") else after.removeprefix("\n"))
    return f"{IMAGE}\n{text}" if text else IMAGE


def render(template: Template, turns: Sequence[Turn], strips: bool = True) -> list[Piece]:
    """Writes a conversation as pieces (listed in the module's text).

    Args:
        template: The words around the turns.
        turns: Human and assistant in turn, human first. After a last human turn the rendering ends where the assistant
            is to answer: at ``ASSISTANT:``, say. A system turn before them stands in place of the template's system
            line.
        strips: Of a question about an image, see :func:`place_image`.

    Raises:
        ValueError: The roles do not alternate.
    """
    if turns and turns[0].role == "system":
        template, turns = template.with_system(turns[0].text), turns[1:]
    if [turn.role for turn in turns] != [("human", "gpt")[i % 2] for i in range(len(turns))]:
        raise ValueError(f"roles must alternate and start with human, not {[turn.role for turn in turns]}")
    return template.pieces(place_image(turns, strips))
