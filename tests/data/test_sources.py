import gzip
import json
import zipfile

import pytest

from vlm_jax.data.conversation import Turn
from vlm_jax.data.sources import read_captions, read_instructions, read_preferences, read_prompts
from vlm_jax.errors import InputError


def turns(*texts):
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def good(**changes):
    row = {"id": "a", "image": "1.png", "conversations": turns("<image>\nwhat?", "a ball")}
    return {key: value for key, value in (row | changes).items() if value is not ...}


def pair(**changes):
    outputs = {f"output_{i}": {"from": "gpt", "value": f"answer {i}"} for i in (1, 2)}
    return good(preference=2, hallucination=True, **outputs) | changes


def test_instructions(write, images):
    rows = [
        good(),
        good(image=..., id=7, conversations=[{"from": "gpt", "value": "dropped"}, *turns("hi", "yo")]),
    ]
    first, second = read_instructions(write(rows), images)
    assert (first.id, first.image) == ("a", images / "1.png")
    assert first.turns == (Turn("human", "<image>\nwhat?"), Turn("gpt", "a ball"))
    assert (second.id, second.image, second.turns) == ("7", None, (Turn("human", "hi"), Turn("gpt", "yo")))
    assert second.origin.row == 2


def test_lines_bom_and_crlf(write, images, tmp_path):
    rows = [good(id=str(i)) for i in range(3)]
    expected = [(r.id, r.turns) for r in read_instructions(write(rows), images)]
    layouts = {
        "lines.jsonl": "\n".join(map(json.dumps, rows)),
        "crlf.jsonl": "\r\n".join(map(json.dumps, rows)) + "\r\n\r\n",
        "bom.json": "\ufeff" + json.dumps(rows, indent=1).replace("\n", "\r\n"),
    }
    for name, text in layouts.items():
        (tmp_path / name).write_bytes(text.encode())
        assert [(r.id, r.turns) for r in read_instructions(tmp_path / name, images)] == expected


def test_a_missing_marker_is_supplied(write, images):
    (record,) = read_instructions(write([good(conversations=turns("what?", "x"))]), images)
    assert record.turns[0].text == "<image>\nwhat?"


BAD_ROWS = {
    "no conversations": (
        good(conversations=...),
        "found the keys ['id', 'image']; expected a conversation under 'conversations' or 'messages'",
    ),
    "conversations not a list": (
        good(conversations="hi"),
        "conversations of type str; expected conversations as a list of turns",
    ),
    "no turns": (good(conversations=[]), "without a human turn"),
    "turn not an object": (good(conversations=["hi"]), "found a turn 'hi'"),
    "unknown role": (good(conversations=[{"from": "tool", "value": "x"}]), "a turn from 'tool'"),
    "roles": (good(conversations=turns("a", "b") + turns("c", "d")[1:]), "two 'gpt' turns in a row"),
    "ends with a question": (good(conversations=turns("a", "b", "c")), "end with a question"),
    "empty answer": (good(conversations=turns("<image>", " \n")), "an answer without text"),
    "no answer": (good(conversations=turns("<image>", None)), "an answer without text (None)"),
    "number answer": (good(conversations=turns("<image>", 3)), "an answer without text (3)"),
    "empty question": (good(conversations=turns("", "x")), "a question without text"),
    "marker in answer": (good(conversations=turns("a", "<image>")), "<image> in an answer"),
    "two markers": (good(conversations=turns("<image><image>", "x")), "2 <image> markers"),
    "marker without image": (good(image=...), "1 <image> markers and no image"),
    "missing image": (good(image="gone.png"), "gone.png; expected an existing file"),
    "image not text": (good(image={"path": "1.png"}), "an image name of type dict"),
    "surrogate": (good(conversations=turns("a", "\ud800")), "lone surrogate"),
    "not an object": ("hi", "a row of type str"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_instruction_rows_name_file_and_row(case, write, images):
    row, expected = BAD_ROWS[case]
    with pytest.raises(InputError) as error:
        read_instructions(write([good(), row, good()]), images)
    message = str(error.value)
    assert f"{images.parent / 'data.json'}, row 2: found " in message
    assert expected in message
    assert "; expected " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"a": 1},\n {"b": }]', "row 2: found malformed JSON at line 2, column 8"),
        ('[{"a": 1},\n {"b": 2}', "row 2: found the end of the file at line 2"),
        ('[{"a": 1} {"b": 2}]', "row 1: found '{\"b\": 2}]'"),
        ('[{"a": 1}] x', "found 'x' at line 1, column 12; expected nothing after"),
        ('[{"a": NaN}]', "row 1: found NaN"),
        ('{"a": 1}\n\n{"b": -Infinity}', "row 3: found -Infinity"),
        ('{"a": 1}\n{"b"}', "row 2: found malformed JSON at line 2, column 5"),
        ('{"a": 1} {"b": 2}', "row 1: found ' {\"b\": 2}' after the object"),
        ("[]", "found no rows"),
        ("", "found no rows"),
    ],
)
def test_malformed_files(text, expected, write, images):
    with pytest.raises(InputError) as error:
        read_instructions(write(text), images)
    assert "data.json" in str(error.value)
    assert expected in str(error.value)


