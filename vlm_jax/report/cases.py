"""A benchmark's result as one HTML file: its figures, its tables, and the worst answers with their pictures."""

import base64
import heapq
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from vlm_jax.errors import InputError
from vlm_jax.files import write_bytes
from vlm_jax.report.benchmark import p_value, written

_CASES = 24
_WIDTH = 320
_LONGEST = 1200  # Letters of a value that are shown.
_IDS = ("id", "question_id", "image_id", "index")
_HIDDEN = ("fault",)


class Case(NamedTuple):
    """One answer: what the scorer says of it, and its picture as a data URI where it is at hand."""

    title: str
    picture: str | None
    facts: list[tuple[str, str]]


def write_cases(
    path: Path, result: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], images: Mapping[str, Path]
) -> None:
    """Write the page; the file appears whole or not at all.

    Args:
        path: The HTML file.
        result: From ``evals.result.result_of``.
        samples: Rows of the samples; those with the largest ``fault`` are shown, equal ones in their order.
        images: Id of a sample -> its picture; one that is not there is left out.
    """
    faults = [row.get("fault", 0.0) for row in samples]
    worst = [samples[place] for place in heapq.nlargest(_CASES, range(len(faults)), key=faults.__getitem__)]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vlm_jax", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(written=written, p_value=p_value)
    page = environment.get_template("cases.html").render(
        result=result,
        cases=[_case(row, images) for row in worst if row.get("fault", 0.0) > 0],
        faulty=sum(fault > 0 for fault in faults),
    )
    write_bytes(path, page.encode())


def sample_id(row: Mapping[str, Any]) -> str:
    """The id of a sample's row, whatever its benchmark calls it."""
    return next((str(row[key]) for key in _IDS if key in row), "")


def _case(row: Mapping[str, Any], images: Mapping[str, Path]) -> Case:
    identity = sample_id(row)
    facts = [(name.replace("_", " "), _shown(value)) for name, value in row.items() if name not in (*_IDS, *_HIDDEN)]
    return Case(identity, _picture(images.get(identity)), [(name, value) for name, value in facts if value])


def _shown(value: Any) -> str:
    if value is None or value == []:
        return ""
    if value == "":
        return "(empty)"
    if isinstance(value, list):
        text = "; ".join(" → ".join(map(str, one)) if isinstance(one, list) else _shown(one) for one in value)
    elif isinstance(value, dict):
        text = ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    else:
        text = written(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _picture(path: Path | None) -> str | None:
    if path is None or not path.is_file():
        return None
    # Not before there is one: it brings jax along.
    from vlm_jax.data.images import load_image

    try:
        small = load_image(path)
    except InputError:
        # The page is about the answers; whoever shows the picture to a model says what is wrong with it.
        return None
    small.thumbnail((_WIDTH, _WIDTH))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
