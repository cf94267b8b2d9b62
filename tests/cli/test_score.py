"""`vlm-jax score` through the real command line: what a script's reward model says, row by row, whatever stops it."""

import json
import math
import shutil

import numpy as np
import pytest

import vlm_jax
from vlm_jax.cli import main
from vlm_jax.commands.score import summary
from vlm_jax.data.sources import read_answered, read_captions
from vlm_jax.scripting import passes

QUESTION = "Describe the picture."
SAID = ("There is a red ball.", "There is a blue kite at night.", "A moon.", "There are two boats and a star.", "No.")


@pytest.fixture(scope="module")
def names(world):
    return sorted(read_captions(world / "image_to_caption.json"))[:5]


@pytest.fixture(scope="module")
def pairs(names, tmp_path_factory):
    """Five pairs, the answers of each the next one's as well; the last is nobody's preference."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.json"
    rows = []
    for place, name in enumerate(names):
        outputs = {f"output_{one}": {"from": "gpt", "value": SAID[(place + one) % len(SAID)]} for one in (1, 2)}
        turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}]
        rows.append({"id": f"p{place}", "image": name, "conversations": turns, **outputs, "preference": 1 + place % 2})
    del rows[-1]["preference"]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="module")
def command(checkpoint, reward, world):
    def line(data, output, *more):
        files = ["--data", data, "--images", world / "images", "--facts", world / "image_to_caption.json"]
        start = ["score", "--checkpoint", checkpoint, "--reward", reward, "--batch-size", "4"]
        return [*map(str, [*start, *files, "--output", output, *more])]

    return line


@pytest.fixture(scope="module")
def whole(command, pairs, tmp_path_factory):
    """What a run that nobody stopped leaves."""
    output = tmp_path_factory.mktemp("whole") / "scores.jsonl"
    main(command(pairs, output))
    return output


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_pairs_are_scored_as_a_script_scores_them(whole, pairs, names, checkpoint, reward, world):
    rows, given = rows_of(whole), json.loads(pairs.read_text())
    model = vlm_jax.load(checkpoint, adapter=reward)
    facts = read_captions(world / "image_to_caption.json")
    pictures = [world / "images" / name for name in names]
    expected = np.stack(
        [
            model.scores(pictures, QUESTION, [row[key]["value"] for row in given], [facts[name] for name in names],
                         batch_size=4)
            for key in ("output_1", "output_2")
        ],
        axis=1,
    )  # fmt: skip
    assert [(row["id"], row["row"]) for row in rows] == [(f"p{place}", place + 1) for place in range(5)]
    np.testing.assert_allclose([row["scores"] for row in rows], expected, atol=1e-5)
    assert np.abs(np.diff(expected, axis=1)).min() > 1e-4
    assert [row["prefers"] for row in rows] == (1 + (expected[:, 1] >= expected[:, 0])).tolist()
    assert [row["best"] for row in rows] == expected.argmax(1).tolist()
    assert [row.get("preference") for row in rows] == [1, 2, 1, 2, None]
    assert [row["agrees"] for row in rows[:4]] == [row["prefers"] == row["preference"] for row in rows[:4]]
    assert "agrees" not in rows[4]
    assert sorted(path.name for path in whole.parent.iterdir()) == ["scores.jsonl", "scores.run.json"]


def test_a_finished_file_is_left_alone_and_summed_up_again(whole, command, pairs, reward, capsys):
    before = whole.stat().st_mtime_ns
    main(command(pairs, whole))
    said = capsys.readouterr().out.splitlines()
    scores = [score for row in rows_of(whole) for score in row["scores"]]
    agreed = sum(row.get("agrees", False) for row in rows_of(whole))
    assert said[0] == f"finished already: {whole}"
    assert said[1].startswith(
        f"{whole}: 10 answers in 5 rows, score {np.mean(scores):.3f} +- {np.std(scores):.3f}; "
        f"agrees with {25 * agreed:.1f} % of 4 preferences ["
    )
    with pytest.raises(SystemExit) as stopped:
        main(command(pairs, whole, "--dtype", "bfloat16"))
    assert stopped.value.code == 2
    assert "dtype None instead of 'bfloat16'" in capsys.readouterr().err
    assert whole.stat().st_mtime_ns == before


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_stopped_run_goes_on(cut, whole, command, pairs, tmp_path, monkeypatch, capsys):
    """Stopped before its third batch; what the disk may hold after a kill: all, a line cut off, one missing."""
    go, kept, made, output = passes.batches_by_row, [], [], tmp_path / "scores.jsonl"

    def stopping(*arguments):
        for number, rows in enumerate(go(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            kept.append(len(rows))
            yield rows

    def counted(*arguments):
        for rows in go(*arguments):
            made.append(len(rows))
            yield rows

    with monkeypatch.context() as patch:
        patch.setattr(passes, "batches_by_row", stopping)
        with pytest.raises(SystemExit) as stopped:
            main(command(pairs, output))
    assert stopped.value.code == 130
    assert "the same command goes on from where it was" in capsys.readouterr().err
    assert not output.exists()
    partial = tmp_path / "scores.jsonl.partial"
    written = partial.read_bytes()
    assert written.count(b"\n") == sum(kept)
    partial.write_bytes([written, written[:-10], written[: written.rindex(b"\n", 0, -1) + 1]][cut])
    monkeypatch.setattr(passes, "batches_by_row", counted)
    main(command(pairs, output))
    assert sum(made) == 10 - kept[0] - (kept[1] if cut == 0 else 0)
    assert output.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_a_stopped_run_goes_on_in_other_batches(whole, command, pairs, tmp_path, monkeypatch, capsys):
    """Which change nothing but the last bits: for want of memory, say."""
    go, output = passes.batches_by_row, tmp_path / "scores.jsonl"

    def stopping(*arguments):
        yield next(iter(go(*arguments)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(passes, "batches_by_row", stopping)
        with pytest.raises(SystemExit):
            main(command(pairs, output))
    capsys.readouterr()
    main(command(pairs, output, "--batch-size", "3"))
    for found, expected in zip(rows_of(output), rows_of(whole), strict=True):
        np.testing.assert_allclose(found.pop("scores"), expected["scores"], atol=1e-5)
        assert found == {key: value for key, value in expected.items() if key != "scores"}
    main(command(pairs, output, "--batch-size", "2"))
    assert f"finished already: {output}" in capsys.readouterr().out


def test_one_answer_a_row_and_several(command, names, whole, pairs, tmp_path):
    """The same answers in other layouts have the same scores."""
    first, second = json.loads(pairs.read_text())[:2]
    answers = [[row[f"output_{one}"]["value"] for one in (1, 2)] for row in (first, second)]
    talk = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": answers[0][0]}]
    rows = [
        {"id": "a", "image": names[0], "conversations": talk},
        {"image": names[0], "question": QUESTION, "answer": answers[0][1]},
        {"image": names[1], "prompt": QUESTION, "answers": [*answers[1], answers[1][0]]},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main(command(tmp_path / "rows.jsonl", tmp_path / "out.jsonl"))
    one, two, many = rows_of(tmp_path / "out.jsonl")
    pair, other = (row["scores"] for row in rows_of(whole)[:2])
    assert (one["id"], two["id"], one.keys()) == ("a", "2", {"id", "row", "score"})
    np.testing.assert_allclose([one["score"], two["score"], *many["scores"]], [*pair, *other, other[0]], atol=1e-5)
    assert many.keys() == {"id", "row", "scores", "best"}
    assert many["best"] == int(np.argmax(many["scores"]))


def test_the_summarys_interval_is_over_images(names, pairs, world):
    """Two pairs about one image are drawn together: with all pairs on one image there is no interval."""
    records = read_answered(pairs, world / "images")[:4]
    rows = [{"scores": [0.0, 1.0], "agrees": place < 3} for place in range(4)]
    assert summary(rows, records).startswith("8 answers in 4 rows, score 0.500 +- 0.500; agrees with 75.0 % of 4 ")
    low, high = map(float, summary(rows, records).split("[")[1].rstrip("]").split(","))
    assert 0 <= low < 75 < high <= 100
    assert summary(rows, [records[0]] * 4).endswith("75.0 % of 4 preferences")
    assert summary([{"score": 2.0}], records[:1]) == "1 answers in 1 rows, score 2.000 +- 0.000"


def test_mistakes_leave_nothing(command, pairs, names, adapter, reward, world, tmp_path, capsys, monkeypatch):
    def refused(line):
        with pytest.raises(SystemExit) as stopped:
            main(line)
        assert stopped.value.code == 2
        # Folders and files that were there before, and those alone.
        assert not any(path.name.startswith(("scores", ".scores")) for path in tmp_path.iterdir())
        (said,) = capsys.readouterr().err.splitlines()
        return said.removeprefix("vlm-jax score: ")

    output = tmp_path / "scores.jsonl"
    assert refused(command(pairs, tmp_path / "scores.txt")).endswith("expected a name that ends in .jsonl")
    bare = [word for word in command(pairs, output) if word not in ("--facts", str(world / "image_to_caption.json"))]
    assert "found no --facts; expected --facts, which the reward model read in its training" in refused(bare)
    # The adapter's file holds the 24, so that the 12 was not found there.
    line = refused(command(pairs, output, "--resolution", "12"))
    assert line.startswith("found resolution 12 instead of 24; expected what the reward model was trained with, as ")
    assert "and no --reward-prompt" in refused(command(pairs, output, "--reward", adapter))
    shutil.copytree(reward, headless := tmp_path / "policy", ignore=shutil.ignore_patterns("*head*"))
    wanted = f"{headless}: found an adapter without a reward head; expected what `vlm-jax reward` wrote"
    assert refused(command(pairs, output, "--reward", headless)) == wanted
    (tmp_path / "rows.json").write_text(json.dumps([{"image": names[0], "question": "What?"}]))
    assert "rows.json, row 1: found the keys" in refused(command(tmp_path / "rows.json", output))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / names[0]).write_bytes((world / "images" / names[0]).read_bytes()[:100])
    (tmp_path / "rows.json").write_text(json.dumps([{"image": names[0], "question": "What?", "answer": "A kite."}]))
    line = command(tmp_path / "rows.json", output, "--images", tmp_path / "images")
    assert "rows.json, row 1: found an image that cannot be decoded" in refused(line)
    long = {"image": names[0], "question": "What?", "answer": "There is a kite. " * 1000}
    (tmp_path / "rows.json").write_text(json.dumps([long]))
    assert "rows.json, row 1: found " in refused(command(tmp_path / "rows.json", output))
    monkeypatch.setattr(passes, "batches_by_row", lambda *_: [{0: (None, math.nan)}])
    assert "row 1: found a score that is nan" in refused(command(pairs, output))
