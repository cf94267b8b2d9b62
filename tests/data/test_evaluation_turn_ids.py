"""The evaluation turn as LLaVA-RLHF's reward models read it: SentencePiece over its text with the space in front,
beside the space that SentencePiece itself puts there."""

import io
import json

import numpy as np
import pytest
import sentencepiece
from transformers import LlamaTokenizer

from vlm_jax.checkpoints.opening import TINY, Model
from vlm_jax.config import LanguageConfig, LlavaConfig, VisionConfig
from vlm_jax.data.assemble import suffixes
from vlm_jax.data.conversation import TEMPLATES, Turn
from vlm_jax.data.encoding import encode_texts
from vlm_jax.data.evaluation_turn import SHORT, STANDARD, load_reward_prompt, render
from vlm_jax.data.pipelines import preference_batches, prompt_batches
from vlm_jax.data.sources import Preference, Prompt
from vlm_jax.data.tokenizers import load_tokenizer
from vlm_jax.evals.calm.reward_model import RewardComparer
from vlm_jax.evals.calm.trial import trial_of
from vlm_jax.parallel.mesh import make_mesh

# Double spaces, as in the text that LLaMA's own model was made from: they are pieces of their own.
CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. USER: what is in the picture? ASSISTANT:",
    "  two spaces  here and  there.  USER: and  here  again",
    "    four    of them    too",
    "Please rate it: the quality score of my last response is",
    "  - a red ball\n  - a dog\n",
] * 20
VICUNA = TEMPLATES["vicuna_v1"]
FACTS = ("a red ball", "a dog")
RELEASED = "USER: Please rate it: {factual_prompt}ok?\n\nASSISTANT: the quality score of my last response is"
CONFIG = LlavaConfig(
    vision=VisionConfig(image_size=28, patch_size=14, width=8, layers=1, heads=1, mlp_width=8),
    language=LanguageConfig(vocab_size=400, width=8, layers=1, heads=1, kv_heads=1, mlp_width=8),
    image_token_id=399,
)


@pytest.fixture(scope="module")
def model():
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=stream,
        vocab_size=390,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    return stream.getvalue()


@pytest.fixture(scope="module", params=["SentencePiece", "saved fast"])
def tokenizer(request, model, tmp_path_factory):
    """In the two forms in which checkpoints have it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.model").write_bytes(model)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **special}))
    if request.param == "SentencePiece":
        return load_tokenizer(folder)
    LlamaTokenizer.from_pretrained(folder, legacy=True).save_pretrained(folder / "fast")
    (folder / "fast" / "tokenizer.model").unlink(missing_ok=True)
    return load_tokenizer(folder / "fast")


@pytest.fixture
def released(tmp_path):
    path = tmp_path / "reward_prompt.txt"
    path.write_text(RELEASED + "\n", encoding="utf-8")
    return load_reward_prompt(path)


def released_ids(model, facts=()):
    """What the released code feeds: one space and the file's text, to SentencePiece."""
    told = STANDARD.facts_lead + "".join(f"  - {fact}\n" for fact in facts) if facts else ""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    return pieces.encode(" " + RELEASED.replace("{factual_prompt}", told))


@pytest.mark.parametrize("facts", [None, FACTS])
def test_ids_are_those_of_the_released_reward_models(facts, model, tokenizer, released):
    found = suffixes(tokenizer, VICUNA, released)(facts)
    assert found == released_ids(model, facts or ())
    # The lone space: SentencePiece's own, and then the text's.
    assert "".join(tokenizer.convert_ids_to_tokens(found)).startswith("▁▁USER:")


@pytest.mark.parametrize("text", [" USER: hi", "  USER: hi", "USER: hi", "   a  b", "\n a"])
def test_a_space_that_is_kept(text, model, tokenizer):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert encode_texts(tokenizer, [text], keep_space=True) == [pieces.encode(text)]
    # Otherwise the first one is the tokeniser's own.
    assert encode_texts(tokenizer, [text]) == [pieces.encode(text.removeprefix(" "))]


def test_reward_training_ppo_and_scoring_read_the_same(model, tokenizer, released, monkeypatch):
    expected = released_ids(model)
    question = (Turn("human", "what is in the picture?"),)
    pair = Preference(id="1", image=None, turns=question, answers=("a dog", "a red ball"), choice=0)
    prompt = Prompt(id="1", image=None, turns=question)
    trained = next(iter(preference_batches([pair], tokenizer, CONFIG, VICUNA, 1, 200, released, 0))).batch
    rolled = next(iter(prompt_batches([prompt], tokenizer, CONFIG, VICUNA, 1, 100, 90, released, 0)))
    assert trained.tokens[:, -len(expected) :].tolist() == [expected] * 2
    assert rolled.suffix_tokens[rolled.suffix_mask].tolist() == expected
    assert trained.tokens[0, -len(expected) - 1] == CONFIG.eos_token_id

    seen = []
    comparer = RewardComparer(
        Model(CONFIG, {}, tokenizer, VICUNA, make_mesh()), {}, released, max_length=200, batch_size=2
    )
    monkeypatch.setattr(comparer, "_score", lambda base, role, batch: (seen.append(batch), np.zeros(2))[1])
    comparer.scores([trial_of(pair)])
    (scored,) = seen
    assert real_ids(scored) == real_ids(trained)


def real_ids(batch):
    rows = zip(np.asarray(batch.tokens), np.asarray(batch.attention_mask), strict=True)
    return [tokens[mask].tolist() for tokens, mask in rows]


def test_without_a_space_of_its_own_it_is_a_turn_like_others(tokenizer):
    """SHORT, which the tiny model was trained with; its ids are those of a further turn of the conversation."""
    assert not SHORT.keeps_space
    assert STANDARD.keeps_space
    text = render(SHORT, VICUNA, FACTS)
    assert suffixes(tokenizer, VICUNA, SHORT)(FACTS) == encode_texts(tokenizer, [text.removeprefix(" ")])[0]


def test_the_tiny_models_ids_stay():
    tiny = load_tokenizer(TINY)
    found = suffixes(tiny, TEMPLATES["plain"], SHORT)(("two red boats.",))
    spelled = "".join(tiny.convert_ids_to_tokens(found))
    assert spelled.startswith("▁USER:▁Facts:▁two▁red▁boats")
    whole = tiny(render(SHORT, TEMPLATES["plain"], ("two red boats.",)).removeprefix(" "), add_special_tokens=False)
    assert found == whole["input_ids"]


@pytest.mark.parametrize("style", ["metaspace", "normalizer", "bytes"])
def test_other_tokenizers_see_each_space_once(style, tokenizer_of):
    made = tokenizer_of(style)
    kept, left = (encode_texts(made, [" USER: a dog"], keep_space=keep)[0] for keep in (True, False))
    texts = ["".join(made.convert_ids_to_tokens(ids)).replace("Ġ", "▁") for ids in (kept, left)]
    assert texts == ["▁" * (1 if style == "bytes" else 2) + "USER:▁a▁dog", "▁USER:▁a▁dog"]
