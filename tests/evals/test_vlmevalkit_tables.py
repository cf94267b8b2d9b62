"""VLMEvalKit's predictions, in each of its formats, and the workbooks that they mostly are."""

import csv
import json

import openpyxl
import pytest

from vlm_jax.cli import main
from vlm_jax.data.tables import iter_table
from vlm_jax.errors import InputError
from vlm_jax.evals.hallusionbench.files import read_judged, read_questions
from vlm_jax.evals.pope.files import answers_for
from vlm_jax.evals.pope.files import read_questions as read_pope

POPE = [
    ("0", "Is there a dog in the image?", "Yes", "adversarial,popular,random", "Yes, there is."),
    ("1", "Is there a cat in the image?", "No", "random", "No"),
    ("2", "Is there a bus in the image?", "No", "adversarial,popular", "Yes"),
    ("3", "Is there a cup in the image?", "Yes", "adversarial,popular,random", "NA"),
]
COLUMNS = ("index", "question", "answer", "category", "prediction")


def table(path, rows, columns=COLUMNS):
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook(write_only=True)
        sheet = book.create_sheet()
        for row in (columns, *rows):
            sheet.append([int(cell) if str(cell).isdecimal() else cell for cell in row])
        book.save(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
    else:
        with path.open("w", newline="") as file:
            form = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", quoting=csv.QUOTE_ALL)
            form.writerows([columns, *rows])
    return path


@pytest.mark.parametrize("suffix", ["xlsx", "tsv", "csv", "json"])
def test_pope(suffix, tmp_path):
    """Its own table or its predictions are the questions: their index is no id of POPE's."""
    path, out = table(tmp_path / f"model_POPE.{suffix}", POPE), tmp_path / "out.json"
    command = ["eval", "pope", f"--questions={path}", f"--answers={path}", f"--output={out}", "--mode=vlmevalkit"]
    main([*command, "--category", "random"])
    result = json.loads(out.read_text())
    assert (result["n"], result["unparsed"]) == (3, 1)
    assert result["metrics"]["accuracy"] == pytest.approx(2 / 3)
    main([*command, "--category", "popular"])
    assert json.loads(out.read_text())["metrics"]["f1"] == pytest.approx(2 * 0.5 * 0.5)


def test_pope_in_several_categories_is_refused(tmp_path):
    path = table(tmp_path / "model_POPE.tsv", POPE)
    with pytest.raises(InputError, match="row 2: found categories adversarial, popular, random; expected one"):
        read_pope(path)
    with pytest.raises(InputError, match="no question of category gqa; expected one of adversarial, popular, random"):
        read_pope(path, "gqa")
    with pytest.raises(InputError, match=r"no question of category popolar \(did you mean 'popular'\?\); expected one"):
        read_pope(path, "popolar")
    single = table(tmp_path / "one.tsv", [(*row[:3], "random", row[4]) for row in POPE])
    assert [one.id for one in read_pope(single)] == ["0", "1", "2", "3"]


def test_pope_of_others_ids(tmp_path):
    """VLMEvalKit's index against POPE's question_id: each number names a question, but another one."""
    path, questions = table(tmp_path / "model_POPE.xlsx", POPE), tmp_path / "q.jsonl"
    rows = [{"question_id": i, "image": "a", "text": row[1], "label": row[2].lower()} for i, row in enumerate(POPE, 1)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="no answer to 4"):
        answers_for(path, read_pope(questions))


def test_images_of_popes_table(tmp_path):
    """Base64, or the index of the row that has it; intervals are over images."""
    images = ["x" * 100, "0", "y" * 100, "x" * 100]
    rows = [(*row[:3], "random", image) for row, image in zip(POPE, images, strict=True)]
    questions = read_pope(table(tmp_path / "POPE.tsv", rows, ("index", "question", "answer", "category", "image")))
    assert [one.image for one in questions] == ["0.jpg", "0.jpg", "2.jpg", "0.jpg"]


HUB = [
    {
        "id": str(i),
        "question_id": str(i + 1),
        "question": text,
        "answer": "yes",
        "image_source": "COCO_val2014_1",
        "category": category,
    }
    for category in ("adversarial", "random")
    for i, text in enumerate(["Is it?", "Is there?"])
]


def test_rows_of_the_hub_are_questions(tmp_path):
    path = tmp_path / "hub.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in HUB[:2]))
    one, two = read_pope(path)
    assert one == ("1", "COCO_val2014_1.jpg", "Is it?", "yes")
    assert (two.id, two.text) == ("2", "Is there?")
    path.write_text(json.dumps(HUB))
    with pytest.raises(InputError, match="row 3: found categories adversarial, random"):
        read_pope(path)
    assert [one.id for one in read_pope(path, "random")] == ["1", "2"]
    path.write_text(json.dumps([HUB[0] | {"answer": "perhaps"}]))
    with pytest.raises(InputError, match="row 1: found label 'perhaps'; expected yes or no"):
        read_pope(path)
    path.write_text(json.dumps([{"question_id": 1, "image": "a", "text": "Is it?"}]))
    with pytest.raises(InputError, match="row 1: found no 'label' among the keys"):
        read_pope(path)


FIGURES = [
    {
        "category": category,
        "subcategory": "map",
        "visual_input": "0" if figure is None else "1",
        "set_id": "0",
        "figure_id": str(number),
        "question_id": "0",
        "question": f"Is {category} {number} it?",
        "gt_answer": "1",
        "filename": figure,
    }
    for category, number, figure in (("VD", 0, "a.png"), ("VD", 1, "b.png"), ("VS", 0, None), ("VS", 1, "c.png"))
]
JUDGED = [
    (f"hallusion_{one['category']}_map_0_{one['figure_id']}_0", one["question"], "Yes", one["category"], "map", *rest)
    for one, rest in zip(
        (one for one in FIGURES if one["filename"]), (("Yes", True), ("No", False), ("It is, yes", True)), strict=True
    )
]
JUDGED_COLUMNS = ("index", "question", "answer", "category", "l2-category", "prediction", "score")


@pytest.mark.parametrize("suffix", ["xlsx", "tsv", "json"])
@pytest.mark.parametrize("mode", ["rule", "official"])
def test_hallusionbench(suffix, mode, tmp_path):
    """The index ends in the benchmark's id, and questions without a figure are never asked."""
    data, out = tmp_path / "HallusionBench.json", tmp_path / "out.json"
    data.write_text(json.dumps(FIGURES))
    path = table(tmp_path / f"model_HallusionBench.{suffix}", JUDGED, JUDGED_COLUMNS)
    main(
        [
            "eval", "hallusionbench", f"--data={data}", f"--answers={path}", f"--output={out}", f"--mode={mode}",
            "--verdict-key=score",
        ]
    )  # fmt: skip
    result = json.loads(out.read_text())
    assert result["n"] == 3
    assert result["metrics"]["a_acc"] == pytest.approx(66.6667)
    assert result["metrics"]["f_acc"] == pytest.approx(66.6667)
    assert result["metrics"]["q_acc"] == 50.0
    assert any("1 questions without a figure were not asked" in remark for remark in result["remarks"])


def test_hallusionbench_whole_or_with_figures(tmp_path):
    data = tmp_path / "HallusionBench.json"
    data.write_text(json.dumps(FIGURES))
    questions = read_questions(data)
    odd = table(tmp_path / "odd.tsv", [("17", *JUDGED[0][1:])], JUDGED_COLUMNS)
    with pytest.raises(InputError, match="row 2: found index '17'; expected one that ends in an id"):
        read_judged(odd, "score", questions)
    few = table(tmp_path / "few.tsv", JUDGED[1:], JUDGED_COLUMNS)
    with pytest.raises(SystemExit):
        main(["eval", "hallusionbench", f"--data={data}", f"--answers={few}", f"--output={tmp_path / 'o.json'}"])
    assert not (tmp_path / "o.json").exists()


def test_workbooks(tmp_path):
    path, book = tmp_path / "book.xlsx", openpyxl.Workbook()
    for row in (("index", "score", "text"), (1, 0.5, "=2+2"), (2.0, True, None), (), (3, None, "n/a")):
        book.active.append(row)
    book.active["C2"].data_type = "s"
    book.save(path)
    rows = list(iter_table(path))
    assert [row.values for row in rows] == [
        {"index": "1", "score": "0.5", "text": "=2+2"},
        {"index": "2", "score": "True", "text": ""},
        {"index": "3", "score": "", "text": "n/a"},
    ]
    assert [row.origin.row for row in rows] == [2, 3, 5]
    book.active["D6"] = "beyond"
    book.save(path)
    with pytest.raises(InputError, match="row 6: found 4 cells under 3 columns"):
        list(iter_table(path))


@pytest.mark.parametrize("content", [b"", b"index\tprediction\n", b"PK\x03\x04 cut short"])
def test_what_is_no_workbook(content, tmp_path):
    path = tmp_path / "book.xlsx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"book\.xlsx: found a workbook that cannot be read"):
        list(iter_table(path))
    with pytest.raises(InputError, match="found no such file"):
        list(iter_table(tmp_path / "gone.xlsx"))
