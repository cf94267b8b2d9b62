"""How long scoring takes, and in how much memory: CHAIR and POPE on one core, from files to the result and its page.

    python -m experiments.eval_speed.run --folder /somewhere

Captions and questions are drawn: about a hundred words a caption, six questions an image, as COCO's have.
"""

import dataclasses
import json
import platform
import random
from collections.abc import Iterable
from pathlib import Path

import tyro

from experiments.claims import record
from experiments.generated import replace_between
from experiments.measured import measured
from vlm_jax.evals.chair.coco_objects import read_names
from vlm_jax.files import read_json, write_json
from vlm_jax.versions import versions

_HERE = Path(__file__).parent
_SENTENCES = (
    "The image features a {} near a {}, with people walking by.",
    "There are several {} in the scene, one of them on the left side and others further back.",
    "A {} can be seen on the table, and two {} are placed close to it.",
    "In the background, there is a {}, which adds to the lively atmosphere of the place.",
    "Additionally, the {} in the middle of the room doesn't seem to be used by anybody.",
)
_PER_CAPTION = 7
_PER_IMAGE = 6
_KEPT = ("seconds", "cpu_seconds", "peak_gib")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        folder: For the files that are scored.
        captions: Sizes of CHAIR's runs.
        questions: Sizes of POPE's runs.
    """

    folder: Path
    captions: tuple[int, ...] = (10_000, 100_000)
    questions: tuple[int, ...] = (100_000, 1_000_000)


def write_lines(path: Path, rows: Iterable[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def chair(folder: Path, count: int) -> dict:
    rng, names = random.Random(0), sorted(read_names().official)
    objects = sorted(set(read_names().official.values()))

    def caption() -> str:
        drawn = (rng.choice(_SENTENCES) for _ in range(_PER_CAPTION))
        return " ".join(text.format(*rng.choices(names, k=2)) for text in drawn)

    answers = write_lines(folder / "captions.jsonl", ({"image_id": i, "caption": caption()} for i in range(count)))
    write_json(folder / "objects.json", {str(i): rng.sample(objects, 4) for i in range(count)})
    files = ["--objects", folder / "objects.json", "--answers", answers, "--output", folder / "chair.json"]
    return measured("eval", "chair", *files, cores=1)


def pope(folder: Path, count: int) -> dict:
    rng = random.Random(0)

    def question(number: int) -> dict:
        label, image = rng.choice(("yes", "no")), f"COCO_val2014_{number // _PER_IMAGE:012d}.jpg"
        return {"question_id": number, "image": image, "text": "Is there a dog in the image?", "label": label}

    questions = write_lines(folder / "questions.jsonl", map(question, range(count)))
    said = ("Yes", "No", "Yes, there is a dog.", "No, there is not.")
    answers = ({"question_id": i, "text": rng.choice(said)} for i in range(count))
    files = ["--questions", questions, "--answers", write_lines(folder / "answers.jsonl", answers)]
    return measured("eval", "pope", *files, "--output", folder / "pope.json", cores=1)


def table() -> str:
    rows = read_json(_HERE / "results" / "results.json")["runs"]
    lines = ["| scorer | rows | s | CPU s | rows a CPU second | peak GiB |", "|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        rate = row["rows"] / row["cpu_seconds"]
        cells = [f"{row['rows']:,}", row["seconds"], row["cpu_seconds"], f"{rate:,.0f}", row["peak_gib"]]
        lines.append(f"| {row['scorer']} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main(options: Options) -> None:
    runs = []
    for name, run, sizes in (("CHAIR", chair, options.captions), ("POPE", pope, options.questions)):
        for size in sizes:
            found = run(options.folder, size)
            runs.append({"scorer": name, "rows": size} | {key: found[key] for key in _KEPT})
            print(runs[-1])
    machine = {"cores": 1, "processor": platform.machine()}
    write_json(_HERE / "results" / "results.json", {"runs": runs, "machine": machine, "versions": versions()})
    replace_between(_HERE / "README.md", "table", table())
    record(_HERE)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
