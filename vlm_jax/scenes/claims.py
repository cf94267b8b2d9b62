"""What a text claims about a picture, read with regular expressions from any English text.

Every claim may be negated ("there is no ball"), and ``check`` compares it with a scene. Words that are not
understood make no claim.
"""

import dataclasses
import re
from collections.abc import Iterator

from vlm_jax.scenes.language import KIND_OF_WORD, NUMBERS, RELATIONS, relation_between
from vlm_jax.scenes.world import COLOURS, Scene, matching

SIZE_OF_WORD = {
    "small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large", "huge": "large"
}  # fmt: skip
GROUND_OF_WORD = {
    "snow": "snow", "snowy": "snow", "sand": "sand", "sandy": "sand", "beach": "sand",
    "grass": "grass", "grassy": "grass", "meadow": "grass", "night": "night", "nighttime": "night",
}  # fmt: skip
NUMBER_OF_WORD = {word: i for i, word in enumerate((*NUMBERS, "six", "seven", "eight", "nine", "ten")) if i}


@dataclasses.dataclass(frozen=True)
class Exists:
    """Some thing, or exactly ``count`` things, of these properties; ``kind`` None is "something"."""

    kind: str | None
    colour: str | None = None
    size: str | None = None
    count: int | None = None
    negated: bool = False


@dataclasses.dataclass(frozen=True)
class Relation:
    """One of the first lies ``words`` (left of, right of, above, below) one of the second."""

    first: Exists
    words: str
    second: Exists
    negated: bool = False


@dataclasses.dataclass(frozen=True)
class Larger:
    """One of the first is larger than one of the second."""

    first: str
    second: str
    negated: bool = False


@dataclasses.dataclass(frozen=True)
class More:
    """There are more of the first than of the second; ``equal`` claims as many."""

    first: Exists
    second: Exists
    equal: bool = False
    negated: bool = False


@dataclasses.dataclass(frozen=True)
class Ground:
    ground: str
    negated: bool = False


@dataclasses.dataclass(frozen=True)
class Letter:
    """This letter is in the picture; None is any letter."""

    letter: str | None
    negated: bool = False


