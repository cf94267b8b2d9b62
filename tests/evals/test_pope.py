"""POPE against its own script, the other scorers and published counts."""

import json
import random

import numpy as np
import pytest
from shared_data import golden, shared_file

from vlm_jax.cli import main
from vlm_jax.errors import InputError
from vlm_jax.evals.pope import scorer as pope
from vlm_jax.evals.pope.files import answers_for, read_questions
from vlm_jax.evals.pope.questions import build, read_annotations, sample_images

QUESTIONS = [
    {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"},
    {"question_id": 2, "image": "a.jpg", "text": "Is there a cat in the image?", "label": "no"},
    {"question_id": 3, "image": "b.jpg", "text": "Is there a cup in the image?", "label": "yes"},
    {"question_id": 4, "image": "b.jpg", "text": "Is there a fox in the image?", "label": "no"},
]
KINDS = ["dog", "cat", "cup", "car", "fox", "owl", "pig", "cow", "hen"]
ANSWERS = [{"question_id": i, "text": text} for i, text in enumerate(["Yes", "Yes, a cat.", "no", "No."], 1)]


def pope_score(answers, labels):
    """Every question about an image of its own."""
    return report(answers, labels, [str(i) for i in range(len(answers))])


def counts_of(answers, labels, images):
    return pope.confusion([pope.parse(answer) for answer in answers], labels, images)


def report(answers, labels, images):
    return pope.tally(*counts_of(answers, labels, images)).report()


def test_parse_equals_the_original():
    cases = golden("pope_answer_parsing")
    assert len(cases) > 10
    neither = {"lmms-eval": "neither", "vlmevalkit": "Unknown"}
    columns = {"official": "official", "lmms-eval": "lmms_eval", "vlmevalkit": "vlmevalkit", "opera": "opera"}
    for case in cases:
        for mode, column in columns.items():
            said = pope.parse(case["text"], mode) or neither[mode]
            assert said.lower() == case[column].lower(), (case["text"], mode)
        for label, right, wrong in (("yes", "TP", "FN"), ("no", "TN", "FP")):
            said = pope.parse(case["text"], "vcd", label)
            assert case[f"vcd_if_gt_{label}"] == (right if said == label else wrong)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes, it is.", "yes"),
        ("No, it is not.", "no"),
        ("There is no dog", "no"),
        ("There is, no, wait. yes", "no"),
        ("Yes. No.", "yes"),
        ("Nothing", "yes"),
        ("NO", "yes"),
        ("Not here", "yes"),
        ("it is not", "no"),
        ("", "yes"),
    ],
)
def test_parse(answer, expected):
    assert pope.parse(answer) == expected


def test_metrics_equal_the_original():
    case = golden("pope_metrics_example")
    found, expected = pope_score(case["pred"], case["gt"]), case["official"]
    names = {"accuracy": "acc", "precision": "precision", "recall": "recall", "f1": "f1", "yes_rate": "yes_ratio"}
    assert {ours: found[ours] for ours in names} == pytest.approx({o: expected[n] for o, n in names.items()})


@pytest.mark.parametrize(
    ("true_positive", "false_positive", "true_negative", "false_negative"),
    [(3, 2, 4, 1), (1183, 31, 1379, 317), (5, 0, 5, 0), (0, 4, 4, 2)],
)
def test_counts(true_positive, false_positive, true_negative, false_negative):
    yes, no = true_positive + false_positive, true_negative + false_negative
    labels = ["yes"] * true_positive + ["no"] * (false_positive + true_negative) + ["yes"] * false_negative
    found = pope_score(["Yes."] * yes + ["No."] * no, labels)
    precision = true_positive / yes
    recall = true_positive / (true_positive + false_negative)
    assert found["precision"] == pytest.approx(precision)
    assert found["recall"] == pytest.approx(recall)
    assert found["f1"] == pytest.approx(2 * precision * recall / (precision + recall) if true_positive else 0.0)
    assert found["accuracy"] == pytest.approx((true_positive + true_negative) / (yes + no))
    assert found["yes_rate"] == pytest.approx(yes / (yes + no))
    low, high = found["accuracy_interval"]
    assert low <= found["accuracy"] <= high


