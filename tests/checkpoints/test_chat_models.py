"""LLaVAs over Llama 2, Llama 3 and others: prompted and ended as their tokenizer says, computed as torch does."""

import dataclasses
import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from original_llava import loaded, original_config, original_tensors, write_tower
from PIL import Image
from random_llava import CONFIG, llama_config, logits_of, make_batch, our_logits, random_base, torch_llava
from safetensors.numpy import load_file, save_file
from small_tokenizer import CHATML, LLAMA_2, chatml_tokenizer, llama_2_tokenizer, llama_3_tokenizer

from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.export import export
from vlm_jax.checkpoints.hf_llava import load_llava, save_llava
from vlm_jax.checkpoints.opening import map_base, open_model, open_policy
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.commands import convert as convert_command
from vlm_jax.config import RopeScaling, own_steps
from vlm_jax.data.chat_template import chat_template, ended_by, template_named
from vlm_jax.data.conversation import TEMPLATES, Turn
from vlm_jax.data.encoding import encode_continuation, encode_conversation, encode_prompt
from vlm_jax.data.evaluation_turn import STANDARD
from vlm_jax.data.evaluation_turn import render as render_evaluation
from vlm_jax.data.images import prepare
from vlm_jax.data.pipelines import image_prompts
from vlm_jax.data.sources import Prompt
from vlm_jax.errors import InputError
from vlm_jax.files import read_json, write_json
from vlm_jax.generate.answers import answer
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.clip import normalise

