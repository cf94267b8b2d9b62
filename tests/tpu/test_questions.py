"""The search for the largest microbatch."""

import pytest

from tpu.questions import Cell, Question, answer_of, cells, next_question

CELL = Cell("llava-1.5-7b", "sft lora", "bfloat16", "v5e-16")


def search(enough, guess):
    """Everything that is asked where ``enough`` parts and more fit, and the answer."""
    fits, asked = {}, []
    while (question := next_question(CELL, fits, guess)) is not None:
        asked.append(question.microbatches)
        fits[question.name] = question.microbatches >= enough
        assert len(asked) <= len(CELL.choices)
    best, last = answer_of(CELL, fits)
    assert last
    return asked, best.microbatches, fits[best.name]


def test_choices_divide():
    assert CELL.layout == (1, 16, 1)
    assert CELL.choices == [1, 2, 4, 8]
    assert Question(CELL, 8).rows == 16


@pytest.mark.parametrize("guess", [1, 2, 4, 8])
@pytest.mark.parametrize("enough", [1, 2, 4, 8])
def test_the_border_is_found_from_anywhere(enough, guess):
    asked, best, fits = search(enough, guess)
    assert (best, fits) == (enough, True)
    assert len(set(asked)) == len(asked)


def test_a_good_guess_costs_two_questions():
    assert search(4, 4)[0] == [4, 2]
    assert search(1, 1)[0] == [1]


def test_what_never_fits_says_so():
    asked, best, fits = search(16, 8)
    assert (asked, best, fits) == ([8], 8, False)


def test_an_open_search_is_no_last_word():
    assert answer_of(CELL, {}) is None
    question, last = answer_of(CELL, {Question(CELL, 4).name: True})
    assert (question.microbatches, last) == (4, False)


def test_every_cell_is_asked_once():
    names = [cell.name for cell in cells()]
    assert len(set(names)) == len(names)
    assert all(cell.choices for cell in cells())
