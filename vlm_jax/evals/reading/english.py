"""English text to sentences, tokens and singular forms, as CHAIR's original script gets them from NLTK and ``pattern``.

Neither is needed: the rules are few, and a scorer should not change with a library's next release. They hold for
lower-case text, which is what CHAIR hands over.

    sentences   Punkt (Kiss and Strunk 2006) with the English model's decisions on lower-case text: a period ends a
                sentence unless it belongs to an abbreviation, an initial or, in front of a word, a number
    tokens      Penn Treebank, NLTK's dialect: marks apart, clitics apart, a period only at the end of a sentence
    singular    ``pattern.en``'s rules, which go back to Bermi Ferrer's Inflector; with its oddities: "bus" is "bu"
"""

import functools
import itertools
import re
from collections.abc import Iterator

_ABBREVIATIONS = frozenset(
    """
    adj adm adv apr assn assoc asst aug ave bros capt cmdr co col comdr corp cpl ct dec dept dr e.g est etc feb fig
    fri ft gen gov hon hwy i.e inc jan jr lt ltd mr mrs ms mt nov oct op orig p.m a.m ph.d prof rep rev sen sept
    sgt sr st u.k u.s u.s.a v vol vs wed
    """.split()
)
_MARK = r"[)\";}\]*:@'({\[!?‘’“”«»]"  # Ends a word.
_MANY = r"-{2,}|\.{2,}|(?:\.\s){2,}\."
_WORD = re.compile(rf"{_MANY}|(?![(\"`{{\[:;&#*@)}}\]\-,])\S+?(?=\s|$|{_MARK}|{_MANY}|,(?=$|\s|{_MARK}|{_MANY}))|\S")
_ENDS = re.compile(rf"[.?!](?=(?P<after>{_MARK}|\s+(?P<next>\S+)))")
_NUMBER_OR_INITIAL = re.compile(r"-?[.,]?\d[\d,.-]*\.|[^\W\d]\.")
_NO_START = tuple(";:,.!?")
_PULLED_BACK = re.compile(r"[\"')\]}‘’“”«»]+?(?:\s+|(?=--)|$)", re.MULTILINE)


def sentences(text: str) -> Iterator[str]:
    """The sentences of a lower-case text, without the space between them."""
    start = 0
    for match, context in _candidates(text):
        if not _has_end(context):
            continue
        end, start_next = match.end(), match.start("next") if match["next"] else match.end()
        # Quotes and brackets that close belong to the sentence that they close.
        if closing := _PULLED_BACK.match(text, start_next):
            end, start_next = start_next + len(closing[0].rstrip()), closing.end()
        if start < end:
            yield text[start:end]
        start = start_next
    if rest := text[start:].rstrip():
        yield rest


