"""MMBench: its table, rounds of rotated options, what is made of answers without a letter, and the command."""

import base64
import csv
import io
import json
import random

import pytest
from PIL import Image

from vlm_jax.cli import main
from vlm_jax.data.tables import iter_table
from vlm_jax.errors import InputError
from vlm_jax.evals.mmbench import files as mmbench_files
from vlm_jax.evals.mmbench import scorer as mmbench
from vlm_jax.files import write_json_lines

COLUMNS = "index question hint A B C D answer category image source l2-category comment split".split()


def picture(color):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), color).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


ROWS = [
    {
        "index": 1,
        "question": "Which?",
        "A": "cat",
        "B": "dog",
        "answer": "A",
        "category": "pets",
        "l2-category": "what",
    },
    {
        "index": 2,
        "question": 'The "big"\none,\tright?',
        "hint": "Look.",
        "A": "red",
        "B": "blue",
        "C": "green",
        "answer": "C",
        "category": "color",
        "l2-category": "what",
        "image": 1,
    },
    {"index": 7, "question": "How many?", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "B", "category": "count"},
]
ROWS = [{"split": "dev", "image": picture("red"), "source": "s", **row} for row in ROWS]


def rotated(row, turn):
    """The row that an older table has for a round."""
    letters = [letter for letter in "ABCD" if letter in row]
    place = letters.index(row["answer"]) - turn
    options = {letter: row[letters[(number + turn) % len(letters)]] for number, letter in enumerate(letters)}
    return {**row, **options, "index": row["index"] + turn * 1_000_000, "answer": letters[place % len(letters)]}


COPIES = [rotated(row, turn) for row in ROWS for turn in range(sum(letter in row for letter in "ABCD"))]


def write(path, rows=ROWS, columns=COLUMNS, **form):
    with path.open("w", encoding=form.pop("encoding", "utf-8"), newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="," if path.suffix == ".csv" else "\t", restval="", **form)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "mmbench.tsv")


def scored(path, answers, mode="vlmevalkit", second="own", circular=True):
    """``answers`` by index, those of other rounds by index + 1000000."""
    asked = mmbench_files.passes(mmbench_files.read_questions(path), circular)
    said = [answers.get(one.index, one.answer) for one in asked]
    return mmbench.score(said, asked, mode, mmbench.matcher(second, mode))


@pytest.mark.parametrize("form", [{}, {"lineterminator": "\n"}, {"quoting": csv.QUOTE_ALL}, {"encoding": "utf-8-sig"}])
@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_tables(tmp_path, suffix, form):
    path = write(tmp_path / f"table.{suffix}", **form)
    one, two, seven = mmbench_files.read_questions(path)
    assert one == mmbench_files.Question(1, "Which?", "", ("cat", "dog"), "A", "pets", "what", "dev", 1)
    assert (two.text, two.hint, two.options) == ('The "big"\none,\tright?', "Look.", ("red", "blue", "green"))
    # The same image as of row 1, by reference and by content.
    assert (two.image, seven.image) == (1, 1)
    assert [row.origin.row for row in iter_table(path)] == [2, 3, 4]


def test_a_cell_beyond_the_default_limit(tmp_path):
    big = base64.b64encode(bytes(300_000)).decode()
    path = write(tmp_path / "big.tsv", [{**ROWS[0], "image": big}])
    (row,) = iter_table(path)
    assert row.values["image"] == big
    mmbench_files.write_images(path, tmp_path / "images", {1})
    assert (tmp_path / "images" / "1.jpg").read_bytes() == bytes(300_000)


@pytest.mark.parametrize("cell", ["nan", "NaN", "None", "none", "NONE", "NA", "N/A", "null", "<NA>"])
def test_an_option_is_its_text(tmp_path, cell):
    path = write(tmp_path / "t.tsv", [{**ROWS[2], "C": cell, "hint": cell, "category": cell, "answer": "C"}])
    (question,) = mmbench_files.read_questions(path)
    assert question.options == ("1", "2", cell, "4")
    assert (question.hint, question.category, question.lost) == (cell, cell, False)
    assert scored(path, {}).metrics["accuracy"] == 1.0
    assert "1 questions have an option called None" in mmbench_files.slips([question])[0]
    # The published scripts' slip, for whoever wants it: what is left is asked, and can never be right.
    (question,) = mmbench_files.read_questions(path, "pandas")
    assert (question.options, question.answer, question.hint, question.category) == (("1", "2"), "C", "", "")
    assert [one.answer for one in mmbench_files.passes([question], circular=True)] == ["C", "C"]
    assert "1 questions have lost options" in mmbench_files.slips([question])[0]
    assert mmbench_files.slips([question._replace(options=("None of these",), lost=False)]) == ()


