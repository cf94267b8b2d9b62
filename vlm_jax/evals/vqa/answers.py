"""VQA's ways to make answers comparable (``vqaEval.py``, and EvalAI's processor, which descends from it): punctuation
off, number words as digits, articles out, apostrophes back into contractions.

Contractions without their apostrophes have regular names: each is known by its right spelling less any one of its
apostrophes. The one odd pair is the scripts' own, and turned round.
"""

import functools
import re

from vlm_jax.evals.reading.punctuation import VQA_COMMA, VQA_PERIOD, strip_punctuation

_SPELLINGS = """
'ow's'at ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()
_CONTRACTIONS = {
    spelling[:place] + spelling[place + 1 :]: spelling
    for spelling in _SPELLINGS
    for place, letter in enumerate(spelling)
    if letter == "'"
} | {"somebody'd": "somebodyd"}
_NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
# EvalAI's processor knows "1,,000" for a number too.
_EVALAI_COMMA = re.compile(r"\d,+\d")
_CACHED = 2**16  # Answers repeat.


def flat(answer: str) -> str:
    """One line, without space around it: what the script compares where the annotators agree."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@functools.lru_cache(_CACHED)
def normalise(answer: str) -> str:
    """``processPunctuation`` and ``processDigitArticle`` of a :func:`flat` answer."""
    return _words(strip_punctuation(answer, VQA_PERIOD, VQA_COMMA))


@functools.lru_cache(_CACHED)
def evalai_steps(answer: str) -> str:
    """:func:`normalise` by EvalAI's table of steps, as lmms-eval calls them for VQA-v2."""
    return _words(strip_punctuation(answer, VQA_PERIOD, _EVALAI_COMMA))


@functools.lru_cache(_CACHED)
def evalai(answer: str) -> str:
    """EvalAI's processor as a whole: lower case, no commas and question marks, "'s" a word of its own, then the rest.
    TextVQA's scorer has it, and LLaVA applies it to what it submits to VQA-v2's server."""
    answer = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return evalai_steps(flat(answer))


def _words(text: str) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
