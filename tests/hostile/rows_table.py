"""Rows that say what no row should: of training, of prompts, of answers, of benchmarks' questions."""

import json
from collections.abc import Iterator
from typing import Any

from good_commands import (
    AOKVQA,
    HALLUSION,
    INSTRUCTIONS,
    LLAVA_BENCH,
    MME,
    MMHAL,
    PAIRS,
    POPE,
    POPE_ANSWERS,
    PROMPTS,
    VQA,
    VQA_NOTE,
    lines,
    pair,
)
from hostile_case import Case, Ended, Gives, instead, refused, written

_TURN = {"from": "human", "value": "<image>\nWhat is it?"}
_SAID = {"from": "gpt", "value": "A cat."}


def _talk(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"image": "0.png", "conversations": list(turns), **more}


# Of a conversation, in sft's rows; many are the same in all others.
_CONVERSATIONS: dict[str, tuple[Any, str]] = {
    "no-turns": (_talk(), ""),
    "turns-null": ({"image": "0.png", "conversations": None}, ""),
    "turns-a-text": ({"image": "0.png", "conversations": "What?"}, ""),
    "turns-of-numbers": ({"image": "0.png", "conversations": [1, 2]}, ""),
    "turn-without-value": (_talk({"from": "human"}, _SAID), "turn"),
    "turn-from-nobody": (_talk({"from": "ghost", "value": "x"}, _SAID), "ghost"),
    "turn-from-a-number": (_talk({"from": 3, "value": "x"}, _SAID), "3"),
    "two-questions": (_talk(_TURN, _TURN, _SAID), "two"),
    "answer-first": (_talk(_SAID, _TURN), ""),
    "question-empty": (_talk({"from": "human", "value": "   "}, _SAID), "without text"),
    "question-a-number": (_talk({"from": "human", "value": 5}, _SAID), "int"),
    "question-only-a-marker": (_talk({"from": "human", "value": "<image>"}, {"from": "gpt", "value": ""}), "text"),
    "answer-empty": (_talk(_TURN, {"from": "gpt", "value": ""}), "without text"),
    "answer-null": (_talk(_TURN, {"from": "gpt", "value": None}), "text"),
    "answer-with-a-picture": (_talk(_TURN, {"from": "gpt", "value": "See <image>"}), "<image>"),
    "answer-with-a-surrogate": (_talk(_TURN, {"from": "gpt", "value": "\ud800"}), "surrogate"),
    "picture-twice-marked": (_talk({"from": "human", "value": "<image> and <image>"}, _SAID), "<image>"),
    "marker-without-picture": ({"conversations": [_TURN, _SAID]}, "<image>"),
    "picture-in-a-later-turn": (
        _talk({"from": "human", "value": "Hi."}, _SAID, _TURN, _SAID, image=["0.png", "1.jpg"]),
        "",
    ),
    "two-pictures": (_talk(_TURN, _SAID, images=["0.png", "1.jpg"], image=None), ""),
    "picture-a-number": (_talk(_TURN, _SAID, image=3), "image"),
    "picture-empty": (_talk(_TURN, _SAID, image=""), "image"),
    "picture-missing": (_talk(_TURN, _SAID, image="gone.png"), "gone.png"),
    "picture-a-folder": (_talk(_TURN, _SAID, image="."), ""),
    "picture-outside": (_talk(_TURN, _SAID, image="../../../etc/passwd"), "below"),
    "picture-absolute": (_talk(_TURN, _SAID, image="/etc/passwd"), "below"),
    "picture-with-nul": (_talk(_TURN, _SAID, image="a\0b"), "name"),
    "picture-of-300-letters": (_talk(_TURN, _SAID, image="x" * 300), "x" * 50),
    "picture-steers-the-terminal": (_talk(_TURN, _SAID, image="\x1b[2J\n.png"), "\\x1b"),
    "pictures-two-columns": (_talk(_TURN, _SAID, images=["1.jpg"]), ""),
    "video": (_talk(_TURN, _SAID, video="v.mp4"), "video"),
    "pixel-values": (_talk(_TURN, _SAID, pixel_values=[[0.5]]), "pixel_values"),
    "both-spellings": (_talk(_TURN, _SAID, messages=[{"role": "user", "content": "x"}]), ""),
    "no-column": ({"id": 3}, ""),
    "columns-of-nobody": ({"foo": 1, "bar": []}, ""),
    "system-twice": (_talk({"from": "system", "value": "a"}, _TURN, _SAID, system="b"), "system"),
}
_PAIRS: dict[str, tuple[Any, str]] = {
    "preference-3": (pair(preference=3), "preference"),
    "preference-text": (pair(preference="1"), "preference"),
    "preference-true": (pair(preference=True), "preference"),
    "preference-missing": ({k: v for k, v in pair().items() if k != "preference"}, "preference"),
    "answer-missing": ({k: v for k, v in pair().items() if k != "output_2"}, "output_2"),
    "answer-empty": (pair(output_1={"from": "gpt", "value": " "}), "output_1"),
    "answer-a-list": (pair(output_1=[]), "output_1"),
    "both-layouts": (pair(chosen="a", rejected="b"), ""),
}
_PROMPTS: dict[str, tuple[Any, str]] = {
    "caption-type-9": ({**PROMPTS[0], "caption_type": 9}, "caption_type"),
    "caption-type-text": ({**PROMPTS[0], "caption_type": "1"}, "caption_type"),
    "length-bonus-text": ({**PROMPTS[0], "length_bonus": "much"}, "length_bonus"),
    "length-bonus-1e400": ({**PROMPTS[0], "length_bonus": 10**400}, "length_bonus"),
    "no-question": ({"image": "0.png", "conversations": []}, ""),
}


