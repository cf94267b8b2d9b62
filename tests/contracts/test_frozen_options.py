"""Verbs, options, types and defaults are an interface: whatever changes there shows in options.txt, on purpose."""

import difflib

from frozen_options import COMMANDS, FILE, help_of, listed, options_of


def test_options_are_those_of_the_list():
    committed = FILE.read_text(encoding="utf-8")
    changed = "".join(difflib.unified_diff(committed.splitlines(True), listed().splitlines(True), "options.txt", "now"))
    assert not changed, f"{changed}\nWhere this is meant: python tests/contracts/frozen_options.py"


def test_no_option_of_the_help_is_left_out():
    for command in COMMANDS:
        found = list(options_of(command))
        told = help_of(command)
        assert len(found) == sum(map(told.count, ("(required)", "(recipe)", "(default: "))), command
