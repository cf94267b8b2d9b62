"""What LLaVA-Bench's judge is told for each category. LLaVA's own ``rule.json`` may be put in its place: published
figures were made with it, and with judges that are gone."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vlm_jax.errors import InputError
from vlm_jax.files import read_json

# The scripts' own system line, which stands outside the rule file.
SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
_IN_THE_WILD = "llava_bench_"


class Rule(NamedTuple):
    """``role`` names the two answers in the prompt."""

    role: str
    prompt: str


_COCO = (
    "The context above stands for an image that you cannot see: five sentences that people wrote about it, and the "
    "things in it, each with the corners of its box (left, top, right, bottom, as shares of width and height)."
)
_WILD = "The context above stands for an image that you cannot see: a careful description of it."
_AIMS = {
    "conv": "The question asks for something particular. A good answer says just that, rightly and clearly.",
    "detail": "The question asks for a description. A good answer covers what matters in the image, in detail, and "
    "adds nothing that is not there.",
    "complex": "The question asks for reasoning. A good answer rests on what is in the image, and its steps hold.",
}
_REST = (
    "Two assistants answered. Score each from 1 to 10 for how helpful, relevant, accurate and detailed its answer is; "
    "higher is better, and claims about the image that the context contradicts cost most. Which of them comes first "
    "must make no difference.\n"
    "Begin with one line that holds nothing but the two scores, for Assistant 1 and then for Assistant 2, with one "
    "space between them. Give your reasons from the next line on."
)
RULES = {
    f"{prefix}{category}": Rule("Assistant", f"{context}\n{aim}\n{_REST}")
    for prefix, context in (("", _COCO), (_IN_THE_WILD, _WILD))
    for category, aim in _AIMS.items()
}


def read_rules(path: Path | None) -> Mapping[str, Rule]:
    """A user's rules (``{"conv": {"role": ..., "prompt": ...}, "llava_bench_conv": ...}``), or ours.

    Raises:
        InputError: An entry is no rule.
    """
    if path is None:
        return RULES
    found = {}
    for name, entry in read_json(path).items():
        texts = [entry.get(key) for key in Rule._fields] if isinstance(entry, dict) else []
        if len(texts) != len(Rule._fields) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"rule {name!r} of another layout", '{"role": text, "prompt": text}', file=str(path))
        found[name] = Rule(*texts)
    return found


def rule_for(rules: Mapping[str, Rule], category: str, in_the_wild: bool) -> Rule:
    """The rule of a category, whose name differs between COCO and in-the-wild.

    Raises:
        InputError: There is none.
    """
    name = f"{_IN_THE_WILD}{category}" if in_the_wild else category
    if name not in rules:
        raise InputError(f"no rule {name!r} among {', '.join(rules)}", "a rule for each category of the questions")
    return rules[name]
