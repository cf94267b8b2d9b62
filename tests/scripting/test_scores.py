"""A reward model from a script reads what its training read."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from small_models import role_weights

import vlm_jax
from vlm_jax.checkpoints.adapters import save_adapter
from vlm_jax.commands.reward import Options, complete, pair_accuracy
from vlm_jax.commands.reward_view import RewardView
from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.evaluation_turn import SHORT
from vlm_jax.data.pipelines import preference_batches
from vlm_jax.data.sources import Preference
from vlm_jax.errors import InputError
from vlm_jax.parallel.compile import place_batch
from vlm_jax.train.reward import reward_scores

VIEW = {"facts": True, "resolution": 8, "reward_prompt": dataclasses.asdict(SHORT)}
QUESTION = "Describe the picture."
ANSWERS = [("There is a heart.", "There is a boat."), ("A ring.", "There is a ring and two boats at night."), ("", "A")]
FACTS = [["A heart at night"], ["A ring and two boats."], None]


@pytest.fixture(scope="module")
def save(tiny, tmp_path_factory):
    """A reward model of random weights, with these notes beside it."""
    role = role_weights(tiny.model.config)

    def write(**notes):
        folder = tmp_path_factory.mktemp("reward") / "adapter"
        save_adapter(folder, tiny.model.config, role, notes=notes)
        return folder

    return write


@pytest.fixture(scope="module")
def reward(save):
    return vlm_jax.load("tiny", adapter=save(**{"reward_view.json": VIEW}))


@pytest.fixture(scope="module")
def scores(reward, pictures):
    """Of the first answers, then of the second ones."""
    firsts, seconds = zip(*ANSWERS, strict=True)
    return reward.scores([*pictures, None] * 2, QUESTION, [*firsts, *seconds], FACTS * 2)


@pytest.fixture(scope="module")
def pairs(pictures, tmp_path_factory):
    """As the reader of preference files makes them."""
    from PIL import Image

    made, folder = [], tmp_path_factory.mktemp("images")
    for number, (answers, facts) in enumerate(zip(ANSWERS, FACTS, strict=True)):
        image = folder / f"{number}.png" if facts else None
        if image:
            Image.fromarray(pictures[number]).save(image)
        turns = (Turn("human", f"{IMAGE}\n{QUESTION}" if facts else QUESTION),)
        made.append(
            Preference(id="", image=image, turns=turns, answers=answers, choice=1, facts=facts and tuple(facts))
        )
    return made


def test_scores_are_those_of_the_training_pipeline(reward, scores, pairs):
    model = reward.model
    shape = (model.tokenizer, model.config, model.template, 3, 96, SHORT, 0)
    batch = next(iter(preference_batches(pairs, *shape, resolution=8)))
    # An epoch is shuffled: rows are told apart by their texts, which no two answers share.
    expected = np.asarray(
        jax.jit(lambda batch: reward_scores(model.config, model.base, reward.role, batch))(
            place_batch(model.mesh, batch.batch)
        )
    )
    assert scores.dtype == np.float32
    np.testing.assert_allclose(np.sort(scores), np.sort(expected), atol=1e-4)
    assert np.diff(np.sort(scores)).min() > 1e-3
    # The same pairs in the same order.
    paired = {tuple(pair) for pair in np.round(scores.reshape(2, 3).T, 2).tolist()}
    assert paired == {tuple(pair) for pair in np.round(expected.reshape(2, 3).T, 2).tolist()}


def test_they_rank_pairs_as_the_reward_command_does(reward, scores, pairs):
    view = RewardView(facts=Path(), resolution=8)
    places = {"checkpoint": "tiny", "preferences": Path(), "images": Path(), "out": Path()}
    options = complete(Options(**places, view=view, batch_size=3, max_length=96))
    first, second = scores.reshape(2, 3)
    with jax.set_mesh(reward.model.mesh):
        assert pair_accuracy(options, reward.model, reward.role, pairs) == pytest.approx(np.mean(second >= first))


def test_image_question_answer_and_facts_matter(reward, scores, pictures):
    blank = np.full_like(pictures[0], 255)
    changed = reward.scores(
        [blank, pictures[0], pictures[0], pictures[0]],
        [QUESTION, "What do you see in the image?", QUESTION, QUESTION],
        [ANSWERS[0][0]] * 2 + ["There is a moon.", ANSWERS[0][0]],
        [FACTS[0]] * 3 + [["A moon."]],
    )
    assert (np.abs(changed - scores[0]) > 1e-3).all()
    assert reward.scores([], [], [], []).shape == (0,)


def test_an_edited_reward_model(reward, scores, pictures):
    firsts, _ = zip(*ANSWERS, strict=True)
    rows = ([*pictures, None], QUESTION, firsts, FACTS)
    changed = reward.edit(lambda states: 0 * states, layers=(1, 2), at="image").scores(*rows)
    assert (np.abs(changed - scores[:3]) > 1e-3).tolist() == [True, True, False]


def test_facts_are_given_where_the_training_had_them(reward, save, pictures):
    row = (pictures[0], QUESTION, ["A heart.", "A boat."])
    for facts in (None, [["A heart."], None], [["A heart."], []]):
        with pytest.raises(InputError, match=r"questions, row \d: found no facts; expected facts about every image"):
            reward.scores(*row, facts)
    with pytest.raises(InputError, match=r"row 1: found facts 'A heart\.'; expected a list of sentences"):
        reward.scores(*row, ["A heart.", "A boat."])
    bare = vlm_jax.load("tiny", adapter=save(**{"reward_view.json": VIEW | {"facts": False}}))
    with pytest.raises(InputError, match="row 1: found facts; expected none, as in the reward model's training"):
        bare.scores(*row, [["A heart."]] * 2)


def test_who_scores_and_who_answers(reward, tiny, save, pictures):
    rows = (pictures[0], QUESTION, "A heart.")
    with pytest.raises(InputError, match="found a model without a reward head; expected adapter= of a reward model"):
        tiny.scores(*rows)
    for ask in (
        lambda: reward.answer(*rows[:2]),
        lambda: reward.log_probs(*rows),
        lambda: reward.states(*rows, layers=(1,)),
    ):
        with pytest.raises(InputError, match=r"adapter: found a reward model, or a value model \(it has a head\)"):
            ask()
    with pytest.raises(InputError, match=r"adapter: found no reward_view.json; expected what vlm-jax reward writes"):
        vlm_jax.load("tiny", adapter=save()).scores(*rows)


@pytest.mark.parametrize(
    "view",
    [
        {},
        VIEW | {"facts": "yes"},
        VIEW | {"resolution": "16"},
        VIEW | {"resolution": 0},
        {key: value for key, value in VIEW.items() if key != "resolution"},
        VIEW | {"reward_prompt": "short"},
        VIEW | {"reward_prompt": VIEW["reward_prompt"] | {"text": None}},
        VIEW | {"reward_prompt": {"text": "Is it?"}},
    ],
    ids=json.dumps,
)
def test_a_view_that_is_none(view, save):
    folder = save(**{"reward_view.json": view})
    with pytest.raises(InputError, match=r"reward_view.json: found .* expected facts, resolution and reward_prompt"):
        vlm_jax.load("tiny", adapter=folder)
