"""Random LLaVAs and pictures for them, written by transformers and Pillow alone, and what transformers answers."""

import dataclasses
import json

import numpy as np
import torch
import transformers
from PIL import ExifTags, Image
from random_llava import CONFIG, torch_llava
from small_tokenizer import CORPUS, LLAMA, llama_2_tokenizer, llama_3_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers.image_utils import load_image

SIDE, NEW = CONFIG.vision.image_size, 10

# As in the layout of transformers LLaVA 1.5 is published with: no system line, and nothing that closes an answer.
VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def first_only_tokenizer(**more):
    """Of LLaMA's kind as transformers makes it without ``legacy``: a space in front of the first text alone."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special, bytes_ = [*LLAMA, "<image>"], [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*special, *bytes_], show_progress=False)
    tokenizer.train_from_iterator([word for text in CORPUS * 5 for word in text.split()], trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **more
    )


TOKENIZERS = {
    "legacy": lambda: llama_2_tokenizer(chat_template=VICUNA),
    "first": lambda: first_only_tokenizer(chat_template=VICUNA),
    "bytes": llama_3_tokenizer,
}
# What a processor's file says; whatever it leaves out is transformers' default.
PROCESSORS = {
    "crop": ("CLIPImageProcessor", {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}),
    "pad": ("LlavaImageProcessor", {"do_pad": True, "size": {"shortest_edge": SIDE}, "crop_size": SIDE}),
    "squeeze": ("CLIPImageProcessor", {"size": {"height": 40, "width": 33}, "crop_size": SIDE, "resample": 2}),
}


def pictures(folder):
    """Wide, tall, and of every other kind."""
    rng = np.random.default_rng(3)

    def noise(height, width, *channels):
        coarse = rng.integers(0, 256, (5, 4, *channels), np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    made = {
        "wide.png": noise(41, 117, 3),
        "tall.jpg": noise(130, 37, 3),
        "grey.png": noise(53, 61),
        "odd.png": noise(29, 27, 3),
        "tiny.png": noise(4, 5, 3),
        "clear.png": noise(40, 60, 4),
        "palette.gif": noise(50, 31, 3).quantize(16),
        "turned.jpg": noise(45, 90, 3),
        "deep.png": Image.fromarray(rng.integers(0, 400, (31, 47), np.uint16)),
    }
    for name, image in made.items():
        image.save(folder / name, **({"exif": turned} if name == "turned.jpg" else {}))
    return [folder / name for name in made]


def image_processor(kind, **said):
    """Pillow's of the two that transformers 5 has, and the only one of 4."""
    return (getattr(transformers, f"{kind}Pil", None) or getattr(transformers, kind))(**said)


def write_checkpoint(folder, words, processor, seed):
    """A random LLaVA, written by transformers alone."""
    tokenizer = TOKENIZERS[words]()
    image = tokenizer.convert_tokens_to_ids("<image>")
    language = dataclasses.replace(CONFIG.language, vocab_size=len(tokenizer), max_positions=256)
    config = dataclasses.replace(CONFIG, language=language, image_token_id=image)
    model = torch_llava(config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    for part in (model.config, model.config.text_config, model.generation_config):
        for name, value in ids.items():
            setattr(part, name, value)
    model.save_pretrained(folder)
    kind, said = PROCESSORS[processor]
    transformers.LlavaProcessor(
        image_processor(kind, **said),
        tokenizer,
        patch_size=config.vision.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    return folder


def open_theirs(folder):
    """Model and processor."""
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoProcessor.from_pretrained(folder, use_fast=False)


def their_answer(model, processor, image, question, limit=NEW):
    """Greedy."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    if "selectattr" not in (processor.chat_template or ""):
        content = f"<image>\n{question}"
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    begun = processor.tokenizer.bos_token and text.startswith(processor.tokenizer.bos_token)
    with Image.open(image) as opened:
        shown = load_image(opened)
    batch = processor(text=text, images=shown, return_tensors="pt", add_special_tokens=not begun)
    # Which only tokenizers of 4 make.
    batch.pop("token_type_ids", None)
    made = model.generate(**batch, max_new_tokens=limit, do_sample=False)
    return processor.decode(made[0, batch["input_ids"].shape[1] :], skip_special_tokens=True).strip()
