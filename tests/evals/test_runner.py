"""A checkpoint answers a benchmark's questions: once each, in order, whatever stops it."""

import dataclasses
import json
import shutil

import pytest
from PIL import Image

from vlm_jax.checkpoints.hf_llava import save_llava
from vlm_jax.checkpoints.opening import TINY, open_model, open_policy
from vlm_jax.cli import main
from vlm_jax.evals.answering import runner
from vlm_jax.evals.answering.questions import ImageQuestion
from vlm_jax.generate.answers import answer_batches
from vlm_jax.generate.sampling import Sampling

GREEDY = Sampling(max_new_tokens=4, temperature=0.0)


@pytest.fixture(scope="module")
def model():
    return open_model("tiny")


@pytest.fixture(scope="module")
def to_ask(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    found = []
    for number in range(7):
        Image.new("RGB", (48 + number, 48), (30 * number, 90, 200 - 20 * number)).save(folder / f"{number}.png")
        text = "is there a dog?" if number % 2 else "Describe the picture. " * 20
        found.append(ImageQuestion(str(number), text, None if number == 5 else folder / f"{number}.png"))
    return found


def answer(path, model, to_ask, sampling=GREEDY, **options):
    runner.answer_file(path, model, open_policy(model, None), to_ask, sampling, batch_size=2, **options)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_stand_in_the_questions_order(model, to_ask, tmp_path):
    rows = answer(tmp_path / "answers.jsonl", model, to_ask, suffix="short", model_id="tiny")
    assert [row["question_id"] for row in rows] == list(range(7))
    assert all(row["prompt"].endswith("\nAnswer the question using a single word or phrase.") for row in rows)
    assert {row["model_id"] for row in rows} == {"tiny"}
    assert len({row["answer_id"] for row in rows}) == 7
    assert not list(tmp_path.glob("*.partial"))
    # Each as if it were asked alone: rows that fill a batch up and neighbours change nothing.
    alone = [answer(tmp_path / f"{ask.id}.jsonl", model, [ask], suffix="short", model_id="tiny")[0] for ask in to_ask]
    assert rows == alone


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_stopped_run_goes_on(temperature, cut, model, to_ask, tmp_path, monkeypatch):
    """Killed after three of four batches, with the last line cut off: no answer is lost, doubled or drawn anew."""
    sampling = Sampling(max_new_tokens=4, temperature=temperature)
    whole = answer(tmp_path / "whole.jsonl", model, to_ask, sampling, seed=3)

    def killed(*arguments):
        for number, answers in enumerate(answer_batches(*arguments)):
            if number == 3:
                raise KeyboardInterrupt
            yield answers

    path = tmp_path / "answers.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "answer_batches", killed)
        with pytest.raises(KeyboardInterrupt):
            answer(path, model, to_ask, sampling, seed=3)
    partial = tmp_path / "answers.jsonl.partial"
    written = partial.read_bytes()
    assert written.count(b"\n") == 5
    # As the disk may hold it after a kill: whole, without its end, without a whole line of the batch.
    partial.write_bytes([written, written[:-10], written[: written.rindex(b"\n", 0, -1) + 1]][cut])
    batches = []

    def counted(*arguments):
        for answers in answer_batches(*arguments):
            batches.append(len(answers))
            yield answers

    monkeypatch.setattr(runner, "answer_batches", counted)
    assert answer(path, model, to_ask, sampling, seed=3) == whole
    assert len(batches) == (1 if cut == 0 else 2)


def test_a_checkpoint_answers_through_the_command(to_ask, tmp_path, capsys):
    questions = [
        {"question_id": i, "image": f"{i}.png", "text": "is there a dog?", "label": "yes" if i % 2 else "no"}
        for i in range(4)
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)))
    command = [
        "eval",
        "pope",
        "--questions",
        tmp_path / "q.jsonl",
        "--checkpoint",
        "tiny",
        "--images",
        to_ask[0].image.parent,
    ]
    command += ["--output", tmp_path / "out.json", "--template", "llava_v1", "--batch-size", 2]
    main(list(map(str, command)))
    first = json.loads((tmp_path / "out.json").read_text())
    answers = (tmp_path / "out.answers.jsonl").read_text()
    assert first["n"] == len(answers.splitlines()) == 4
    record = json.loads((tmp_path / "out.answers.run.json").read_text())
    assert {
        name: record["settings"][name] for name in ("suffix", "template", "aspect", "temperature", "max_new_tokens")
    } == {
        "suffix": "none",
        "template": "llava_v1",
        "aspect": "own",
        "temperature": 0.0,
        "max_new_tokens": 16,
    }
    capsys.readouterr()
    main(list(map(str, command)))
    assert "finished already" in capsys.readouterr().out
    # Scored from the file it is the same; other settings do not take these answers for theirs.
    files = ["--questions", tmp_path / "q.jsonl", "--answers", tmp_path / "out.answers.jsonl"]
    main(list(map(str, ["eval", "pope", *files, "--output", tmp_path / "again.json"])))
    assert json.loads((tmp_path / "again.json").read_text())["metrics"] == first["metrics"]
    with pytest.raises(SystemExit):
        main([*map(str, command), "--aspect", "square"])
    assert "aspect 'own' instead of 'square'" in capsys.readouterr().err


