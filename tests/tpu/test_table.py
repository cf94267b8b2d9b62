"""The README's tables say what the records say, and what is not there as not compiled."""

import pytest

from experiments.generated import between
from tpu import table
from tpu.fit import read
from tpu.questions import Cell, Question

CELL = Cell("llava-1.5-7b", "sft lora", "bfloat16", "v5e-16")


def record(fits, **more):
    sizes = {"arguments": 2**30, "temporaries": 2**31, "outputs": 0, "code": 0, "total": 3 * 2**30}
    said = {"fits": fits, "flops": 10**16, "transfers": {"all-gather": [3, 10**9]}, "seconds": 36.0}
    return sizes | said | {"versions": {"jax": "1"}} | more


@pytest.fixture
def records():
    return {Question(CELL, 4).name: record(True), Question(CELL, 2).name: record(False)}


@pytest.mark.parametrize("name", table.tables({}))
def test_the_readme_is_that_of_the_records(name):
    assert between(table.README, name) == table.tables(read())[name].strip()


def test_a_cell_in_the_overview(records):
    (line,) = [
        line for line in table.overview(records).splitlines() if "| sft lora | llava-1.5-7b | bfloat16 |" in line
    ]
    # Slices in their order: v5e-16 is the fourth.
    assert line == f"| sft lora | llava-1.5-7b | bfloat16 | · | · | · | 32{' | ·' * 6} |"


def test_an_open_search_is_marked(records):
    (smaller, larger) = records
    assert "| ≥ 32 |" in table.overview({smaller: records[smaller]})
    assert "| < 64 |" in table.overview({larger: records[larger]})


def test_an_answer(records):
    (line,) = table.answers(records)
    assert line[:8] == ("sft lora", "llava-1.5-7b", "bfloat16", "block", "v5e-16", "1 x 16 x 1", 32, "yes")
    assert line[8:11] == ("1.00", "2.00", "15.75")
    # 10^16 operations on 16 chips of 197 TFLOP/s.
    assert line[-3:] == ("625.0", "3.17", "compute")


def test_two_bases_are_counted_together():
    policy = Cell("llava-rlhf-7b", "rollout", "bfloat16", "v5e-16")
    fits = {Question(policy, policy.choices[0]).name: record(True, total=15 * 2**30)}
    lines = {line[0]: line for line in table.two_bases(fits)}
    assert lines["v5e-16"][2].startswith("15.00 + 1.")
    assert lines["v5e-16"][2].endswith("rows: no")
    assert lines["v5e-16"][3] == lines["v5e-8"][2] == "not compiled"