def _rows() -> Iterator[Case]:
    for number, (name, (row, word)) in enumerate(_CONVERSATIONS.items()):
        rows = written("rows.json", json.dumps([INSTRUCTIONS[0], row]))
        expected = refused("rows.json, row 2", word)
        yield Case("sft", f"row-{name}", instead("sft", data=rows), expected, number % 2 != 0)
        if number % 3 == 1 and "answer" not in name and name not in ("two-questions", "picture-in-a-later-turn"):
            yield Case("score", f"row-{name}", instead("score", data=rows), expected, number % 2 == 0)
    for number, (name, (row, word)) in enumerate(_PAIRS.items()):
        rows = written("rows.json", [PAIRS[0], row])
        expected = refused("rows.json, row 2", word)
        yield Case("reward", f"row-{name}", instead("reward", preferences=rows), expected, number % 3 != 0)
        line = instead("eval judge-bias", preferences=rows)
        yield Case("eval judge-bias", f"row-{name}", line, expected, number % 3 != 1)
    for number, (name, (row, word)) in enumerate(_PROMPTS.items()):
        rows = written("rows.json", [PROMPTS[0], row])
        expected = refused("rows.json, row 2", word)
        yield Case("ppo", f"row-{name}", instead("ppo", prompts=rows), expected, number % 2 != 0)
        yield Case("sample", f"row-{name}", instead("sample", prompts=rows), expected, number % 2 != 1)