def test_unreadable_files(tmp_path, images):
    (tmp_path / "latin.json").write_bytes('["é"]'.encode("latin-1"))
    for name, expected in (("gone.json", "no such file"), ("images", "directory"), ("latin.json", "byte 2")):
        with pytest.raises(InputError, match=expected) as error:
            read_instructions(tmp_path / name, images)
        assert name in str(error.value)


def test_what_rows_are_packed_in_is_named(tmp_path, images):
    """As data sets lie on the hub; Python has no parquet of its own, so its first bytes stand for one."""
    text = json.dumps([good()])
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "rows.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.json", text * 9)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1\x15\x04\n\xffPAR1")
    (tmp_path / "rows.arrow").write_bytes(b"ARROW1\0\0\xff\xff")
    kinds = {".gz": "a gzip file", ".zip": "a zip archive", ".parquet": "a parquet file", ".arrow": "an Arrow file"}
    for path in tmp_path.glob("rows.*"):
        with pytest.raises(InputError, match=rf"{path.name}: found {kinds[path.suffix]}; expected the JSON "):
            read_preferences(path, images)
    (tmp_path / "pointer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"pointer.json: found a Git LFS pointer in the file's place; "):
        read_preferences(tmp_path / "pointer.json", images)


def test_preferences(write, images):
    captions = {"1.png": ("a ball", "a tree")}
    history = turns("<image>\nwhat?", "a ball", "and?", "nothing")
    rows = [pair(), pair(preference=1, conversations=history[:3]), pair(conversations=history, image="2.png")]
    first, second = read_preferences(write(rows[:2]), images, captions)
    assert (first.answers, first.choice, first.hallucination) == (("answer 1", "answer 2"), 1, True)
    assert first.turns == (Turn("human", "<image>\nwhat?"),)
    assert first.facts == ("a ball", "a tree")
    assert second.choice == 0
    assert [turn.role for turn in second.turns] == ["human", "gpt", "human"]
    third = read_preferences(write(rows), images)[2]
    assert third.turns == second.turns
    assert third.facts is None
    with pytest.raises(InputError, match=r"row 3: found no captions for '2.png'"):
        read_preferences(write(rows), images, captions)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"preference": 0}, "found preference 0; expected preference 1 or 2"),
        ({"preference": True}, "found preference True"),
        ({"preference": "1"}, "found preference '1'"),
        ({"output_2": {"from": "gpt", "value": ""}}, "an answer output_2 without text"),
        ({"output_1": "text"}, "found output_1 'text'"),
        ({"hallucination": "yes"}, "hallucination 'yes'; expected true or false"),
    ],
)
def test_bad_preferences(changes, expected, write, images):
    with pytest.raises(InputError) as error:
        read_preferences(write([pair(), pair(**changes)]), images)
    assert "data.json, row 2: " in str(error.value)
    assert expected in str(error.value)


def test_prompts(write, images):
    captions = {"1.png": ("a ball",), "aok_1.png": ("balls roll",)}
    rows = [
        good(conversations=turns("<image>\nwhat?", "", "more?", "x")),
        good(caption_type=3, length_bonus=-0.5, conversations=turns("<image>\nwhich?")),
    ]
    first, second = read_prompts(write(rows), images, captions)
    assert first.turns == (Turn("human", "<image>\nwhat?"),)
    assert (first.caption_type, first.length_bonus, first.facts) == (1, 1.0, ("a ball",))
    assert (second.caption_type, second.length_bonus, second.facts) == (3, -0.5, ("balls roll",))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"caption_type": 8}, "caption_type 8; expected caption_type 1 to 7"),
        ({"caption_type": 1.0}, "caption_type 1.0"),
        ({"length_bonus": "1"}, "length_bonus '1'; expected length_bonus as a finite number"),
        ({"length_bonus": True}, "length_bonus True"),
    ],
)
def test_bad_prompts(changes, expected, write, images):
    with pytest.raises(InputError) as error:
        read_prompts(write([good(), good(**changes)]), images)
    assert "data.json, row 2: " in str(error.value)
    assert expected in str(error.value)


def test_a_number_that_overflows_is_refused(write, images):
    text = json.dumps([good(length_bonus=1)]).replace('"length_bonus": 1', '"length_bonus": 1e999')
    with pytest.raises(InputError, match="row 1: found length_bonus inf"):
        read_prompts(write(text), images)


def test_captions(write):
    assert read_captions(write({"a.jpg": ["x", "y"]})) == {"a.jpg": ("x", "y")}
    for bad, expected in (
        ({"a.jpg": ["x"], "b.jpg": "y"}, "row 2: found 'y' for 'b.jpg'"),
        ({"a.jpg": [""]}, "row 1: found a caption of 'a.jpg' without text"),
        ([1], "found a list; expected a JSON object"),
        ('{"a": [NaN]}', "found NaN"),
        ('{"a": ', "malformed JSON at line 1"),
    ):
        with pytest.raises(InputError) as error:
            read_captions(write(bad))
        assert "data.json" in str(error.value)
        assert expected in str(error.value)
