"""Files of answers, and whatever else can be in them."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_jax.cli import main
from vlm_jax.errors import InputError
from vlm_jax.evals.answering.answer_files import Pairing, answers_to, read_answers
from vlm_jax.evals.chair import scorer as chair
from vlm_jax.evals.chair.coco_objects import read_names
from vlm_jax.evals.pope import scorer as pope

NAMES = read_names()


@pytest.mark.parametrize(
    "row",
    [
        {"question_id": 7, "prompt": "Is there a dog?", "text": "Yes", "answer_id": "x", "metadata": {}},
        {"image_id": 7, "caption": "Yes"},
        {"id": "7", "response": "Yes"},
        {"question_id": "7", "question": "Is there a dog?", "answer": "Yes"},
    ],
)
@pytest.mark.parametrize("as_list", [False, True])
def test_formats_in_use(row, as_list, tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps([row] if as_list else row))
    found = read_answers(path)
    assert {identity: answer.text for identity, answer in found.items()} == {"7": "Yes"}
    assert answers_to(["7"], found, path, {"7": "Is there a dog?"}) == ["Yes"]


def test_a_complaint_is_no_copy_of_the_file(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({f"image {number}": "Yes" for number in range(100_000)}))
    with pytest.raises(InputError, match="expected an id under one of") as raised:
        read_answers(path)
    assert len(str(raised.value)) < 5000


def test_ids_of_any_length_are_exact(tmp_path):
    """Also where a decoder would make floats of whole numbers."""
    path = tmp_path / "answers.jsonl"
    ids = [2**53 + 1, 2**64 + 1, 10**30 + 1, -(2**63) - 1]
    path.write_text("".join(json.dumps({"question_id": one, "text": "a"}) + "\n" for one in ids))
    assert list(read_answers(path)) == [str(one) for one in ids]


def test_captions_by_image_as_chairs_script_reads_them(tmp_path):
    path = tmp_path / "captions.json"
    captions = {"7": {"image_id": 7, "caption": "A dog."}, "9": {"image_id": 9, "caption": "A cat."}}
    path.write_text(json.dumps({"overall": {"CIDEr": 0.9}, "imgToEval": captions}))
    found = read_answers(path)
    assert {identity: answer.text for identity, answer in found.items()} == {"7": "A dog.", "9": "A cat."}
    path.write_text(json.dumps({"overall": {"CIDEr": 0.9}, "imgToEval": captions}, indent=4))
    assert read_answers(path) == found
    for content, complaint in (
        ('{"imgToEval": {"7": "A dog."}}', "row 1: found imgToEval of 7 of type str"),
        ('{"imgToEval": []}', "found imgToEval of type list"),
        ('{"imgToEval": {}}', "found no rows in imgToEval"),
        ('{"imgToEval": {}}\n{"image_id": 9, "caption": "A cat."}', "malformed JSON at line 2"),
        ('{"imgToEval": {"7": {"image_id": 7, "caption": "x"}, "7": {}}}', "the key '7' for the second time"),
        ('{"overall": {}, "images": []}', "found imgToEval of type NoneType"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=complaint):
            read_answers(path)


CAPTIONS = {"7", "9", "12"}


def paired(tmp_path, row, pairing):
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(row))
    (identity,) = read_answers(path, pairing)
    return identity


def test_each_benchmark_goes_by_its_own_id(tmp_path):
    row = {"question_id": 0, "image_id": 7, "caption": "A dog."}
    assert paired(tmp_path, row, Pairing(("image_id",), CAPTIONS)) == "7"
    assert paired(tmp_path, row, Pairing(("question_id",), {"0", "1"})) == "0"
    # An id of another kind names no question, however it is written.
    assert paired(tmp_path, {**row, "id": None, "index": [1]}, Pairing(("image_id",), CAPTIONS)) == "7"
    # Two that agree are one, and the only one there counts.
    assert paired(tmp_path, {**row, "question_id": "7"}, Pairing(("image_id",), CAPTIONS)) == "7"
    assert paired(tmp_path, {"id": "9", "caption": "A cat."}, Pairing(("image_id",), CAPTIONS)) == "9"


@pytest.mark.parametrize(
    ("row", "key", "other"),
    [
        ({"image_id": 7, "question_id": 9, "caption": "A dog."}, "image_id", "question_id"),
        ({"id": "12", "image_id": 9, "caption": "A dog."}, "image_id", "id"),
        # Its own names nothing, another one does: that is not what was meant either, for all we know.
        ({"image_id": 1, "index": 12, "caption": "A dog."}, "image_id", "index"),
    ],
)
def test_ids_that_disagree_are_refused_until_one_is_chosen(row, key, other, tmp_path):
    complaint = f"row 1: found {key} {row[key]} and {other} {row[other]}.*--id-key {key} or --id-key {other}"
    with pytest.raises(InputError, match=complaint):
        paired(tmp_path, row, Pairing(("image_id",), CAPTIONS))
    for chosen in (key, other):
        assert paired(tmp_path, row, Pairing(("image_id",), CAPTIONS, chosen)) == str(row[chosen])
    with pytest.raises(InputError, match="expected an id under one of name"):
        paired(tmp_path, row, Pairing(("image_id",), CAPTIONS, "name"))


def test_the_commands_key_of_ids(tmp_path, capsys):
    """CHAIR's own is the image's, whatever number its line has."""
    objects, answers, out = (tmp_path / name for name in ("objects.json", "answers.jsonl", "out.json"))
    objects.write_text(json.dumps({"1": ["dog"], "2": ["cat"], "77": ["bus"]}))
    rows = [{"question_id": i, "image_id": image, "text": "A dog."} for i, image in ((0, 77), (5, 1), (3, 2))]
    command = ["eval", "chair", f"--objects={objects}", f"--answers={answers}", f"--output={out}"]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(command)
    assert json.loads(out.read_text())["metrics"]["hallucinated"] == 2
    answers.write_text("".join(json.dumps({**row, "question_id": 2}) + "\n" for row in rows))
    with pytest.raises(SystemExit):
        main(command)
    assert "row 1: found image_id 77 and question_id 2, which is a question's too" in capsys.readouterr().err
    main([*command, "--id-key", "image_id"])
    assert json.loads(out.read_text())["metrics"]["hallucinated"] == 2


def test_answers_without_ids_stand_in_the_questions_order(tmp_path):
    path, questions = tmp_path / "answers.json", {"a": "Is there a dog?", "b": "Is there a cat?"}
    rows = [{"question": text, "answer": said} for text, said in zip(questions.values(), ("Yes", "No"), strict=True)]

    def read(rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return answers_to(list(questions), read_answers(path, ids=list(questions)), path, questions)

    assert read(rows) == ["Yes", "No"]
    for odd, complaint in (
        (rows[::-1], "row 1: found id a as an answer to 'Is there a cat"),
        (rows[:1], "no answer to b"),
        ([*rows, rows[0]], "row 3: found one answer more than there are questions"),
        ([rows[0], {"answer": "No"}], r"row 2: found the keys \['answer'\]; expected an id, or the question"),
        ([rows[0], {"question_id": "b", "answer": "No"}], "row 2: found an id"),
        ([rows[0], {"question": "Is there a cat?"}], "row 2: .* expected an answer under"),
    ):
        with pytest.raises(InputError, match=complaint):
            read(odd)
    with pytest.raises(InputError, match="expected an id under"):
        read_answers(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"{",
        b'{"question_id": 1, "text": NaN}',
        b'{"question_id": 1, "text": "a"} trailing',
        b'[{"question_id": 1, "text": "a"}',
        b'[{"question_id": 1, "text": "a"},]',
        b'{"question_id": 1, "text": "\xff"}',
        b'{"question_id": 1, "text": "\\ud800"}',
        b'{"question_id": ' + b"9" * 6000 + b', "text": "a"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'"text"',
        b"[[1]]",
        b'{"question_id": true, "text": "a"}',
    ],
)
def test_what_is_no_file_of_answers(content, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_answers(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 1000


def assert_every_answer_counts(texts, path):
    path.write_text("".join(json.dumps({"question_id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    ids = [str(place) for place in range(len(texts))]
    answers = answers_to(ids, read_answers(path), path)
    assert answers == texts
    questions = [pope.Question(identity, identity, "?", "yes") for identity in ids]
    for mode in pope.MODES:
        scored = pope.score(answers, questions, mode)
        assert scored.tally.counts.sum() == len(texts) == len(scored.per_sample)
        assert scored.unparsed <= len(texts)
    scored = chair.score(dict(zip(ids, answers, strict=True)), dict.fromkeys(ids, frozenset({"dog"})), NAMES)
    assert len(scored.per_sample) == len(texts)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_any_answer_is_scored_or_counted(texts, tmp_path):
    """Random Unicode or nothing at all: every answer ends in exactly one place."""
    assert_every_answer_counts(texts, tmp_path / "answers.jsonl")


@pytest.mark.parametrize("text", ["Yes", "a, ", "no. ", "(", " ", "?!", "' "])
def test_long_answers_take_no_longer_than_they_are(text, tmp_path):
    """A rule that takes the square of an answer's length would take hours."""
    assert_every_answer_counts([text * (200_000 // len(text))], tmp_path / "answers.jsonl")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system with pipes")
def test_a_pipe_of_answers_says_what_to_do(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for stream in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(
            InputError, match=r"no regular file \(pipes and devices are not read\).*write .* to one first"
        ):
            read_answers(stream)