Claim = Exists | Relation | Larger | More | Ground | Letter


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A noun phrase: what it says exists, and where it stands in its clause."""

    claim: Exists
    start: int
    end: int


def _one_of(words) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_COLOUR, _SIZE, _KIND = _one_of(COLOURS), _one_of(SIZE_OF_WORD), _one_of(KIND_OF_WORD)
_THING = "things?|objects?|shapes?|ones?"
_ADJECTIVE = rf"(?:{_COLOUR}|{_SIZE}|faint|bright|pale|dark|light|very)"
_PHRASE = re.compile(
    rf"\b(?:(?:(?P<number>{_one_of(NUMBER_OF_WORD)}|\d{{1,3}}) )?"
    rf"(?P<before>(?:{_ADJECTIVE},? (?:and )?)*)(?:(?P<kind>{_KIND})|(?P<thing>{_THING}))"
    rf"|something(?P<after>(?: and)?(?: {_ADJECTIVE})+))\b"
)
_PREDICATE = re.compile(
    rf" (?:is|are|looks?|seems?|appears?) (?P<denial>not )?(?:both |all |also )?"
    rf"(?P<words>(?:{_ADJECTIVE} )*(?:{_COLOUR}|{_SIZE})(?: and (?:{_COLOUR}|{_SIZE}))?)\b(?! (?:{_KIND}|{_THING})\b)"
)
_POSITION = re.compile(
    r",? (?:(?:that|which) )?(?:(?:is|are|sits?|lies|stands|hangs|located|placed|just|directly|also) )*"
    r"(?P<denial>not )?"
    r"(?:(?:to|on) the )?(?P<where>left(?: side)? of|right(?: side)? of|above|over|on top of|below|under|beneath)"
    r"(?: (?:the|an?|another))? "
)
_WHERE = {
    "left side of": "left of", "right side of": "right of", "over": "above", "on top of": "above",
    "under": "below", "beneath": "below",
}  # fmt: skip
_LARGER = re.compile(r" (?:is|are|looks|seems) (?P<denial>not )?(?P<how>larger|bigger|smaller) than(?: (?:the|an?))? ")
_SIDE = rf"(?:(?:{_COLOUR}) )?(?:{_KIND}|{_THING})|{_COLOUR}"
_MORE = re.compile(
    rf"\b(?P<how>more|fewer|as many) (?P<first>{_SIDE}) (?:than|as)(?: there are)? (?P<second>{_SIDE})\b"
)
_GROUND = re.compile(rf"\b(?:{_one_of(GROUND_OF_WORD)})\b")
_LETTER = re.compile(
    r"\bletters?\b(?:(?: (?:in the (?:picture|image)|here|shown))?"
    r"(?: (?:is|says|reads))?(?P<denial> not)?(?: (?:the|an))? [\"']?(?P<letter>[a-z])[\"']?(?![a-z']))?"
)
_ANSWER_WORD = re.compile(r"^\s*(?:yes|no)\b(?=\s*,|\s*$|\s+(?:there|the|it|i|this|they)\b)[\s,]*")
_CLAUSE_END = re.compile(
    r"[.!?;:\n]+|\b(?:but|however|although|while|whereas)\b|(?:,|\band\b)\s+(?=(?:there|it|they)\b)"
)
_NEGATION = re.compile(r"\b(?:no|not(?! only)|never|without|cannot|neither|nor|none)\b|n't\b")
_UNCERTAIN = re.compile(
    r"\bunsure\b|\bwhether\b|(?:\bnot|n't) (?:sure|certain|know)\b|(?:\bcannot|can't|can not) tell\b"
)


def claims(text: str) -> list[Claim]:
    """Everything the text claims, each once, in order."""
    found = [claim for clause in _clauses(text) for claim in _clause_claims(clause)]
    return list(dict.fromkeys(found))


def phrases(text: str) -> list[Phrase]:
    """Every noun phrase with a kind or a property, negated ones marked, in order."""
    return [phrase for clause in _clauses(text) for phrase in _clause_phrases(clause)]


def check(claim: Claim, scene: Scene) -> bool:
    """Whether the claim holds in the scene."""
    return _holds(claim, scene) != claim.negated


def _holds(claim: Claim, scene: Scene) -> bool:
    match claim:
        case Exists(count=count):
            found = len(_matches(claim, scene))
            return found > 0 if count is None else found == count
        case Relation(first, words, second):
            axis = RELATIONS.index(words) // 2
            pairs = [(a, b) for a in _matches(first, scene) for b in _matches(second, scene) if a is not b]
            return any(relation_between(a, b, axis) == words for a, b in pairs)
        case Larger(first, second):
            return bool(matching(scene, first, size="large") and matching(scene, second, size="small"))
        case More(first, second, equal):
            difference = len(_matches(first, scene)) - len(_matches(second, scene))
            return difference == 0 if equal else difference > 0
        case Ground(ground):
            return scene.ground == ground
        case Letter(letter):
            return scene.letter is not None if letter is None else scene.letter == letter


def _matches(claim: Exists, scene: Scene) -> list:
    return matching(scene, claim.kind, claim.colour, claim.size)


def _clauses(text: str) -> Iterator[str]:
    for clause in _CLAUSE_END.split(text.lower().replace("\u2019", "'")):
        clause = " ".join(_ANSWER_WORD.sub("", clause).split())
        if clause and not _UNCERTAIN.search(clause):
            yield clause


def _negation_start(clause: str) -> int:
    found = _NEGATION.search(clause)
    return found.start() if found else len(clause)


def _adjectives(words: str) -> dict[str, str | None]:
    colours = [w for w in re.findall(r"\w+", words) if w in COLOURS]
    sizes = [SIZE_OF_WORD[w] for w in re.findall(r"\w+", words) if w in SIZE_OF_WORD]
    return {"colour": colours[-1] if colours else None, "size": sizes[-1] if sizes else None}


def _clause_phrases(clause: str) -> list[Phrase]:
    negation = _negation_start(clause)
    result = []
    for found in _PHRASE.finditer(clause):
        number = found["number"]
        claim = Exists(
            kind=KIND_OF_WORD[found["kind"]] if found["kind"] else None,
            **_adjectives((found["before"] or "") + (found["after"] or "")),
            count=(int(number) if number.isdigit() else NUMBER_OF_WORD[number]) if number else None,
            negated=found.start() > negation,
        )
        if claim.kind or claim.colour or claim.size or claim.count is not None:
            result.append(Phrase(claim, found.start(), found.end()))
    return result


def _clause_claims(clause: str) -> list[Claim]:
    negation = _negation_start(clause)
    result: list[Claim] = []
    for found in _MORE.finditer(clause):
        first, second = (Exists(_kind_in(found[k]), _adjectives(found[k])["colour"]) for k in ("first", "second"))
        if found["how"] == "fewer":
            first, second = second, first
        result.append(More(first, second, found["how"] == "as many", found.start() > negation))
        clause = clause.replace(found[0], " " * len(found[0]))
    found_phrases = _clause_phrases(clause)
    for i, phrase in enumerate(found_phrases):
        result += _phrase_claims(clause, phrase, found_phrases[i + 1] if i + 1 < len(found_phrases) else None)
    for found in _GROUND.finditer(clause):
        result.append(Ground(GROUND_OF_WORD[found[0]], found.start() > negation))
    for found in _LETTER.finditer(clause):
        letter = found["letter"].upper() if found["letter"] else None
        result.append(Letter(letter, found.start() > negation or found["denial"] is not None))
    return result


def _phrase_claims(clause: str, phrase: Phrase, following: Phrase | None) -> Iterator[Claim]:
    """That the phrase's thing exists, what is said of it, and how it stands to the next one."""
    claim = phrase.claim
    predicate = _PREDICATE.match(clause, phrase.end)
    if predicate is None:
        yield claim
    else:
        said = {k: v for k, v in _adjectives(predicate["words"]).items() if v}
        if predicate["denial"]:
            yield claim
        yield dataclasses.replace(claim, **said, negated=claim.negated or predicate["denial"] is not None)
    if following is None or claim.negated:
        return
    between = clause[phrase.end : following.start]
    other = dataclasses.replace(following.claim, negated=False)
    if found := _POSITION.fullmatch(between):
        words = _WHERE.get(found["where"], found["where"])
        yield Relation(claim, words, other, found["denial"] is not None)
    elif (found := _LARGER.fullmatch(between)) and claim.kind and other.kind:
        pair = (claim.kind, other.kind) if found["how"] != "smaller" else (other.kind, claim.kind)
        yield Larger(*pair, negated=found["denial"] is not None)


def _kind_in(words: str) -> str | None:
    return next((KIND_OF_WORD[w] for w in words.split() if w in KIND_OF_WORD), None)
