"""Tokenizers of a few words, written as transformers writes them."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
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
