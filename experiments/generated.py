"""READMEs whose tables come from results files: text between markers is replaced, everything else is kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def replace_between(path: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        ValueError: The file lacks one of the markers.
    """
    before, _, after = _parts(path, name)
    path.write_text(f"{before}\n{text.strip()}\n{after}", encoding="utf-8")


def between(path: Path, name: str) -> str:
    """What stands between the markers; errors as above."""
    return _parts(path, name)[1].strip()


def _parts(path: Path, name: str) -> tuple[str, str, str]:
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(start)
    text, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} has no pair of markers {start} ... {end}")
    return before + start, text, end + after


def shortened(scores: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation (``evals.scenes.evaluate``) without what it says of single images: what a results file keeps."""
    chair = {key: value for key, value in scores["chair"].items() if not key.endswith("_by_caption")}
    return {key: value for key, value in scores.items() if key != "descriptions"} | {"chair": chair}
