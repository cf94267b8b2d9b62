"""Meshes that divide, and those that do not."""

import pytest

from vlm_jax.errors import InputError
from vlm_jax.planning.layouts import default_layout, microbatch_choices, require_layout
from vlm_jax.planning.steps import Case


@pytest.mark.parametrize(
    ("chips", "rows", "layout"), [(16, 128, (1, 16, 1)), (256, 32, (1, 32, 8)), (8, 12, (1, 4, 2)), (1, 5, (1, 1, 1))]
)
def test_rows_are_split_as_far_as_they_go(chips, rows, layout):
    assert default_layout(chips, rows) == layout


def test_parts_leave_every_chip_whole_rows():
    assert microbatch_choices(128, (1, 16, 1)) == [1, 2, 4, 8]
    assert microbatch_choices(96, (2, 4, 1)) == [1, 2, 4]
    assert microbatch_choices(3, (1, 1, 1)) == [1]


@pytest.mark.parametrize(
    ("layout", "chips", "said"),
    [
        ((1, 8, 1), 16, "on 16 chips; expected 16 in all"),
        ((1, 1, 64), 64, "32 heads on a mesh of 1 x 1 x 64"),
        ((1, 256, 1), 256, "128 rows in 1 microbatches on a mesh of 1 x 256 x 1"),
    ],
)
def test_a_mesh_that_does_not_divide(layout, chips, said):
    with pytest.raises(InputError, match=said):
        require_layout(Case("llava-1.5-7b", "sft lora"), layout, chips)
