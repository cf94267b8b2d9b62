"""Pieces beside each other: their results, their lines, their end."""

import functools
import os
import types

import pytest

from vlm_jax.errors import InputError, TerminatedError
from vlm_jax.runs import side_by_side as room
from vlm_jax.runs.side_by_side import run_named, side_by_side


def cores_of(number):
    print(f"piece {number}")
    return number, sorted(os.sched_getaffinity(0))


def failing():
    raise InputError("nothing", "something", file="x.json", row=3)


def test_pieces_share_the_cores_and_keep_their_names(capfd):
    found = side_by_side({name: functools.partial(cores_of, number) for number, name in enumerate("abc")})
    assert [found[name][0] for name in "abc"] == [0, 1, 2]
    shares = {tuple(cores) for _, cores in found.values()}
    everything = os.sched_getaffinity(0)
    # Two workers took the three pieces (or one of them took all).
    assert len(shares) <= 2
    assert all(set(share) < everything for share in shares) or len(everything) == 1
    assert len(set().union(*shares)) == sum(map(len, shares)) or len(everything) == 1
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == [f"{name:9} | piece {number}" for number, name in enumerate("abc")]


def test_an_error_of_a_piece_is_an_error_of_the_whole():
    with pytest.raises(InputError, match=r"x\.json, row 3: found nothing; expected something"):
        side_by_side({"only": failing})


def test_no_piece_begins_after_a_termination(monkeypatch):
    monkeypatch.setattr(room, "_ended", types.SimpleNamespace(value=1))
    with pytest.raises(TerminatedError):
        run_named("late", failing)
