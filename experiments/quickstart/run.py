"""The notebook anew: its outputs and the pictures beside this file.

python -m experiments.quickstart.run
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "quickstart.ipynb"


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook run from the first cell to the last in a folder of choice, where its pictures go.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # When each cell ran is nobody's business, and would change the file every time.
    client = NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": str(folder)}})
    client.execute()
    # What the kernel says of its own machine, and warnings with paths of it.
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(NOTEBOOK.parent), NOTEBOOK)
