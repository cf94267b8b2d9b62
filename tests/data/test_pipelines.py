import dataclasses
import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from vlm_jax.arrays import Batch
from vlm_jax.config import own_steps
from vlm_jax.data.conversation import TEMPLATES, Turn
from vlm_jax.data.encoding import encode_conversation, encode_prompt, encode_texts
from vlm_jax.data.evaluation_turn import SHORT, render
from vlm_jax.data.images import load_image, prepare
from vlm_jax.data.pipelines import image_prompts, instruction_batches, preference_batches, prompt_batches
from vlm_jax.data.rows import Origin
from vlm_jax.data.sources import Instruction, Preference, Prompt
from vlm_jax.errors import InputError

PLAIN = TEMPLATES["plain"]
FACTS = ("a red ball", "a tree", "the snow", "a dog", "a cat")
LENGTH = 120


def question(index, images):
    marker = "" if index % 3 == 0 else "<image>\n"
    return Turn("human", f"{marker}is there a dog{' in the picture' * (index % 4)}?")


def common(index, images):
    return {
        "id": str(index),
        "image": None if index % 3 == 0 else images / f"{index}.png",
        "origin": Origin("made.json", index + 1),
    }


@pytest.fixture
def instructions(images):
    return [Instruction(turns=(question(i, images), Turn("gpt", f"no {i}")), **common(i, images)) for i in range(10)]


@pytest.fixture
def preferences(images):
    return [
        Preference(
            turns=(question(i, images),),
            answers=(f"no {i}", f"a red ball and a tree {i}"),
            choice=i % 2,
            facts=None if i % 3 == 0 else FACTS,
            **common(i, images),
        )
        for i in range(10)
    ]


@pytest.fixture
def prompts(images):
    return [
        Prompt(
            turns=(question(i, images),),
            caption_type=1 + i % 7,
            length_bonus=i / 2,
            facts=None if i % 3 == 0 else FACTS,
            **common(i, images),
        )
        for i in range(10)
    ]


@pytest.fixture
def make(instructions, preferences, prompts, tokenizer, config):
    """name, seed -> a training pipeline of three samples a batch."""
    return lambda name, seed=0: {
        "instructions": lambda: instruction_batches(instructions, tokenizer, config, PLAIN, 3, LENGTH, seed),
        "preferences": lambda: preference_batches(preferences, tokenizer, config, PLAIN, 3, LENGTH, SHORT, seed),
        "prompts": lambda: prompt_batches(prompts, tokenizer, config, PLAIN, 3, 40, 90, SHORT, seed),
    }[name]()


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


NAMES = ["instructions", "preferences", "prompts"]


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_stream_goes_on_with_the_same_batches(name, make):
    stream = iter(make(name))
    for _ in range(5):
        next(stream)
    state = stream.get_state()
    expected = [next(stream) for _ in range(3)]
    fresh = iter(make(name))
    fresh.set_state(state)
    assert all(same(next(fresh), batch) for batch in expected)
    assert not same(expected[0], expected[1])


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name, make):
    first, again, other = (list(itertools.islice(make(name, seed), 4)) for seed in (1, 1, 2))
    assert all(map(same, first, again))
    assert not all(map(same, first, other))


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_types(name, make):
    for batch in itertools.islice(make(name), 4):
        for leaf in jax.tree.leaves(batch):
            assert isinstance(leaf, np.ndarray)
            assert leaf.dtype in (np.int32, np.bool_, np.uint8, np.float32)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(b)] for b in itertools.islice(make(name), 4)]
    assert all(shape == shapes[0] for shape in shapes)


def test_every_epoch_holds_every_record_once_in_a_new_order(make):
    seen = np.concatenate([batch.index for batch in itertools.islice(make("prompts"), 10)])
    epochs = seen.reshape(3, 10)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_decoded_once_and_kept(name, make, monkeypatch):
    decoded = []

    def counted(image, as_transformers):
        decoded.append(image)
        return load_image(image, as_transformers)

    monkeypatch.setattr("vlm_jax.data.assemble.load_image", counted)
    batches = iter(make(name))
    # Two epochs and more: two threads may read one picture for the first time at the same moment.
    list(itertools.islice(batches, 8))
    before = len(decoded)
    assert len(set(decoded)) == 6 <= before
    list(itertools.islice(batches, 12))
    assert len(decoded) == before