# Of benchmarks: verb, option, name, the file, what is said.
_QUESTION = POPE[0]
_BENCHMARKS: tuple[tuple[str, str, str, Any, str], ...] = (
    ("eval pope", "questions", "id-twice", lines([_QUESTION, _QUESTION]), "row 2"),
    ("eval pope", "questions", "id-null", lines([{**_QUESTION, "question_id": None}]), "question_id"),
    ("eval pope", "questions", "id-a-list", lines([{**_QUESTION, "question_id": [1]}]), "question_id"),
    ("eval pope", "questions", "id-a-half", lines([{**_QUESTION, "question_id": 1.5}]), "question_id"),
    ("eval pope", "questions", "label-maybe", lines([{**_QUESTION, "label": "maybe"}]), "maybe"),
    ("eval pope", "questions", "text-a-number", lines([{**_QUESTION, "text": 3}]), "text"),
    ("eval pope", "answers", "one-missing", lines(POPE_ANSWERS[:1]), "answers.jsonl"),
    ("eval pope", "answers", "one-too-many", lines([*POPE_ANSWERS, {"question_id": 9, "text": "Yes"}]), "9"),
    ("eval pope", "answers", "one-twice", lines([*POPE_ANSWERS, POPE_ANSWERS[0]]), "row 3"),
    ("eval pope", "answers", "text-null", lines([{"question_id": 1, "text": None}, POPE_ANSWERS[1]]), "row 1"),
    ("eval pope", "answers", "all-empty", lines([{**row, "text": ""} for row in POPE_ANSWERS]), "--allow-empty"),
    ("eval pope", "answers", "to-other-questions", lines([{**row, "prompt": "Why?"} for row in POPE_ANSWERS]), ""),
    ("eval chair", "objects", "of-text", {"1": "dog"}, "objects.json"),
    ("eval chair", "objects", "of-numbers", {"1": [1]}, "objects.json"),
    ("eval chair", "objects", "unknown", {"1": ["unicorn"]}, "unicorn"),
    ("eval chair", "answers", "of-another-image", lines([{"image_id": 77, "caption": "A dog."}]), "77"),
    ("eval chair", "answers", "caption-a-list", lines([{"image_id": "1", "caption": ["A dog."]}]), "row 1"),
    (
        "eval amber",
        "annotations",
        "id-twice",
        [{"id": 1, "type": "generative", "truth": [], "hallu": []}] * 2,
        "second",
    ),
    (
        "eval amber",
        "annotations",
        "truth-a-number",
        [{"id": 1, "type": "generative", "truth": 3, "hallu": []}],
        "truth",
    ),
    ("eval amber", "annotations", "type-unknown", [{"id": 1, "type": "poem", "truth": "yes"}], "poem"),
    ("eval amber", "answers", "id-of-nobody", [{"id": 77, "response": "No"}], "answers.json"),
    ("eval hallusionbench", "data", "category-unknown", [{**HALLUSION, "category": "XX"}], "XX"),
    ("eval hallusionbench", "data", "twice", [HALLUSION, HALLUSION], "second"),
    ("eval hallusionbench", "data", "answer-2", [{**HALLUSION, "gt_answer": "2"}], "gt_answer"),
    ("eval hallusionbench", "answers", "no-prediction", [HALLUSION], "answers.json"),
    ("eval mmhal", "questions", "type-unknown", [{**MMHAL[0], "question_type": "poem"}], "poem"),
    ("eval mmhal", "questions", "contents-a-number", [{**MMHAL[0], "image_content": 3}], "image_content"),
    ("eval mmhal", "template_file", "without-places", "Rate it.", "rubric"),
    ("eval llava-bench", "questions", "category-unknown", lines([{**LLAVA_BENCH[0], "category": "x"}]), ""),
    ("eval llava-bench", "questions", "twice", lines([LLAVA_BENCH[0]] * 2), "row 2"),
    ("eval llava-bench", "references", "one-missing", lines([{"question_id": 0, "text": "x"}]), "references.jsonl"),
    ("eval mme", "questions", "answer-maybe", lines([{**MME[0], "answer": "Maybe"}]), "Maybe"),
    ("eval mme", "questions", "twice", lines([MME[0]] * 2), "second"),
    ("eval mme", "questions", "subtask-unknown", lines([{**row, "category": "magic"} for row in MME]), "answers.jsonl"),
    ("eval mme", "questions", "one-alone", lines(MME[:1]), ""),
    ("eval vqa", "questions", "question-a-number", {"questions": [{**VQA["questions"][0], "question": 3}]}, "question"),
    ("eval vqa", "questions", "twice", {"questions": VQA["questions"] * 2}, "second"),
    ("eval vqa", "annotations", "of-no-question", {"annotations": [{**VQA_NOTE, "question_id": 9}]}, "9"),
    ("eval vqa", "annotations", "no-answers", {"annotations": [{**VQA_NOTE, "answers": []}]}, "answers"),
    ("eval vqa", "annotations", "answers-of-text", {"annotations": [{**VQA_NOTE, "answers": ["cat"] * 10}]}, "answers"),
    ("eval aokvqa", "questions", "choice-9", [{**AOKVQA, "correct_choice_idx": 9}], "correct_choice_idx"),
    ("eval aokvqa", "questions", "choice-true", [{**AOKVQA, "correct_choice_idx": True}], "correct_choice_idx"),
    ("eval aokvqa", "questions", "choices-of-numbers", [{**AOKVQA, "choices": [1, 2, 3, 4]}], "choices"),
    ("eval aokvqa", "questions", "twice", [AOKVQA, AOKVQA], "second"),
    ("eval aokvqa", "answers", "not-a-choice", {"a": {"multiple_choice": "cow?"}}, "cow?"),
    ("eval aokvqa", "answers", "of-numbers", {"a": {"multiple_choice": 1}}, "answers.json"),
    ("eval aokvqa", "answers", "to-nothing", {"z": {"multiple_choice": "dog"}}, "answers.json"),
    ("eval mmbench", "questions", "one-column", "index\n1\n", "questions.tsv"),
    ("eval mmbench", "questions", "too-many-cells", "index\tquestion\n1\tx\ty\n", "3 cells"),
    ("eval mmbench", "questions", "column-twice", "index\tindex\n1\t1\n", "differ"),
    ("eval mmbench", "questions", "header-alone", "index\tquestion\tA\tanswer\n", "no rows"),
    ("eval mmbench", "answers", "id-of-nobody", lines([{"question_id": 99, "text": "A"}]), "answers.jsonl"),
    ("eval chair-objects", "instances", "no-categories", {"annotations": []}, "categories"),
    (
        "eval chair-objects",
        "instances",
        "category-unknown",
        {"categories": [], "annotations": [{"image_id": 1, "category_id": 3}]},
        "category_id",
    ),
    (
        "eval chair-objects",
        "instances",
        "id-of-text",
        {"categories": [{"id": "1", "name": "dog"}], "annotations": []},
        "categories",
    ),
    ("eval chair-objects", "captions", "caption-null", {"annotations": [{"image_id": 1, "caption": None}]}, "caption"),
    ("eval pope-questions", "objects", "of-numbers", {"1": [1, 2, 3]}, "objects"),
    ("eval pope-questions", "objects", "image-without-objects", {"1": []}, "objects"),
)


