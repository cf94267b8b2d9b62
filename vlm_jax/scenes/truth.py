"""The rule that knows the truth: which kinds a text mentions, and how good an answer is on MMHal-Bench's scale."""

import dataclasses
import re

from vlm_jax.scenes.claims import (
    NUMBER_OF_WORD,
    SIZE_OF_WORD,
    Claim,
    Exists,
    Ground,
    Larger,
    Letter,
    More,
    Relation,
    check,
    claims,
    phrases,
)
from vlm_jax.scenes.questions import Question
from vlm_jax.scenes.world import COLOURS, Scene, matching, present_kinds

__all__ = ["Score", "chair_counts", "check", "claims", "mentioned_kinds", "score"]

HALLUCINATED_BELOW = 3
# What an answer does for the point that was asked.
RIGHT, PARTLY, SILENT, WRONG = "right", "partly", "silent", "wrong"
# Share of the present kinds that a description must name to be very informative.
ENOUGH_NAMED = 0.5
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_NOTHING_THERE = re.compile(
    r"\b(?:no|none|nothing|neither)\b|\b(?:not|n't|cannot|can not) (?:see|find|have|any)\b|n't any\b"
)


@dataclasses.dataclass(frozen=True)
class Score:
    """A judged answer.

    Attributes:
        rating: 6 and 5 answer what was asked (6 adds something right), 4 does so in part, 3 says nothing useful; 2, 1
            and 0 are the same steps for answers with a false claim.
        hallucinated: Whether the rating is below 3.
        claims_right: Number of distinct true claims, with a bare right answer ("Yes.") counted as one.
        claims_wrong: Number of distinct false claims, with a bare wrong answer counted as one.
    """

    rating: int
    hallucinated: bool
    claims_right: int
    claims_wrong: int


def mentioned_kinds(text: str) -> list[str]:
    """Kinds that the text says are there, in order and with repeats; synonyms and plurals are folded."""
    return [p.claim.kind for p in phrases(text) if p.claim.kind and not p.claim.negated]


def chair_counts(text: str, scene: Scene) -> tuple[set[str], set[str], set[str]]:
    """The kinds mentioned, those of them that are absent, and those that are present."""
    mentioned, present = set(mentioned_kinds(text)), set(present_kinds(scene))
    return mentioned, mentioned - present, mentioned & present


def score(question: Question, answer_text: str, scene: Scene) -> Score:
    """Judges an answer from the scene alone; any text is accepted."""
    found = claims(answer_text)
    right = [claim for claim in found if check(claim, scene)]
    wrong = len(found) - len(right)
    if question.type == "holistic":
        covered = _coverage(right, scene)
        point = RIGHT if covered > ENOUGH_NAMED else PARTLY if covered else SILENT
        adds = covered == 1 and any(isinstance(claim, Ground | Relation) for claim in right)
    else:
        point = _POINTS[question.type](question.truth, answer_text.lower(), found)
        adds = not set(right) <= set(claims(question.answer))
    wrong = max(wrong, int(point == WRONG))
    ratings = {RIGHT: 2, PARTLY: 1, SILENT: 0, WRONG: 0} if wrong else {RIGHT: 5 + adds, PARTLY: 4, SILENT: 3}
    rating = ratings[point]
    return Score(rating, rating < HALLUCINATED_BELOW, max(len(right), int(point == RIGHT)), wrong)


def _coverage(right: list[Claim], scene: Scene) -> float:
    """Share of the present kinds that true claims name; "something red" counts half a kind."""
    exist = [claim for claim in right if isinstance(claim, Exists) and not claim.negated]
    named = {claim.kind for claim in exist if claim.kind}
    hedged = {claim.colour for claim in exist if claim.kind is None}
    unnamed = {kind for kind in present_kinds(scene) if kind not in named}
    half = sum(any(thing.colour in hedged for thing in matching(scene, kind)) for kind in unnamed)
    return (len(named) + 0.5 * half) / (len(named) + len(unnamed))


def _of_set(said: set, truth: object) -> str:
    """The point that a set of competing values makes when one of them is true."""
    if not said:
        return SILENT
    if truth not in said:
        return WRONG
    return RIGHT if len(said) == 1 else PARTLY


def _attribute(truth: dict, text: str, found: list[Claim]) -> str:
    attribute = truth["attribute"]
    about = [c for c in found if isinstance(c, Exists) and c.kind == truth["kind"]]
    said = {getattr(c, attribute) for c in about if not c.negated} - {None}
    if any(c.negated and c.colour is None and c.size is None for c in about):
        return WRONG
    if not said and not any(isinstance(c, Exists) and c.kind for c in found):
        said = _bare_values(text, attribute)
    return _of_set(said, truth["value"])