def test_a_first_option_called_none(tmp_path):
    path = write(tmp_path / "t.tsv", [{**ROWS[2], "A": "None", "answer": "A"}, ROWS[0]])
    none, _ = sorted(mmbench_files.read_questions(path), key=lambda one: -one.index)
    assert none.options[0] == "None"
    lost, kept = sorted(mmbench_files.read_questions(path, "pandas"), key=lambda one: -one.index)
    assert (lost.options, kept.options) == ((), ("cat", "dog"))
    asked = mmbench_files.passes([lost, kept], circular=True)
    assert [one.index for one in asked] == [1, 7, 1_000_001]
    assert mmbench.score(["A", "A", "B"], asked, "vlmevalkit", mmbench.matcher("own", "vlmevalkit")).metrics == {
        "accuracy": 0.5,
        "vanilla_accuracy": 0.5,
    }


def test_options_stop_at_the_first_empty_cell(tmp_path):
    (question,) = mmbench_files.read_questions(write(tmp_path / "t.tsv", [{**ROWS[2], "C": ""}]))
    assert question.options == ("1", "2")
    with pytest.raises(InputError, match="row 2: found no option A"):
        mmbench_files.read_questions(write(tmp_path / "t.tsv", [{**ROWS[2], "A": ""}]))


def test_llavas_rounds_of_a_question_that_lost_options(tmp_path):
    """Its script asks as many rounds as it sees options."""
    path, answers = write(tmp_path / "t.tsv", [{**ROWS[2], "C": "None"}]), tmp_path / "a.jsonl"
    write_json_lines(answers, [{"question_id": 7, "round_id": turn, "text": "B"} for turn in range(2)])
    asked = mmbench_files.passes(mmbench_files.read_questions(path), circular=True)
    with pytest.raises(InputError, match="--cells pandas"):
        mmbench_files.read_answers(answers, asked)
    asked = mmbench_files.passes(mmbench_files.read_questions(path, "pandas"), circular=True)
    assert mmbench_files.read_answers(answers, asked) == ["B", "B"]


@pytest.mark.parametrize(
    ("rows", "columns", "found"),
    [
        ([], COLUMNS, "found no rows"),
        (ROWS, ["index", "A"], "row 2: found no 'question' among the keys"),
        ([{**ROWS[0], "index": "x"}], COLUMNS, "row 2: found index 'x'"),
        ([{**ROWS[0], "index": "1" * 5000}], COLUMNS, "row 2: found index '1111"),
        ([{**ROWS[0], "index": "1.0"}], COLUMNS, "row 2: found index '1.0'"),
        ([ROWS[0], ROWS[0]], COLUMNS, "row 3: found index 1 for the second time"),
        ([{**ROWS[0], "answer": "C"}], COLUMNS, "row 2: found answer 'C'; expected one of A, B"),
        ([{**ROWS[0], "answer": "AB"}], COLUMNS, "row 2: found answer 'AB'"),
        ([{**ROWS[0], "A": ""}], COLUMNS, "row 2: found no option A"),
        ([{**ROWS[0], "image": 9}], COLUMNS, "row 2: found image '9'"),
        ([{**ROWS[0], "image": 1}], COLUMNS, "row 2: found image '1'"),
        ([{**ROWS[0], "image": 2}, {**ROWS[1], "image": 1}], COLUMNS, "found image "),
        ([{**ROWS[0], "index": 1_000_009}], COLUMNS, "found index 1000009, a rotated question; expected an index 9"),
        ([{**ROWS[0], "answer": ""}, ROWS[1]], COLUMNS, "found 1 of 2 questions without an answer"),
    ],
)
def test_other_tables(tmp_path, rows, columns, found):
    path = write(tmp_path / "t.tsv", rows, columns, extrasaction="ignore")
    with pytest.raises(InputError, match=found):
        mmbench_files.read_questions(path)


