"""The commands in README.md's blocks of code, and small files under the names that they use."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import torch
from original_llava import original_config, original_tensors, write_tower
from PIL import Image
from random_llava import CONFIG, torch_llava

from vlm_jax.checkpoints.adapters import save_adapter
from vlm_jax.checkpoints.export import export_adapter
from vlm_jax.checkpoints.opening import TINY
from vlm_jax.checkpoints.tokenizer_files import copy_tokenizer
from vlm_jax.models.adapters import init_lora

README = Path(__file__).parents[2] / "README.md"
# With a row for every word of the tiny model's tokenizer, whose image token is 3.
SMALL = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, vocab_size=512), image_token_id=3)


def commands(heading: str | None = None) -> list[list[str]]:
    """Words of every command in the blocks of one section, or of all; lines that end in a backslash are joined."""
    text = README.read_text(encoding="utf-8")
    if heading is not None:
        (text,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    # Other blocks hold Python, or what was printed.
    blocks = re.findall(r"^```\n((?:vlm-jax|make) .*?)^```$", text, re.S | re.M)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def verbs(heading: str | None = None) -> list[list[str]]:
    """What stands behind ``vlm-jax``."""
    return [words[1:] for words in commands(heading) if words[0] == "vlm-jax"]


def write_checkpoints(folder: Path) -> None:
    """What "Checkpoints" converts, in the layouts of those names, from one small random LLaVA."""
    model = torch_llava(SMALL)
    tensors = original_tensors(model, SMALL)
    without_tower = {name: tensor for name, tensor in tensors.items() if "vision_tower" not in name}
    for name in ("llava-v1.5-7b", "llava-llama-2-13b-chat"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(original_config(SMALL)))
        torch.save(without_tower, folder / name / "pytorch_model.bin")
        copy_tokenizer(TINY, folder / name)
    for name in ("clip-vit-large-patch14", "clip-vit-large-patch14-336"):
        write_tower(folder / name, model, "vision_model.")
    model.save_pretrained(folder / "llava-1.5-7b-hf")
    copy_tokenizer(TINY, folder / "llava-1.5-7b-hf")
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_lora(SMALL, jax.random.key(0)))
    lora = jax.tree.map(lambda leaf: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes)
    save_adapter(folder / "trained", SMALL, {"lora": lora})
    export_adapter(folder / "trained", folder / "rlhf_lora_adapter_model", "llava")


def write_photo(path: Path) -> None:
    Image.radial_gradient("L").resize((96, 64)).convert("RGB").save(path)


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_chair(folder: Path) -> None:
    """COCO's objects by image, CHAIR's table of names, captions as LLaVA's scripts write them."""
    (folder / "objects.json").write_text(json.dumps({"139": ["dog", "chair"], "285": ["cat"]}))
    (folder / "synonyms.txt").write_text("dog, puppy\ncat, kitten\nchair, seat\n")
    captions = {139: "A puppy beside a cat.", 285: "A kitten on a seat."}
    write_lines(folder / "captions.jsonl", [{"image_id": image, "caption": text} for image, text in captions.items()])


def write_pope(folder: Path, name: str = "coco_pope_popular.json") -> None:
    """POPE's questions about two images, the images themselves, and LLaVA's answers."""
    rows = [
        {
            "question_id": number,
            "image": f"COCO_val2014_{number % 2:012d}.jpg",
            "text": f"Is there a {thing} in the image?",
            "label": label,
        }
        for number, (thing, label) in enumerate([("dog", "yes"), ("cat", "no"), ("bus", "yes"), ("cup", "no")], 1)
    ]
    write_lines(folder / name, rows)
    (folder / "val2014").mkdir(exist_ok=True)
    for row in rows:
        write_photo(folder / "val2014" / row["image"])
    said = ("Yes", "Yes, there is.", "no", "No.")
    answers = [
        {"question_id": row["question_id"], "prompt": row["text"], "text": text}
        for row, text in zip(rows, said, strict=True)
    ]
    write_lines(folder / "answers.jsonl", answers)


def write_mmhal(folder: Path) -> None:
    """MMHal-Bench's template for one question of each of its eight types, and LLaVA's answers."""
    kinds = "attribute adversarial comparison counting relation environment holistic other".split()
    template = [
        {
            "question_type": kind,
            "question_topic": "animal",
            "image_id": f"{number:x}",
            "image_src": f"https://host/8/{number:03d}_o.jpg",
            "image_content": ["Dog", "Boat"],
            "question": f"What about {number}?",
            "gt_answer": f"Reference {number}.",
            "model_answer": "",
        }
        for number, kind in enumerate(kinds)
    ]
    (folder / "mmhal-bench_answer_template.json").write_text(json.dumps(template))
    answers = [
        {"question_id": number, "prompt": row["question"], "text": f"Answer {number}."}
        for number, row in enumerate(template)
    ]
    write_lines(folder / "answers.jsonl", answers)
