"""Tokenizers of a few words, written as transformers writes them."""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LLAMA = ("<unk>", "<s>", "</s>")


def write_tokenizer(folder, controls=LLAMA, words=("a", "b"), beyond=(), **special):
    """A tokenizer whose first ids are ``controls``, then ``words``; ``beyond`` are further control tokens by id."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate((*controls, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary | dict(beyond), unk_token=controls[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="never")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*controls, *dict(beyond))])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def write_llama_tokenizer(folder, **more):
    return write_tokenizer(folder, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **more)


CORPUS = [
    "Is there a dog in the picture? No, there is a cat. user assistant system [INST] [/INST] Answer the questions.",
    "You are a helpful language and vision assistant. A chat between a curious user and an artificial intelligence.",
    "What is in the picture? A red ball and a tree in the snow, two boats and  three kites.\n\nThe end.\n",
]
LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3_CONTROLS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<pad>",
    "<image>",
)
LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer(controls=LLAMA_3_CONTROLS, begins=True, size=400, **special):
    """Of Llama 3's kind: BPE over bytes; the first control token stands in front of every text where it ``begins``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(controls), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 5, trainer)
    if begins:
        begin = controls[0]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def llama_3_tokenizer(**more):
    special = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<pad>"}
    return byte_tokenizer(**special, chat_template=LLAMA_3, **more)


def llama_2_tokenizer(size=400, **more):
    """Of LLaMA's kind: a space in front of every text, bytes for unknown letters."""
    special, bytes_ = [*LLAMA, "<image>"], [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*special, *bytes_], show_progress=False)
    # Words of their own: merges that cross words are none of SentencePiece's.
    tokenizer.train_from_iterator([word for text in CORPUS * 5 for word in text.split()], trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **more
    )


def chatml_tokenizer():
    """Of the kind of Yi: ChatML's tokens in a vocabulary that is otherwise begun by ``<s>``."""
    controls = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>")
    return byte_tokenizer(controls, bos_token="<s>", eos_token="</s>", chat_template=CHATML)
