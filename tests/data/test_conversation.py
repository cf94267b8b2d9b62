import dataclasses

import numpy as np
import pytest

from vlm_jax.data.conversation import TEMPLATES, Turn, place_image, render
from vlm_jax.data.encoding import encode_conversation, encode_prompt, encode_texts
from vlm_jax.errors import InputError

PLAIN = TEMPLATES["plain"]
TALK = (
    Turn("human", "what is in the picture? <image>"),
    Turn("gpt", "a red ball"),
    Turn("human", "is there a dog?"),
    Turn("gpt", "no, there is a cat."),
)


def spell(tokenizer, ids):
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def test_rendering_is_the_published_one():
    text = "".join(piece.text for piece in render(TEMPLATES["vicuna_v1"], TALK))
    assert text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. "
        "USER: <image>\nwhat is in the picture? "
        "ASSISTANT: a red ball</s>USER: is there a dog? ASSISTANT: no, there is a cat.</s>"
    )
    human = "".join(piece.text for piece in render(TEMPLATES["llava_v1"], TALK))
    assert human == text.replace("curious user", "curious human").replace("user's", "human's")
    plain = "".join(piece.text for piece in render(PLAIN, TALK[2:]))
    assert plain == "USER: is there a dog? ASSISTANT: no, there is a cat.</s>"


@pytest.mark.parametrize("text", ["<image>\nhi", "hi\n<image>", "hi<image>", "<image> hi "])
def test_the_image_goes_to_the_front_of_its_turn(text):
    assert place_image([Turn("human", text), Turn("gpt", "x")])[0].text == "<image>\nhi"
    later = place_image([Turn("human", "hi"), Turn("gpt", "x"), Turn("human", "see <image>")])
    assert [turn.text for turn in later] == ["hi", "x", "<image>\nsee"]
    said = place_image([Turn("human", "hi"), Turn("gpt", "write <image>")])
    assert [turn.text for turn in said] == ["hi", "write <image>"]


def test_masks_by_hand(tokenizer, config):
    got = encode_conversation(tokenizer, PLAIN, TALK, config, 200)
    # Written out piece by piece: (spelling, in the loss, is image).
    expected = [
        ("<s>", 0, 0),
        ("▁USER:▁", 0, 0),
        ("<image>" * 4, 0, 1),
        ("▁\nwhat▁is▁in▁the▁picture?▁ASSISTANT:", 0, 0),
        ("▁a▁red▁ball</s>", 1, 0),
        ("▁USER:▁is▁there▁a▁dog?▁ASSISTANT:", 0, 0),
        ("▁no,▁there▁is▁a▁cat.</s>", 1, 0),
    ]
    assert spell(tokenizer, got.tokens) == "".join(text for text, _, _ in expected)
    loss, image = got.loss_mask.astype(int), got.image_mask.astype(int)
    start = 0
    for text, in_loss, is_image in expected:
        end = start
        while spell(tokenizer, got.tokens[start:end]) != text:
            end += 1
        assert set(loss[start:end]) == {in_loss}, text
        assert set(image[start:end]) == {is_image}, text
        start = end
    assert start == len(got)
    assert got.tokens.dtype == np.int32
    assert got.loss_mask.dtype == got.image_mask.dtype == bool
    assert (got.tokens == config.bos_token_id).sum() == 1


@pytest.mark.parametrize("style", ["metaspace", "normalizer", "bytes"])
def test_ids_agree_with_the_whole_string(style, tokenizer_of, config):
    tokenizer = tokenizer_of(style)
    got = encode_conversation(tokenizer, PLAIN, TALK[2:], config, 200)
    whole = tokenizer.encode("USER: is there a dog? ASSISTANT: no, there is a cat.", add_special_tokens=False)
    assert got.tokens.tolist() == [1, *whole, 2]


def test_text_after_an_image_is_a_fresh_piece(tokenizer, config):
    """Original LLaVA: ids right after the image are those of the lone space and of the line break."""
    got = encode_prompt(tokenizer, PLAIN, TALK[:1], config, 200)
    after = int(np.flatnonzero(got.image_mask)[-1]) + 1
    assert tokenizer.convert_ids_to_tokens(got.tokens[after : after + 2]) == ["▁", "\n"]


def test_a_prompt_is_the_beginning_of_its_conversation(tokenizer, config):
    whole = encode_conversation(tokenizer, PLAIN, TALK, config, 200)
    prompt = encode_prompt(tokenizer, PLAIN, TALK[:3], config, 200)
    assert prompt.tokens.tolist() == whole.tokens[: len(prompt)].tolist()
    assert whole.loss_mask[len(prompt) :].all()
    assert not prompt.loss_mask.any()
    assert spell(tokenizer, prompt.tokens).endswith("▁ASSISTANT:")


def test_control_tokens_in_text_stay_text(tokenizer, config):
    turns = (Turn("human", "is </s> there?"), Turn("gpt", "no <s> </s>"))
    got = encode_conversation(tokenizer, PLAIN, turns, config, 200)
    assert (got.tokens == config.eos_token_id).sum() == 1
    assert got.tokens[-1] == config.eos_token_id
    assert (got.tokens == config.bos_token_id).sum() == 1


def test_one_leading_space_is_absorbed(tokenizer, tokenizer_of):
    assert encode_texts(tokenizer, [" a red ball"]) == encode_texts(tokenizer, ["a red ball"])
    gpt2 = tokenizer_of("bytes")
    assert encode_texts(gpt2, [" a red ball"]) != encode_texts(gpt2, ["a red ball"])


def test_truncation_keeps_image_spans(tokenizer, config):
    whole = encode_conversation(tokenizer, PLAIN, TALK, config, 200)
    first_answer = int(np.flatnonzero(whole.loss_mask)[0])
    image_end = int(np.flatnonzero(whole.image_mask)[-1]) + 1
    for length in range(1, len(whole) + 1):
        if length <= first_answer:
            expected = "image span" if length < image_end else "answer token"
            with pytest.raises(InputError, match=expected):
                encode_conversation(tokenizer, PLAIN, TALK, config, length)
        else:
            cut = encode_conversation(tokenizer, PLAIN, TALK, config, length)
            assert cut.tokens.tolist() == whole.tokens[:length].tolist()
            assert cut.image_mask.sum() == config.vision.patches


def test_image_span_has_the_towers_length(tokenizer, config):
    wide = dataclasses.replace(config, vision=dataclasses.replace(config.vision, image_size=12))
    short, long = (encode_prompt(tokenizer, PLAIN, TALK[:1], c, 200) for c in (config, wide))
    assert (short.image_mask.sum(), long.image_mask.sum()) == (4, 9)
    assert short.tokens[~short.image_mask].tolist() == long.tokens[~long.image_mask].tolist()


def test_prompt_too_long(tokenizer, config):
    length = len(encode_prompt(tokenizer, PLAIN, TALK[:1], config, 200))
    encode_prompt(tokenizer, PLAIN, TALK[:1], config, length)
    with pytest.raises(InputError, match=rf"found a prompt of {length} positions .* at most {length - 1}"):
        encode_prompt(tokenizer, PLAIN, TALK[:1], config, length - 1)


def test_misuse_is_refused(tokenizer, config):
    with pytest.raises(ValueError, match="ends with a human turn"):
        encode_prompt(tokenizer, PLAIN, TALK[:2], config, 200)
    with pytest.raises(ValueError, match="alternate"):
        render(PLAIN, TALK[1:])
