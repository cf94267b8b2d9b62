"""READMEs whose tables come from results files: text between markers is replaced, everything else is kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def replace_between(path: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        ValueError: The file lacks one of the markers.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} has no pair of markers {start} ... {end}")
    path.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}", encoding="utf-8")


def shortened(scores: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation (``evals.scenes.evaluate``) without what it says of single images: what a results file keeps."""
    chair = {key: value for key, value in scores["chair"].items() if not key.endswith("_by_caption")}
    return {key: value for key, value in scores.items() if key != "descriptions"} | {"chair": chair}