def test_resamples_images_with_all_their_questions():
    """Ten questions an image, all right or all wrong, tell no more than one question an image."""
    rng = np.random.default_rng(0)
    right = rng.random(80) < 0.7
    answers, labels = ["Yes" if hit else "No" for hit in right], ["yes"] * 80
    once = report(answers, labels, [f"{i:03d}" for i in range(80)])
    often = report(answers * 10, labels * 10, [f"{i:03d}" for i in range(80)] * 10)
    assert often["accuracy_interval"] == pytest.approx(once["accuracy_interval"])
    assert once["f1_interval"][0] < once["f1"] < once["f1_interval"][1]


def test_over_settings_is_the_mean_of_each():
    images = ["a", "a", "b", "b"]
    labels = ["yes", "no", "yes", "no"]
    settings = [
        counts_of(answers, labels, images) for answers in (["Yes"] * 4, ["No"] * 4, ["Yes", "No", "Yes", "Yes"])
    ]
    apart = [pope.tally(*one).values() for one in settings]
    together = pope.tally(settings[0][0], *(counts for _, counts in settings)).values()
    for name in ("accuracy", "precision", "recall", "f1", "yes_rate"):
        assert together[name] == pytest.approx(np.mean([one[name] for one in apart]))


def test_without_a_positive_is_no_division_by_zero():
    found = pope_score(["No", "No"], ["yes", "no"])
    assert (found["precision"], found["recall"], found["f1"], found["yes_rate"]) == (0, 0, 0, 0)
    assert found["accuracy"] == 0.5
    assert pope_score(["No"], ["no"])["recall"] == 0.0
    assert pope_score([], [])["accuracy"] == 0.0


@pytest.mark.parametrize(("answers", "labels"), [(["Yes"], []), (["Yes"], ["Yes"]), (["Yes", "No"], ["yes", "maybe"])])
def test_refuses_labels_that_do_not_fit(answers, labels):
    with pytest.raises(ValueError, match="POPE needs one yes/no label"):
        counts_of(answers, labels, ["a.png"] * len(answers))


@pytest.mark.parametrize("mode", pope.MODES)
def test_modes_by_hand(mode):
    """Of yes, maybe, maybe, no and yes, where yes, yes, no, no and no are right."""
    answers = ["yes", "maybe", "maybe", "no", "yes"]
    labels = ["yes", "yes", "no", "no", "no"]
    questions = [pope.Question(str(i), str(i), "?", label) for i, label in enumerate(labels)]
    scored = pope.score(answers, questions, mode)
    found = {name: scored.metrics[name] for name in ("accuracy", "precision", "recall", "f1", "yes_rate")}
    right = {
        "official": dict(accuracy=3 / 5, precision=2 / 4, recall=1.0, f1=2 / 3, yes_rate=4 / 5),
        "lmms-eval": dict(accuracy=2 / 5, precision=1 / 2, recall=1.0, f1=2 / 3, yes_rate=2 / 5),
        "vlmevalkit": dict(accuracy=2 / 5, precision=1 / 2, recall=1 / 2, f1=1 / 2, yes_rate=2 / 5),
        "opera": dict(accuracy=3 / 5, precision=2 / 4, recall=1.0, f1=2 / 3, yes_rate=4 / 5),
        "vcd": dict(accuracy=2 / 5, precision=1 / 3, recall=1 / 2, f1=2 / 5, yes_rate=3 / 5),
    }[mode]
    assert found == pytest.approx(right)
    assert scored.unparsed == 2


@pytest.mark.parametrize("mode", pope.MODES)
def test_what_a_rule_does_not_read_is_counted(mode):
    """lmms-eval reads the bare word alone, and every answer is somewhere."""
    answers = ["Yes.", "No, it is not.", "Yes and no", "", "yes", "NO"]
    questions = [pope.Question(str(i), str(i), "?", "yes") for i in range(len(answers))]
    scored = pope.score(answers, questions, mode)
    assert scored.unparsed == {"lmms-eval": 4, "vlmevalkit": 2}.get(mode, 1)
    counts = [scored.metrics[f"{word}"] for word in _COUNTS]
    if mode in ("lmms-eval", "vlmevalkit"):
        assert sum(counts) + scored.unparsed == len(answers)
    else:
        assert sum(counts) == len(answers)


_COUNTS = ("true_positives", "false_positives", "true_negatives", "false_negatives")