def test_the_batch_size_is_part_of_draws_alone(to_ask, tmp_path, capsys):
    """What is most likely does not depend on the batch; a draw does."""
    rows = [{"question_id": i, "image": f"{i}.png", "text": "a dog?", "label": "no"} for i in range(3)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["eval", "pope", "--questions", tmp_path / "q.jsonl", "--checkpoint", "tiny", "--max-new-tokens", 2]
    command += ["--images", to_ask[0].image.parent]
    greedy = [*map(str, [*command, "--output", tmp_path / "greedy.json"])]
    drawn = [*map(str, [*command, "--output", tmp_path / "drawn.json", "--temperature", 0.5])]
    for one in (greedy, drawn):
        main([*one, "--batch-size", "3"])
    said = capsys.readouterr().out
    main([*greedy, "--batch-size", "2"])
    assert f"finished already: {tmp_path / 'greedy.answers.jsonl'}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*drawn, "--batch-size", "2"])
    assert "found settings.batch_size 3 instead of 2" in capsys.readouterr().err
    assert "finished already" not in said


def test_two_equal_commands_at_one_time(to_ask, tmp_path, monkeypatch, capsys):
    """The second one says so and leaves what the first one is writing."""
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "image": "1.png", "text": "a dog?", "label": "no"}')
    command = ["eval", "pope", "--questions", tmp_path / "q.jsonl", "--checkpoint", "tiny"]
    command = [*map(str, [*command, "--images", to_ask[0].image.parent, "--output", tmp_path / "out.json"])]

    def answering(target, *_, **__):
        with pytest.raises(SystemExit):
            main(command)
        target.write_text('{"question_id": 1, "text": "No"}')

    monkeypatch.setattr(runner, "answer_file", answering)
    main(command)
    assert "out.answers.jsonl: found a file in use by another process" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(("option", "seen"), [("own", "square"), ("pad", "pad")])
