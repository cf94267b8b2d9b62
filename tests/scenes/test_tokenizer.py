import pytest

from vlm_jax.scenes import tokenizer
from vlm_jax.scenes.language import KIND_OF_WORD
from vlm_jax.scenes.world import COLOURS, GROUNDS, SIZES


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.build(path)
    return path


@pytest.fixture(scope="module")
def loaded(built):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(built)


def test_ids(loaded):
    assert len(loaded) == 512
    assert sorted(loaded.get_vocab().values()) == list(range(512))
    assert loaded.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<image>"]) == [0, 1, 2, 3]
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 2)
    assert loaded("a ball").input_ids[0] == 1
    assert sum(f"<0x{byte:02X}>" in loaded.get_vocab() for byte in range(256)) == 256


def test_words_are_single_tokens(loaded):
    for word in (*KIND_OF_WORD, *COLOURS, *SIZES, *GROUNDS, "USER", "ASSISTANT", "Where", "something"):
        assert len(loaded(word, add_special_tokens=False).input_ids) == 1, word
    assert loaded.tokenize("USER: <image>\nWhat colour is the ball? ASSISTANT:") == [
        *("▁USER", ":", "▁", "<image>", "▁", "\n", "What", "▁colour", "▁is", "▁the", "▁ball", "?", "▁ASSISTANT", ":")
    ]


def test_the_world_needs_no_bytes_or_unknowns(loaded):
    for text in tokenizer.corpus()[:2000]:
        assert all(i >= 260 or i in (1, 3) for i in loaded(text).input_ids), text


@pytest.mark.parametrize(
    "text",
    [
        "There is a red ball.",
        "Grüße, 世界 🎈!",
        "  two  spaces\n\n\ttab ",
        "",
        "foo_bar 3.14 {x}",
        "ballball",
        "a\x00b",
    ],
)
def test_any_text_round_trips(loaded, text):
    assert loaded.decode(loaded(text).input_ids, skip_special_tokens=True) == text


def test_built_file_is_the_same_every_time(built, tmp_path):
    tokenizer.build(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / file).read_bytes() == (built / file).read_bytes()
