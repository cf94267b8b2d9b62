"""``--like transformers``: random checkpoints that transformers wrote answer, and learn, as they do there."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from PIL import Image
from random_llava import CONFIG
from small_tokenizer import llama_2_tokenizer, llama_3_tokenizer
from their_llava import (
    NEW,
    PROCESSORS,
    SIDE,
    TOKENIZERS,
    VICUNA,
    image_processor,
    open_theirs,
    pictures,
    their_answer,
    write_checkpoint,
)

import vlm_jax
from vlm_jax.checkpoints.image_processor import read_image_steps
from vlm_jax.checkpoints.opening import asked_as, open_model, open_policy
from vlm_jax.checkpoints.tokenizer_files import as_jinja
from vlm_jax.cli import main
from vlm_jax.config import ImageSteps
from vlm_jax.data.chat_template import as_transformers
from vlm_jax.data.conversation import TEMPLATES, Turn, place_image
from vlm_jax.data.encoding import (
    encode_answer,
    encode_continuation,
    encode_conversation,
    encode_judged,
    encode_prompt,
)
from vlm_jax.data.images import prepare
from vlm_jax.data.tokenizers import load_tokenizer
from vlm_jax.errors import InputError
from vlm_jax.files import read_json

QUESTIONS = ("What is in the picture?", "a red ball\n\n and two  boats", "Is there a dog?")


@pytest.mark.parametrize("words", TOKENIZERS)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_answers_are_those_of_transformers(words, processor, tmp_path):
    folder = write_checkpoint(tmp_path / "llava", words, processor, seed=len(words) + len(processor))
    images = pictures(tmp_path)
    questions = [QUESTIONS[i % 3] for i in range(len(images))]
    ours = vlm_jax.load(folder, dtype="float32", like="transformers")
    said = ours.answer(images, questions, max_new_tokens=NEW, max_length=160)
    model, theirs = open_theirs(folder)
    assert said == [their_answer(model, theirs, *pair) for pair in zip(images, questions, strict=True)]
    # Not because all pictures are answered alike.
    assert len(set(said)) > 3


@pytest.fixture(scope="module")
def crop(tmp_path_factory):
    """A checkpoint whose processor cuts out the middle, and a wide picture."""
    folder = tmp_path_factory.mktemp("crop")
    write_checkpoint(folder / "llava", "legacy", "crop", seed=5)
    return folder / "llava", pictures(folder)[0]


def test_commands_and_our_own_layout_answer_alike(crop, tmp_path, capsys):
    folder, picture = crop
    model, processor = open_theirs(folder)
    theirs = their_answer(model, processor, picture, QUESTIONS[0])
    main(["convert", str(folder), str(tmp_path / "ours")])
    for checkpoint in (folder, tmp_path / "ours"):
        capsys.readouterr()
        asked = ["--image", str(picture), "--prompt", QUESTIONS[0], "--max-new-tokens", str(NEW)]
        main(["generate", "--checkpoint", str(checkpoint), *asked, "--like", "transformers", "--dtype", "float32"])
        assert capsys.readouterr().out.strip() == theirs
        main(["generate", "--checkpoint", str(checkpoint), *asked, "--dtype", "float32"])
        assert capsys.readouterr().out.strip() != theirs


def test_answers_end_where_transformers_ends_them(crop, tmp_path):
    """At the ids of generation_config.json; the template's own end is among them only where training taught it."""
    picture = crop[1]
    write_checkpoint(tmp_path / "llava", "bytes", "crop", seed=5)
    model, processor = open_theirs(tmp_path / "llava")
    first = processor.tokenizer(their_answer(model, processor, picture, QUESTIONS[0], limit=1))["input_ids"][-1]
    end = processor.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    head = model.lm_head.weight.data
    head[[first, end]] = head[[end, first]]
    model.save_pretrained(tmp_path / "llava")
    theirs = their_answer(model, processor, picture, QUESTIONS[0])
    assert theirs
    ours = vlm_jax.load(tmp_path / "llava", dtype="float32", like="transformers")
    assert ours.answer(picture, QUESTIONS[0], max_new_tokens=NEW) == [theirs]
    assert end not in (ours.model.config.eos_token_id, *ours.model.config.end_token_ids)
    train("lora", tmp_path / "llava", picture, tmp_path / "run")
    learnt = open_model(str(tmp_path / "llava"), adapter=tmp_path / "run/adapter")
    assert learnt.config.eos_token_id == end