def _adversarial(truth: dict, text: str, found: list[Claim]) -> str:
    about = [c for c in found if isinstance(c, Exists) and c.kind == truth["kind"]]
    if any(not c.negated for c in about):
        return WRONG
    if about:
        return RIGHT
    if _about_something(found):
        return SILENT
    if _NOTHING_THERE.search(text):
        return RIGHT
    return WRONG if _bare_values(text, "colour") | _bare_values(text, "size") else SILENT


def _comparison(truth: dict, text: str, found: list[Claim]) -> str:
    if "larger" in truth:
        kinds = mentioned_kinds(text)
        said = {c for c in found if isinstance(c, Larger) and not c.negated}
        if said:
            return RIGHT if Larger(truth["larger"], truth["smaller"]) in said else WRONG
        pair = {truth["larger"], truth["smaller"]}
        return _of_set({kinds[0]}, truth["larger"]) if kinds and len(pair & set(kinds)) == 1 else SILENT
    first, second = (Exists(None, truth[side]) for side in ("more", "than"))
    said = {c for c in found if isinstance(c, More) and {c.first, c.second} == {first, second}}
    if answered := _yes_or_no(text):
        return _of_set({answered == "yes"}, truth["answer"])
    if More(first, second) in said:
        return RIGHT if truth["answer"] else WRONG
    return (WRONG if truth["answer"] else RIGHT) if said else SILENT


def _counting(truth: dict, text: str, found: list[Claim]) -> str:
    about = [c for c in found if isinstance(c, Exists) and c.kind == truth["kind"]]
    if any(c.negated for c in about):
        return WRONG
    said = {c.count for c in about} - {None}
    if about and not said:
        return RIGHT if truth["count"] == 1 and re.search(r"\ban? ", text) else PARTLY
    if not said and not any(isinstance(c, Exists) and c.kind for c in found):
        words = re.findall(r"\w+", text)
        said = {NUMBER_OF_WORD[w] for w in words if w in NUMBER_OF_WORD} | {int(w) for w in words if w.isdecimal()}
    return _of_set(said, truth["count"])


def _relation(truth: dict, text: str, found: list[Claim]) -> str:
    words, pair = truth["relation"], (truth["first"], truth["second"])
    said = set()
    for c in found:
        if isinstance(c, Relation) and not c.negated:
            if (c.first.kind, c.second.kind) == pair:
                said.add(c.words)
            elif (c.second.kind, c.first.kind) == pair:
                said.add(_OPPOSITE[c.words])
    if not said and not any(isinstance(c, Relation) for c in found):
        said = {r for r in (words, _OPPOSITE[words]) if re.search(rf"\b{r.split()[0]}\b", text)}
    # A true answer along the other axis does not say what was asked.
    return _of_set(said & {words, _OPPOSITE[words]}, words)


def _environment(truth: dict, text: str, found: list[Claim]) -> str:
    return _of_set({c.ground for c in found if isinstance(c, Ground) and not c.negated}, truth["ground"])


def _letter(truth: dict, text: str, found: list[Claim]) -> str:
    letters = [c for c in found if isinstance(c, Letter)]
    if any(c.negated and c.letter is None for c in letters):
        return RIGHT if truth["letter"] is None else WRONG
    said = {c.letter for c in letters if not c.negated} - {None}
    if not said and (bare := re.fullmatch(r"\W*(?:it is |it's )?(?:an? |the )?([a-z])\W*", text)):
        said = {bare[1].upper()}
    if not said and not _about_something(found) and _NOTHING_THERE.search(text):
        said = {None}
    return _of_set(said, truth["letter"])


def _existence(truth: dict, text: str, found: list[Claim]) -> str:
    about = {not c.negated for c in found if isinstance(c, Exists) and c.kind == truth["kind"]}
    answered = _yes_or_no(text)
    return _of_set({answered == "yes"} if answered else about, truth["present"])


def _about_something(found: list[Claim]) -> bool:
    """Whether a kind or a letter is named: "there is none" denies what was asked about, "there is no boat" a boat."""
    return any(isinstance(c, Letter) or (isinstance(c, Exists) and c.kind is not None) for c in found)


def _bare_values(text: str, attribute: str) -> set[str]:
    words = re.findall(r"\w+", text)
    if attribute == "colour":
        return {w for w in words if w in COLOURS}
    return {SIZE_OF_WORD[w] for w in words if w in SIZE_OF_WORD}


def _yes_or_no(text: str) -> str | None:
    found = re.match(r"\W*(yes|no)\b", text)
    return found[1] if found else None


_POINTS = {
    "attribute": _attribute,
    "adversarial": _adversarial,
    "comparison": _comparison,
    "counting": _counting,
    "relation": _relation,
    "environment": _environment,
    "other": _letter,
    "existence": _existence,
}
