"""Bad input through the real command line: code 2, one line that names file and row, nothing left half-written."""

import json
import shutil

import pytest
from PIL import Image

from vlm_jax.cli import main


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("0.png", "1.jpg"):
        Image.radial_gradient("L").resize((96, 64)).convert("RGB").save(folder / name)
    return folder


def conversation(name, answer="A cat."):
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}]
    if answer is not None:
        turns.append({"from": "gpt", "value": answer})
    return {"id": name, "image": name, "conversations": turns}


def pair(name, second="No."):
    outputs = {"output_1": {"from": "gpt", "value": "Yes."}, "output_2": {"from": "gpt", "value": second}}
    return {**conversation(name, None), **outputs, "preference": 1}


@pytest.fixture
def write(tmp_path):
    def save(rows):
        path = tmp_path / "data.json"
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
        return path

    return save


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail; returns the one line it says."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        verb = " ".join(map(str, arguments[: 2 if arguments[0] == "eval" else 1]))
        assert line.startswith(f"vlm-jax {verb}: ")
        return line

    return run


@pytest.fixture
def commands(checkpoint, adapter, images, tmp_path):
    """verb -> the command line for a file of rows."""
    ending = ["--images", images, "--out", tmp_path / "out", "--batch-size", "2"]
    start = ["--checkpoint", checkpoint]
    return {
        "sft": lambda data: ["sft", *start, "--data", data, *ending],
        "reward": lambda data: ["reward", *start, "--preferences", data, "--held-out", "0", *ending],
        "ppo": lambda data: ["ppo", *start, "--prompts", data, "--reward", adapter, "--steps", "1", *ending],
    }


ROWS = {"sft": conversation, "reward": pair, "ppo": conversation}


@pytest.mark.parametrize("verb", ROWS)
def test_a_missing_image(verb, commands, refused, write, images, tmp_path):
    line = refused(*commands[verb](write([ROWS[verb](name) for name in ("0.png", "gone.png")])))
    assert f"{tmp_path / 'data.json'}, row 2: found no image file {images / 'gone.png'}" in line
    assert not (tmp_path / "out").exists()


@pytest.fixture
def readers(commands, checkpoint, adapter, images, tmp_path):
    """verb -> its command line for a file of pairs; all that read rows with pictures."""
    start, reward = ["--checkpoint", checkpoint, "--images", images], ["--reward", adapter, "--reward-prompt", "short"]
    output, bias = ["--output", tmp_path / "out.jsonl"], ["--output", tmp_path / "out.json"]
    return commands | {
        "sample": lambda data: ["sample", *start, "--prompts", data, *output],
        "score": lambda data: ["score", *start, "--data", data, *reward, *output],
        "eval judge-bias": lambda data: ["eval", "judge-bias", *start, "--preferences", data, *reward, *bias],
    }


@pytest.mark.parametrize("verb", ["sft", "reward", "ppo", "sample", "score", "eval judge-bias"])
def test_a_picture_outside_the_folder(verb, readers, refused, write, images, tmp_path):
    """Refused, unless it is allowed: then the next row's picture, which is not there, is what is wrong."""
    (images / "0.png").rename(tmp_path / "outside.png")
    row = ROWS.get(verb, pair)
    command = readers[verb](write([row("../outside.png"), row("gone.png")]))
    line = refused(*command)
    assert "row 1: found '../outside.png', which does not lie below" in line
    assert line.endswith("expected a name below it, or --allow-outside")
    assert f"row 2: found no image file {images / 'gone.png'}" in refused(*command, "--allow-outside")


@pytest.mark.parametrize("verb", ROWS)
def test_a_malformed_row(verb, commands, refused, write, tmp_path):
    good = json.dumps(ROWS[verb]("0.png"))
    line = refused(*commands[verb](write(f"{good}\n{good}\n{good[:-5]}\n")))
    assert f"{tmp_path / 'data.json'}, row 3: found malformed JSON at line 3, column" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("verb", "row", "found"),
    [
        ("sft", conversation("0.png", "  "), "an answer without text"),
        ("sft", conversation("0.png", None), "conversations that end with a question"),
        ("reward", pair("0.png", ""), "an answer output_2 without text"),
        ("reward", {**pair("0.png"), "preference": 3}, "preference 3"),
        ("ppo", {**conversation("0.png"), "caption_type": 9}, "caption_type 9"),
    ],
)
def test_an_odd_row(verb, row, found, commands, refused, write, tmp_path):
    line = refused(*commands[verb](write([ROWS[verb]("0.png"), row])))
    assert f"{tmp_path / 'data.json'}, row 2: found {found}" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("Yes", "Yes"), ("Yes", "unquestionably")])
