"""Names of images stand in files of questions, which others write: none leads out of --images, to a model, to a judge
or onto a page."""

import base64
import json
import os

import pytest
from chat_server import ChatServer, completion
from PIL import Image

from vlm_jax.cli import main

LABEL = {"question_id": 1, "text": "Is there a dog?", "label": "no"}
HALLUSION = {
    "category": "VD", "subcategory": "map", "visual_input": "1", "set_id": "0", "figure_id": "0", "question_id": "0",
    "question": "Is it?", "gt_answer": "1",
}  # fmt: skip
VQA = {"question_id": 1, "image_id": 1, "question": "Up?"}
ANNOTATION = {"question_id": 1, "image_id": 1, "question_type": "is", "answer_type": "yes/no"}
# Benchmark -> its files for an image of this name, and further options.
BENCHMARKS = {
    "pope": lambda name: ({"--questions": [{**LABEL, "image": name}]}, ["--mode", "lmms-eval"]),
    "hallusionbench": lambda name: ({"--data": [{**HALLUSION, "filename": name}]}, ["--mode", "rule"]),
    "vqa": lambda name: (
        {
            "--questions": {"questions": [VQA]},
            "--annotations": {"annotations": [{**ANNOTATION, "answers": [{"answer": "no", "answer_id": 1}]}]},
        },
        ["--image-name", f"{name[:-4]}{{:01d}}.png"],
    ),
    "chair": lambda name: ({"--objects": {"1": ["dog"]}}, ["--image-name", f"{name[:-4]}{{}}.png"]),
    "amber": lambda name: (
        {
            "--annotations": [{"id": 1, "type": "discriminative-attribute-state", "truth": "yes"}],
            "--questions": [{"id": 1, "image": name, "query": "Is it?"}],
        },
        [],
    ),
    "mme": lambda name: (
        {
            "--questions": [
                {"question_id": f"art/{name}", "category": name.rpartition("/")[0] or ".", "question": q, "answer": a}
                for q, a in (("Is it?", "Yes"), ("Is it not?", "No"))
            ]
        },
        [],
    ),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "in").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for place in ("images/a1.png", "images/in/a1.png", "images/a.png", "a.png", "elsewhere/a.png", "elsewhere/a1.png"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / place)
    os.symlink(tmp_path / "elsewhere", tmp_path / "images" / "up")
    return tmp_path


def run(name, image, folder, *more):
    """The exit code of scoring one answer with a page of cases."""
    files, options = BENCHMARKS[name](image)
    command = ["eval", name, "--output", folder / "out.json", "--images", folder / "images", *options, *more]
    for option, content in files.items():
        path = folder / f"{option.strip('-')}.json"
        path.write_text(json.dumps(content))
        command += [option, path]
    rows = [{"question_id": 1, "text": "maybe"}]
    if name == "hallusionbench":
        rows = [{"question_id": "VD_map_0_0_0", "text": "maybe"}]
    if name == "chair":
        rows = [{"image_id": 1, "caption": "A cat."}]
    if name == "mme":
        rows = [{"question_id": f"art/{image}", "prompt": text, "text": "maybe"} for text in ("Is it?", "Is it not?")]
        for row, question in zip(rows, json.loads((folder / "questions.json").read_text()), strict=True):
            row["question_id"] = f"{question['category']}/{image.rpartition('/')[2]}"
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        main([*map(str, command), "--answers", str(folder / "answers.jsonl")])
    except SystemExit as stopped:
        return stopped.code
    return 0


@pytest.mark.parametrize("name", BENCHMARKS)
def test_pages_show_no_other_pictures(name, folder, capsys):
    # To MME the folder above the images' is a subtask, whose images are these.
    for image in ("../a.png", "up/a.png")[name == "mme" :]:
        assert run(name, image, folder) == 2, image
        (line,) = capsys.readouterr().err.splitlines()
        assert "which does not lie below" in line
        assert line.endswith("or --allow-outside")
        assert not (folder / "out.html").exists()
    assert run(name, "up/a.png", folder, "--allow-outside") == 0
    assert run(name, "a.png", folder) == 0
    assert "data:image/jpeg" in (folder / "out.html").read_text()


@pytest.mark.parametrize("name", ["pope", "hallusionbench", "chair"])
def test_a_checkpoint_is_shown_no_other_pictures(name, folder, capsys, asked):
    files, options = BENCHMARKS[name]("../a.png")
    command = ["eval", name, "--output", folder / "out.json", "--images", folder / "images", *options]
    for option, content in files.items():
        (folder / "file.json").write_text(json.dumps(content))
        command += [option, folder / "file.json"]
    with pytest.raises(SystemExit):
        main([*map(str, command), "--checkpoint", "tiny"])
    assert "which does not lie below" in capsys.readouterr().err
    assert not asked.to_ask


@pytest.fixture
def judge(folder, monkeypatch, capsys):
    """The last command's complaint and the bodies that the judge was sent."""
    pytest.importorskip("openai", reason="needs the judge extra")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run(image, *more):
        (folder / "q.jsonl").write_text(json.dumps({"question_id": 0, "image": image, "text": "?", "category": "conv"}))
        (folder / "c.jsonl").write_text(json.dumps({"image": image, "caption": "A dog."}))
        (folder / "a.jsonl").write_text(json.dumps({"question_id": 0, "text": "A cat."}))
        with ChatServer(lambda number, body: completion("8 7")) as server:
            command = [
                "eval",
                "llava-bench",
                "--questions",
                "q.jsonl",
                "--references",
                "a.jsonl",
                "--context",
                "c.jsonl",
            ]
            command += ["--answers", "a.jsonl", "--output", "out.json", "--images", "images", "--judge-image"]
            monkeypatch.chdir(folder)
            try:
                main([*command, "--judge", server.url, "--judge-model", "m", *more])
            except SystemExit:
                return capsys.readouterr().err, server.bodies
        return "", server.bodies

    return run


def test_a_judge_is_sent_no_other_file(judge, folder):
    (folder / "passwd").write_text("root:x:0:0")
    os.symlink(folder / "passwd", folder / "images" / "link.png")
    (folder / "images" / "text.png").write_text("root:x:0:0")
    for image in ("../passwd", "../../../../../../etc/passwd", "/etc/passwd", "link.png", "up/a.png"):
        complaint, bodies = judge(image)
        assert "which does not lie below images" in complaint
        assert not bodies
    complaint, bodies = judge("text.png")
    assert "images/text.png: found an image that cannot be decoded" in complaint
    assert not bodies
    # Whoever means it; and still only images.
    complaint, bodies = judge("../passwd", "--allow-outside")
    assert "cannot be decoded" in complaint
    assert not bodies
    for image, more in (("up/a.png", ["--allow-outside"]), ("in/a1.png", [])):
        complaint, bodies = judge(image, *more)
        assert not complaint
        (shown, _) = bodies[0]["messages"][-1]["content"]
        sent = base64.b64decode(shown["image_url"]["url"].partition(",")[2])
        assert sent == (folder / "images" / image).read_bytes()
