from known_scores import scores_of

from vlm_jax.report.headline import headlines


def sentence(before: dict, after: dict) -> str:
    return headlines({"the start": before, "the cure": after})[0]


def test_better():
    # 80 + 4 mentions against 80 + 20.
    assert sentence(scores_of(20), scores_of(4)) == (
        "The cure names 80 % fewer absent objects than the start (CHAIR_i 20.0 % to 4.8 %); recall stayed at 100.0 %. "
        "The change of CHAIR_i has the 95 % interval [-20.3, -9.7] points."
    )


def test_worse_in_both():
    assert sentence(scores_of(4), scores_of(30, found=1)).startswith(
        "The cure names 650 % more absent objects than the start (CHAIR_i 4.8 % to 42.9 %); "
        "recall changed by -50.0 points to 50.0 %. The change of CHAIR_i has"
    )


def test_equal():
    assert sentence(scores_of(20), scores_of(20)) == (
        "The cure names as many absent objects as the start (CHAIR_i 20.0 % to 20.0 %); recall stayed at 100.0 %."
    )


def test_a_difference_within_the_intervals_is_called_one():
    assert "10 % fewer" in sentence(scores_of(20), scores_of(18))
    assert "may be chance" in sentence(scores_of(20), scores_of(18))
    assert "may be chance" not in sentence(scores_of(20), scores_of(2))


def test_fewer_words_that_are_more_often_wrong_show_in_the_rate():
    said = sentence(scores_of(20), scores_of(18, found=1))
    assert "10 % fewer" in said
    assert "CHAIR_i 20.0 % to 31.0 %" in said


def test_nothing_to_divide_by():
    assert "names 5 absent objects where the start names none" in sentence(scores_of(0), scores_of(5))


def test_the_last_model_comes_first_and_one_model_stands_alone(models):
    first, second = headlines(models)
    assert first.startswith("With facts names 80 % fewer absent objects than the start")
    assert second.startswith("Plain names 10 % fewer absent objects than the start")
    assert headlines({"it": scores_of(20)}) == [
        "Of the objects that it names, 20.0 % are not in the picture; it names 100.0 % of those that are."
    ]
