"""The README's table and picture, from a run of the demo.

make demo && python -m experiments.demo.run
"""

import base64
import dataclasses
import json
import shutil
from html import escape
from pathlib import Path

import tyro

from experiments.claims import record
from experiments.generated import replace_between, shortened
from vlm_jax.commands.demo import MODELS
from vlm_jax.files import write_bytes, write_json
from vlm_jax.report.gallery import Picture, pictures
from vlm_jax.report.marks import mark
from vlm_jax.report.tables import markdown_table

_HERE = Path(__file__).parent
_NAMES = {"sft": "starting model", "rlhf": "RLHF", "fact_rlhf": "Fact-RLHF"}
_SIDE, _WIDTH, _LINE, _LETTERS = 132, 860, 17, 92


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        run: Folder of a finished demo.
    """

    run: Path = Path("runs/demo")


def load(run: Path) -> dict[str, dict]:
    """Scores of the three models, reward accuracy included."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    scores = {}
    for name in MODELS:
        score = json.loads((run / name / "scores.json").read_text(encoding="utf-8"))
        scores[_NAMES[name]] = score | {"reward_accuracy": results["models"][name]["reward_accuracy"]}
    return scores


def _wrapped(text: str, picture: Picture) -> list[list[tuple[str, bool]]]:
    """Words, and whether each names something absent, in lines of at most so many letters."""
    words: list[tuple[str, bool]] = []
    glued = False
    for piece, kind in mark(text, picture.scene):
        for number, word in enumerate(piece.split(" ")):
            # A piece may begin in the middle of a word ("boat" + "."): glue what no space divides.
            if glued and number == 0 and words:
                words[-1] = (words[-1][0] + word, words[-1][1] or kind == "hallucinated")
            else:
                words.append((word, kind == "hallucinated"))
        glued = True
    lines: list[list[tuple[str, bool]]] = [[]]
    for word in words:
        if sum(len(each) + 1 for each, _ in lines[-1]) + len(word[0]) > _LETTERS:
            lines.append([])
        lines[-1].append(word)
    return lines


def _said(model: str, text: str, picture: Picture, top: int) -> tuple[str, int]:
    """One model's description as SVG text lines, and where the next one starts."""
    left = _SIDE + 28
    parts = [f'<text class="model" x="{left}" y="{top}">{escape(model)}</text>']
    for line in _wrapped(text, picture):
        top += _LINE
        words = [f'<tspan class="{"wrong" if wrong else "word"}">{escape(word)}</tspan>' for word, wrong in line]
        parts.append(f'<text x="{left}" y="{top}">{" ".join(words)}</text>')
    return "".join(parts), top + _LINE + 6


def gallery(shown: list[Picture]) -> str:
    """Pictures, each with what the models say; absent objects are red and underlined."""
    parts, top = [], 12
    for picture in shown:
        image = base64.b64encode(picture.png).decode()
        parts.append(
            f'<image x="12" y="{top}" width="{_SIDE}" height="{_SIDE}" style="image-rendering:pixelated" '
            f'href="data:image/png;base64,{image}"/>'
        )
        below = top + 14
        for model, text in picture.descriptions.items():
            part, below = _said(model, text, picture, below)
            parts.append(part)
        top = max(below, top + _SIDE + 18)
    style = (
        "text{font:14px system-ui,sans-serif;fill:#222}.model{font-size:12px;fill:#777}"
        ".wrong{fill:#b00020;text-decoration:underline;font-weight:600}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" viewBox="0 0 {_WIDTH} {top}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def main(options: Options) -> None:
    scores = load(options.run)
    descriptions = {name: score["descriptions"] for name, score in scores.items()}
    shown = pictures(options.run / "world", descriptions, 4)
    write_bytes(_HERE / "gallery.svg", gallery(shown).encode())
    shutil.rmtree(_HERE / "results", ignore_errors=True)
    write_bytes(_HERE / "results" / "results.json", (options.run / "results.json").read_bytes())
    kept = {name: shortened(score) for name, score in scores.items()}
    write_json(_HERE / "results" / "scores.json", kept)
    replace_between(_HERE.parent.parent / "README.md", "demo", markdown_table(kept))
    record(_HERE)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