@pytest.mark.parametrize("kind", ["CLIPImageProcessor", "LlavaImageProcessor"])
def test_pixels_are_those_of_transformers(kind, tmp_path):
    rng = np.random.default_rng(0)
    sizes = [{"shortest_edge": 20}, {"height": 26, "width": 21}, 24]
    crops = [{"height": 20, "width": 20}, 23, 31]
    shapes = [(57, 19), (18, 64), (33, 33), (20, 20), (4, 5), (21, 20)]
    compared = 0
    for number, (size, crop, pad, resample) in enumerate(itertools.product(sizes, crops, (False, True), range(6))):
        said = {"size": size, "crop_size": crop, "do_pad": pad, "resample": resample, "do_resize": number % 5 > 0}
        (tmp_path / str(number)).mkdir()
        theirs = image_processor(kind, **said)
        theirs.save_pretrained(tmp_path / str(number))
        side = crop if isinstance(crop, int) else crop["height"]
        steps = read_image_steps(tmp_path / str(number), side)
        shape = shapes[number % len(shapes)]
        image = Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8))
        expected = theirs(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(prepare(image, steps), expected.transpose(1, 2, 0), err_msg=str((said, shape)))
        compared += 1
    assert compared > 80


def test_a_processor_within_the_processors_file_goes_before(tmp_path):
    nested = {"image_processor_type": "LlavaImageProcessorFast", "size": 20, "crop_size": 20, "do_pad": None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(nested | {"do_pad": True}))
    assert read_image_steps(tmp_path, 20) == ImageSteps(True, 20, 3, (20, 20))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    assert read_image_steps(tmp_path, 20) == ImageSteps(False, 20, 3, (20, 20))


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"image_processor_type": "SiglipImageProcessor"}, "image_processor_type 'SiglipImageProcessor'"),
        ({"image_mean": [0.5, 0.5, 0.5]}, r"image_mean \[0.5, 0.5, 0.5\]"),
        ({"image_std": [0.5, 0.5]}, "image_std"),
        ({"do_normalize": False, "do_rescale": 1}, "do_rescale 1; do_normalize False"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0"),
        ({"resample": 9}, "resample 9"),
        ({"do_pad": "yes"}, "do_pad 'yes'"),
        ({"size": {"shortest_edge": 20, "longest_edge": 40}}, "size {'shortest_edge': 20, 'longest_edge': 40}"),
        ({"size": {"height": 20}}, "size {'height': 20}"),
        ({"size": -20}, "size -20"),
        ({"crop_size": True}, "crop_size True"),
        ({"crop_size": 24}, "images of 24 by 24 pixels; expected 20 by 20"),
        ({"do_center_crop": False}, "images of many sizes"),
    ],
)
def test_processors_that_are_none_of_these_are_refused_by_key(said, found, tmp_path):
    usual = {"image_processor_type": "CLIPImageProcessor", "size": 20, "crop_size": 20}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(usual | said))
    with pytest.raises(InputError, match=found) as caught:
        read_image_steps(tmp_path, 20)
    assert caught.value.file == str(tmp_path / "preprocessor_config.json")


def test_no_processor_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no preprocessor_config.json"):
        read_image_steps(tmp_path, 20)


CONVERSATION = (
    Turn("human", "<image>\nWhat is in the picture?"),
    Turn("gpt", "two boats"),
    Turn("human", "the tree?"),
    Turn("gpt", "a red ball\n in the snow."),
)


def config_for(tokenizer):
    steps = ImageSteps(False, SIDE, 3, (SIDE, SIDE))
    return dataclasses.replace(
        CONFIG,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|eot_id|>" if "eot" in tokenizer.chat_template else "</s>"),
        as_transformers=steps,
    )