def padding_sides(mask):
    """Rows of a mask that is one run of True: where the run starts, and where it ends."""
    assert (np.abs(np.diff(mask.astype(int), axis=1)).sum(1) <= 1).all()
    return mask[:, 0], mask[:, -1]


def test_instructions_are_padded_on_the_right(make, instructions, tokenizer, config):
    seen = 0
    for batch in itertools.islice(make("instructions"), 4):
        assert batch.tokens.shape == (3, LENGTH)
        assert batch.images.shape == (3, 8, 8, 3)
        assert padding_sides(batch.attention_mask)[0].all()
        assert (batch.tokens[~batch.attention_mask] == config.pad_token_id).all()
        for row in range(3):
            real = batch.attention_mask[row]
            index = int(tokenizer.decode(batch.tokens[row][batch.loss_mask[row]][:-1]).split()[-1])
            record = instructions[index]
            text = encode_conversation(tokenizer, PLAIN, record.turns, config, LENGTH)
            np.testing.assert_array_equal(batch.tokens[row][real], text.tokens)
            np.testing.assert_array_equal(batch.loss_mask[row][real], text.loss_mask)
            assert not batch.loss_mask[row][~real].any()
            assert batch.image_mask[row].sum() == (0 if record.image is None else 4)
            assert (batch.images[row] == (0 if record.image is None else 10 + index)).all()
            seen |= 1 << index
    assert bin(seen).count("1") == 10


def test_pairs(make, preferences, tokenizer, config):
    orders = set()
    for got in itertools.islice(make("preferences"), 6):
        batch = got.batch
        assert batch.tokens.shape == (6, LENGTH)
        assert got.choice.shape == (3,)
        assert padding_sides(batch.attention_mask)[1].all()
        assert not batch.loss_mask.any()
        np.testing.assert_array_equal(batch.images[:3], batch.images[3:])
        for row in range(3):
            texts = [tokenizer.decode(batch.tokens[i][batch.attention_mask[i]]) for i in (row, row + 3)]
            parts = [text.split("</s>") for text in texts]
            index = int(parts[0][0].split()[-1])
            record = preferences[index]
            assert got.choice[row] == record.choice
            assert [part[0].split("ASSISTANT:")[1].strip() for part in parts] == list(record.answers)
            # Both answers of a pair are judged by the same facts in the same order.
            assert parts[0][1] == parts[1][1]
            assert ("Facts" in parts[0][1]) == (record.facts is not None)
            assert parts[0][1].endswith("supported by the facts? ASSISTANT:")
            orders.add(parts[0][1])
    assert len(orders) > 4


def test_a_long_answer_gives_way_to_the_evaluation_turn(preferences, tokenizer, config):
    record = dataclasses.replace(preferences[1], answers=("no", "a red ball " * 40))
    suffix = encode_texts(tokenizer, [render(SHORT, PLAIN, None)])[0]
    record = dataclasses.replace(record, facts=None)
    prompt = len(encode_prompt(tokenizer, PLAIN, record.turns, config, LENGTH))
    batch = next(iter(preference_batches([record], tokenizer, config, PLAIN, 1, LENGTH, SHORT, 0))).batch
    assert batch.attention_mask[1].all()
    assert batch.image_mask.sum(1).tolist() == [4, 4]
    assert batch.tokens[:, -len(suffix) :].tolist() == [suffix] * 2
    assert config.eos_token_id in batch.tokens[0]
    assert config.eos_token_id not in batch.tokens[1]
    shortest = prompt + len(suffix) + 1
    next(iter(preference_batches([record], tokenizer, config, PLAIN, 1, shortest, SHORT, 0)))
    with pytest.raises(InputError, match=r"made.json, row 2: .* expected room for an answer"):
        next(iter(preference_batches([record], tokenizer, config, PLAIN, 1, shortest - 1, SHORT, 0)))


