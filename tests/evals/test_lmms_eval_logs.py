"""What lmms-eval's --log_samples leaves, old and new, scores as the same answers in LLaVA's lines do."""

import json

import pytest

from vlm_jax.cli import main
from vlm_jax.errors import InputError
from vlm_jax.evals.answering.answer_files import Pairing, read_answers

TEXTS = ["Is there a person in the image?", "Is there a dog in the image?"] * 2
QUESTIONS = [
    {"question_id": i, "image": f"COCO_val2014_{i // 3:012d}.jpg", "text": text, "label": "yes" if i % 2 else "no"}
    for i, text in enumerate(TEXTS, 1)
]
SAID = ["Yes", "Yes", "Yes", "No"]
SUFFIX = "\nAnswer the question using a single word or phrase."


def document(place, category="popular"):
    """A row as the hub has it: ``id`` counts from 0, so that it names another question than ``question_id`` does."""
    asked = QUESTIONS[place]
    image = asked["image"].removesuffix(".jpg")
    return {
        "id": str(place),
        "question_id": str(asked["question_id"]),
        "question": asked["text"],
        "answer": asked["label"],
        "image_source": image,
        "category": category,
    }


def sample(place, said=None, category="popular", number=None):
    """As version 0.2 logs it."""
    row, said = document(place, category), SAID[place] if said is None else said
    metric = {
        "question_id": row["question_id"],
        "score": 1.0,
        "prediction": said.lower(),
        "ground_truth": row["answer"],
    }
    return {
        "doc_id": place if number is None else number,
        "doc": row,
        "target": row["answer"],
        "arguments": [row["question"] + SUFFIX, {"max_new_tokens": 128}],
        "resps": [[said]],
        "filtered_resps": [said],
        "doc_hash": "a",
        "pope_accuracy": metric | {"category": category},
    }


def without_document(row):
    """As version 0.7 logs it."""
    kept = {key: value for key, value in row.items() if key not in ("doc", "arguments", "resps")}
    metric = {key: value for key, value in row["pope_accuracy"].items() if key != "category"}
    said = {"input": row["arguments"][0], "filtered_resps": row["filtered_resps"][0], "pope_accuracy": metric}
    return kept | said


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def old(rows, **form):
    return json.dumps({"args": {}, "model_configs": {"task": "pope"}, "logs": rows}, **form)


SAMPLES = [sample(place) for place in range(4)]
LAYOUTS = {
    "lines": lines(SAMPLES),
    "backwards": lines(SAMPLES[::-1]),
    "a list": json.dumps(SAMPLES),
    "lines without documents": lines(map(without_document, SAMPLES)),
    "one object": old(SAMPLES),
    "one object over many lines": old(SAMPLES, indent=1),
}


@pytest.fixture
def pope(tmp_path):
    questions = tmp_path / "questions.json"
    questions.write_text(lines(QUESTIONS))

    def run(answers, *options):
        path, out = tmp_path / "answers.jsonl", tmp_path / "out.json"
        path.write_text(answers)
        main(["eval", "pope", f"--questions={questions}", f"--answers={path}", f"--output={out}", *options])
        return json.loads(out.read_text())

    return run


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_log_scores_as_llavas_lines(layout, pope):
    own = [
        {"question_id": asked["question_id"], "prompt": asked["text"], "text": said}
        for asked, said in zip(QUESTIONS, SAID, strict=True)
    ]
    expected = pope(lines(own))
    assert expected["metrics"]["accuracy"] == 0.75
    found = pope(LAYOUTS[layout])
    assert (found["metrics"], found["n"], found["remarks"]) == (expected["metrics"], 4, expected["remarks"])


@pytest.mark.parametrize("with_document", [True, False])
def test_a_log_of_all_three_files_holds_each_id_three_times(with_document, pope, capsys):
    """The negative ones of another file ask for something else; the positive ones are the same in all of them."""
    rows = []
    for block, category in enumerate(("adversarial", "popular", "random")):
        for place in range(4):
            said = SAID[place] if category == "popular" else "maybe"
            row = sample(place, said, category, block * 4 + place)
            if category != "popular" and not place % 2:
                other = f"Is there a {category} in the image?"
                row["doc"]["question"], row["arguments"][0] = other, other + SUFFIX
            rows.append(row if with_document else without_document(row))
    # Of several processes, each writes its own share.
    rows = rows[::2] + rows[1::2]
    found = pope(lines(rows))
    assert found["metrics"]["accuracy"] == 0.75
    name, others = ("popular", "adversarial, random") if with_document else ("file 2", "file 1, file 3")
    assert f"answers to {name} of lmms-eval's log; left out: {others}" in found["remarks"]
    if with_document:
        chosen = pope(lines(rows), "--category", "popular")
        assert chosen["metrics"] == found["metrics"]
        assert not any("left out" in remark for remark in chosen["remarks"])
    rows = [row for row in rows if row["doc_id"] not in range(4, 8)]
    with pytest.raises(SystemExit):
        pope(lines(rows))
    assert "found answers to 2 files of questions" in capsys.readouterr().err