@pytest.mark.parametrize("words", TOKENIZERS)
def test_what_is_learnt_are_answers_and_their_ends(words):
    tokenizer = TOKENIZERS[words]()
    config, template = config_for(tokenizer), as_transformers("vicuna_v1", tokenizer)
    whole = encode_conversation(tokenizer, template, CONVERSATION, config, 400)
    assert whole.image_mask.sum() == config.vision.patches
    assert not (whole.loss_mask & whole.image_mask).any()
    learnt = tokenizer.decode(whole.tokens[whole.loss_mask])
    end = tokenizer.convert_ids_to_tokens(config.eos_token_id)
    assert [text.strip() for text in learnt.split(end)] == ["two boats", "a red ball\n in the snow.", ""]
    # A prompt is the beginning of its conversation, up to the answer.
    prompt = encode_prompt(tokenizer, template, CONVERSATION[:1], config, 400)
    first = int(np.flatnonzero(whole.loss_mask)[0])
    np.testing.assert_array_equal(prompt.tokens, whole.tokens[:first])
    # And so is a continuation, whose ids are those that are asked for by themselves.
    continued = encode_continuation(tokenizer, template, CONVERSATION[:1], "two boats", config, 400, end=True)
    np.testing.assert_array_equal(continued.tokens, whole.tokens[: len(continued)])
    assert continued.tokens[continued.loss_mask].tolist() == encode_answer(tokenizer, template, "two boats", config)


def test_a_prompt_of_several_turns_is_what_the_template_writes():
    tokenizer = llama_2_tokenizer(chat_template=VICUNA)
    config, template = config_for(tokenizer), as_transformers("vicuna_v1", tokenizer)
    prompt = encode_prompt(tokenizer, template, CONVERSATION[:3], config, 400)
    text = "USER: <image>\nWhat is in the picture? ASSISTANT: two boats USER: the tree? ASSISTANT:"
    expected = tokenizer(text.replace("<image>", "<image>" * config.vision.patches))["input_ids"]
    assert prompt.tokens.tolist() == expected


def test_without_a_chat_template_the_words_are_the_checkpoints():
    tokenizer = llama_2_tokenizer()
    config = config_for(llama_2_tokenizer(chat_template=VICUNA))
    prompt = encode_prompt(tokenizer, as_transformers("plain", tokenizer), CONVERSATION[:1], config, 400)
    text = "USER: <image>\nWhat is in the picture? ASSISTANT:"
    expected = tokenizer(text.replace("<image>", "<image>" * config.vision.patches))["input_ids"]
    assert prompt.tokens.tolist() == expected


@pytest.mark.parametrize("text", ["say </s>", "one <s> and <image>"])
def test_words_that_would_become_control_tokens_are_refused(text):
    tokenizer = llama_2_tokenizer(chat_template=VICUNA)
    config, template = config_for(tokenizer), as_transformers("vicuna_v1", tokenizer)
    with pytest.raises(InputError, match="in a text, which transformers reads as control tokens"):
        encode_continuation(tokenizer, template, [Turn("human", "hi")], text, config, 400)


def test_another_image_token_than_the_models_is_refused():
    tokenizer = llama_3_tokenizer()
    config = dataclasses.replace(config_for(tokenizer), image_token_id=3)
    with pytest.raises(InputError, match="6 as the tokenizer's <image>; expected 3, the model's"):
        encode_prompt(tokenizer, as_transformers("chat", tokenizer), [Turn("human", "hi")], config, 400)


def train(kind, folder, picture, out, like="transformers"):
    said = [{"from": "human", "value": f"<image>\n{QUESTIONS[0]}"}, {"from": "gpt", "value": "two boats"}]
    rows = out.parent / "rows.json"
    rows.write_text(json.dumps([{"id": i, "image": picture.name, "conversations": said} for i in range(4)]))
    where = f"--checkpoint {folder} --data {rows} --images {picture.parent} --out {out} --trainable {kind}"
    how = f"--recipe scenes-tiny/sft-{kind} --batch-size 2 --epochs 1 --max-length 160 --learning-rate 0.05 --warmup 0"
    main(["sft", *where.split(), *how.split(), "--like", like])


