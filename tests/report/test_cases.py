"""The page of a benchmark's worst answers."""

import json

import pytest
from PIL import Image

from vlm_jax.cli import main

QUESTIONS = [
    {"question_id": i, "image": f"{i}.png", "text": f"Is there a thing {i} in the image?", "label": "no"}
    for i in range(30)
]


def page_of(answers, tmp_path, *more):
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    rows = [{"question_id": i, "text": text} for i, text in enumerate(answers)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = ["--questions", tmp_path / "q.jsonl", "--answers", tmp_path / "a.jsonl", "--output", tmp_path / "out.json"]
    main(list(map(str, ["eval", "pope", *files, *more])))
    return (tmp_path / "out.html").read_text(encoding="utf-8")


def test_the_worst_answers_stand_with_their_pictures(tmp_path):
    for i in (3, 4):
        Image.new("RGB", (900, 400), "red").save(tmp_path / f"{i}.png")
    answers = ["No"] * 30
    answers[3], answers[7] = "Yes, <b>there</b> is", "Yes & more"
    page = page_of(answers, tmp_path, "--images", tmp_path, "--against", tmp_path / "a.jsonl")
    assert "2 of 2 with something wrong" in page
    assert page.count("<article") == 2
    # Written out, not run; the picture is inside, and only of what is wrong and at hand.
    assert "Yes, &lt;b&gt;there&lt;/b&gt; is" in page
    assert "<b>there" not in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert "http" not in page.replace("http-equiv", "")
    assert "Against the other answers" in page


def test_pictures_that_cannot_be_shown_are_left_out(tmp_path):
    Image.new("1", (17_000, 17_000)).save(tmp_path / "3.png")
    (tmp_path / "4.png").write_bytes(b"no picture")
    page = page_of(["Yes"] * 30, tmp_path, "--images", tmp_path)
    assert page.count("<article") == 24
    assert "data:image" not in page


@pytest.mark.parametrize(("answer", "expected"), [("Yes", "24 of 30 with something wrong"), ("No", "None is wrong.")])
def test_no_more_than_fit(answer, expected, tmp_path):
    page = page_of([answer] * 30, tmp_path)
    assert expected in page
    assert page.count("<article") == (24 if answer == "Yes" else 0)