def test_an_echo_is_an_answer_like_any_other(write, tmp_path):
    echo = [{**ANSWERS[0], "text": QUESTIONS[0]["text"]}, *ANSWERS[1:]]
    files = ["--questions", write("q.jsonl", QUESTIONS), "--answers", write("a.jsonl", echo)]
    run(*files, "--output", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["unparsed"] == 1


def test_published_counts_give_the_published_figures():
    """LLaVA-1.5-7B on POPE's random file of 2,910 rows."""
    found = pope.tally(["all"], np.array([[1183.0, 31, 317, 1379, 0, 0]])).values()
    assert round(found["f1"], 4) == 0.8718


@pytest.mark.parametrize("setting", ["random", "popular", "adversarial"])
def test_real_questions(setting):
    questions = read_questions(shared_file(f"pope/coco_pope_{setting}.json"))
    assert len(questions) == 3000
    scored = pope.score(["Yes"] * 3000, questions)
    assert len(scored.tally.units) == 500
    assert scored.metrics["accuracy"] == 0.5
    assert scored.baselines["all yes"]["f1"] == pytest.approx(2 / 3)
    assert scored.baselines["all no"] == dict(accuracy=0.5, precision=0, recall=0, f1=0, yes_rate=0)
    assert scored.metrics["true_positives"] == scored.metrics["false_positives"] == 1500


@pytest.fixture
def write(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def run(*arguments):
    main(["eval", "pope", *map(str, arguments)])


def test_the_command(write, tmp_path, capsys):
    out = tmp_path / "out.json"
    run("--questions", write("q.jsonl", QUESTIONS), "--answers", write("a.jsonl", ANSWERS[::-1]), "--output", out)
    found = json.loads(out.read_text(encoding="utf-8"))
    counts = {"true_positives": 1, "false_positives": 1, "true_negatives": 1, "false_negatives": 1}
    rates = dict(accuracy=0.5, precision=0.5, recall=0.5, f1=0.5, yes_rate=0.5)
    assert found["metrics"] == rates | counts
    assert (found["mode"], found["n"], found["unparsed"]) == ("official", 4, 0)
    samples = [json.loads(line) for line in (tmp_path / "out.samples.jsonl").read_text().splitlines()]
    assert [sample["said"] for sample in samples] == ["yes", "yes", "no", "no"]
    assert "all yes" in capsys.readouterr().out


def test_answers_in_popes_own_format(write, tmp_path):
    texts = {one["question_id"]: one["text"] for one in QUESTIONS}
    own = [{"question": texts[one["question_id"]], "answer": one["text"]} for one in ANSWERS]
    for name, answers in (("ids", ANSWERS), ("order", own)):
        files = ["--questions", write("q.jsonl", QUESTIONS), "--answers", write("a.jsonl", answers)]
        run(*files, "--output", tmp_path / f"{name}.json")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())["metrics"] for name in ("ids", "order"))
    assert one == two


def test_llavas_answers_to_all_three_files_in_one(write, tmp_path, capsys):
    """Under POPE's own ids those to the adversarial questions alone, which are others of the same ids."""
    found = {}
    suffix = "\nAnswer the question using a single word or phrase."
    others = [{**one, "text": one["text"].replace("a ", "a tiny ")} for one in QUESTIONS]
    asked = [(one, shift) for shift, block in ((0, others), (10_000_000, QUESTIONS)) for one in block]
    said = {one["question_id"]: one["text"] for one in ANSWERS}
    rows = [
        {"question_id": shift + one["question_id"], "prompt": one["text"] + suffix, "text": said[one["question_id"]]}
        for one, shift in asked
    ]
    rows[0]["text"] = "Yes" if rows[0]["text"] != "Yes" else "No"
    questions = write("q.jsonl", QUESTIONS)
    for name, answers in (("alone", ANSWERS), ("among", rows)):
        run("--questions", questions, "--answers", write("a.jsonl", answers), "--output", tmp_path / f"{name}.json")
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["among"]["metrics"] == found["alone"]["metrics"]
    assert "rows 5 to 8 of 8 answers; the others are to other questions" in capsys.readouterr().out
    # Whose they are nobody knows where they do not say, or come twice.
    mute = [{**row, "prompt": ""} for row in rows]
    twice = [*rows, *({**row, "question_id": -place} for place, row in enumerate(rows))]
    for odd in (mute, twice):
        with pytest.raises(SystemExit):
            run("--questions", questions, "--answers", write("a.jsonl", odd), "--output", tmp_path / "odd.json")
        assert "expected ids among the 4 of the questions" in capsys.readouterr().err