def test_what_is_no_table(tmp_path):
    path = tmp_path / "t.tsv"
    for content, found in (
        (b"", "no rows"),
        (b"a\tb\n1\n", "row 2: found 1 cells under 2 columns"),
        (b"a\tb\n1\t2\t3\n", "row 2: found 3 cells under 2 columns"),
        (b"a\ta\n1\t2\n", "row 1: found columns"),
        (b"a\tb\n\xff\t2\n", "byte 4 that is not UTF-8"),
        (b'a\tb\n"1\t2\n3\t4\n', "row 2: found 1 cells under 2 columns"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=found):
            list(iter_table(path))
    path.write_bytes(b"a\tb\n\n1\t2\n")
    assert [row.values for row in iter_table(path)] == [{"a": "1", "b": "2"}]


def test_options_move_up_a_place_a_round(tmp_path, table):
    questions = mmbench_files.read_questions(table)
    asked = mmbench_files.passes(questions, circular=True)
    assert [one.index for one in asked] == [1, 2, 7, 1000001, 1000002, 1000007, 2000002, 2000007, 3000007]
    by_index = {one.index: one for one in asked}
    assert (by_index[1000002].options, by_index[1000002].answer) == (("blue", "green", "red"), "B")
    assert (by_index[3000007].options, by_index[3000007].answer) == (("4", "1", "2", "3"), "C")
    right = {1: "cat", 2: "green", 7: "2"}
    assert all(one.lettered[one.answer] == right[one.main] for one in asked)
    # An older table has the same rounds.
    older = mmbench_files.read_questions(write(tmp_path / "older.tsv", COPIES))
    assert mmbench_files.passes(older, circular=True) == asked
    assert mmbench_files.passes(older, circular=False) == questions


def test_prompts_are_llavas(table):
    _, two, _ = mmbench_files.read_questions(table)
    assert mmbench_files.prompt(two) == 'Look.\nThe "big"\none,\tright?\nA. red\nB. blue\nC. green'


def test_one_wrong_round_spoils_a_question(table):
    found = scored(table, {1000002: "A", 7: "nothing"})
    assert found.metrics == {"accuracy": 1 / 3, "vanilla_accuracy": 2 / 3}
    assert found.unparsed == 1
    assert found.tables["by category"]["color"] == {"accuracy": 0.0, "vanilla_accuracy": 1.0, "questions": 1}
    assert found.tables["by l2-category"]["what"] == {"accuracy": 0.5, "vanilla_accuracy": 1.0, "questions": 2}
    assert "by split" not in found.tables
    # A letter that is always the same fails in some round.
    assert found.baselines["all B"] == {"accuracy": 0.0, "vanilla_accuracy": 1 / 3}
    assert [row["accuracy"] for row in found.per_sample] == [1, 0, 0]
    assert found.per_sample[1]["rounds"][1] == {"index": 1000002, "label": "B", "said": "A", "answer": "A"}
    # All three questions are about one image.
    assert list(found.tally.units) == ["1"]
    once = scored(table, {1000002: "A", 7: "nothing"}, circular=False)
    assert once.metrics == {"accuracy": 2 / 3}
    assert once.baselines["all B"] == {"accuracy": 1 / 3}


def test_splits_are_reported_apart(tmp_path):
    path = write(tmp_path / "t.tsv", [ROWS[0], {**ROWS[1], "split": "test"}, ROWS[2]])
    assert scored(path, {1: "B"}).tables["by split"] == {
        "dev": {"accuracy": 0.5, "vanilla_accuracy": 0.5, "questions": 2},
        "test": {"accuracy": 1.0, "vanilla_accuracy": 1.0, "questions": 1},
    }


@pytest.mark.parametrize(
    ("mode", "second", "right"),
    [
        ("vlmevalkit", "own", 0),
        ("vlmevalkit", "static", 1),
        ("lmms-eval", "own", 1),
        ("lmms-eval", "wrong", 0),
        ("lmms-eval", "static", 1),
    ],
)
def test_a_second_look(table, mode, second, right):
    answers = {7: "I choose B over all of the other ones that there are"}
    answers |= {1000007: answers[7].replace("B", "A")}
    if mode == "lmms-eval":
        answers |= {7: "<B>"}
    found = scored(table, answers, mode, second)
    assert [row["accuracy"] for row in found.per_sample] == [1, 1, right]
    assert found.unparsed == 2


def test_draws_have_the_seed_and_the_order_of_the_original(table):
    answers = dict.fromkeys((1, 2, 7, 1000001, 1000002, 1000007, 2000002, 2000007, 3000007), "?")
    found = scored(table, answers, "lmms-eval", "random")
    said = {one["index"]: one["said"] for row in found.per_sample for one in row["rounds"]}
    rng, label = random.Random(2680), {1: "A", 2: "C", 7: "B"}
    # Question by question, up to the first wrong draw.
    for index in (1, 2, 7):
        drawn = "ABCDE"[rng.randint(0, 4)]
        assert said[index] == drawn
        assert drawn != label[index]
    assert said[1000001] is None


def test_a_matcher_is_asked_once_and_not_where_a_letter_is_wrong(table):
    asked = mmbench_files.passes(mmbench_files.read_questions(table), circular=True)
    answers = {1: "?", 1000001: "A", 2: "?", 7: "?", 1000007: "??"}
    calls = []

    def match(question, answer):
        calls.append((question.index, answer))
        return question.answer

    found = mmbench.score([answers.get(one.index, one.answer) for one in asked], asked, "vlmevalkit", match)
    # The second round of question 1 is wrong; its first is matched for the vanilla accuracy only.
    assert calls == [(2, "?"), (7, "?"), (1000007, "??"), (1, "?")]
    assert found.metrics == {"accuracy": 2 / 3, "vanilla_accuracy": 1.0}


def test_answers_in_every_layout(tmp_path, table):
    asked = mmbench_files.passes(mmbench_files.read_questions(table), circular=True)
    expected = [f"{one.index}?" for one in asked]
    prompts = {one.index: mmbench_files.prompt(one) for one in asked}
    rows = [{"index": one.index, "prediction": f"{one.index}?"} for one in reversed(asked)]
    llava = [{"question_id": row["index"], "text": row["prediction"], "prompt": prompts[row["index"]]} for row in rows]
    rounds = [
        {**row, "question_id": row["question_id"] % 1_000_000, "round_id": row["question_id"] // 1_000_000}
        for row in llava
    ]
    # VLMEvalKit's has the right answer beside the model's.
    kit = [{**row, "answer": "A", "question": next(o.text for o in asked if o.index == row["index"])} for row in rows]
    for name, content in (("llava", llava), ("rounds", rounds), ("kit", kit)):
        path = tmp_path / f"{name}.jsonl"
        write_json_lines(path, content)
        assert mmbench_files.read_answers(path, asked) == expected
    for suffix in ("tsv", "csv"):
        path = write(tmp_path / f"kit.{suffix}", kit, ["index", "question", "answer", "prediction"])
        assert mmbench_files.read_answers(path, asked) == expected
        once = mmbench_files.passes(mmbench_files.read_questions(table), circular=False)
        assert mmbench_files.read_answers(path, once) == ["1?", "2?", "7?"]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([{"question_id": i, "text": ""} for i in (1, 2, 7)], "one answer to each question; expected .*--no-circular"),
        ([{"question_id": 1, "text": ""}, {"question_id": 1, "round_id": 0, "text": ""}], "1 for the second time"),
        ([{"question_id": "a", "text": ""}], "found question_id 'a'"),
        ([{"question_id": 1, "round_id": 30, "text": ""}], "found round_id 30"),
        ([{"question_id": 1, "round_id": 1, "text": ""}], "found no answer to 1, 2, 7"),
        ([{"question_id": 1, "text": 3}], "answer of type int|text of type int"),
        ([{"question_id": 1}], "expected an answer under one of"),
    ],
)
def test_other_answers(tmp_path, table, rows, found):
    path = tmp_path / "answers.jsonl"
    write_json_lines(path, rows)
    asked = mmbench_files.passes(mmbench_files.read_questions(table), circular=True)
    with pytest.raises(InputError, match=found):
        mmbench_files.read_answers(path, asked)