TALK = (
    Turn("human", "Is there a dog?"),
    Turn("gpt", "No, there is a cat."),
    Turn("human", "<|eot_id|> </s> how many?"),
    Turn("gpt", "two  boats"),
)
WIDE = dataclasses.replace(
    CONFIG, language=dataclasses.replace(CONFIG.language, vocab_size=400, max_positions=256), image_token_id=6
)
TOKENIZERS = {
    "llama 3": lambda: llama_3_tokenizer(),
    "llama 2": lambda: llama_2_tokenizer(chat_template=LLAMA_2),
    "chatml": chatml_tokenizer,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def kind(request):
    tokenizer = TOKENIZERS[request.param]()
    template = template_named("chat", tokenizer)
    begin, image = tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("<image>")
    config = dataclasses.replace(WIDE, bos_token_id=begin, eos_token_id=tokenizer.eos_token_id, image_token_id=image)
    return request.param, tokenizer, template, ended_by(config, template)


def messages(turns):
    return [{"role": {"human": "user", "gpt": "assistant"}[turn.role], "content": turn.text} for turn in turns]


def test_ids_are_those_of_the_tokenizers_template(kind):
    name, tokenizer, template, config = kind
    turns = [*TALK[:2], Turn("human", "how many?"), TALK[3]]
    for count in (1, 2, 3, 4):
        encode = encode_prompt if count % 2 else encode_conversation
        ours = encode(tokenizer, template, turns[:count], config, 500).tokens.tolist()
        theirs = tokenizer.apply_chat_template(messages(turns[:count]), add_generation_prompt=count % 2 == 1)[
            "input_ids"
        ]
        # Left to the tokenizer, which puts it in front of texts.
        begin = [config.bos_token_id] if name == "chatml" else []
        assert ours == begin + theirs


def test_the_loss_is_on_answers_and_their_ends(kind):
    name, tokenizer, template, config = kind
    whole = encode_conversation(tokenizer, template, TALK, config, 500)
    learned = tokenizer.decode(whole.tokens[whole.loss_mask])
    end = {"llama 3": "<|eot_id|>", "llama 2": "</s>", "chatml": "<|im_end|>"}[name]
    assert learned.replace(" ", "") == f"No,thereisacat.{end}twoboats{end}"
    assert (whole.tokens[whole.loss_mask] == config.eos_token_id).sum() == 2
    prompt = encode_prompt(tokenizer, template, TALK[:3], config, 500)
    assert prompt.tokens.tolist() == whole.tokens[: len(prompt)].tolist()
    assert not whole.loss_mask[: len(prompt)][-1]
    assert whole.loss_mask[len(prompt)]
    going_on = encode_continuation(tokenizer, template, TALK[:3], "two", config, 500)
    assert going_on.tokens[: len(prompt)].tolist() == prompt.tokens.tolist()


def test_what_a_user_writes_is_no_control_token(kind):
    _, tokenizer, template, config = kind
    prompt = encode_prompt(tokenizer, template, TALK[:3], config, 500)
    controls = {one for one, token in tokenizer.added_tokens_decoder.items() if token.special}
    plain = encode_prompt(tokenizer, template, [*TALK[:2], Turn("human", "x")], config, 500)

    def count(encoded):
        return sum(one in controls for one in encoded.tokens.tolist())

    assert count(prompt) == count(plain)


def test_the_image_stands_in_front(kind):
    _, tokenizer, template, config = kind
    turns = [Turn("human", "Is there a dog? <image>"), *TALK[1:]]
    seen = encode_conversation(tokenizer, template, turns, config, 500)
    blind = encode_conversation(tokenizer, template, TALK, config, 500)
    assert seen.image_mask.sum() == config.vision.patches
    assert (seen.tokens[seen.image_mask] == config.image_token_id).all()
    before, after = (len(tokenizer.decode(seen.tokens[:n])) for n in (np.flatnonzero(seen.image_mask)[0], None))
    assert before < after / 3
    assert seen.loss_mask.sum() == blind.loss_mask.sum()


def test_spaces_are_cut_where_the_template_cuts_them(kind):
    name, _, template, _ = kind
    assert template.trimmed == {"llama 3": {"human", "gpt"}, "llama 2": {"human", "gpt"}, "chatml": set()}[name]
    assert template.parts == (name == "chatml")


def test_named_templates_are_original_llavas():
    tokenizer = llama_2_tokenizer()

    def written(name, tokenizer, turns):
        return "".join(piece.text for piece in template_named(name, tokenizer).pieces(turns))

    turns = [Turn("human", "<image>\nhi"), Turn("gpt", "a"), Turn("human", "b")]
    system = (
        "<<SYS>>\nYou are a helpful language and vision assistant. You are able to understand the visual content that "
        "the user provides, and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\n"
    )
    assert written("llava_llama_2", tokenizer, turns) == (
        f"<s>[INST] {system}<image>\nhi [/INST] a </s><s>[INST] b [/INST]"
    )
    assert written("mistral_instruct", tokenizer, turns) == "<s>[INST] <image>\nhi [/INST] a </s>[INST] b [/INST]"
    assert written("chatml_direct", chatml_tokenizer(), turns) == (
        "<s><|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nhi<|im_end|>"
        "<|im_start|>assistant\na<|im_end|><|im_start|>user\nb<|im_end|><|im_start|>assistant\n"
    )
    with pytest.raises(InputError, match="closes an answer with no control token"):
        template_named("chatml_direct", tokenizer)
    with pytest.raises(InputError, match="a tokenizer without a chat template"):
        template_named("chat", tokenizer)


@pytest.mark.parametrize(
    ("jinja", "found"),
    [
        ("{{ raise_exception('no images here') }}", "a chat template that fails"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "closes an answer with no control token"),
        (CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>' }}{% endif"), "otherwise than the beginning"),
        ("{{ messages[0]['content'] }}", "otherwise than the beginning"),
        ("{% for", "a chat template that fails"),
    ],
)
def test_templates_that_are_not_used(jinja, found):
    with pytest.raises(InputError, match=f"{found}.*--template"):
        chat_template(chatml_tokenizer(), jinja)


def test_a_reward_models_turn_needs_words(kind):
    with pytest.raises(InputError, match="prompted by its tokenizer's chat template; expected one of Vicuna's"):
        render_evaluation(STANDARD, kind[2], None)


ROPES = {
    "linear": ({"rope_type": "linear", "factor": 2.5}, RopeScaling("linear", 2.5)),
    "dynamic": ({"rope_type": "dynamic", "factor": 4.0}, RopeScaling("dynamic", 4.0)),
    "llama3": (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        RopeScaling("llama3", 8.0, 1.0, 4.0, 16),
    ),
}


def stretched(rope, **more):
    """A random LLaVA of transformers with such frequencies; ``max_position_embeddings`` is shorter than its texts."""
    model = torch_llava(CONFIG)
    text = llama_config(dataclasses.replace(CONFIG.language, max_positions=16), **more)
    text.rope_parameters = {**rope, "rope_theta": CONFIG.language.rope_theta}
    theirs = transformers.LlavaConfig(
        vision_config=model.config.vision_config, text_config=text, image_token_index=CONFIG.image_token_id
    )
    torch.manual_seed(1)
    model = transformers.LlavaForConditionalGeneration(theirs)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    return model.eval()


@pytest.mark.parametrize("name", ROPES)
def test_stretched_frequencies(name, tmp_path):
    rope, ours = ROPES[name]
    model = stretched(rope)
    model.save_pretrained(tmp_path / "hf")
    batch = make_batch(CONFIG)
    theirs = logits_of(model, batch)
    real = np.asarray(batch.attention_mask)
    config, base = load_llava(tmp_path / "hf")
    assert config.language.rope_scaling == ours
    plain = dataclasses.replace(config, language=dataclasses.replace(config.language, rope_scaling=None))
    assert np.abs(our_logits(plain, base, batch) - theirs)[real].max() > 0.01
    np.testing.assert_allclose(our_logits(config, base, batch)[real], theirs[real], atol=1e-4, rtol=0)
    # As 4.x writes it, in our own layout, and back.
    raw = read_json(tmp_path / "hf/config.json")
    old = {**rope, "type": rope["rope_type"]}
    del old["rope_type"]
    del raw["text_config"]["rope_parameters"]
    raw["text_config"] |= {"rope_scaling": old, "rope_theta": CONFIG.language.rope_theta}
    write_json(tmp_path / "hf/config.json", raw)
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    assert loaded(tmp_path / "ours")[0].language == config.language
    save_llava(tmp_path / "again", config, base, None)
    again = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "again", dtype=torch.float32)
    np.testing.assert_allclose(logits_of(again, batch)[real], theirs[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "yarn", "factor": 2.0},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": "2"},
        {"rope_type": "dynamic", "factor": 0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
        {"rope_type": ["linear"], "factor": 2.0},
    ],
    ids=str,
)
def test_frequencies_that_are_not_computed(rope, tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    raw = read_json(tmp_path / "hf/config.json")
    raw["text_config"]["rope_parameters"] = {**rope, "rope_theta": 1e4}
    write_json(tmp_path / "hf/config.json", raw)
    with pytest.raises(InputError, match=r"config.json: found .*rope"):
        open_source(tmp_path / "hf")


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_a_head_that_is_the_token_table(layout, tmp_path):
    model = stretched({"rope_type": "default"}, tie_word_embeddings=True)
    batch = make_batch(CONFIG)
    if layout == "hf":
        model.save_pretrained(tmp_path / "x")
        assert not [name for name in load_file(tmp_path / "x/model.safetensors") if "lm_head" in name]
        source = open_source(tmp_path / "x")
    else:
        (tmp_path / "x").mkdir()
        tensors = original_tensors(model, CONFIG)
        del tensors["lm_head.weight"]
        torch.save(tensors, tmp_path / "x/pytorch_model.bin")
        said = original_config(CONFIG, max_position_embeddings=16, tie_word_embeddings=True)
        write_json(tmp_path / "x/config.json", said)
        write_tower(tmp_path / "clip", model, "")
        source = open_source(tmp_path / "x", vision=tmp_path / "clip")
    convert(source, tmp_path / "ours", None)
    config, base = loaded(tmp_path / "ours")
    real = np.asarray(batch.attention_mask)
    ours = our_logits(dataclasses.replace(config, image_token_id=CONFIG.image_token_id), base, batch)
    np.testing.assert_allclose(ours[real], logits_of(model, batch)[real], atol=1e-4, rtol=0)
    save_llava(tmp_path / "again", config, base, None)
    np.testing.assert_array_equal(
        load_llava(tmp_path / "again")[1]["language"]["head"]["kernel"], base["language"]["head"]["kernel"]
    )


# The ids of a kind: begin, padding, image, and the ends of an answer, the template's first.
IDS = {"llama 3": (0, 5, 6, (4, 1)), "llama 2": (1, 0, 3, (2,)), "chatml": (0, 0, 4, (3, 1))}


def chat_folder(folder, name="llama 3"):
    """A random LLaVA of a kind, as transformers writes it."""
    begin, padding, image, ends = IDS[name]
    tokenizer, model = TOKENIZERS[name](), torch_llava(dataclasses.replace(WIDE, image_token_id=image))
    model.config.text_config.eos_token_id = model.generation_config.eos_token_id = sorted(ends)
    model.config.text_config.bos_token_id = model.generation_config.bos_token_id = begin
    model.config.pad_token_id = model.generation_config.pad_token_id = padding
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer, model


def asked(model, ours, text, image):
    """Ids that transformers chooses greedily, given our prompt's ids."""
    turns, config = [Turn("human", f"<image>\n{text}")], ours.config
    prompt = encode_prompt(ours.tokenizer, ours.template, turns, config, 200)
    pixels = normalise(
        jnp.asarray(prepare(image, own_steps(config.aspect, config.vision.image_size))[None]), jnp.dtype("float32")
    )
    out = model.generate(
        input_ids=torch.tensor(prompt.tokens[None]).long(),
        pixel_values=torch.tensor(np.array(pixels)).permute(0, 3, 1, 2),
        # An id that pads may be a word of the prompt.
        attention_mask=torch.ones(1, len(prompt)).long(),
        max_new_tokens=12,
        do_sample=False,
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", IDS)
def test_greedy_answers_are_those_of_transformers(name, tmp_path, capsys):
    tokenizer, model = chat_folder(tmp_path / "hf", name)
    begin, padding, _, ends = IDS[name]
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)) for _ in range(2)]
    texts = ["What is in the picture?", "Is there a dog?"]
    ours = open_model(str(tmp_path / "hf"), dtype="float32")
    assert "note:" not in capsys.readouterr().err
    config = ours.config
    assert (config.template, config.bos_token_id, config.pad_token_id) == ("chat", begin, padding)
    assert (config.eos_token_id, *config.end_token_ids) == ends
    first = asked(model, ours, texts[0], images[0])
    # Now one of its words, new where it stands, is a little less likely than the end of a turn.
    place = max(i for i in range(len(first)) if first[i] not in first[:i])
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[ends[0]] = 1.05 * head[first[place]]
    model.save_pretrained(tmp_path / "hf")
    ours = open_model(str(tmp_path / "hf"), dtype="float32")
    records = [
        Prompt(id=t, image=functools.partial(Image.Image.copy, i), turns=(Turn("human", f"<image>\n{t}"),))
        for t, i in zip(texts, images, strict=True)
    ]
    batches = image_prompts(records, tokenizer, ours.config, ours.template, 2, [96])
    answers = answer(ours, open_policy(ours, None), batches, Sampling(12, 0.0))
    theirs = [asked(model, ours, text, image) for text, image in zip(texts, images, strict=True)]
    assert theirs[0][place:] == [ends[0]]
    assert list(answers) == [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in theirs]