def asked(questions, shift=0):
    return [{"question_id": shift + one["question_id"], "prompt": one["text"], "text": "Yes"} for one in questions]


def read(write, rows, questions=QUESTIONS):
    return answers_for(write("a.jsonl", rows), read_questions(write("q.jsonl", questions)))


OTHERS = [{**one, "text": one["text"].replace("a ", "a tiny ")} for one in QUESTIONS]
SURPLUS = "expected ids among the 4 of the questions"


def test_answers_under_the_questions_ids_go_before_a_run_of_equal_texts(write):
    """In whatever order they stand; more than whole files is nothing that was meant."""
    turned = [{**one, "text": f"No {one['question_id']}"} for one in reversed(asked(QUESTIONS))]
    said = [f"No {one['question_id']}" for one in QUESTIONS]
    for rows in ([*turned, *asked(OTHERS, 100)], [*asked(QUESTIONS, 100), *turned, *asked(OTHERS, 200)]):
        found, (remark,) = read(write, rows)
        assert found == said
        assert f"of {len(rows)} answers; the others are to other questions" in remark
    odd = [
        [*turned, *asked(QUESTIONS[:1], 100)],
        [*asked(QUESTIONS[:1], 100), *turned],
        [*turned[:2], *asked(OTHERS, 100), *turned[2:]],
    ]
    for rows in odd:
        with pytest.raises(InputError, match=SURPLUS):
            read(write, rows)
    # In the questions' order stand the second and the third of these.
    two = QUESTIONS[:2]
    rows = [*reversed(asked(two)), *asked(two[1:], 7)]
    with pytest.raises(InputError, match="answers to 9; expected ids among the 2"):
        read(write, rows, two)


def test_a_run_of_equal_texts_stands_between_whole_files(write):
    run = asked(QUESTIONS, 100)
    for rows in ([*asked(OTHERS), *run], [*asked(OTHERS), *asked(OTHERS, 50), *run], [*run, *asked(OTHERS)]):
        assert read(write, rows)[0] == ["Yes"] * 4
    for rows in (
        [*asked(OTHERS[:2]), *run, *asked(OTHERS[2:])],
        [*run, *asked(OTHERS[:1])],
        [*asked(OTHERS[:3]), *run],
    ):
        with pytest.raises(InputError, match=r"found (no answer|answers) to"):
            read(write, rows)
    # The random ones of LLaVA's time were 2910, the others 3000.
    many = [{**QUESTIONS[0], "question_id": i, "text": f"Is there a dog in image {i}?"} for i in range(100)]
    others = [{**one, "text": one["text"].replace("dog", "cat")} for one in many]
    assert len(read(write, [*asked(others), *asked(others, 200), *asked(many[:97], 400)], many[:97])[0]) == 97
    assert len(read(write, [*asked(others[:97]), *asked(others, 200), *asked(many, 400)], many)[0]) == 100
    with pytest.raises(InputError, match="found no answer to 60"):
        read(write, [*asked(others[:60]), *asked(many, 400)], many)


@pytest.mark.parametrize("key", ["image", "image_source", "image_path", "image_id"])
def test_a_run_about_other_images_is_none(key, write):
    questions = [{**one, "image": f"COCO_val2014_{i:012d}.jpg"} for i, one in enumerate(QUESTIONS, 70)]
    for form in ("{}", "val2014/{}.jpg"):
        for shift, taken in ((0, True), (1, False)):
            names = [form.format(f"COCO_val2014_{i + shift:012d}") for i in range(70, 74)]
            run = [{**row, key: name} for row, name in zip(asked(QUESTIONS, 100), names, strict=True)]
            rows = [*asked(OTHERS, 500), *run]
            if key == "image_id":
                rows = [{**row, "image_id": row.get("image_id", "none")} for row in rows]
            if taken:
                assert read(write, rows, questions)[0] == ["Yes"] * 4
            else:
                with pytest.raises(InputError, match="no answer to"):
                    read(write, rows, questions)
    numbered = [{**row, "image_id": number} for number, row in enumerate(asked(QUESTIONS, 100), 70)]
    assert read(write, [*asked(OTHERS, 500), *numbered], questions)[0] == ["Yes"] * 4


