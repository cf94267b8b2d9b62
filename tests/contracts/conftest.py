"""Random checkpoints and a chat server, which the tests of other rooms made, are needed here too."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / room) for room in ("checkpoints", "evals")]