def test_a_verdict_of_other_words(words, commands, refused, write, tmp_path):
    line = refused(*commands["reward"](write([pair("0.png"), pair("1.jpg")])), "--verdict", *words)
    assert f"found --verdict 'Yes' of 1 tokens, {words[1]!r} of " in line
    assert line.endswith("expected two different words of one token each")
    assert not (tmp_path / "out").exists()


def test_a_truncated_image(commands, refused, write, images, tmp_path):
    whole = (images / "1.jpg").read_bytes()
    (images / "1.jpg").write_bytes(whole[: len(whole) // 2])
    data = write([conversation("0.png"), conversation("1.jpg")])
    line = refused(*commands["sft"](data))
    assert f"{data}, row 2: found an image that cannot be decoded" in line
    assert str(images / "1.jpg") in line
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_is_too_long(commands, refused, write, tmp_path):
    long = conversation("1.jpg")
    long["conversations"][0]["value"] = "<image>\n" + "Is there a cat? " * 20
    data = write([conversation("0.png"), long])
    line = refused(*commands["ppo"](data), "--prompt-length", "40")
    assert f"{data}, row 2: found a prompt of " in line
    assert line.endswith("positions (image span included); expected at most 40")
    assert not (tmp_path / "out").exists()


def test_an_evaluation_turn_that_is_too_long(commands, refused, write):
    data = write([conversation("0.png"), conversation("1.jpg")])
    line = refused(*commands["ppo"](data), "--suffix-length", "2")
    assert f"{data}, row " in line
    assert line.endswith("positions; expected at most 2")


def test_generate_says_what_is_wrong(checkpoint, refused, images, tmp_path):
    start = ["generate", "--checkpoint", checkpoint, "--prompt"]
    line = refused(*start, "hi", "--image", images / "gone.png")
    assert line.endswith(f"{images / 'gone.png'}: found no such file; expected an image file")
    (tmp_path / "cut.jpg").write_bytes((images / "1.jpg").read_bytes()[:400])
    assert f"{tmp_path / 'cut.jpg'}: found an image that cannot be decoded" in refused(
        *start, "hi", "--image", tmp_path / "cut.jpg"
    )
    assert "found <image> in a question without an image" in refused(*start, "<image>\nWhat is it?")
    assert refused(*start, "What is it? " * 30, "--max-length", "64").endswith("expected at most 64")
    assert "--top-p" in refused(*start, "hi", "--top-p", "0")
    assert "expected max_new_tokens >= 1, temperature 0 or 1e-06 to" in refused(*start, "hi", "--temperature", "1e-40")
    assert "'tiny-llava'" in refused(*start, "hi", "--preset", "tiny-llava")
    assert "needs 1000 devices" in refused(*start, "hi", "--mesh.data", "1000")


@pytest.mark.parametrize("verb", ["sft", "ppo"])
def test_a_checkpoint_of_another_preset(verb, commands, refused, write, checkpoint, tmp_path):
    line = refused(*commands[verb](write([conversation("0.png")] * 2)), "--preset", "llava-1.5-7b")
    assert f"{checkpoint / 'config.json'}: found " in line
    assert line.endswith("expected a checkpoint of llava-1.5-7b")
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_there_or_not_whole(refused, checkpoint, adapter, world, tmp_path):
    gone = tmp_path / "gone"
    ask = ["generate", "--prompt", "hi", "--checkpoint"]
    assert f"{gone}: found no such folder" in refused(*ask, gone)
    assert f"{gone}: found no adapter_config.json" in refused(*ask, checkpoint, "--adapter", gone)
    line = refused(*ask, checkpoint, "--adapter", adapter)
    assert "found a reward model, or a value model (it has a head); expected a policy's adapter" in line
    assert "expected --layout peft" in refused("export", adapter, tmp_path / "out")
    shutil.copytree(checkpoint, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert str(weights) in refused(*ask, tmp_path / "cut")


@pytest.mark.parametrize("verb", [["annotate"], ["eval", "scenes"]])
def test_a_world_that_is_not_there(verb, refused, checkpoint, tmp_path):
    out = ["--output", tmp_path / "scores.json"] if "eval" in verb else []
    line = refused(*verb, "--checkpoint", checkpoint, "--world", tmp_path / "gone", *out)
    assert str(tmp_path / "gone") in line


def test_a_world_without_its_questions(refused, checkpoint, world, tmp_path):
    shutil.copytree(world, tmp_path / "world")
    for name in ("pope_test_random.jsonl", "mmhal_test.json"):
        (tmp_path / "world" / name).rename(tmp_path / name)
        line = refused(
            "eval", "scenes", "--checkpoint", checkpoint, "--world", tmp_path / "world", "--output", tmp_path / "out"
        )
        assert f"{tmp_path / 'world' / name}: found no such file" in line
        (tmp_path / name).rename(tmp_path / "world" / name)


@pytest.mark.parametrize("verb", ["sft", "ppo"])
def test_a_batch_that_the_devices_cannot_share(verb, commands, refused, write):
    data = write([ROWS[verb](name) for name in ("0.png", "1.jpg")])
    line = refused(*commands[verb](data), "--batch-size", "2", "--mesh.data", "4")
    assert line.endswith("found a batch of 2 rows; expected a multiple of 4 (data x fsdp devices)")


def test_a_checkpoint_without_a_tokenizer(refused, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*"))
    assert str(tmp_path / "bare") in refused("generate", "--prompt", "hi", "--checkpoint", tmp_path / "bare")


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("ppo", ["--minibatches", "3"]),
        ("ppo", ["--microbatches", "3"]),
        ("ppo", ["--rollout-parts", "3"]),
        ("ppo", ["--resolution", "0"]),
        ("ppo", ["--temperature", "-1"]),
        ("sft", ["--microbatches", "3"]),
        ("sft", ["--microbatches", "0"]),
        ("reward", ["--microbatches", "3"]),
        ("reward", ["--held-out", "3"]),
        ("reward", ["--epochs", "0"]),
    ],
)
def test_numbers_that_do_not_fit_together(verb, options, commands, refused, write, tmp_path):
    refused(*commands[verb](write([ROWS[verb](name) for name in ("0.png", "1.jpg")])), *options)
    assert not (tmp_path / "out").exists()


def test_other_options_for_a_run_that_began(commands, refused, write, tmp_path):
    data = write([conversation("0.png"), conversation("1.jpg")])
    (tmp_path / "out" / "steps" / "3").mkdir(parents=True)
    (tmp_path / "out" / "run.json").write_text('{"settings": {"seed": 7}, "base": {}}')
    line = refused(*commands["sft"](data))
    assert f"{(tmp_path / 'out' / 'run.json').resolve()}: found " in line
    assert "settings.seed 7 instead of 0" in line


def test_pairs_that_teach_nothing(refused, checkpoint, images, write, tmp_path, capsys):
    start = ("reward", "--checkpoint", checkpoint, "--images", images, "--out", tmp_path / "out", "--held-out", "0")
    more = (*start, "--batch-size", "1", "--max-length", "150")
    line = refused(*more, "--preferences", write([pair("0.png", "Yes."), pair("0.png", "Yes.")]))
    assert "2 of 2 pairs have two equal answers, which teach nothing; expected answers that differ" in line


def test_a_run_among_the_pictures(refused, checkpoint, images, write, tmp_path):
    more = ("--data", write([conversation("0.png")]), "--images", images, "--out", images, "--batch-size", "1")
    line = refused("sft", "--checkpoint", checkpoint, *more, "--max-length", "100")
    assert line.endswith(f"{images}: found --out in the folder of the images; expected a folder of the run's own")


def test_no_row_with_a_picture_is_told(checkpoint, write, images, tmp_path, capsys):
    rows = [{"id": i, "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a"}]} for i in "ab"]
    out = ["--out", str(tmp_path / "out"), "--batch-size", "1", "--epochs", "1", "--max-length", "60"]
    main(["sft", "--checkpoint", str(checkpoint), "--data", str(write(rows)), "--images", str(images), *out])
    assert "none of 2 rows shows a picture" in capsys.readouterr().out


def test_devices_without_room_are_one_line(monkeypatch, capsys):
    class JaxRuntimeError(RuntimeError):
        pass

    def run(options):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 40 bytes.\nmore\nlines")

    monkeypatch.setattr("vlm_jax.commands.recipe.run", run)
    with pytest.raises(SystemExit, match="2"):
        main(["recipe", "list"])
    line = capsys.readouterr().err
    assert line.startswith("vlm-jax recipe: Out of memory allocating 40 bytes. Expected a smaller batch")
    assert line.count("\n") == 1