def test_answers_that_are_no_text(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(lines([SAMPLES[0] | {"filtered_resps": [[-1.5, True], [-2.5, False]]}]))
    with pytest.raises(InputError, match=r"row 1: found responses .*; expected one text"):
        read_answers(path, Pairing(("question_id",)))


def test_documents_of_other_benchmarks(tmp_path):
    """Each goes by its own id, and what people said in the data set is not what the model said."""
    path = tmp_path / "log.jsonl"
    rows = {
        "index": {"index": 241, "question": "How many?", "answer": "A", "category": "count"},
        "image_id": {"image_id": 9, "id": 3, "question_id": 8, "caption": ["A dog."], "answer": ["A cat."]},
        "id": {"id": 7, "question_id": 1, "text": "people's"},
    }
    for key, row in rows.items():
        path.write_text(lines([{"doc_id": 0, "doc": row, "filtered_resps": ["B"], "input": "How many? A. B."}]))
        (identity, answer), *_ = read_answers(path, Pairing((key,), {"1", "3", "7", "8", "9", "241"})).items()
        assert (identity, answer.text, answer.question) == (str(row[key]), "B", "How many? A. B.")
    # Nothing but lmms-eval's own number, which is no id.
    path.write_text(lines([{"doc_id": 0, "filtered_resps": "B", "input": "How many?", "exact_match": 1.0}]))
    with pytest.raises(InputError, match=r"row 1: .* expected an id under one of question_id"):
        read_answers(path, Pairing(("question_id",)))


def logged(doc, said, metric, keep_document):
    """One sample; the metric's entry holds what its task keeps of the document."""
    row = {"doc_id": 0, "filtered_resps": said, "input": f"{doc['question']}{SUFFIX}", **metric}
    return row | ({"doc": doc, "filtered_resps": [said]} if keep_document else {})


@pytest.mark.parametrize("keep_document", [True, False])
def test_other_benchmarks(keep_document, tmp_path):
    answers, out = tmp_path / "log.jsonl", tmp_path / "out.json"

    def run(name, rows, *options):
        answers.write_text(lines(rows))
        main(["eval", name, "--answers", str(answers), "--output", str(out), *map(str, options)])
        return json.loads(out.read_text())["metrics"]

    table = tmp_path / "mmbench.tsv"
    table.write_text("index\tquestion\tA\tB\tanswer\n241\tWhich?\tcat\tdog\tB\n")
    doc = {"index": 241, "question": "Which?", "answer": "B", "A": "cat", "B": "dog", "hint": "nan", "split": "dev"}
    metric = {"gpt_eval_score": {**doc, "prediction": "A"}}
    assert run("mmbench", [logged(doc, "B", metric, keep_document)], "--questions", table, "--no-circular") == {
        "accuracy": 1.0
    }
    figure = {
        "category": "VD", "subcategory": "map", "visual_input": "1", "set_id": "0", "figure_id": "1",
        "question_id": "0", "question": "Is it?", "gt_answer": "1", "filename": "a.png",
    }  # fmt: skip
    data = tmp_path / "hallusion.json"
    data.write_text(json.dumps([figure, {**figure, "category": "VS", "figure_id": "0", "filename": None}]))
    metric = {"aAcc": {**figure, "model_prediction": "Yes."}, "qAcc": {**figure, "model_prediction": "Yes."}}
    rows = [logged(figure, "Yes.", metric, keep_document)]
    assert run("hallusionbench", rows, "--data", data, "--mode", "rule")["a_acc"] == 100.0
    pairs = [
        {"question_id": "artwork/1.png", "category": "artwork", "question": text, "answer": answer}
        for text, answer in (("Is it art?", "Yes"), ("Is it code?", "No"))
    ]
    questions = tmp_path / "mme.jsonl"
    questions.write_text(lines(pairs))
    rows = [
        logged(
            one, "Yes", {"mme_perception_score": {"question_id": "artwork/1.png", "category": "artwork"}}, keep_document
        )
        for one in pairs
    ]
    found = run("mme", rows, "--questions", questions)
    assert (found["accuracy"], found["accuracy_plus"]) == (0.5, 0.0)
