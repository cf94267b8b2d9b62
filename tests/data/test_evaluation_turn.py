import pytest

from vlm_jax.data.conversation import TEMPLATES
from vlm_jax.data.evaluation_turn import SHORT, STANDARD, load_reward_prompt, render
from vlm_jax.errors import InputError

PLAIN = TEMPLATES["plain"]


def test_short():
    assert render(SHORT, PLAIN, None) == " USER: Is that description fully supported by the facts? ASSISTANT:"
    assert render(SHORT, PLAIN, ["a red ball", "a tree in the snow."]) == (
        " USER: Facts: a red ball. a tree in the snow. Is that description fully supported by the facts? ASSISTANT:"
    )


def test_standard_puts_facts_into_the_first_criterion():
    text = render(STANDARD, PLAIN, ["a red ball.", "{human} with {factual_prompt}"])
    first, second = text.index("1. Accurate"), text.index("2. Helpful")
    assert first < text.index("  - a red ball.\n  - {human} with {factual_prompt}\n") < second
    assert text.startswith(" USER: ")
    assert text.endswith("ASSISTANT: Judged by these four, the quality score of my last response is")
    bare = render(STANDARD, PLAIN, ())
    assert "{" not in bare
    assert "descriptions" not in bare
    assert [f"{i}. " in bare for i in range(1, 6)] == [True] * 4 + [False]


def test_a_users_file(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("USER: the AI\u2019s answer? {factual_prompt}ok {x} ASSISTANT: it is\n", encoding="utf-8")
    prompt = load_reward_prompt(path, facts_lead="See:\n")
    assert render(prompt, PLAIN, ["a"]) == " USER: the AI\u2019s answer? See:\n  - a\nok {x} ASSISTANT: it is"
    path.write_text("USER: rate ASSISTANT: it is", encoding="utf-8")
    assert render(load_reward_prompt(path), PLAIN, None) == " USER: rate ASSISTANT: it is"
    with pytest.raises(ValueError, match=r"no \{factual_prompt\}"):
        render(load_reward_prompt(path), PLAIN, ["a"])
    path.write_text("{factual_prompt} {factual_prompt}", encoding="utf-8")
    with pytest.raises(InputError, match=r"prompt.txt: found 2 slots"):
        load_reward_prompt(path)
    with pytest.raises(InputError, match=r"gone.txt: found no such file"):
        load_reward_prompt(tmp_path / "gone.txt")