@pytest.fixture
def files(write, tmp_path):
    """Results of two files of questions about the same images, of equal names, and of one about another."""
    turned = [{**one, "label": "no" if one["label"] == "yes" else "yes"} for one in QUESTIONS]
    other = [{**QUESTIONS[0], "image": "z"}]
    for model, answers in (("a", ANSWERS), ("b", ANSWERS[:1] + [{**one, "text": "No"} for one in ANSWERS[1:]])):
        for name, questions in (("random", QUESTIONS), ("popular", turned), ("other", other)):
            paths = write("q.jsonl", questions), write("a.jsonl", answers[: len(questions)])
            (tmp_path / model / name).mkdir(parents=True)
            output = tmp_path / model / name / "pope.json"
            run("--questions", paths[0], "--answers", paths[1], "--output", output)
    return lambda model, *names: [tmp_path / model / name / "pope.json" for name in names]


def mean_of(output, results, against=()):
    options = ["--results", *results, *(["--against", *against] if against else []), "--output", output]
    main(["eval", "pope-mean", *map(str, options)])
    return json.loads(output.read_text())


def test_the_mean_over_files(files, tmp_path):
    """As written out; an image is drawn with its questions in all files."""
    results = files("a", "random", "popular")
    one, two = (json.loads(path.read_text())["metrics"] for path in results)
    found = mean_of(tmp_path / "mean.json", results)
    for name in ("accuracy", "precision", "recall", "f1", "yes_rate"):
        assert found["metrics"][name] == pytest.approx((one[name] + two[name]) / 2)
        assert found["tables"]["file"][str(results[1])][name] == pytest.approx(two[name])
    assert (found["n"], found["mode"]) == (8, "official")


def test_means_are_compared_file_by_file(files, tmp_path):
    """In whichever order the other model's stand."""
    results, others = files("a", "random", "popular"), files("b", "random", "popular")
    found = [mean_of(tmp_path / "mean.json", results, against)["comparison"] for against in (others, others[::-1])]
    assert found[0] == found[1]
    before = np.mean([json.loads(path.read_text())["metrics"]["yes_rate"] for path in others])
    assert found[0]["yes_rate"]["before"] == pytest.approx(before)


def test_files_that_have_no_mean(files, tmp_path, capsys):
    def refused(results, against=()):
        with pytest.raises(SystemExit):
            mean_of(tmp_path / "mean.json", results, against)
        return capsys.readouterr().err

    results = files("a", "random", "popular")
    assert "expected the images of" in refused([*results, *files("a", "other")])
    assert "a result for the second time" in refused([*results, results[0]])
    assert "with other questions" in refused(results, files("b", "random"))
    assert "with other questions" in refused(results, files("b", "random", "other"))
    changed = json.loads(results[1].read_text())
    results[1].write_text(json.dumps({**changed, "mode": "vcd"}))
    assert "found results in modes official, vcd; expected POPE results in one mode" in refused(results)
    results[1].write_text(json.dumps({**changed, "metrics": {**changed["metrics"], "f1": 0.3}}))
    assert "found samples of another result" in refused(results)
    with pytest.raises(SystemExit):
        mean_of(results[0], results)
    assert "which would be written over" in capsys.readouterr().err


def test_options_that_change_nothing_are_refused(write, tmp_path, capsys):
    files = ["--questions", write("q.jsonl", QUESTIONS), "--answers", write("a.jsonl", ANSWERS)]
    with pytest.raises(SystemExit):
        run(*files, "--output", tmp_path / "out.json", "--temperature", "0.5", "--suffix", "none")
    (line,) = capsys.readouterr().err.splitlines()
    assert "found --suffix, --temperature with --answers; expected --checkpoint" in line
    with pytest.raises(SystemExit):
        run(*files, "--output", tmp_path / "out.json", "--mesh.data", "2")
    assert "found --mesh with --answers" in capsys.readouterr().err
    (tmp_path / "objects.json").write_text('{"1": ["dog"]}')
    captions = write("captions.jsonl", [{"image_id": 1, "caption": "A dog."}])
    chair = ["eval", "chair", "--objects", tmp_path / "objects.json", "--answers", captions, "--prompt", "Hm?"]
    with pytest.raises(SystemExit):
        main([*map(str, chair), "--output", str(tmp_path / "out.json")])
    assert "found --prompt with --answers" in capsys.readouterr().err


