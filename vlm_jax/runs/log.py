"""What a run writes about itself on its way, as JSON lines and TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from vlm_jax.files import read_json_lines, write_json_lines


class MetricLog:
    """``folder/metrics.jsonl`` and ``folder/speed.jsonl`` (one object a step, key ``step``), and TensorBoard events in
    ``folder/tensorboard``.

    Metrics are what was computed, equal in a run that was stopped and one that was not; speed is what the clock said.
    A resumed run drops rows of steps that were logged but not saved, so that no step stands twice.
    """

    def __init__(self, folder: Path, first_step: int):
        self._metrics, self._speed = (_Rows(folder / name, first_step) for name in ("metrics.jsonl", "speed.jsonl"))
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def write(self, step: int, metrics: Mapping[str, float], speed: Mapping[str, int | float]) -> None:
        """Append one step's metrics and speed and flush them."""
        self._speed.write(step, speed)
        self._metrics.write(step, metrics)
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        for name, value in speed.items():
            self._events.add_scalar(f"speed/{name}", value, step)

    def close(self) -> None:
        self._metrics.close()
        self._speed.close()
        self._events.close()


class _Rows:
    """A file that grows by a line a step."""

    def __init__(self, path: Path, first_step: int):
        kept = [row for row in read_metrics(path) if row["step"] < first_step] if path.exists() else []
        write_json_lines(path, kept)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, int | float]]:
    """The rows of a file of metrics or speed; a last line that was cut off by a kill is left out."""
    return read_json_lines(path)
