"""Rows with answers to be judged, in every layout that has some."""

import json

import pytest
from PIL import Image
from test_layouts import PAIRS, assistant, turns, user

from vlm_jax.data.sources import read_answered, read_preferences
from vlm_jax.errors import InputError


@pytest.fixture
def read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")

    def rows(*values, reader=read_answered, captions=None):
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(values))
        return reader(path, tmp_path, captions)

    return rows


OUTPUTS = {"output_1": {"from": "gpt", "value": "good"}, "output_2": {"from": "gpt", "value": "bad"}}
ONE = {
    "LLaVA": {"image": "1.png", "conversations": turns("<image>\nwhat is it?", "good")},
    "messages": {"images": ["1.png"], "messages": [user("<image>what is it?"), assistant("good")]},
    "question": {"image": "1.png", "question": "what is it?", "answer": "good"},
    "prompt": {"image": "1.png", "prompt": "what is it?", "answer": "good"},
    "prompt of messages": {"image": "1.png", "prompt": [user("<image>\nwhat is it?")], "answer": "good"},
    "a list": {"image": "1.png", "question": "what is it?", "answers": ["good"]},
}


@pytest.mark.parametrize("name", ONE)
def test_one_answer(name, read, tmp_path):
    (record,) = read(ONE[name], captions={"1.png": ["a thing"]})
    assert (record.answers, record.choice, record.image) == (("good",), None, tmp_path / "1.png")
    (turn,) = record.turns
    assert (turn.role, turn.text.replace("\n", "")) == ("human", "<image>what is it?")
    assert record.facts == ("a thing",)


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_those_of_the_reward_model(name, read):
    (record,), (pair,) = read(PAIRS[name]), read(PAIRS[name], reader=read_preferences)
    assert (record.turns, record.image, record.answers, record.choice) == (
        pair.turns,
        pair.image,
        pair.answers,
        pair.choice,
    )


def test_pairs_without_a_preference(read):
    talk = {"image": "1.png", "conversations": turns("what is it?")}
    labelled, bare = read({**talk, **OUTPUTS, "preference": 2}, {**talk, **OUTPUTS})
    assert (labelled.choice, bare.choice) == (1, None)
    assert labelled.answers == bare.answers == ("good", "bad")


def test_several_answers_and_one_that_says_nothing(read):
    several, silent = read({"question": "why?", "answers": ["a", "", "c"]}, {"question": "why?", "answer": ""})
    assert (several.answers, silent.answers, several.image) == (("a", "", "c"), ("",), None)


def test_a_later_answer_of_a_conversation(read):
    (record,) = read({"conversations": turns("one?", "first", "two?", "second")})
    assert ([turn.text for turn in record.turns], record.answers) == (["one?", "first", "two?"], ("second",))


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"conversations": turns("why?")}, "a conversation that ends with a question"),
        ({"question": "why?"}, r"the keys \['question'\]"),
        ({"answer": "so"}, r"the keys \['answer'\]"),
        ({"question": "why?", "prompt": "why?", "answer": "so"}, "the keys"),
        ({"question": "why?", "answer": "so", "answers": ["so"]}, "the keys"),
        ({"question": "why?", "answer": "so", "conversations": turns("why?", "so")}, "the keys"),
        ({"question": "why?", "answer": "so", "chosen": "a", "rejected": "b"}, "'answer' beside a pair of answers"),
        ({"question": "why?", "answers": []}, r"answers \[\]"),
        ({"question": "why?", "answers": "so"}, "answers 'so'"),
        ({"question": "why?", "answers": ["so", 1]}, "an answer of type int"),
        ({"question": "why?", "answer": "<image> so"}, "<image> in an answer"),
        ({"question": " ", "answer": "so"}, "a question without text"),
        ({"question": "why?", "answer": "so", "video": "1.mp4"}, "'video'"),
        ({"conversations": turns("why?"), **OUTPUTS, "preference": 3}, "preference 3"),
    ],
    ids=json.dumps,
)
def test_rows_that_cannot_be_judged(row, found, read):
    with pytest.raises(InputError, match=f"rows.json, row 2: found {found}"):
        read({"question": "why?", "answer": "so"}, row)