def _benchmarks() -> Iterator[Case]:
    endings = {str: "jsonl", dict: "json", list: "json"}
    for number, (verb, option, name, content, word) in enumerate(_BENCHMARKS):
        ending = "tsv" if verb == "eval mmbench" and option == "questions" else endings[type(content)]
        file = "rubric.txt" if option == "template_file" else f"{option}.{ending}"
        line = instead(verb, **{option: written(file, content)})
        yield Case(verb, f"{option}-{name}", line, refused(word), slow=number % 3 != 0)


def _accuracy(ended: Ended) -> None:
    """The two answers of the good command are right, however the file is spelled."""
    result = json.loads(ended.ground.output.read_text())
    assert (result["metrics"]["accuracy"], result["n"]) == (1.0, 2)


_YES, _NO = POPE_ANSWERS
_SPELLED: dict[str, bytes] = {
    "byte-order-mark": b"\xef\xbb\xbf" + lines(POPE_ANSWERS).encode(),
    "windows-lines": lines(POPE_ANSWERS).replace("\n", "\r\n").encode(),
    "no-last-newline": lines(POPE_ANSWERS).rstrip("\n").encode(),
    "blank-lines": b"\n\n" + lines(POPE_ANSWERS).replace("\n", "\n\n  \n").encode(),
    "a-list-over-lines": json.dumps(POPE_ANSWERS, indent=4).encode(),
    "list-with-byte-order-mark": b"\xef\xbb\xbf" + json.dumps(POPE_ANSWERS).encode(),
    "ids-of-text": lines([{**row, "question_id": str(row["question_id"])} for row in POPE_ANSWERS]).encode(),
    "turned-round": lines(POPE_ANSWERS[::-1]).encode(),
    "key-twice-last-stands": b'{"question_id": 1, "text": "No", "text": "Yes"}\n' + lines([_NO]).encode(),
    "line-separators-inside": lines([{**_YES, "text": "Yes\u2028\u0085."}, _NO]).encode(),
    "escapes": b'{"question_id": 1, "text": "\\u0059es"}\n' + lines([_NO]).encode(),
    "large-integer-beside": lines([{**_YES, "seed": 10**30}, _NO]).encode(),
    "control-characters-in-the-answer": lines([{**_YES, "text": "Yes\x1b[2J\x07"}, _NO]).encode(),
    "emoji": lines([{**_YES, "text": "Yes \U0001f600"}, _NO]).encode(),
    "very-long-answer": lines([{**_YES, "text": "Yes, " + "so " * 200_000}, _NO]).encode(),
}


def _odd_spellings() -> Iterator[Case]:
    for number, (name, content) in enumerate(_SPELLED.items()):
        line = instead("eval pope", answers=written("spelled.jsonl", content))
        yield Case("eval pope", f"answers-{name}", line, Gives(_accuracy), slow=number % 3 != 0)


CASES = [
    *_rows(),
    *_benchmarks(),
    *_odd_spellings(),
    Case("generate", "prompt-empty", instead("generate", prompt=""), refused("question without text")),
    Case("generate", "prompt-blank", instead("generate", prompt=" \n\t"), refused("question without text")),
    Case("generate", "marker-without-picture", instead("generate", prompt="<image> What?"), refused("<image>")),
    Case(
        "generate",
        "two-markers",
        instead("generate", prompt="<image> and <image>", image=lambda g: g.shared.images / "0.png"),
        refused("<image>"),
        slow=True,
    ),
    Case("generate", "prompt-too-long", instead("generate", prompt="why? " * 5000), refused("1024"), slow=True),
    Case(
        "score",
        "no-answers",
        instead("score", data=written("rows.json", [{"question": "Why?", "answers": []}])),
        refused("row 1"),
    ),
    Case(
        "score",
        "answers-of-numbers",
        instead("score", data=written("rows.json", [{"question": "Why?", "answers": [1]}])),
        refused("row 1"),
    ),
]
