"""A step compiled for a TPU that this machine does not have: the compiler's word on memory, and the program's text."""

import dataclasses
import os
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import jax
from jax.sharding import Mesh

from vlm_jax.parallel.mesh import make_mesh
from vlm_jax.planning.chips import Topology
from vlm_jax.planning.steps import Step, bytes_on_a_chip

# In the compiler's messages.
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
# What it wants beside the arguments, or everything; it says one or the other.
_BESIDE = re.compile(rf"HLO temporaries \({_SIZE}B?\)")
_IN_ALL = re.compile(rf"Used {_SIZE}B? of {_SIZE}B? hbm")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of one chip, in bytes.

    Attributes:
        arguments: What the step is called with; what it makes no use of stays on the chip too.
        temporaries: What it needs beside; where there is no program, what the compiler counted before it gave up.
        outputs: What it gives back in memory of its own, donated buffers not counted.
        code: The program itself.
        text: The program as text; None where the compiler made none.
    """

    arguments: int
    temporaries: int
    outputs: int
    code: int
    text: str | None

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries + self.outputs + self.code

    def fits(self, limit: int) -> bool:
        """Whether there is a program, and room for it: the compiler alone refuses what is too large without the
        arguments."""
        return self.text is not None and self.total <= limit


def has_compiler() -> bool:
    """Whether the TPU compiler is installed (``pip install 'vlm_jax[tpu]'``)."""
    return find_spec("libtpu") is not None


def versions() -> dict[str, str]:
    """Of everything that decides what a compiler makes of a program.

    Raises:
        PackageNotFoundError: There is no TPU compiler here.
    """
    return {name: version(name) for name in ("jax", "jaxlib", "libtpu")}


def tpu_mesh(topology: Topology, data: int, fsdp: int, tensor: int) -> Mesh:
    """A mesh of TPUs that nobody has to own. Nothing can be computed on it.

    Raises:
        PackageNotFoundError: There is no TPU compiler here.
    """
    from jax.experimental import topologies

    # No query for the machine's own TPUs, and no lock on them: nothing is driven, so others may compile as well.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LIBRARY_PATH": str(_library())}
    more = {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {}
    if topology.count == 1:
        more["chips_per_host_bounds"] = (1, 1, 1)
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology.layout, **more)
    return make_mesh(data, fsdp, tensor, devices=described.devices)


def _library() -> Path:
    spec = find_spec("libtpu")
    if spec is None or spec.origin is None:
        raise PackageNotFoundError("libtpu")
    return Path(spec.origin).with_name("libtpu.so")


def lower_step(step: Step) -> jax.stages.Lowered:
    """What the compiler is given."""
    with jax.set_mesh(step.mesh):
        return step.traced.lower()


def compile_step(step: Step, lowered: jax.stages.Lowered) -> Compiled:
    """The whole way through the compiler: minutes at full size."""
    arguments = bytes_on_a_chip(step.arguments)
    try:
        with jax.set_mesh(step.mesh):
            made = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compiled(arguments, wanted(str(error), arguments), 0, 0, None)
    memory = made.memory_analysis()
    return Compiled(
        arguments=max(arguments, memory.argument_size_in_bytes),
        temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        text=made.as_text(),
    )


def wanted(message: str, arguments: int) -> int:
    """Bytes beside the arguments that the compiler counted before it gave up.

    Raises:
        ValueError: The message does not say it.
    """
    if (beside := _BESIDE.search(message)) is not None:
        return int(float(beside[1]) * _UNITS[beside[2]])
    if (in_all := _IN_ALL.search(message)) is not None:
        return int(float(in_all[1]) * _UNITS[in_all[2]]) - arguments
    raise ValueError(f"no figure in {message[:500]!r}")
