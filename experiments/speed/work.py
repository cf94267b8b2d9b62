"""What a side of a comparison is to the clock."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

# What a step found, on the host: losses, or drawn tokens. A side that is compared with another has the same names.
Figures = Mapping[str, np.ndarray]


class Work(NamedTuple):
    """One side's part of a workload, weights loaded.

    Attributes:
        compile: What has to be made before the first step; nothing where code runs as it is written.
        step: One repetition, finished when it returns. It may be told the other side's figures, so that what is drawn
            there (answers, an order of rows) is measured here too: beside the own draws, which are made all the same.
    """

    compile: Callable[[], None]
    step: Callable[[Figures | None], Figures]
