"""A command of every verb that works, on the smallest files that its benchmark or layout allows.

Hostile commands are these with a single thing wrong, so that what is refused is that thing.
"""

import base64
import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from shared_ground import Shared

from vlm_jax.checkpoints.opening import TINY

Good = tuple[list[Any], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Ground:
    """A folder for one command, and what all of them share and none may change."""

    folder: Path
    shared: Shared

    def write(self, name: str, content: Any) -> Path:
        """Bytes and text as they are, all else as JSON."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)
        return path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def output(self) -> Path:
        return self.folder / "out.json"


def png(size: tuple[int, int] = (24, 16), mode: str = "RGB", form: str = "PNG", **how: Any) -> bytes:
    """A picture of grey steps."""
    stream = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert(mode).save(stream, form, **how)
    return stream.getvalue()


def conversation(image: str | None = "0.png", answer: str | None = "A cat.", question: str = "<image>\nWhat is it?"):
    turns = [{"from": "human", "value": question}]
    if answer is not None:
        turns.append({"from": "gpt", "value": answer})
    return {"id": "x", "conversations": turns} | ({} if image is None else {"image": image})


def pair(image: str = "0.png", **changes: Any) -> dict[str, Any]:
    outputs = {"output_1": {"from": "gpt", "value": "Yes."}, "output_2": {"from": "gpt", "value": "No."}}
    return {**conversation(image, None), **outputs, "preference": 1, "hallucination": False, **changes}


INSTRUCTIONS = [conversation(), conversation("1.jpg", "A dog.")]
PAIRS = [pair(), pair("1.jpg")]
PROMPTS = [conversation(answer=None), conversation("1.jpg", None)]
FACTS = {"0.png": ["There is a cat."], "1.jpg": ["There is a dog."]}
POPE = [
    {"question_id": place, "image": name, "text": f"Is there a {thing} in the image?", "label": label}
    for place, (name, thing, label) in enumerate((("0.png", "cat", "yes"), ("1.jpg", "dog", "no")), 1)
]
POPE_ANSWERS = [{"question_id": 1, "text": "Yes"}, {"question_id": 2, "text": "No"}]
MMHAL = [
    {
        "question_type": kind,
        "question_topic": "animal",
        "image_id": str(place),
        "image_src": f"https://host/{place}.png",
        "image_content": ["Dog"],
        "question": f"What about {place}?",
        "gt_answer": "A dog.",
        "model_answer": "",
    }
    for place, kind in enumerate(("attribute", "adversarial"))
]
LLAVA_BENCH = [
    {"question_id": place, "image": "0.png", "text": f"What {place}?", "category": kind}
    for place, kind in enumerate(("conv", "detail", "complex"))
]
HALLUSION = {
    "category": "VD",
    "subcategory": "illusion",
    "set_id": "0",
    "figure_id": "1",
    "question_id": "0",
    "visual_input": "1",
    "sample_note": "circle",
    "question": "Is it so?",
    "gt_answer_details": "It is.",
    "gt_answer": "1",
    "filename": "./VD/illusion/0_1.png",
}
MME = [
    {"question_id": "count/1.png", "category": "count", "question": f"Is it {number}?", "answer": answer}
    for number, answer in ((1, "Yes"), (2, "No"))
]
VQA = {"questions": [{"question_id": 1, "image_id": 1, "question": "What is it?"}]}
VQA_NOTE = {"question_id": 1, "image_id": 1, "question_type": "what", "answer_type": "other"}
VQA_NOTE |= {"answers": [{"answer": "cat"}] * 10}
AOKVQA = {
    "question_id": "a",
    "image_id": 7,
    "question": "Which pet?",
    "choices": ["cat", "dog", "cow", "pig"],
    "correct_choice_idx": 1,
    "direct_answers": ["dog"] * 10,
    "difficult_direct_answer": False,
}
AMBER = [
    {"id": 1, "type": "generative", "truth": ["tree"], "hallu": ["dog"]},
    {"id": 2, "type": "discriminative-hallucination", "truth": "no"},
]
INSTANCES = {
    "images": [{"id": 1}],
    "categories": [{"id": 5, "name": "dog"}],
    "annotations": [{"image_id": 1, "category_id": 5}],
}
CAPTIONS = {"annotations": [{"image_id": 1, "caption": "A dog on a bench."}]}
OBJECTS = {"1": ["dog", "cat", "cup"], "2": ["bus"], "3": ["car", "dog"], "4": ["chair"]}


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: list[dict[str, Any]]) -> str:
    """With tabs, as MMBench's."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


MMBENCH: list[dict[str, Any]] = [
    {
        "index": 1,
        "question": "Which?",
        "A": "cat",
        "B": "dog",
        "answer": "A",
        "category": "pets",
        "l2-category": "what",
        "split": "dev",
        "image": base64.b64encode(png()).decode(),
    }
]


def _training(ground: Ground) -> dict[str, Any]:
    return {"--checkpoint": "tiny", "--images": ground.shared.images, "--out": ground.out, "--batch-size": 2}


def _sft(ground: Ground) -> Good:
    return [], {**_training(ground), "--data": ground.write("rows.json", INSTRUCTIONS), "--epochs": 1}


def _reward(ground: Ground) -> Good:
    rows = ground.write("rows.json", PAIRS)
    return [], {**_training(ground), "--preferences": rows, "--held-out": 0, "--epochs": 1}


def _ppo(ground: Ground) -> Good:
    rows = ground.write("rows.json", PROMPTS)
    made = {"--prompts": rows, "--reward": ground.shared.reward, "--steps": 1, "--minibatches": 1, "--microbatches": 1}
    return [], {**_training(ground), **made, "--max-new-tokens": 4}


def _sample(ground: Ground) -> Good:
    rows = ground.write("rows.json", PROMPTS)
    where = {"--prompts": rows, "--images": ground.shared.images, "--output": ground.folder / "out.jsonl"}
    return [], {"--checkpoint": "tiny", **where, "--n": 2, "--max-new-tokens": 4, "--batch-size": 4}


def _score(ground: Ground) -> Good:
    where = {"--data": ground.write("rows.json", PAIRS), "--images": ground.shared.images}
    model = {"--checkpoint": "tiny", "--reward": ground.shared.reward, "--batch-size": 4}
    return [], {**model, **where, "--output": ground.folder / "out.jsonl"}


def _scored(**files: Any) -> Callable[[Ground], Good]:
    """A benchmark with a file of answers."""

    def made(ground: Ground) -> Good:
        given = {}
        for name, content in files.items():
            option, ending = name.rsplit("__", 1)
            given[f"--{option.replace('_', '-')}"] = ground.write(f"{option}.{ending}", content)
        return [], {**given, "--output": ground.output}

    return made


def _judged(judgements: list[dict[str, Any]], **files: Any) -> Callable[[Ground], Good]:
    def made(ground: Ground) -> Good:
        places, options = _scored(**files)(ground)
        return places, {**options, "--judge": f"replay:{ground.write('judgements.jsonl', lines(judgements))}"}

    return made


def _completion(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"model": "judge", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


_SHARED_RESULT = "pope.json"
_COMMANDS: dict[str, Callable[[Ground], Good]] = {
    "demo": lambda ground: ([], {"--out": ground.out}),
    "scenes": lambda ground: ([], {"--out": ground.out, **{f"--{split}": 0 for split in _SPLITS}, "--test": 2}),
    "annotate": lambda ground: ([], {"--checkpoint": "tiny", "--world": ground.shared.world}),
    "sft": _sft,
    "reward": _reward,
    "ppo": _ppo,
    "plan": lambda ground: ([], {"--preset": "scenes-tiny", "--stage": "ppo", "--topology": "h100x1"}),
    "recipe": lambda ground: (["show", "scenes-tiny/ppo"], {}),
    "sample": _sample,
    "score": _score,
    "generate": lambda ground: ([], {"--checkpoint": "tiny", "--prompt": "What is it?", "--max-new-tokens": 4}),
    "convert": lambda ground: ([TINY, ground.out], {}),
    "export": lambda ground: (["tiny", ground.out], {}),
    "merge": lambda ground: (["tiny", ground.shared.policy, ground.out], {}),
    "checkpoint": lambda ground: (["show", "tiny"], {}),
    "eval scenes": lambda ground: (
        [],
        {"--checkpoint": "tiny", "--world": ground.shared.world, "--output": ground.output},
    ),
    "eval pope": _scored(questions__jsonl=lines(POPE), answers__jsonl=lines(POPE_ANSWERS)),
    "eval pope-mean": lambda ground: (
        [],
        {"--results": (ground.shared.pope, ground.shared.other_pope), "--output": ground.output},
    ),
    "eval chair": _scored(objects__json=OBJECTS, answers__jsonl=lines([{"image_id": "1", "caption": "A dog."}])),
    "eval amber": _scored(
        annotations__json=AMBER,
        relations__json={"tree": ["bush"], "dog": []},
        safe_words__txt="light\n",
        answers__json=[{"id": 1, "response": "A tree."}, {"id": 2, "response": "No"}],
    ),
    "eval hallusionbench": _scored(
        data__json=[HALLUSION], answers__json=[{**HALLUSION, "model_prediction": "Yes", "gpt4v_output_gpt_check": "1"}]
    ),
    "eval mmhal": _judged(
        [_completion("Good.\nRating: 5"), _completion("Bad.\nRating: 1")],
        questions__json=MMHAL,
        answers__jsonl=lines([{"question_id": place, "text": "A dog."} for place in range(2)]),
    ),
    "eval llava-bench": _judged(
        [{"question_id": place, "content": "8 7\nGood."} for place in range(3)],
        questions__jsonl=lines(LLAVA_BENCH),
        references__jsonl=lines([{"question_id": place, "text": "A dog."} for place in range(3)]),
        answers__jsonl=lines([{"question_id": place, "text": "A cat."} for place in range(3)]),
    ),
    "eval mme": _scored(
        questions__jsonl=lines(MME),
        answers__jsonl=lines(
            [{"question_id": row["question_id"], "prompt": row["question"], "text": row["answer"]} for row in MME]
        ),
    ),
    "eval vqa": _scored(
        questions__json=VQA,
        annotations__json={"annotations": [VQA_NOTE]},
        answers__jsonl=lines([{"question_id": 1, "answer": "cat"}]),
    ),
    "eval aokvqa": _scored(questions__json=[AOKVQA], answers__json={"a": {"multiple_choice": "dog"}}),
    "eval mmbench": lambda ground: (
        [],
        {
            "--questions": ground.write("questions.tsv", table(MMBENCH)),
            "--answers": ground.write("answers.jsonl", lines([{"question_id": 1, "text": "A"}])),
            "--no-circular": True,
            "--output": ground.output,
        },
    ),
    "eval judge-bias": lambda ground: (
        [],
        {
            "--preferences": ground.write("rows.json", PAIRS),
            "--images": ground.shared.images,
            "--output": ground.output,
            "--checkpoint": "tiny",
            "--reward": ground.shared.reward,
            "--biases": "position",
        },
    ),
    "eval chair-objects": _scored(instances__json=INSTANCES, captions__json=CAPTIONS),
    "eval pope-questions": lambda ground: (
        [],
        {
            "--objects": ground.write("objects.json", OBJECTS),
            "--output": ground.folder / "out.jsonl",
            "--per-image": 1,
        },
    ),
}
_SPLITS = ("train", "preference", "prompts", "validation")


def good(verb: str, ground: Ground) -> Good:
    """Positional arguments and options of a command that works."""
    return _COMMANDS[verb](ground)


VERBS_AND_BENCHMARKS = tuple(_COMMANDS)