def test_a_list_with_a_byte_order_mark_and_carriage_returns(write, tmp_path):
    questions = tmp_path / "q.json"
    questions.write_bytes(b"\xef\xbb\xbf" + json.dumps(QUESTIONS, indent=1).replace("\n", "\r\n").encode())
    run("--questions", questions, "--answers", write("a.jsonl", ANSWERS), "--output", tmp_path / "out.json")


@pytest.mark.parametrize(
    ("questions", "answers", "complaint"),
    [
        (QUESTIONS, ANSWERS[:2], "no answer to 3, 4; expected an answer to each of the 4 questions"),
        (QUESTIONS, [*ANSWERS, {"question_id": 9, "text": "Yes"}], "answers to 9; expected ids among the 4"),
        (QUESTIONS, [*ANSWERS, ANSWERS[0]], "row 5: found question_id 1 for the second time (first in row 1)"),
        (QUESTIONS, [{**ANSWERS[0], "text": None}, *ANSWERS[1:]], "row 1: found text of type NoneType"),
        (QUESTIONS, [{"text": "Yes"}, *ANSWERS[1:]], "row 1: found the keys ['text']; expected an id"),
        (QUESTIONS, [{"question_id": 1.5, "text": "Yes"}, *ANSWERS[1:]], "row 1: found question_id of type float"),
        (
            QUESTIONS,
            [{**ANSWERS[0], "prompt": "Is there a car in the image?"}, *ANSWERS[1:]],
            "row 1: found id 1 as an answer to 'Is there a car in the image?'; expected an answer to 'Is there a dog",
        ),
        ([{**QUESTIONS[0], "label": "maybe"}], ANSWERS[:1], "row 1: found label 'maybe'; expected yes or no"),
        ([QUESTIONS[0], QUESTIONS[0]], ANSWERS[:1], "row 2: found question_id 1 for the second time"),
        ([{"question_id": 1, "text": "?", "label": "yes"}], ANSWERS[:1], "row 1: found no 'image'"),
    ],
)
def test_files_that_do_not_fit(questions, answers, complaint, write, tmp_path, capsys):
    arguments = ["--questions", write("q.jsonl", questions), "--answers", write("a.jsonl", answers)]
    with pytest.raises(SystemExit) as stopped:
        run(*arguments, "--output", tmp_path / "out.json")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("setting", ["random", "popular", "adversarial"])
def test_the_builder_draws_as_the_original(setting):
    case = golden("pope_builder")
    images = {one["image"]: one["objects"] for one in case["images"]}
    assert build(images, setting, random.Random(1234), legacy_typo=True) == case["questions"][setting]
    straight = build(images, setting, random.Random(1234))
    assert [row["text"].replace("imange", "image") for row in case["questions"][setting]] == [
        row["text"] for row in straight
    ]


def test_the_builders_command(write, tmp_path, capsys):
    rows = [{"image": f"{i}", "objects": KINDS[i % 4 :][:3]} for i in range(9)]
    command = ["eval", "pope-questions", "--objects", write("o.jsonl", [*rows, {"image": "x", "objects": ["owl"]}])]
    command += ["--images", 9, "--setting", "popular", "--image-name", "COCO_val2014_{:012d}.jpg"]
    main([*map(str, command), "--output", str(tmp_path / "q.jsonl")])
    questions = read_questions(tmp_path / "q.jsonl")
    assert len(questions) == 54
    assert all(one.image.startswith("COCO_val2014_00000000000") for one in questions)
    assert [one.label for one in questions] == ["yes", "no"] * 27
    assert "54 questions about 9 images" in capsys.readouterr().out


def test_what_cannot_be_asked(write):
    with pytest.raises(InputError, match="all of the 2 objects"):
        build({"a": ["dog", "cat"]}, "random", random.Random(0), per_image=2)
    with pytest.raises(InputError, match="no image with 3 objects"):
        sample_images({"a": ["dog"]}, 5, 3, random.Random(0))
    with pytest.raises(InputError, match="image a for the second time"):
        read_annotations(write("o.jsonl", [{"image": "a", "objects": []}] * 2))