def test_converted_it_keeps_its_prompt(tmp_path):
    tokenizer, _ = chat_folder(tmp_path / "hf")
    convert_command.run(convert_command.Options(tmp_path / "hf", tmp_path / "ours"))
    model = open_model(str(tmp_path / "ours"))
    assert (model.config.template, model.config.eos_token_id, model.config.end_token_ids) == ("chat", 4, (1,))
    convert_command.run(convert_command.Options(tmp_path / "hf", tmp_path / "by_hand", template="vicuna_v1"))
    assert open_model(str(tmp_path / "by_hand")).template == TEMPLATES["vicuna_v1"]
    export(tmp_path / "again", "hf", *map_base(tmp_path / "ours"), tmp_path / "ours")
    again = transformers.AutoProcessor.from_pretrained(tmp_path / "again")
    assert again.tokenizer.chat_template == tokenizer.chat_template
    assert read_json(tmp_path / "again/generation_config.json")["eos_token_id"] == [1, 4]
    assert open_model(str(tmp_path / "again")).config.template == "chat"
    export(tmp_path / "original", "llava", *map_base(tmp_path / "by_hand"), tmp_path / "hf", vision_tower="clip")
    (tmp_path / "clip").mkdir()
    write_json(tmp_path / "clip/config.json", read_json(tmp_path / "hf/config.json")["vision_config"])
    save_file({"logit_scale": np.ones((), np.float32)}, tmp_path / "clip/model.safetensors")
    assert open_source(tmp_path / "original", vision=tmp_path / "clip").config.template == "vicuna_v1"


