"""The notebook runs as it is shipped, and what is shipped is what it gives."""

import re

import nbformat
import pytest
from PIL import Image

from experiments.quickstart.run import NOTEBOOK, executed


def printed(notebook) -> list[str]:
    """Texts that the cells printed."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.text for output in outputs if output.output_type == "stream"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    return folder, executed(folder)


def test_it_says_what_is_written_in_it(run):
    said = printed(run[1])
    assert said == printed(nbformat.read(NOTEBOOK, as_version=4))
    assert said[0].startswith("There is a yellow tree, a large orange ball and a purple kite.")


def size_of(picture):
    with Image.open(picture) as image:
        return image.size


def test_its_pictures_are_those_beside_it(run):
    folder, _ = run
    shipped = {path.name: size_of(path) for path in (NOTEBOOK.parent / "quickstart").glob("*.png")}
    drawn = {path.name: size_of(path) for path in (folder / "quickstart").iterdir()}
    assert drawn == shipped
    assert drawn.keys() == {"occlusion.png", "states.png"}


def test_it_tells_nothing_of_a_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"site-packages|/home/|/tmp/|/root/|iopub\.|\d{4}-\d\d-\d\dT", text)