def _candidates(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Marks that may end a sentence, each with its word and what follows; of several marks in one word the last."""
    held, word, word_end = None, 0, 0
    for match in _ENDS.finditer(text):
        between = text[word_end : match.start()]
        begin = word_end + len(between) - _last_word(between)
        # No space, or one at the very beginning alone: the marks' words are one.
        if begin <= word_end + 1:
            begin = word
        if held is not None and word_end <= begin:
            yield held, text[word : held.end()] + held["after"]
        held, word, word_end = match, begin, match.start()
    if held is not None:
        yield held, text[word : held.end()] + held["after"]


def _last_word(text: str) -> int:
    """Letters behind the last space."""
    return 0 if text[-1:].isspace() else len(text.split()[-1]) if text else 0


def _has_end(context: str) -> bool:
    words = [word for line in context.split("\n") for word in _WORD.findall(line)]
    return any(_ends(word, behind) for word, behind in itertools.pairwise(words))


def _ends(word: str, behind: str) -> bool:
    """Whether a sentence ends with a word, when another one follows."""
    if word in (".", "?", "!"):
        return True
    if not word.endswith(".") or word.endswith(".."):
        return False
    if word[:-1] in _ABBREVIATIONS or word[:-1].rpartition("-")[2] in _ABBREVIATIONS:
        return False
    return not (_NUMBER_OR_INITIAL.fullmatch(word) and (behind[0].islower() or behind in _NO_START))


# In this order, each over the result of the ones before.
_SPACED = (
    (r"([«“‘„]|`+)", r" \1 "),
    (r"^\"", "``"),
    (r"(``)", r" \1 "),
    (r"([ (\[{<])(\"|'{2})", r"\1 `` "),
    (r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),
    (r"([^.])(\.)([\])}>\"'»”’ ]*)\s*$", r"\1 \2 \3 "),
    (r"([:,])(\D)", r" \1 \2"),
    (r"([:,])$", r" \1 "),
    (r"(\.{2,}|[;@#$%&]|[\u2012-\u2015])", r" \1 "),
    (r"([^.])(\.)([\])}>\"']*)\s*$", r"\1 \2\3 "),
    (r"([?!])", r" \1 "),
    (r"([^'])' ", r"\1 ' "),
    (r"([*\]\[(){}<>]|--)", r" \1 "),
    (r"^|$", " "),
    (r"([»”’])", r" \1 "),
    (r"''|\"", " '' "),
    (r"\s+", " "),
    (r"([^' ])('s|'m|'d|') ", r"\1 \2 "),
    (r"([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "),
    (r"\b(can)(not)\b|\b(d)('ye)\b|\b(gim)(me)\b|\b(gon)(na)\b|\b(got)(ta)\b|\b(lem)(me)\b|\b(more)('n)\b", None),
    (r"\b(wan)(na)(?=\s)| ('t)(is|was)\b", None),
)


def _apart(match: re.Match[str]) -> str:
    return f" {' '.join(part for part in match.groups() if part)} "


_SPACING = tuple((re.compile(pattern), _apart if text is None else text) for pattern, text in _SPACED)


def tokens(text: str) -> list[str]:
    """The tokens of a lower-case text, sentence by sentence."""
    found: list[str] = []
    for sentence in sentences(text):
        found += _sentence_tokens(sentence)
    return found


# Most sentences of captions have no mark but commas and the last period.
_PLAIN = re.compile(r"(?!.*,,)[a-z ,\n]+[a-z]\.?", re.DOTALL)
_CONTRACTED = re.compile("cannot|gimme|gonna|gotta|lemme|wanna")


def _sentence_tokens(sentence: str) -> list[str]:
    if _PLAIN.fullmatch(sentence) and not _CONTRACTED.search(sentence):
        return sentence.replace(",", " , ").replace(".", " .").split()
    for pattern, replacement in _SPACING:
        sentence = pattern.sub(replacement, sentence)
    return sentence.split()


_SAME = """
    aircraft antelope bison bream breeches britches carp cattle chassis clippers cod contretemps corps debris
    diabetes djinn eland elk flounder gallows georgia graffiti headquarters herpes high-jinks homework innings
    jackanapes jeans mackerel measles mews moose mumps news offspring pincers pliers proceedings rabies salmon
    scissors series shears species swine swiss trout tuna whiting wildebeest advice bread butter cannabis cheese
    electricity equipment fruit furniture garbage gravel happiness information ketchup knowledge love luggage
    mathematics mayonnaise meat mustard progress research rice sand software understanding water
""".split()
# pattern leaves their plurals as they are; it has "^pie" and "^tie" in this list, which match nothing.
_IN_IES = tuple(
    f"{word}ies"
    for word in """
    alger aunt bean bird bog bomb book coll cook cut dogg eyr freeb goon group hank hipp hoag hott ind junk ladd
    laram linger mean night old pix quick rever rook soft sort stool sweet tech tough valkyr vegg ween yupp zomb
    """.split()
)
_IRREGULAR = {
    "men": "man",
    "people": "person",
    "children": "child",
    "sexes": "sex",
    "axes": "axe",
    "moves": "move",
    "teeth": "tooth",
    "geese": "goose",
    "feet": "foot",
    "zoa": "zoon",
    "atlantes": "atlas",
    "atlases": "atlas",
    "beeves": "beef",
    "brethren": "brother",
    "corpora": "corpus",
    "corpuses": "corpus",
    "kine": "cow",
    "ephemerides": "ephemeris",
    "ganglia": "ganglion",
    "genii": "genie",
    "genera": "genus",
    "graffiti": "graffito",
    "helves": "helve",
    "leaves": "leaf",
    "loaves": "loaf",
    "lynxes": "lynx",
    "monies": "money",
    "mongooses": "mongoose",
    "mythoi": "mythos",
    "octopodes": "octopus",
    "opera": "opus",
    "opuses": "opus",
    "oxen": "ox",
    "penes": "penis",
    "penises": "penis",
    "soliloquies": "soliloquy",
    "testes": "testis",
    "trilbys": "trilby",
    "turves": "turf",
    "numena": "numen",
    "occipita": "occiput",
    "our": "my",
}
# The first that fits; "[octop|vir]" and "[m|l]" are the rules' own slips and mean any of those letters.
_ENDINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(.)ae$", r"\1a"),
        (r"(.)itis$", r"\1itis"),
        (r"(.)eaux$", r"\1eau"),
        (r"(quiz)zes$", r"\1"),
        (r"(matr)ices$", r"\1ix"),
        (r"(ap|vert|ind)ices$", r"\1ex"),
        (r"^(ox)en", r"\1"),
        (r"(alias|status)es$", r"\1"),
        (r"([octop|vir])i$", r"\1us"),
        (r"(cris|ax|test)es$", r"\1is"),
        (r"(shoe)s$", r"\1"),
        (r"(o|bus)es$", r"\1"),
        (r"([m|l])ice$", r"\1ouse"),
        (r"(x|ch|ss|sh)es$", r"\1"),
        (r"(movie|.ombie|series)s?$", r"\1"),
        (r"([^aeiouy]|qu)ies$", r"\1y"),
        (r"([aeo]l|[^d]ea|ar)ves$", r"\1f"),
        (r"(erve)s$", r"\1"),
        (r"([nlw]i)ves$", r"\1fe"),
        (r"([lr])ves$", r"\1f"),
        (r"([aeo]ve|sive|tive|hive)s$", r"\1"),
        (r"([^f])ves$", r"\1fe"),
        (r"(^analy)ses$", r"\1sis"),
        (r"((a)naly|ba|diagno|parenthe|progno|synop|the)ses$", r"\1\2sis"),
        (r"(.op|.y)ses$", r"\1sis"),
        (r"(h|d|r|o|n|b|cl|p)oses$", r"\1ose"),
        (r"(fruct|gluc|galact|lact|ket|malt|rib|sacchar|cellul)ose$", r"\1ose"),
        (r"(.)oses$", r"\1osis"),
        (r"([ti])a$", r"\1um"),
        (r"(n)ews$", r"\1ews"),
        (r"s$", ""),
    )
)


_PREPOSITIONS = frozenset(
    """
    about above across after among around at athwart before behind below beneath beside besides between betwixt
    beyond but by during except for from in into near of off on onto out over since till to under until unto upon
    with
    """.split()
)


@functools.lru_cache(maxsize=2**16)
def singular(word: str) -> str:
    """The singular of a lower-case token, by ``pattern``'s rules."""
    first, *rest = word.split("-")
    if rest and rest[0] in _PREPOSITIONS:
        return "-".join([singular(first), *rest])
    if word.endswith("'"):
        return singular(word[:-1]) + "'s"
    # A word that is the end of a listed one counts as listed, as there.
    if any(same.endswith(word) for same in _SAME) or word.endswith(_IN_IES):
        return word
    for plural, one in _IRREGULAR.items():
        if word.endswith(plural):
            return word.removesuffix(plural) + one
    for pattern, replacement in _ENDINGS:
        if pattern.search(word):
            return pattern.sub(replacement, word)
    return word