def test_command(tmp_path, table):
    answers, out = tmp_path / "answers.jsonl", tmp_path / "out.json"
    write_json_lines(answers, [{"question_id": row["index"], "text": row["answer"]} for row in COPIES])
    submission = tmp_path / "upload.csv"
    command = ["eval", "mmbench", f"--questions={table}", f"--answers={answers}", f"--output={out}"]
    main([*command, f"--submission={submission}"])
    result = json.loads(out.read_text())
    assert result["metrics"] == {"accuracy": 1.0, "vanilla_accuracy": 1.0}
    assert (result["mode"], result["n"], result["unparsed"]) == ("vlmevalkit", 3, 0)
    assert "jax" in result["versions"]
    with submission.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert rows[1] == ["2", 'The "big"\none,\tright?', "red", "blue", "green", "", "C", "C", "dev"]
    main([*command, "--no-circular", "--mode=lmms-eval", "--unread=wrong", f"--against={answers}"])
    result = json.loads(out.read_text())
    assert result["metrics"] == {"accuracy": 1.0}
    assert result["mode"] == "lmms-eval, unread wrong"
    assert result["comparison"]["accuracy"]["difference"] == 0


def test_a_submission_over_what_is_read(tmp_path, table, capsys):
    answers = write(tmp_path / "answers.tsv", [{"index": row["index"], "prediction": "A"} for row in COPIES], ANSWERED)
    before = table.read_bytes(), answers.read_bytes()
    command = ["eval", "mmbench", f"--questions={table}", f"--answers={answers}", f"--output={tmp_path / 'o.json'}"]
    for target in (table, answers):
        with pytest.raises(SystemExit):
            main([*command, f"--submission={target}"])
        assert "which would be written over" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command[:3], "--checkpoint=tiny", f"--images={tmp_path}", command[-1]])
    assert "found --images with --checkpoint" in capsys.readouterr().err
    assert (table.read_bytes(), answers.read_bytes()) == before