def test_an_adapter_remembers_how_its_training_read(crop, tmp_path, capsys):
    folder, picture = crop
    train("lora", folder, picture, tmp_path / "run")
    adapter = tmp_path / "run/adapter"
    steps = {"pad": False, "resize": 28, "resample": 3, "crop": [28, 28]}
    assert read_json(adapter / "reading.json") == {"like": "transformers", "steps": steps}
    assert open_model(str(folder), adapter=adapter).config.as_transformers == ImageSteps(False, 28, 3, (28, 28))
    assert open_model(str(folder)).config.as_transformers is None
    capsys.readouterr()
    other = open_model(str(folder), adapter=adapter, like="llava")
    assert other.config.as_transformers is None
    open_policy(other, adapter)
    assert "trained --like transformers, and read --like llava" in capsys.readouterr().err
    # What is merged, and what is exported of that, says it itself.
    main(["merge", str(folder), str(adapter), str(tmp_path / "merged")])
    main(["export", str(tmp_path / "merged"), str(tmp_path / "back"), "--layout", "hf"])
    for checkpoint in (tmp_path / "merged", tmp_path / "back"):
        model = open_model(str(checkpoint))
        assert model.config.as_transformers == ImageSteps(False, 28, 3, (28, 28))
        assert model.template.jinja == VICUNA
        # The words that LLaVA has are not lost.
        assert open_model(str(checkpoint), like="llava").template == TEMPLATES["vicuna_v1"]
    ours = vlm_jax.load(tmp_path / "back", dtype="float32").answer(picture, QUESTIONS[0], max_new_tokens=NEW)
    assert ours == [their_answer(*open_theirs(tmp_path / "back"), picture, QUESTIONS[0])]


def test_all_weights_trained_remember_it_too(crop, tmp_path):
    folder, picture = crop
    train("full", folder, picture, tmp_path / "run")
    trained = tmp_path / "run/checkpoint"
    assert open_model(str(trained)).config.as_transformers == ImageSteps(False, 28, 3, (28, 28))
    ours = vlm_jax.load(trained, dtype="float32").answer(picture, QUESTIONS[0], max_new_tokens=NEW)
    assert ours == [their_answer(*open_theirs(trained), picture, QUESTIONS[0])]


@pytest.mark.parametrize("like", ["torch", ""])
def test_another_word_is_refused(crop, like):
    # The checked signature refuses it first where signatures are checked, the function itself elsewhere.
    with pytest.raises((InputError, TypeCheckError), match="llava"):
        vlm_jax.load(crop[0], like=like)


def test_a_reward_model_reads_as_in_its_training(crop, tmp_path, capsys):
    folder, picture = crop
    said = [{"from": "human", "value": f"<image>\n{QUESTIONS[0]}"}]
    answers = {f"output_{i}": {"from": "llm", "value": text} for i, text in ((1, "two boats"), (2, "a tree"))}
    pair = {"image": picture.name, "conversations": said, **answers, "preference": 1}
    rows = tmp_path / "pairs.json"
    rows.write_text(json.dumps([{"id": i, **pair} for i in range(4)]))
    where = f"--checkpoint {folder} --preferences {rows} --images {picture.parent} --out {tmp_path / 'run'}"
    how = "--recipe scenes-tiny/reward --held-out 0 --batch-size 2 --max-length 160 --like transformers"
    main(["reward", *where.split(), *how.split()])
    adapter = tmp_path / "run/adapter"
    model = vlm_jax.load(folder, adapter)
    assert model.model.config.as_transformers == ImageSteps(False, 28, 3, (28, 28))
    assert np.isfinite(model.scores(picture, QUESTIONS[0], "two boats")).all()
    with pytest.raises(InputError, match="--like llava; expected --like transformers, as in the reward model's"):
        vlm_jax.load(folder, adapter, like="llava")
    (adapter / "reading.json").write_text('{"like": "transformers", "steps": {"pad": 1}}')
    with pytest.raises(InputError, match="what training writes there"):
        vlm_jax.load(folder, adapter)
    # One from before there was such a file.
    (adapter / "reading.json").unlink()
    with pytest.raises(InputError, match="--like transformers; expected --like llava, as in the reward model's"):
        vlm_jax.load(folder, adapter, like="transformers")


def test_scores_are_of_the_text_that_training_read():
    """Of several turns, and of a template that writes on behind the end of an answer."""
    for tokenizer in (llama_2_tokenizer(chat_template=VICUNA), llama_3_tokenizer()):
        config, template = config_for(tokenizer), as_transformers("vicuna_v1", tokenizer)
        prompt, answer = CONVERSATION[:3], CONVERSATION[3].text
        learnt = encode_judged(tokenizer, template, prompt, answer, config, 400)
        scored = encode_continuation(tokenizer, template, prompt, answer, config, 400, end=True)
        np.testing.assert_array_equal(learnt.tokens, scored.tokens)
        np.testing.assert_array_equal(learnt.loss_mask, scored.loss_mask)
        # PPO has the prompt's ids and those that were drawn.
        asked = encode_prompt(tokenizer, template, prompt, config, 400)
        drawn = encode_answer(tokenizer, template, answer, config)
        assert scored.tokens.tolist() == [*asked.tokens.tolist(), *drawn]
    # What is cut loses the end of its answer.
    assert len(encode_judged(tokenizer, template, prompt, answer, config, len(learnt) - 2)) == len(learnt) - 2