@pytest.mark.parametrize(
    ("said", "tokenizer", "name"),
    [
        ({}, lambda: llama_2_tokenizer(), "vicuna_v1"),
        ({}, lambda: llama_2_tokenizer(chat_template=LLAMA_2), "chat"),
        ({"conv_mode": "llava_llama_2"}, lambda: llama_2_tokenizer(), "llava_llama_2"),
        ({"conv_mode": "mistral_instruct"}, lambda: llama_2_tokenizer(chat_template=LLAMA_2), "mistral_instruct"),
        ({"conv_mode": "llava_v1"}, lambda: llama_2_tokenizer(), "llava_v1"),
    ],
)
def test_which_template_an_original_checkpoint_gets(said, tokenizer, name, tmp_path):
    folder = original_folder(tmp_path, said)
    tokenizer().save_pretrained(folder)
    assert open_source(folder, vision=tmp_path / "clip").config.template == name


def original_folder(place, said):
    model = torch_llava(WIDE)
    (place / "x").mkdir()
    torch.save(original_tensors(model, WIDE), place / "x/pytorch_model.bin")
    write_json(place / "x/config.json", original_config(WIDE, **said))
    write_tower(place / "clip", model, "")
    return place / "x"


def test_what_llava_in_transformers_layout_says_is_vicuna(tmp_path):
    """Its template leaves the system line out; the model was trained with it."""
    jinja = (
        "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
        "{% for c in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
        "{% for c in message['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )
    torch_llava(WIDE).save_pretrained(tmp_path / "hf")
    llama_2_tokenizer().save_pretrained(tmp_path / "hf")
    (tmp_path / "hf/chat_template.json").write_text(json.dumps({"chat_template": jinja}))
    assert open_source(tmp_path / "hf").config.template == "vicuna_v1"
    assert open_model(str(tmp_path / "hf")).template == TEMPLATES["vicuna_v1"]


def test_prompts_that_nothing_decides(tmp_path):
    folder = original_folder(tmp_path, {})
    tokenizer = llama_3_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        InputError, match=r"whose texts end at '<\|end_of_text\|>' and not at '</s>'; expected --template"
    ):
        open_source(folder, vision=tmp_path / "clip")
    assert open_source(folder, vision=tmp_path / "clip", template="vicuna_v1").config.template == "vicuna_v1"
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "conv_mode": "mpt"})
    with pytest.raises(InputError, match=r"config.json: found conv_mode 'mpt'; expected one of vicuna_v1"):
        open_source(folder, vision=tmp_path / "clip")
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "conv_mode": "chatml_dir"})
    with pytest.raises(InputError, match=r"conv_mode 'chatml_dir' \(did you mean 'chatml_direct'\?\); expected one of"):
        open_source(folder, vision=tmp_path / "clip")


def test_exported_named_templates_are_written_for_transformers(tmp_path):
    config = dataclasses.replace(WIDE, template="llava_llama_2", bos_token_id=1, eos_token_id=2, image_token_id=3)
    llama_2_tokenizer().save_pretrained(tmp_path / "words")
    save_llava(tmp_path / "hf", config, random_base(config), tmp_path / "words")
    model = open_model(str(tmp_path / "hf"))
    turns = [Turn("human", "<image>\nhi"), Turn("gpt", "a"), Turn("human", "b")]
    content = [{"type": "image"}, {"type": "text", "text": "hi"}]
    said = [{"role": "user", "content": content}, *messages(turns[1:])]
    written = transformers.AutoProcessor.from_pretrained(tmp_path / "hf").apply_chat_template(said)
    assert written == "".join(piece.text for piece in model.template.pieces(turns))