ANSWERED = ["index", "prediction"]


def test_headers_are_read_in_any_case(tmp_path):
    columns = [column.capitalize() for column in COLUMNS]
    rows = [{name.capitalize(): cell for name, cell in row.items()} for row in ROWS]
    table, submission = write(tmp_path / "t.tsv", rows, columns), tmp_path / "upload.tsv"
    mmbench_files.write_submission(table, {row["index"]: "B" for row in ROWS}, submission)
    assert [row.values["prediction"] for row in iter_table(submission)] == ["B"] * 3


def test_a_split_whose_answers_are_hidden(tmp_path, asked, capsys):
    table = write(
        tmp_path / "test.tsv", ROWS, [column for column in COLUMNS if column != "answer"], extrasaction="ignore"
    )
    asked.reply = lambda ask: f"Answer {ask.id}"
    out, submission = tmp_path / "out.json", tmp_path / "upload.tsv"
    command = ["eval", "mmbench", f"--questions={table}", "--checkpoint=tiny", f"--output={out}"]
    main([*command, f"--submission={submission}"])
    result = json.loads(out.read_text())
    assert (result["metrics"], result["n"]) == ({}, 3)
    assert "hidden" in result["remarks"][-1]
    assert [row.values["prediction"] for row in iter_table(submission)] == ["Answer 1", "Answer 2", "Answer 7"]
    with pytest.raises(SystemExit):
        main([*command, "--submission=upload.xlsx"])
    assert "expected a name that ends in .tsv or .csv" in capsys.readouterr().err


def test_a_checkpoint_is_asked_as_llava_was(tmp_path, table, asked):
    asked.reply = lambda ask: "A"
    out = tmp_path / "out.json"
    main(["eval", "mmbench", f"--questions={table}", "--checkpoint=tiny", f"--output={out}"])
    first, folder = asked.to_ask[0], tmp_path / "out.images"
    assert (first.id, first.text, first.image) == ("1", "Which?\nA. cat\nB. dog", folder / "1.jpg")
    assert asked.to_ask[3].text == "Which?\nA. dog\nB. cat"
    assert {ask.image for ask in asked.to_ask} == set(folder.iterdir())
    with Image.open(first.image) as shown:
        assert shown.size == (32, 24)
    assert asked.options.suffix == "letter"
    made = json.loads(out.read_text())["made"]
    assert made["options"]["answering"]["checkpoint"] == "tiny"
    assert set(made["files"]) == {"questions", "answers"}
    assert json.loads(out.read_text())["metrics"] == {"accuracy": 0.0, "vanilla_accuracy": 1 / 3}


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("", ": found no image of index 1; expected one for every question"),
        ("!" * 65, ", row 2: found an image that cannot be decoded"),
        ("A" * 65, ", row 2: found an image that cannot be decoded"),
    ],
)
def test_images_that_are_not_there(tmp_path, capsys, asked, cell, found):
    path = write(tmp_path / "t.tsv", [{**ROWS[0], "image": cell}])
    with pytest.raises(SystemExit) as stopped:
        main(["eval", "mmbench", f"--questions={path}", "--checkpoint=none", f"--output={tmp_path / 'out.json'}"])
    assert stopped.value.code == 2
    assert f"vlm-jax eval mmbench: {path}{found}" in capsys.readouterr().err