def test_an_adapter_trained_as_llava_over_a_base_that_reads_as_transformers(crop, tmp_path, capsys):
    folder, picture = crop
    train("full", folder, picture, tmp_path / "first")
    base = tmp_path / "first/checkpoint"
    assert open_model(str(base)).config.as_transformers is not None
    train("lora", base, picture, tmp_path / "run", like="llava")
    adapter = tmp_path / "run/adapter"
    assert open_model(str(base), adapter=adapter).config.as_transformers is None
    # Another adapter's reading is told where a model was opened for this one.
    train("lora", base, picture, tmp_path / "other", like="transformers")
    capsys.readouterr()
    open_policy(open_model(str(base), adapter=adapter), tmp_path / "other/adapter")
    assert "trained --like transformers, and read --like llava" in capsys.readouterr().err


def test_words_of_its_own_keep_their_blanks(crop, tmp_path):
    model, processor = open_theirs(crop[0])
    questions = ["  What is it? ", "What is it?\n", "\nIs there a dog?"]
    ours = vlm_jax.load(crop[0], dtype="float32", like="transformers").answer(crop[1], questions, max_new_tokens=NEW)
    assert ours == [their_answer(model, processor, crop[1], question) for question in questions]


def test_a_picture_alone_is_a_question():
    for tokenizer in (llama_2_tokenizer(chat_template=VICUNA), llama_3_tokenizer()):
        config, template = config_for(tokenizer), as_transformers("vicuna_v1", tokenizer)
        prompt = encode_prompt(tokenizer, template, [Turn("human", "<image>")], config, 400)
        assert prompt.image_mask.sum() == config.vision.patches
        asked = tokenizer.decode(prompt.tokens[~prompt.image_mask])
        assert "image" not in asked


def test_a_tokenizer_that_each_transformers_reads_in_its_own_way_is_refused(crop, tmp_path, monkeypatch):
    shutil.copytree(crop[0], tmp_path / "words")
    words = load_tokenizer(crop[0])
    (tmp_path / "words/tokenizer.json").unlink()
    monkeypatch.setattr("vlm_jax.data.tokenizers.load_tokenizer", lambda folder: words)
    with pytest.raises(InputError, match=r"no tokenizer.json"):
        open_model(str(tmp_path / "words"), like="transformers")
    assert open_model(str(tmp_path / "words"), like="llava").config.as_transformers is None


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("<image>\n a\n", "<image>\n a\n"),
        ("<image> a", "<image>\n a"),
        ("a \n<image>", "<image>\na "),
        ("a<image>\nb", "<image>\na\nb"),
        ("<image>", "<image>"),
        ("<image>\n", "<image>"),
    ],
)
def test_the_marker_comes_first_and_blanks_stay(text, placed):
    assert place_image([Turn("human", text)], strips=False) == [Turn("human", placed)]


def test_tokens_around_an_image_are_written_once():
    tokenizer = llama_2_tokenizer()
    ends = (5, 6)
    names = tuple(tokenizer.convert_ids_to_tokens(list(ends)))
    tokenizer.add_special_tokens({"additional_special_tokens": list(names)})
    config = dataclasses.replace(config_for(llama_2_tokenizer(chat_template=VICUNA)), image_ends=ends)
    tokenizer.chat_template = as_jinja(TEMPLATES["plain"], names)
    for template in (as_transformers("plain", tokenizer), TEMPLATES["plain"]):
        tokens = encode_prompt(tokenizer, template, CONVERSATION[:1], config, 400).tokens.tolist()
        assert [tokens.count(end) for end in ends] == [1, 1]


def test_what_has_no_place_elsewhere_is_refused(crop, tmp_path):
    folder, picture = crop
    train("full", folder, picture, tmp_path / "run")
    with pytest.raises(SystemExit, match="2"):
        main(f"export {tmp_path}/run/checkpoint {tmp_path}/back --layout llava --vision-tower x".split())
    model = open_model(str(folder), like="transformers")
    with pytest.raises(InputError, match="template vicuna_v1, aspect pad for a model that reads as transformers does"):
        asked_as(model, "vicuna_v1", "pad")
    assert not (tmp_path / "back").exists()