def test_a_checkpoint_sees_images_as_it_was_trained(option, seen, model, to_ask, tmp_path, monkeypatch):
    save_llava(tmp_path / "square", dataclasses.replace(model.config, aspect="square"), model.base, TINY)
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "image": "1.png", "text": "a dog?", "label": "no"}')
    aspects = []
    monkeypatch.setattr(
        runner, "answer_file", lambda target, model, *_, **__: aspects.append(model.config.aspect) or target.touch()
    )
    command = ["eval", "pope", "--questions", tmp_path / "q.jsonl", "--checkpoint", tmp_path / "square"]
    command += ["--images", to_ask[0].image.parent, "--output", tmp_path / "out.json", "--aspect", option]
    with pytest.raises(SystemExit):  # There are no answers to score.
        main(list(map(str, command)))
    assert aspects == [seen]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "neither of --answers and --checkpoint"),
        (["--answers", "a.jsonl", "--checkpoint", "tiny"], "both of --answers and --checkpoint"),
        (["--checkpoint", "tiny"], "no --images"),
        (["--checkpoint", "tiny", "--images", "nowhere"], "nowhere"),
        (["--checkpoint", "tiny", "--images", "nowhere", "--batch-size", "0"], "batch"),
    ],
)
def test_commands_that_cannot_be_run(options, complaint, tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "image": "a.png", "text": "?", "label": "yes"}')
    with pytest.raises(SystemExit) as stopped:
        main(["eval", "pope", "--questions", str(tmp_path / "q.jsonl"), "--output", str(tmp_path / "o.json"), *options])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--answers", "a.json", "--output", "a.json"], "--answers a.json, which would be written over"),
        (["--answers", "o.samples.jsonl", "--output", "o.json"], "--answers o.samples.jsonl, which would be written"),
        (["--answers", "a.json", "--output", "q.json", "--questions", "q.json"], "--questions q.json, which would be"),
        (["--answers", "a.json", "--output", "page.html"], "expected a name that ends in .json"),
        (["--answers", "a.json", "--output", "o.json", "--against", "b.json"], "b.json: found no such file"),
        (["--answers", "q.json", "--output", "o.json"], "found the questions themselves (id 1 for one)"),
        (["--answers", "two.json", "--output", "o.json"], "row 1: found text and prediction"),
    ],
)
def test_nothing_that_is_read_is_written_over(options, complaint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    question = {"question_id": 1, "image": "a.png", "text": "Is it?", "label": "yes"}
    files = {
        "q.json": [question],
        "a.json": [{"question_id": 1, "text": "Yes"}],
        "o.samples.jsonl": [{"question_id": 1, "text": "Yes"}],
        "two.json": [{**question, "prediction": "Yes"}],
    }
    for name, rows in files.items():
        (tmp_path / name).write_text(json.dumps(rows))
    before = {name: (tmp_path / name).read_text() for name in files}
    with pytest.raises(SystemExit) as stopped:
        main(["eval", "pope", *(["--questions", "q.json"] if "--questions" not in options else []), *options])
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_broken_picture_is_found_before_the_first_answer(to_ask, tmp_path, monkeypatch, capsys):
    """Whichever question it belongs to; mended, the same command goes on."""
    shutil.copytree(to_ask[0].image.parent, tmp_path / "images")
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    rows = [{"question_id": i, "image": name, "text": "a dog?", "label": "no"} for i, name in enumerate(names)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = (tmp_path / "images" / names[-1]).read_bytes()
    (tmp_path / "images" / names[-1]).write_bytes(whole[: len(whole) // 2])
    called = []
    monkeypatch.setattr(runner, "answer_file", lambda target, *_, **__: called.append(target))
    command = ["eval", "pope", "--questions", tmp_path / "q.jsonl", "--checkpoint", "tiny"]
    command = [*map(str, [*command, "--images", tmp_path / "images", "--output", tmp_path / "out.json"])]
    with pytest.raises(SystemExit):
        main(command)
    assert f"{tmp_path / 'images' / names[-1]}: found an image that cannot be decoded" in capsys.readouterr().err
    assert not called
    (tmp_path / "images" / names[-1]).write_bytes(whole)
    with pytest.raises(SystemExit):  # There are no answers to score.
        main(command)
    assert called == [tmp_path / "out.answers.jsonl"]


def test_answers_belong_to_their_images(to_ask, tmp_path, capsys):
    """Also where an image has changed under its name."""
    shutil.copytree(to_ask[0].image.parent, tmp_path / "images")
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "image": "1.png", "text": "a dog?", "label": "no"}')
    command = ["eval", "pope", "--questions", tmp_path / "q.jsonl", "--checkpoint", "tiny", "--max-new-tokens", "2"]
    command = [*map(str, [*command, "--images", tmp_path / "images", "--output", tmp_path / "out.json"])]
    main(command)
    made = json.loads((tmp_path / "out.json").read_text())["made"]
    assert set(made["files"]) == {"questions", "answers"}
    assert made["options"]["answering"]["checkpoint"] == "tiny"
    shutil.copyfile(tmp_path / "images" / "2.png", tmp_path / "images" / "1.png")
    with pytest.raises(SystemExit):
        main(command)
    assert "found images '" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--temperature", "nan"], ["--images", "empty"]])
def test_what_never_answered_is_not_in_the_way(wrong, to_ask, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "image": "1.png", "text": "a dog?", "label": "no"}')
    command = ["eval", "pope", "--questions", "q.jsonl", "--checkpoint", "tiny", "--output", "out.json"]
    command += ["--images", str(to_ask[0].image.parent), "--max-new-tokens", "2"]
    with pytest.raises(SystemExit):
        main([*command, *wrong])
    main(command)
    assert json.loads((tmp_path / "out.json").read_text())["n"] == 1
