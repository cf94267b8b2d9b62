"""The turn that is appended to an answer so that the reward model judges it, with or without facts.

LLaVA-RLHF (``RLHF/prompts``) lets a second user turn ask for an evaluation by four criteria, writes the facts
into the first one, and reads the score at the last token of an opened answer. The texts here are our own; the
released ones are loaded from the user's copy with ``load_reward_prompt``.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vlm_jax.data.chat_template import ChatTemplate
from vlm_jax.data.conversation import Template, Tokenizer
from vlm_jax.data.encoding import encode_texts
from vlm_jax.errors import InputError
from vlm_jax.files import read_text

SLOT = "{factual_prompt}"


@dataclasses.dataclass(frozen=True)
class RewardPrompt:
    """An evaluation turn.

    Attributes:
        text: The whole turn up to the stub of the judging answer. ``{human}`` and ``{assistant}`` stand for
            the role names of the template (a file may spell them out), ``{factual_prompt}`` for the facts or
            for nothing. A space in front is the tokeniser's to read, as in LLaVA-RLHF, whose evaluation turn is a text
            of its own and starts, for LLaMA's tokeniser, with a lone space; without one the turn follows as every
            other turn of the conversation does.
        facts_lead: What introduces the facts.
        fact_line: How one fact is written; ``{fact}`` stands for its text.
    """

    text: str
    facts_lead: str
    fact_line: str

    @property
    def keeps_space(self) -> bool:
        return self.text.startswith(" ")


_LEAD = "Now judge the answer you have just given. Look at it from four sides:"
_CRITERIA = (
    "Accurate: everything it says can be seen in the image, and nothing in it contradicts the image. " + SLOT,
    "Helpful: it gives this user what the question asks for, on the ground of the image.",
    "Natural: it reads fluently, without odd phrasing and without repeating itself.",
    "Concise: it says what is needed in few and clear words.",
)
_STUB = "Judged by these four, the quality score of my last response is"

STANDARD = RewardPrompt(
    text="\n".join(
        [
            f" {{human}}: {_LEAD}\n",
            *(f"{i}. {line}" for i, line in enumerate(_CRITERIA, 1)),
            "",
            "{assistant}: " + _STUB,
        ]
    ),
    facts_lead="Take these descriptions of the image together; every claim must be borne out by them:\n",
    fact_line="  - {fact}\n",
)
# A few words, for models that read a few hundred positions; the tiny model has been asked them in its training.
SHORT = RewardPrompt(
    text=f"{{human}}: {SLOT}Is that description fully supported by the facts? {{assistant}}:",
    facts_lead="Facts: ",
    fact_line="{fact}. ",
)


def load_reward_prompt(path: str | Path, facts_lead: str = STANDARD.facts_lead) -> RewardPrompt:
    """Reads an evaluation turn from a UTF-8 file, for instance one of the released ones.

    Args:
        path: The turn as it is to be appended, role names included; ``{factual_prompt}`` where facts belong. One
            space is put in front, as the released code does.
        facts_lead: The sentence before the facts, line break included.

    Raises:
        InputError: The file cannot be read, is empty, or has more than one slot.
    """
    text = read_text(path).strip()
    if not text or text.count(SLOT) > 1:
        found = f"{text.count(SLOT)} slots" if text else "no text"
        raise InputError(found, f"a text with at most one {SLOT}", file=str(path))
    return RewardPrompt(f" {text}", facts_lead, STANDARD.fact_line)


def _facts_text(prompt: RewardPrompt, facts: Sequence[str]) -> str:
    # A line that brings its own full stop must not double the one of the fact.
    stop = "." if "{fact}." in prompt.fact_line else ""
    lines = [prompt.fact_line.replace("{fact}", fact.strip().removesuffix(stop)) for fact in facts]
    return prompt.facts_lead + "".join(lines)


def render(prompt: RewardPrompt, template: Template, facts: Sequence[str] | None) -> str:
    """The text that follows the end token of the answer: one space, then the turn, ending in the stub.

    Args:
        prompt: The turn.
        template: The template of the conversation it is appended to.
        facts: Sentences in the order to be written; None or empty leaves the slot empty.

    Raises:
        InputError: The template is a tokenizer's own, and not of Vicuna's words.
        ValueError: There are facts but the prompt has no slot for them.
    """
    if isinstance(template, ChatTemplate) and not template.separators[0]:
        found = "a model that is prompted by its tokenizer's chat template"
        raise InputError(found, "one of Vicuna's for an evaluation turn (vlm-jax convert --template)")
    if facts and SLOT not in prompt.text:
        raise ValueError(f"this reward prompt has no {SLOT} to put facts into")
    text = prompt.text.replace("{human}", template.roles[0]).replace("{assistant}", template.roles[1])
    # Last, so that a fact is never searched for placeholders.
    text = text.replace(SLOT, _facts_text(prompt, facts) if facts else "")
    return text if prompt.keeps_space else template.separators[0] + text


def encode(tokenizer: Tokenizer, prompt: RewardPrompt, template: Template, facts: Sequence[str] | None) -> list[int]:
    """Ids of :func:`render`, a piece of its own; arguments as there."""
    return encode_texts(tokenizer, [render(prompt, template, facts)], prompt.keeps_space)[0]
