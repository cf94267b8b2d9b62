"""The metrics of a run, as JSON lines and TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from vlm_jax.files import read_json_lines, write_json_lines


class MetricLog:
    """``folder/metrics.jsonl`` (one object a step, key ``step``) and TensorBoard events in ``folder/tensorboard``.

    A resumed run drops rows of steps that were logged but not saved, so that no step stands twice.
    """

    def __init__(self, folder: Path, first_step: int):
        path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(path) if row["step"] < first_step] if path.exists() else []
        write_json_lines(path, kept)
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step's metrics and flush them."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, int | float]]:
    """The rows of a metrics file; a last line that was cut off by a kill is left out."""
    return read_json_lines(path)