def test_prompts(make, prompts, tokenizer, config):
    orders = set()
    for got in itertools.islice(make("prompts"), 6):
        assert got.prompt.tokens.shape == (3, 40)
        assert got.suffix_tokens.shape == (3, 90)
        assert padding_sides(got.prompt.attention_mask)[1].all()
        assert padding_sides(got.suffix_mask)[0].all()
        assert got.reward_images is None
        for row, index in enumerate(got.index):
            record = prompts[index]
            text = encode_prompt(tokenizer, PLAIN, record.turns, config, 40)
            real = got.prompt.attention_mask[row]
            np.testing.assert_array_equal(got.prompt.tokens[row][real], text.tokens)
            np.testing.assert_array_equal(got.prompt.image_mask[row][real], text.image_mask)
            assert (got.caption_type[row], got.length_bonus[row]) == (1 + index % 7, index / 2)
            suffix = tokenizer.decode(got.suffix_tokens[row][got.suffix_mask[row]])
            assert suffix.startswith("USER: Facts" if record.facts else "USER: Is that")
            orders.add(suffix)
    assert len(orders) > 4


def test_the_reward_model_may_see_less(prompts, tokenizer, config):
    seen = [record for record in prompts if record.image is not None][:2]
    got = next(iter(prompt_batches(seen, tokenizer, config, PLAIN, 2, 40, 90, SHORT, 0, reward_resolution=2)))
    for sharp, coarse, index in zip(got.prompt.images, got.reward_images, got.index, strict=True):
        image = load_image(seen[index].image)
        np.testing.assert_array_equal(sharp, prepare(image, own_steps("pad", 8)))
        np.testing.assert_array_equal(coarse, prepare(image, own_steps("pad", 8), 2))


@pytest.mark.parametrize("name", [*NAMES, "asked"])
def test_the_config_decides_what_of_an_image_is_seen(
    name, instructions, preferences, prompts, images, tokenizer, config
):
    """Wide images, white between two black parts, for a model that was trained on the middle."""
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    for number in range(10):
        Image.fromarray(wide).save(images / f"{number}.png")

    def seen(config):
        made = {
            "instructions": lambda: instruction_batches(instructions, tokenizer, config, PLAIN, 3, LENGTH, 0),
            "preferences": lambda: preference_batches(preferences, tokenizer, config, PLAIN, 3, LENGTH, SHORT, 0),
            "prompts": lambda: prompt_batches(prompts, tokenizer, config, PLAIN, 3, 40, 90, SHORT, 0),
            "asked": lambda: image_prompts(prompts, tokenizer, config, PLAIN, 3, [LENGTH]),
        }[name]()
        batches = jax.tree.leaves(next(iter(made)), is_leaf=lambda part: isinstance(part, Batch))
        return [
            picture
            for batch in batches
            if isinstance(batch, Batch)
            for picture, has in zip(batch.images, batch.image_mask.any(1), strict=True)
            if has
        ]

    assert config.aspect == "pad"
    middles = seen(dataclasses.replace(config, aspect="square"))
    assert middles
    assert all((picture == 255).all() for picture in middles)
    assert not any((picture == 255).all() for picture in seen(config))


def test_a_coarser_reward_view(prompts, tokenizer, config, images):
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:, ::2] = 200
    Image.fromarray(halves).save(images / "1.png")
    got = next(iter(prompt_batches(prompts[1:2], tokenizer, config, PLAIN, 1, 40, 90, SHORT, 0, reward_resolution=2)))
    np.testing.assert_array_equal(got.prompt.images[0], halves)
    assert (got.reward_images == 100).all()


