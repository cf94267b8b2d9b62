"""From free text to the letter of an option (A, B, C, ...): rules of the public scorers of MMBench.

    vlmevalkit  ``matching_util.py``: letters among the last words, "answer is X", else the one option whose text the
                answer contains; Z for a refusal
    lmms-eval   ``mmbench_evals.py``: one of A to E as a word of its own or with certain marks, else the one option
    robust      ``mcq_extract.py``, lmms-eval's second try: the last letter in the most telling of many formats

They disagree on much ("The answer is A", "[C]", "B, C"), and all of them find letters where none is meant: "The answer
is blue" is B to the first, and "A small cat" A to the last.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

Rule = Literal["vlmevalkit", "lmms-eval"]

_REFUSAL = "Z"
_FAILED = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_BLANKED = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_WORDS = 4
# No end of a word behind the letter: "the answer is blue" names B.
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)


def find(answer: str, options: Mapping[str, str], rule: Rule) -> str | None:
    """The letter that a rule finds in an answer; None where it finds none.

    Args:
        answer: What the model said.
        options: Letter -> text, in the order of the letters.
        rule: Whose.
    """
    return RULES[rule](answer, options)


def vlmevalkit(answer: str, options: Mapping[str, str]) -> str | None:
    """VLMEvalKit's ``can_infer``: a letter, Z for a refusal, or None."""
    if letter := _vlmevalkit_letter(answer, options):
        return letter
    # A long answer goes over more than one option.
    if len(answer.lower()) > 2 * sum(map(len, options.values())):
        return None
    return _only_text(answer, options)


def _vlmevalkit_letter(answer: str, letters: Mapping[str, str]) -> str | None:
    if _FAILED in answer:
        return None
    if any(refusal in answer for refusal in _REFUSALS):
        return _REFUSAL
    words = answer.translate(_BLANKED).split()
    named = [letter for letter in letters if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - _LAST_WORDS:
        return named[0]
    if not named and _REFUSAL in words:
        return _REFUSAL
    said = _ANSWER_IS.search(answer)
    return said[1].upper() if said and said[1].upper() in letters else None


# Before and behind a letter, in the order in which they are tried.
_FORMS = [
    tuple(form.split("X"))
    for form in ("X", "X.", "X,", "X:", "X)", "X).", "(X)", "(X).", ":X", ":X,", ":X.", ":X)", ":X).")
]
_LMMS_EVAL_LETTERS = "ABCDE"
_LMMS_EVAL_TEXTS = "ABCD"
_SHORT = 3


def lmms_eval(answer: str, options: Mapping[str, str]) -> str | None:
    """lmms-eval's ``can_infer``: a letter of A to E, also where there is no such option, or None."""
    if letter := _lmms_eval_letter(answer):
        return letter
    return _only_text(answer, {letter: text for letter, text in options.items() if letter in _LMMS_EVAL_TEXTS})


def _lmms_eval_letter(answer: str) -> str | None:
    if _FAILED in answer:
        return None
    words = answer.split()
    known = set(words)
    for before, behind in _FORMS:
        named = [letter for letter in _LMMS_EVAL_LETTERS if f"{before}{letter}{behind}" in known]
        # A bare A in a sentence may be the article.
        article = named == ["A"] and not before and not behind and len(words) > _SHORT
        if len(named) == 1 and not article:
            return named[0]
    return None


def _only_text(answer: str, options: Mapping[str, str]) -> str | None:
    said = answer.lower()
    named = [letter for letter, text in options.items() if text.lower() in said]
    return named[0] if len(named) == 1 else None


RULES: dict[Rule, Callable[[str, Mapping[str, str]], str | None]] = {"vlmevalkit": vlmevalkit, "lmms-eval": lmms_eval}

_OUTER_MARKS = (",", ".", "!", "?", ";", ":", "'", '"')
# What announces an answer, at its first place; a letter anywhere behind it will do, so that longer ones that begin
# later matter.
_ANNOUNCED_THINGS = (
    "answer",
    "correct answer",
    "best answer",
    "correct option",
    "best option",
    "choice",
    "correct choice",
)
_ANNOUNCEMENTS = (
    *(f"{lead}{what} is" for lead in ("", "the ") for what in _ANNOUNCED_THINGS),
    *("my answer is", "my choice is", "i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:"),
    *("答案是", "答案为", "选"),
    "答えは",
)
# Higher ones tell more.
_START, _END, _ANNOUNCED, _IN_BRACKETS, _PERIOD, _COLON, _BRACKET, _SPACE, _ANYWHERE = 10, 9, 7, 6, 5, 4, 3, 2, 0
_WRITTEN = {"(X)": _IN_BRACKETS, "X.": _PERIOD, "X:": _COLON, "X)": _BRACKET, "X ": _SPACE}


def robust(answer: str, letters: Sequence[str]) -> str | None:
    """lmms-eval's ``extract_mcq_answer``: of all places where a letter stands in a known format, the last one in the
    most telling format; None for an answer without any of the letters."""
    bare = answer.strip()
    for mark in _OUTER_MARKS:
        bare = bare.strip(mark)
    text = f" {bare} "
    bare = bare.strip()
    found = [
        (telling, text.rfind(form.replace("X", letter)), letter)
        for form, telling in _WRITTEN.items()
        for letter in letters
        if form.replace("X", letter) in text
    ]
    lowered = text.lower()
    for phrase in _ANNOUNCEMENTS:
        if (start := lowered.find(phrase)) >= 0:
            places = ((text.find(letter, start + len(phrase)), letter) for letter in letters)
            found += [(_ANNOUNCED, place, letter) for place, letter in places if place >= 0]
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((_START, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((_END, len(text) - 1, letter))
    found = found or [(_ANYWHERE, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found)[2] if found else None
