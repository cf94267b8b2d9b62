"""Accelerators by name."""

import pytest

from vlm_jax.errors import InputError
from vlm_jax.planning.chips import CHIPS, TOPOLOGIES, topology_named


@pytest.mark.parametrize(
    ("name", "chip", "count", "layout"),
    [
        ("v5e-1", "v5e", 1, "v5e:1x1"),
        ("v5e-256", "v5e", 256, "v5e:16x16"),
        ("v6e-64", "v6e", 64, "v6e:8x8"),
        # These count cores, two a chip.
        ("v4-8", "v4", 4, "v4:2x2x1"),
        ("v5p-8", "v5p", 4, "v5p:2x2x1"),
        ("h100x8", "h100", 8, None),
        ("a100-40gx1", "a100-40g", 1, None),
    ],
)
def test_a_name_says_how_many_of_which_chip(name, chip, count, layout):
    found = topology_named(name)
    assert (found.chip.name, found.count, found.layout) == (chip, count, layout)


def test_slices_have_as_many_chips_as_their_grids():
    for topology in TOPOLOGIES.values():
        if topology.layout is not None:
            sides = [int(side) for side in topology.layout.partition(":")[2].split("x")]
            product = 1
            for side in sides:
                product *= side
            assert product == topology.count, topology.name


def test_what_nobody_makes_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"topology 'h100x9' \(did you mean 'h100x8'\?\); expected one of v4-8, "):
        topology_named("h100x9")


def test_every_figure_has_a_source():
    assert all(chip.source.startswith("https://") for chip in CHIPS.values())