def test_errors_name_file_and_row(prompts, instructions, tokenizer, config, images):
    with pytest.raises(InputError, match=r"made.json, row 2: found a prompt of \d+ positions"):
        next(iter(prompt_batches(prompts[1:2], tokenizer, config, PLAIN, 1, 12, 90, SHORT, 0)))
    with pytest.raises(InputError, match=r"made.json, row 2: found an evaluation turn of \d+ positions"):
        next(iter(prompt_batches(prompts[1:2], tokenizer, config, PLAIN, 1, 40, 20, SHORT, 0)))
    with pytest.raises(InputError, match=r"made.json, row 2: found an image span"):
        next(iter(instruction_batches(instructions[1:2], tokenizer, config, PLAIN, 1, 5, 0)))
    (images / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"made.json, row 2: .* in .*1.png; expected"):
        next(iter(instruction_batches(instructions[1:2], tokenizer, config, PLAIN, 1, LENGTH, 0)))
    with pytest.raises(InputError, match=r"made.json, row 3: found a prompt of"):
        image_prompts(prompts[2:], tokenizer, config, PLAIN, 2, (10, 12))
    with pytest.raises(ValueError, match="at least one record"):
        instruction_batches([], tokenizer, config, PLAIN, 1, LENGTH, 0)


def test_evaluation_visits_every_record_once(prompts, tokenizer, config):
    batches = list(image_prompts(prompts, tokenizer, config, PLAIN, 3, (40, 22)))
    lengths = [got.batch.tokens.shape[1] for got in batches]
    assert set(lengths) == {22, 40}
    assert lengths == sorted(lengths)
    seen = []
    for got in batches:
        assert got.batch.tokens.shape[0] == got.row_mask.shape[0] == 3
        assert padding_sides(got.batch.attention_mask)[1].all()
        for row in range(3):
            text = encode_prompt(tokenizer, PLAIN, prompts[got.index[row]].turns, config, 40)
            real = got.batch.attention_mask[row]
            np.testing.assert_array_equal(got.batch.tokens[row][real], text.tokens)
            assert len(text) > 22 or got.batch.tokens.shape[1] == 22
        seen += got.index[got.row_mask].tolist()
    assert sorted(seen) == list(range(10))
    assert sum(not all(got.row_mask) for got in batches) >= 1


@pytest.mark.parametrize("name", [*NAMES, "asked"])
@pytest.mark.parametrize(
    ("text", "number", "found"),
    [("<image>\nhi", 0, "1 questions with <image> and no"), ("hi", 1, "0 questions with <image> and one")],
)
def test_a_marker_and_an_image_come_together(
    name, text, number, found, instructions, preferences, prompts, tokenizer, config
):
    """Where records were made in memory too: nobody looks at a black square, or at a picture that no question shows."""

    def changed(records):
        record = records[number]
        return [dataclasses.replace(record, turns=(Turn("human", text), *record.turns[1:]))]

    made = {
        "instructions": lambda: instruction_batches(changed(instructions), tokenizer, config, PLAIN, 1, LENGTH, 0),
        "preferences": lambda: preference_batches(changed(preferences), tokenizer, config, PLAIN, 1, LENGTH, SHORT, 0),
        "prompts": lambda: prompt_batches(changed(prompts), tokenizer, config, PLAIN, 1, 40, 90, SHORT, 0),
        "asked": lambda: image_prompts(changed(prompts), tokenizer, config, PLAIN, 1, [LENGTH]),
    }[name]()
    with pytest.raises(InputError, match=rf"made.json, row {number + 1}: found {found} image"):
        next(iter(made))


def test_an_image_in_a_later_turn_is_seen_there(images, tokenizer, config):
    turns = (Turn("human", "hi"), Turn("gpt", "a dog"), Turn("human", "what is it? <image>"), Turn("gpt", "a cat"))
    record = Instruction(id="1", image=images / "1.png", turns=turns)
    batch = next(iter(instruction_batches([record], tokenizer, config, PLAIN, 1, LENGTH, 0)))
    start = int(np.flatnonzero(batch.image_mask[0])[0])
    before, behind = (tokenizer.decode(ids) for ids in (batch.tokens[0, 1:start], batch.tokens[0, start + 4 :]))
    assert before.rstrip() == "USER: hi ASSISTANT: a dog</s> USER:"
    assert behind.lstrip().startswith("what is it? ASSISTANT: a cat</s>")
    assert batch.image_mask[0].sum() == 4
