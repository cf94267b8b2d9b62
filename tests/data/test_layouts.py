"""Rows of chats and of preferences as public files have them, made here in their shapes."""

import json

import numpy as np
import pytest

from vlm_jax.data.conversation import TEMPLATES, Turn, render
from vlm_jax.data.encoding import encode_conversation
from vlm_jax.data.sources import read_instructions, read_preferences, read_prompts
from vlm_jax.errors import InputError

MARKED = "<image>\nwhat is it?"


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def turns(*texts):
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def parts(*texts, image=False):
    shown = [{"type": "image", "text": None}] if image else []
    return [*shown, *({"type": "text", "text": text} for text in texts)]


PAIRS = {
    "LLaMA-Factory, ShareGPT": {
        "conversations": [{"from": "human", "value": "<image>what is it?"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
        "images": ["1.png"],
    },
    "LLaMA-Factory, messages": {
        "messages": [user("<image>what is it?")],
        "chosen": assistant("good"),
        "rejected": assistant("bad"),
        "images": ["1.png"],
        "videos": [],
        "tools": "",
        "system": "",
    },
    "TRL, text": {"prompt": "what is it?", "chosen": "good", "rejected": "bad", "images": ["1.png"]},
    "TRL, messages": {
        "prompt": [user("what is it?")],
        "chosen": [assistant("good")],
        "rejected": [assistant("bad")],
        "image": "1.png",
    },
    "TRL, parts": {
        "prompt": [user(parts("what is it?", image=True))],
        "chosen": [assistant(parts("good"))],
        "rejected": [assistant(parts("bad"))],
        "images": ["1.png"],
    },
    "TRL, no prompt": {
        "chosen": [user(parts("what is it?", image=True)), assistant("good")],
        "rejected": [user(parts("what is it?", image=True)), assistant("bad")],
        "images": ["1.png"],
    },
    "parts that name their picture": {
        "prompt": [user([{"type": "image", "image": "1.png"}, *parts("what is it?")])],
        "chosen": "good",
        "rejected": "bad",
    },
    "RLHF-V": {
        "ds_name": "RLHF-V",
        "image_path": "1.png",
        "text": json.dumps({"question": "what is it?", "chosen": "good", "rejected": "bad"}),
        "origin_split": "{}",
    },
    "RLAIF-V": {
        "image": "1.png",
        "image_path": "1.png",
        "question": "what is it?",
        "chosen": "good",
        "rejected": "bad",
        "idx": 4,
    },
}


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("layout", PAIRS)
def test_pairs(layout, lines, write, images):
    rows = [PAIRS[layout]] * 2
    path = write("\n".join(map(json.dumps, rows)), "rows.jsonl") if lines else write(rows)
    first, second = read_preferences(path, images, {"1.png": ["a ball"]})
    assert first.image == second.image == images / "1.png"
    (turn,) = first.turns
    assert (turn.role, turn.text.replace("<image>", "").strip()) == ("human", "what is it?")
    assert turn.text.count("<image>") == 1
    assert (first.answers, first.choice, first.facts) == (("good", "bad"), 0, ("a ball",))
    assert second.origin.row == 2


def changed(layout, **columns):
    row = PAIRS[layout] | columns
    return {key: value for key, value in row.items() if value is not ...}


BOTH = [user("hi"), assistant("yes")]
AMBIGUOUS = {
    "two layouts": (changed("TRL, text", messages=[user("hi")]), "as well as those of"),
    "a question too": (changed("TRL, text", question="hi"), "as well as those of"),
    "LLaVA-RLHF's too": (
        changed("LLaMA-Factory, ShareGPT", output_1={"from": "gpt", "value": "x"}),
        "as well as those of",
    ),
    "no layout": ({"question": "hi", "answer": "yes"}, "the keys ['answer', 'question']; expected one of: conv"),
    "a conversation that is answered": (
        changed("LLaMA-Factory, messages", messages=[user("<image>hi"), assistant("yes")]),
        "ends with an answer beside 'chosen'",
    ),
    "no rejected": (changed("LLaMA-Factory, messages", rejected=...), "no 'rejected'"),
    "null rejected": (changed("TRL, text", rejected=None), "rejected None"),
    "empty chosen": (changed("TRL, text", chosen=" "), "an answer chosen without text"),
    "chosen by the user": (changed("TRL, messages", chosen=[user("good")]), "chosen by 'human'"),
    "whole conversation beside a prompt": (
        changed("TRL, messages", chosen=[user("hi"), assistant("good")]),
        "chosen of 2 turns",
    ),
    "a picture in an answer": (
        changed("TRL, parts", chosen=[assistant(parts("good", image=True))]),
        "<image> in an answer chosen",
    ),
    "a prompt that is answered": (changed("TRL, messages", prompt=BOTH), "a prompt that ends with an answer"),
    "a rendered prompt": (changed("TRL, text", prompt="USER: hi ASSISTANT:"), "'ASSISTANT:' in it"),
    "a prompt of another template": (changed("TRL, text", prompt="<|im_start|>user\nhi"), "'<|im_start|>' in it"),
    "texts alone": ({"chosen": "\n\nHuman: hi", "rejected": "\n\nHuman: hi"}, "chosen of type str"),
    "other beginnings": (
        {"chosen": BOTH, "rejected": [user("ho"), assistant("no")]},
        "differ before their last answer",
    ),
    "no end": ({"chosen": BOTH, "rejected": BOTH[:1]}, "ends with a question"),
    "text that is no JSON": (changed("RLHF-V", text="what is it?"), "'text' that is no JSON"),
    "text without a pair": (changed("RLHF-V", text='{"question": "hi"}'), "JSON with question, chosen, rejected"),
    "pictures that differ": (changed("RLAIF-V", image_path="2.png"), "more than one picture, '1.png', '2.png'"),
    "parts and columns that differ": (
        changed("parts that name their picture", images=["2.png"]),
        "more than one picture, '1.png', '2.png'",
    ),
    "a part with video": (
        changed("TRL, parts", prompt=[user([{"type": "video"}, *parts("hi")])]),
        "a part {'type': 'video'}",
    ),
    "a part with an address": (
        changed("TRL, parts", prompt=[user([{"type": "image_url", "image_url": {"url": "http://x"}}])]),
        "a part {'type': 'image_url'",
    ),
    "a marker and a part": (
        changed("TRL, parts", prompt=[user(parts("<image> hi", image=True))]),
        "2 <image> markers and one image",
    ),
    "a part without a picture": (changed("TRL, parts", images=[]), "1 <image> markers and no image"),
    "tools": (changed("LLaMA-Factory, messages", tools="[{}]"), "found 'tools'"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_at_its_row(case, write, images):
    row, expected = AMBIGUOUS[case]
    with pytest.raises(InputError) as error:
        read_preferences(write([PAIRS["TRL, text"], row]), images)
    assert "data.json, row 2: found " in str(error.value)
    assert expected in str(error.value)


def test_chats(write, images):
    """The same conversation in every spelling of it."""
    texts = ["what is it?", "a ball", "how many?", "one"]
    plain = [user(MARKED), assistant("a ball"), user("how many?"), assistant("one")]
    nested = [{**turn, "content": parts(turn["content"])} for turn in plain]
    rows = [
        {"image": "1.png", "conversations": turns(*texts)},
        {"images": ["1.png"], "messages": plain},
        {"images": ["1.png"], "messages": nested},
        {"images": ["1.png"], "messages": [user(parts("what is it?", image=True)), *nested[1:]]},
        {"image": "1.png", "conversations": plain},
    ]
    records = read_instructions(write(rows), images)
    expected = (Turn("human", MARKED), Turn("gpt", "a ball"), Turn("human", "how many?"), Turn("gpt", "one"))
    assert [record.turns for record in records] == [expected] * len(rows)
    assert [record.turns for record in read_prompts(write(rows), images)] == [expected[:1]] * len(rows)


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SYSTEM, *BOTH]},
        {"messages": [{**SYSTEM, "content": parts("Be brief.")}, *BOTH]},
        {"conversations": [{"from": "system", "value": "Be brief."}, *BOTH]},
        {"messages": BOTH, "system": "Be brief."},
        {"messages": [SYSTEM, *BOTH], "system": "Be brief."},
    ],
    ids=str,
)
def test_a_system_line_replaces_the_templates(row, write, images):
    for read in (read_instructions, read_prompts):
        (record,) = read(write([row]), images)
        assert record.turns[:2] == (Turn("system", "Be brief."), Turn("human", "hi"))
        text = "".join(piece.text for piece in render(TEMPLATES["vicuna_v1"], record.turns))
        assert text.startswith("Be brief. USER: hi ASSISTANT:")
        assert "curious" not in text


