"""The files of a Hugging Face tokenizer beside a checkpoint."""

import json
import shutil
from pathlib import Path

from vlm_jax.checkpoints.image_processor import FILES as IMAGE_PROCESSOR_FILES
from vlm_jax.config import LlavaConfig
from vlm_jax.data.chat_template import NAMED, WRITTEN
from vlm_jax.data.conversation import IMAGE, TEMPLATES, Template
from vlm_jax.data.tokenizers import FILES, load_tokenizer
from vlm_jax.errors import InputError
from vlm_jax.files import read_json, write_bytes, write_json


def tokenizer_files(source: Path) -> list[Path]:
    """The files of the tokenizer in a folder.

    Raises:
        InputError: There is none.
    """
    found = [name for name in FILES if (source / name).is_file()]
    if not {"tokenizer.json", "tokenizer.model"} & set(found):
        raise InputError("no tokenizer", "tokenizer.json or tokenizer.model", file=str(source))
    return [source / name for name in found]


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer from one folder to another; errors as in :func:`tokenizer_files`."""
    for path in tokenizer_files(source):
        shutil.copyfile(path, target / path.name)


def copy_processor(tokenizer: Path | None, checkpoint: Path, target: Path) -> None:
    """Copy a tokenizer, and the image processor of a checkpoint where it has one; errors as in
    :func:`tokenizer_files`."""
    if tokenizer is not None:
        copy_tokenizer(tokenizer, target)
    for name in IMAGE_PROCESSOR_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, target / name)


def copy_for_transformers(source: Path, target: Path, config: LlavaConfig, keeps_processor: bool = False) -> None:
    """Copy the tokenizer with what transformers' ``pipeline`` and batched ``generate`` look for in a folder.

    That is a token for the image, which its processor writes into the text itself (original LLaVA has none; where the
    image's id is the next free one it is added), padding on the left, and a chat template, which writes conversations
    out as ``config.template`` does, or the one that is there.

    Args:
        source: The tokenizer's folder.
        target: A new folder.
        config: The model's.
        keeps_processor: See :func:`vlm_jax.checkpoints.export.export`.

    Raises:
        InputError: There is no tokenizer.
    """
    keeps = keeps_processor and any((source / name).is_file() for name in IMAGE_PROCESSOR_FILES)
    if keeps:
        copy_processor(source, source, target)
    else:
        copy_tokenizer(source, target)
    tokenizer = load_tokenizer(target)
    if IMAGE not in tokenizer.get_vocab() and len(tokenizer) == config.image_token_id:
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
        tokenizer.save_pretrained(target)
    path = target / "tokenizer_config.json"
    settings = (read_json(path) if path.exists() else {}) | {"padding_side": "left"}
    if tokenizer.pad_token is None:
        settings["pad_token"] = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    own = config.template == "chat" or ((keeps or config.as_transformers is not None) and tokenizer.chat_template)
    if not own:
        # Another one beside ours would be read in its place.
        settings.pop("chat_template", None)
        (target / "chat_template.json").unlink(missing_ok=True)
        ends = tuple(tokenizer.convert_ids_to_tokens(list(config.image_ends))) if config.image_ends else ("", "")
        jinja = NAMED.get(config.template) or as_jinja(TEMPLATES[config.template], ends)
        write_bytes(target / "chat_template.jinja", jinja.encode())
    write_json(path, settings)


def as_jinja(template: Template, ends: tuple[str, str] = ("", "")) -> str:
    """A chat template for transformers that writes a conversation as :func:`vlm_jax.data.conversation.render` does.

    Contents are texts, or lists of parts of type ``image`` and ``text``; images go to the front of their turn.

    Args:
        template: The words around the turns.
        ends: Tokens before and after an image.
    """
    (user, assistant), (between, end) = template.roles, template.separators
    image, asked = json.dumps(f"{ends[0]}{IMAGE}{ends[1]}\n"), json.dumps(f"{between}{assistant}:")
    return "".join(
        [
            WRITTEN.replace("IMAGES", image),
            "{%- if messages[0]['role'] == 'system' -%}",
            f"{{{{ written(messages[0]['content']) + {json.dumps(between)} }}}}",
            f"{{%- else -%}}{{{{ {json.dumps(template.system and template.system + between)} }}}}{{%- endif -%}}",
            "{%- for message in messages -%}{%- if message['role'] == 'user' -%}",
            f"{{{{ {json.dumps(user + ': ')} + written(message['content']) + {asked} }}}}",
            "{%- elif message['role'] == 'assistant' -%}",
            f"{{{{ ' ' + written(message['content']) + {json.dumps(end)} }}}}",
            "{%- endif -%}{%- endfor -%}",
        ]
    )
