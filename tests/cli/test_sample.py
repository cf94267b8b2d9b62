"""`vlm-jax sample` through the real command line: several answers a prompt, the same ones whatever stops it."""

import json

import numpy as np
import pytest

import vlm_jax
from vlm_jax.cli import main
from vlm_jax.data.sources import read_captions
from vlm_jax.generate import answers as generating

QUESTIONS = ("Describe the picture.", "Is there a boat in the image?", "What do you see?")
N = 3


@pytest.fixture(scope="module")
def prompts(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    names = sorted(read_captions(world / "image_to_caption.json"))[:2]
    chat = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    rows = [
        {"id": "a", "image": names[0], "conversations": [{"from": "human", "value": f"{QUESTIONS[0]}\n<image>"}]},
        {"image": names[1], "prompt": QUESTIONS[1]},
        {"prompt": [*chat, {"role": "user", "content": QUESTIONS[2]}]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def command(checkpoint, prompts, world):
    def line(output, *more):
        files = ["--prompts", prompts, "--images", world / "images", "--output", output]
        # One length, which is also a script's first, and one batch shape: one compilation for all tests.
        shape = ["--batch-size", 4, "--prompt-lengths", 80, "--max-new-tokens", 6]
        return [*map(str, ["sample", "--checkpoint", checkpoint, *files, "--n", N, "--seed", 5, *shape, *more])]

    return line


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "answers.jsonl"
    main(command(output))
    return output


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_are_those_that_a_script_draws(whole, prompts, checkpoint, world):
    rows, given = rows_of(whole), rows_of(prompts)
    assert [list(row) for row in rows] == [["id", "row", "image", asked, "answers"] for asked in
                                           ("question", "question", "prompt")]  # fmt: skip
    assert [(row["id"], row["row"], row["image"]) for row in rows] == [
        ("a", 1, given[0]["image"]),
        ("2", 2, given[1]["image"]),
        ("3", 3, None),
    ]
    assert [row["question"] for row in rows[:2]] == list(QUESTIONS[:2])
    assert rows[2]["prompt"] == given[2]["prompt"]
    assert all(len(set(row["answers"])) == N for row in rows)
    # The draws of a batch depend on its place and the rows', so the first two prompts' answers are the same without
    # the third prompt behind them, up to the batch that it shares with them.
    model = vlm_jax.load(checkpoint)
    images = [world / "images" / row["image"] for row in rows[:2] for _ in range(N)]
    questions = [row["question"] for row in rows[:2] for _ in range(N)]
    options = {"max_new_tokens": 6, "temperature": 1.0, "seed": 5, "batch_size": 4, "max_length": 80}
    assert model.answer(images, questions, **options) == [text for row in rows[:2] for text in row["answers"]]


def test_prompts_that_are_read_once_get_the_answers_of_prompts_that_are_read_anew(
    command, checkpoint, world, tmp_path, monkeypatch
):
    """A batch of two prompts, three answers to each."""
    output, go, shared = tmp_path / "answers.jsonl", generating.answer_batches, []

    def seen(*arguments, **options):
        shared.append(options["copies"])
        return go(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(generating, "answer_batches", seen)
        main(command(output, "--batch-size", 6))
    assert shared == [3]
    rows, model = rows_of(output)[:2], vlm_jax.load(checkpoint)
    images = [world / "images" / row["image"] for row in rows for _ in range(N)]
    questions = [row["question"] for row in rows for _ in range(N)]
    options = {"max_new_tokens": 6, "temperature": 1.0, "seed": 5, "batch_size": 6, "max_length": 80}
    assert model.answer(images, questions, **options) == [text for row in rows for text in row["answers"]]


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_stopped_run_draws_the_same(cut, whole, command, tmp_path, monkeypatch, capsys):
    """Stopped in the third of three batches; what the disk may hold after a kill: all, a line cut off, one missing."""
    output, partial = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.partial"
    go, made = generating.answer_batches, []

    def stopping(*arguments, **options):
        for number, answers in enumerate(go(*arguments, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield answers

    def counted(*arguments, **options):
        for answers in go(*arguments, **options):
            made.append(len(answers))
            yield answers

    with monkeypatch.context() as patch:
        patch.setattr(generating, "answer_batches", stopping)
        with pytest.raises(SystemExit) as stopped:
            main(command(output))
    assert stopped.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
    written = partial.read_bytes()
    assert written.count(b"\n") == 8
    partial.write_bytes([written, written[:-10], written[: written.rindex(b"\n", 0, -1) + 1]][cut])
    monkeypatch.setattr(generating, "answer_batches", counted)
    main(command(output))
    assert made == ([1] if cut == 0 else [4, 1])
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "answers.run.json"]


def test_a_seed_of_its_own(whole, command, tmp_path):
    main(command(tmp_path / "other.jsonl", "--seed", "6"))
    pairs = zip(rows_of(whole), rows_of(tmp_path / "other.jsonl"), strict=True)
    assert all(one["answers"] != other["answers"] for one, other in pairs)


def test_a_reward_model_names_the_best(whole, command, reward, checkpoint, world, tmp_path, capsys):
    """The scores are those that `vlm-jax score` gives to the same answers."""
    facts = ["--facts", world / "image_to_caption.json"]
    main([*map(str, command(tmp_path / "best.jsonl", "--reward", reward, *facts))])
    assert (tmp_path / "best.answers.jsonl").read_bytes() == whole.read_bytes()
    score = ["score", "--checkpoint", checkpoint, "--reward", reward, "--images", world / "images", *facts]
    score += ["--data", whole, "--output", tmp_path / "scores.jsonl", "--batch-size", 4]
    main([*map(str, score)])
    rows = rows_of(tmp_path / "best.jsonl")
    for row, drawn, judged in zip(rows, rows_of(whole), rows_of(tmp_path / "scores.jsonl"), strict=True):
        assert row == {**drawn, "scores": judged["scores"], "best": judged["best"]}
        assert len(row["scores"]) == N
        assert row["best"] == int(np.argmax(row["scores"]))
    capsys.readouterr()
    main([*map(str, command(tmp_path / "best.jsonl", "--reward", reward, *facts))])
    assert capsys.readouterr().out.startswith(f"finished already: {tmp_path / 'best.jsonl'}\n")


def test_mistakes_leave_nothing(command, reward, adapter, world, tmp_path, capsys):
    def refused(*more, output="out.jsonl"):
        with pytest.raises(SystemExit) as stopped:
            main([*map(str, command(tmp_path / output, *more))])
        assert stopped.value.code == 2
        assert not any(path.name.startswith(("out", ".out")) for path in tmp_path.iterdir())
        (said,) = capsys.readouterr().err.splitlines()
        return said.removeprefix("vlm-jax sample: ")

    assert refused(output="out.json").endswith("expected a name that ends in .jsonl")
    assert refused("--temperature", "0") == "found --temperature 0.0; expected a number from 0.001 to 100"
    assert refused("--n", "0") == "found --n 0; expected a number from 1 to 1024"
    facts = ["--facts", world / "image_to_caption.json"]
    assert refused(*facts) == "found --facts without --reward; expected the reward model that reads them"
    assert "found no --facts; expected --facts" in refused("--reward", reward)
    assert "a reward model, or a value model (it has a head)" in refused("--adapter", adapter)
    assert "row 1: found a prompt of " in refused("--prompt-lengths", "20")
    (tmp_path / "images").mkdir()
    for path in (world / "images").iterdir():
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes()[:60])
    assert "row 1: found an image that cannot be decoded" in refused("--images", tmp_path / "images")
