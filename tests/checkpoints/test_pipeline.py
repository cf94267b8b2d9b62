"""What is exported works in transformers as it is: its pipeline, its chat template, its batched generation."""

import dataclasses
import functools

import numpy as np
import pytest
import transformers
from PIL import Image
from random_llava import CONFIG, random_base
from small_tokenizer import llama_2_tokenizer

from vlm_jax.checkpoints.export import export
from vlm_jax.checkpoints.hf_llava import save_llava
from vlm_jax.checkpoints.opening import TINY, map_base, open_model, open_policy
from vlm_jax.data.conversation import TEMPLATES, Turn, render
from vlm_jax.data.pipelines import image_prompts
from vlm_jax.data.sources import Prompt
from vlm_jax.files import read_json
from vlm_jax.generate.answers import answer
from vlm_jax.generate.sampling import Sampling

TEXTS = ("Describe the picture.", "Is there a star in the picture, and what else can be seen?")
LIMIT = 12


def asked(text, image):
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def test_pipeline_and_batches_answer_as_we_do(tmp_path):
    export(tmp_path / "hf", "hf", *map_base(TINY), TINY)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)) for _ in TEXTS]
    model = open_model("tiny")
    records = [
        Prompt(id=t, image=functools.partial(Image.Image.copy, i), turns=(Turn("human", f"<image>\n{t}"),))
        for t, i in zip(TEXTS, images, strict=True)
    ]
    batches = image_prompts(records, model.tokenizer, model.config, model.template, 2, [64])
    ours = list(answer(model, open_policy(model, None), batches, Sampling(LIMIT, 0.0)))
    assert all(ours)
    pipe = transformers.pipeline("image-text-to-text", model=str(tmp_path / "hf"))
    conversations = [asked(text, image) for text, image in zip(TEXTS, images, strict=True)]
    single = [pipe(text=one, max_new_tokens=LIMIT, do_sample=False)[0]["generated_text"] for one in conversations]
    assert [one[-1]["content"].strip() for one in single] == ours
    # Prompts of two lengths in one batch.
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "hf")
    prompts = processor.apply_chat_template(conversations, add_generation_prompt=True)
    batch = processor(text=prompts, images=images, padding=True, return_tensors="pt")
    assert 0 in batch["attention_mask"][0]
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf")
    made = theirs.generate(**batch, max_new_tokens=LIMIT, do_sample=False)[:, batch["input_ids"].shape[1] :]
    assert [text.strip() for text in processor.batch_decode(made, skip_special_tokens=True)] == ours


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("ends", [None, (58, 59)])
def test_the_chat_template_writes_what_we_write(template, ends, tmp_path):
    tokenizer = llama_2_tokenizer()
    config = dataclasses.replace(
        CONFIG,
        language=dataclasses.replace(CONFIG.language, vocab_size=400),
        image_token_id=3,
        template=template,
        image_ends=ends,
    )
    # A template of somebody else, in each of the places where transformers looks.
    tokenizer.chat_template = "{{ 'other' }}"
    tokenizer.save_pretrained(tmp_path / "words")
    (tmp_path / "words/chat_template.json").write_text('{"chat_template": "{{ 1 }}"}')
    save_llava(tmp_path / "hf", config, random_base(config), tmp_path / "words")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "hf")
    assert (processor.tokenizer.padding_side, processor.tokenizer.pad_token) == ("left", "<unk>")
    turns = [Turn("human", "<image>\nhi 'there'"), Turn("gpt", 'a "b"'), Turn("human", "b\nc")]
    said = [
        *asked("hi 'there'", None),
        {"role": "assistant", "content": 'a "b"'},
        {"role": "user", "content": [{"type": "text", "text": "b\nc"}]},
    ]
    ours = "".join(piece.text for piece in render(TEMPLATES[template], turns))
    if ends:
        names = tokenizer.convert_ids_to_tokens(list(ends))
        ours = ours.replace("<image>", f"{names[0]}<image>{names[1]}")
    assert processor.apply_chat_template(said, add_generation_prompt=True) == ours
    whole = "".join(piece.text for piece in render(TEMPLATES["plain"], turns[:2]))
    assert processor.apply_chat_template([{"role": "system", "content": "Be brief."}, *said[:2]]).endswith(
        whole if not ends else whole.partition("<image>")[2]
    )


def test_a_tokenizer_that_pads_already_keeps_its_token(tmp_path):
    tokenizer = llama_2_tokenizer()
    tokenizer.pad_token = "</s>"
    tokenizer.save_pretrained(tmp_path / "words")
    config = dataclasses.replace(
        CONFIG, language=dataclasses.replace(CONFIG.language, vocab_size=400), image_token_id=3
    )
    save_llava(tmp_path / "hf", config, random_base(config), tmp_path / "words")
    assert read_json(tmp_path / "hf/tokenizer_config.json")["pad_token"] == "</s>"