def test_pairs_with_a_system_line(write, images):
    row = {"prompt": [SYSTEM, user("what is it?")], "chosen": "good", "rejected": "bad", "image": "1.png"}
    (record,) = read_preferences(write([row]), images)
    assert record.turns == (Turn("system", "Be brief."), Turn("human", MARKED))


def test_a_system_line_is_not_learned(tokenizer, config):
    talk = (Turn("system", "a cat"), Turn("human", "is there a dog?"), Turn("gpt", "no"))
    got = encode_conversation(tokenizer, TEMPLATES["plain"], talk, config, 100)
    assert tokenizer.decode(got.tokens[~got.loss_mask]).startswith("<s> a cat USER: is there a dog?")
    assert np.flatnonzero(got.loss_mask)[0] > 10


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [user("hi"), {"role": "system", "content": "x"}]}, "two 'system' turns"),
        ({"messages": [{"role": "system", "content": "x"}] * 2 + BOTH}, "start with a turn of 'system'"),
        ({"messages": [{"role": "system", "content": "x"}, *BOTH], "system": "y"}, "two system lines, 'x' and 'y'"),
        ({"messages": [{"role": "system", "content": " "}, *BOTH]}, "a system line without text"),
        ({"messages": [{"role": "system", "content": "<image>"}, *BOTH], "image": "1.png"}, "in a system line"),
        ({"messages": [{"role": "tool", "content": "x"}, *BOTH]}, "a turn from 'tool'"),
        ({"messages": [assistant("yes"), *BOTH]}, "start with a turn of 'gpt'"),
        ({"messages": BOTH, "conversations": BOTH}, "both 'conversations' and 'messages'"),
        ({"messages": [user([{"type": "text"}]), assistant("yes")]}, "a part {'type': 'text'}"),
        ({"messages": [user(["hi"]), assistant("yes")]}, "a part 'hi'"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "a turn from ['user']"),
        ({"messages": [{"role": "user"}]}, "a turn {'role': 'user'}"),
        ({"messages": "hi"}, "messages of type str"),
    ],
)
def test_odd_chats(row, expected, write, images):
    with pytest.raises(InputError) as error:
        read_instructions(write([{"messages": BOTH}, row]), images)
    assert "data.json, row 2: found " in str(error.value)
    assert expected in str(error.value)


def test_prompts_of_trl(write, images):
    rows = [
        {"prompt": "what is it?", "images": ["1.png"]},
        {"prompt": [*BOTH, user("and?")]},
    ]
    first, second = read_prompts(write(rows), images)
    assert first.turns == (Turn("human", MARKED),)
    assert [turn.text for turn in second.turns] == ["hi", "yes", "and?"]
    with pytest.raises(InputError, match="'prompt' beside 'messages'"):
        read_prompts(write([{"prompt": "hi", "messages": BOTH}]), images)


def test_the_picture_stays_in_its_turn(write, images):
    later = [user("hi"), assistant("yes"), user("<image>what is it?"), assistant("a ball")]
    (record,) = read_instructions(write([{"image": "1.png", "messages": later}]), images)
    assert [turn.text.count("<image>") for turn in record.turns] == [0, 0, 1, 0]
    with pytest.raises(InputError, match="row 1: found <image> in a later turn"):
        read_prompts(write([{"image": "1.png", "messages": later}]), images)
