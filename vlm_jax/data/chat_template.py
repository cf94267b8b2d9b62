"""A tokenizer's own chat template (Jinja, as transformers stores it), rendered to pieces with exact masks.

The template is given marks in place of what was said, so that its own words are told from a user's wherever they stand:
its control tokens become control tokens, a user's spelling of one stays text. An answer's span begins where the
template opens an assistant's turn (``add_generation_prompt``) and ends behind the control token that closes it; the
loss is on that span.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

from vlm_jax.config import LlavaConfig, TemplateName
from vlm_jax.data.conversation import IMAGE, TEMPLATES, Piece, Template, Tokenizer, Turn
from vlm_jax.data.whole_text import control_tokens
from vlm_jax.errors import InputError

# Of original LLaVA's ``conversation.py``, those whose words follow from the tokenizer's own control tokens.
_SYSTEM_LLAMA_2 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
# A content is a text or a list of parts; IMAGES stands for what an image is written as.
WRITTEN = (
    "{%- macro written(content) -%}{%- if content is string -%}{{ content }}{%- else -%}"
    "{%- for part in content if part['type'] == 'image' -%}{{ IMAGES }}{%- endfor -%}"
    "{%- for part in content if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)
_WRITTEN = WRITTEN.replace("IMAGES", repr(f"{IMAGE}\n"))
_INSTRUCTIONS = (
    f"{_WRITTEN}{{%- for message in messages -%}}{{%- if message['role'] == 'user' -%}}"
    "{{ bos_token if loop.first or REPEATED else '' }}{{ '[INST] ' + (SYSTEM if loop.first else '') }}"
    "{{ written(message['content']) + ' [/INST]' }}"
    "{%- else -%}{{ ' ' + written(message['content']) + ' ' + eos_token }}"
    "{%- endif -%}{%- endfor -%}"
)
NAMED = {
    "llava_llama_2": _INSTRUCTIONS.replace("REPEATED", "true").replace(
        "SYSTEM", repr(f"<<SYS>>\n{_SYSTEM_LLAMA_2}\n<</SYS>>\n\n")
    ),
    "mistral_instruct": _INSTRUCTIONS.replace("REPEATED", "false").replace("SYSTEM", "''"),
    "chatml_direct": (
        _WRITTEN + "{{ '<|im_start|>system\\nAnswer the questions.<|im_end|>' }}{%- for message in messages -%}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + written(message['content']) + '<|im_end|>' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
    ),
}

_ROLES = {"human": "user", "gpt": "assistant"}
# Letters that no text has: around the number of a turn.
_MARK = "\ue000{}\ue001"
_MARKS = re.compile("\ue000(\\d+)\ue001")


@dataclasses.dataclass(frozen=True, eq=False)
class ChatTemplate(Template):
    """How a tokenizer's template writes conversations; see :func:`chat_template`.

    Attributes:
        tokenizer: Whose control tokens it uses.
        jinja: The template.
        parts: Whether a message's content is a list of parts, of types ``image`` and ``text``; otherwise it is a text.
        trimmed: Roles (``human``, ``gpt``) whose texts lose spaces at both ends.
        end: The control token that closes an answer; empty where the template writes none.
        opening: What stands between the opening of an assistant's turn and its text.
        adds_begin: Whether the tokenizer puts its begin token in front of every text.
    """

    tokenizer: Tokenizer
    jinja: str
    parts: bool
    trimmed: frozenset[str] = frozenset()
    end: str = ""
    opening: str = ""
    adds_begin: bool = False

    # Not by the fields of every template, which are empty here.
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    @property
    def begins(self) -> bool:
        return False

    @property
    def lead(self) -> str:
        return self.opening

    @functools.cached_property
    def controls(self) -> re.Pattern[str]:
        """The tokenizer's control tokens and the image's place, longest first."""
        tokens = {*control_tokens(self.tokenizer), IMAGE}
        return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))

    def with_system(self, text: str) -> Template:
        """Raises:
        InputError: Always: where a template puts a system line, and whether it takes one, is not looked into.
        """
        raise InputError(
            f"a system turn ({text!r:.40}) for a tokenizer's own chat template", "none, or a named template"
        )

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """In the template's words; its control tokens are pieces of their own.

        Where it closes an answer with none, a conversation to learn from gets the tokenizer's end token there, which
        nothing else would teach; a prompt is what the template writes.
        """
        kinds, asks = tuple(_kinds(turns)), turns[-1].role == "human"
        text = _written(self, kinds, asks)
        opened = [len(_written(self, kinds[:i], True)) for i, turn in enumerate(turns) if turn.role == "gpt"]
        pieces = _begun(self, text)
        for start, stop, answer in _spans(self, text, opened):
            pieces += _pieces(self, text[start:stop], turns, answer)
            if answer and not (self.end or asks):
                pieces.append(Piece(self.tokenizer.eos_token, True, "end"))
        return pieces


def template_named(name: TemplateName, tokenizer: Tokenizer) -> Template:
    """The template of a name; ``chat`` is the tokenizer's own.

    Raises:
        InputError: The tokenizer has none, or as in :func:`chat_template`: what the template ends an answer with may be
            words to the tokenizer.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    jinja = NAMED.get(name) or tokenizer.chat_template
    if not isinstance(jinja, str):
        found = "several chat templates" if jinja else "a tokenizer without a chat template"
        raise InputError(found, "one, or --template with a name")
    return chat_template(tokenizer, jinja)


def ended_by(config: LlavaConfig, template: Template) -> LlavaConfig:
    """The config of a model that is taught, and allowed, to end its answers as the template does.

    Raises:
        InputError: A control token that the template writes has no row in the model's table.
    """
    if not isinstance(template, ChatTemplate):
        return config
    rows, sample = config.language.vocab_size, [Turn("human", "x"), Turn("gpt", "y"), Turn("human", "z")]
    controls = {piece.text for piece in template.pieces(sample) if piece.kind == "control"}
    ids = {token: template.tokenizer.convert_tokens_to_ids(token) for token in sorted(controls)}
    if odd := [f"{token} {one}" for token, one in ids.items() if one >= rows]:
        raise InputError(f"{', '.join(odd)} in its chat template", f"ids of a table of {rows} rows")
    if not template.end:
        return config
    end = template.tokenizer.convert_tokens_to_ids(template.end)
    others = dict.fromkeys(one for one in (config.eos_token_id, *config.end_token_ids) if one != end)
    return dataclasses.replace(config, eos_token_id=end, end_token_ids=tuple(others))


def is_vicuna(tokenizer: Tokenizer, jinja: str) -> bool:
    """Whether a template writes Vicuna's turns, as those of LLaVA 1.5 in transformers' layout do, its system line left
    out."""
    turns = ["image", "gpt", "human"]
    for parts in (True, False):
        messages = [_message(parts, kind, _MARK.format(i)) for i, kind in enumerate(turns)]
        try:
            text = _applied(tokenizer, jinja, messages, True)
        except InputError:
            continue
        said = [re.escape(_MARK.format(i)) for i in range(2)]
        if re.search(rf"USER:\s*(<image>)?\s*{said[0]}\s*ASSISTANT:\s*{said[1]}", text):
            return True
    return False


def as_transformers(name: TemplateName, tokenizer: Tokenizer) -> Template:
    """How transformers' processor writes a conversation: as the tokenizer's own chat template does, if it has one.

    LLaVA 1.5's in transformers' layout leaves out Vicuna's system line and closes no answer.

    Args:
        name: The template to take where the tokenizer has none.
        tokenizer: Whose chat template it is.

    Raises:
        InputError: As in :func:`template_named`.
    """
    if not tokenizer.chat_template or not isinstance(jinja := tokenizer.chat_template, str):
        return template_named("chat" if tokenizer.chat_template else name, tokenizer)
    # The begin token that the tokenizer puts in front of a text, it puts there itself.
    template = dataclasses.replace(chat_template(tokenizer, jinja, closes=False), adds_begin=False)
    if not is_vicuna(tokenizer, jinja):
        return template
    vicuna = TEMPLATES["plain"]
    return dataclasses.replace(template, roles=vicuna.roles, separators=vicuna.separators)


def chat_template(tokenizer: Tokenizer, jinja: str, closes: bool = True) -> ChatTemplate:
    """The template, tried on a conversation of two questions.

    Args:
        tokenizer: Whose control tokens it uses.
        jinja: The template.
        closes: Whether it must close an answer with a control token.

    Raises:
        InputError: It does not take images or alternating turns, closes an answer with no control token, or opens an
            assistant's turn otherwise in a prompt than in a conversation.
    """
    draft = ChatTemplate("", ("user", "assistant"), ("", ""), tokenizer, jinja, _takes_parts(tokenizer, jinja))
    turns = [Turn("human", f"{IMAGE}\nx"), Turn("gpt", "y"), Turn("human", "z")]
    text = _written(draft, tuple(_kinds(turns)), True)
    prompt = _written(draft, tuple(_kinds(turns[:1])), True)
    if not text.startswith(prompt) or text.count(IMAGE) != 1 or len(_MARKS.findall(text)) != len(turns):
        found = "a chat template that writes a prompt otherwise than the beginning of its conversation"
        raise InputError(found, "--template with a name")
    opening, _, rest = text[len(prompt) :].partition(_MARK.format(1))
    before, _, _ = rest.partition(_MARK.format(2))
    if (end := draft.controls.search(before)) is None and closes:
        raise InputError("a chat template that closes an answer with no control token", "--template with a name")
    trimmed = frozenset(role for role in _ROLES if _trims(draft, role))
    # Now: later on, other threads encode with the tokenizer.
    begins = tokenizer.bos_token is not None and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    return dataclasses.replace(draft, trimmed=trimmed, end=end[0] if end else "", opening=opening, adds_begin=begins)


def _spans(template: ChatTemplate, text: str, opened: Sequence[int]) -> list[tuple[int, int, bool]]:
    """The text in stretches, and which of them are answers with their end tokens."""
    spans, done = [], 0
    for start in opened:
        mark = _MARKS.search(text, start)
        stop = text.index(template.end, mark.end()) + len(template.end)
        spans += [(done, start, False), (start, stop, True)]
        done = stop
    return [*spans, (done, len(text), False)]


def _pieces(template: ChatTemplate, text: str, turns: Sequence[Turn], answer: bool) -> list[Piece]:
    """A stretch of the rendering: control tokens and images on their own, all else joined between them."""
    pieces, done, run = [], 0, ""

    def flush(run: str) -> list[Piece]:
        return [Piece(run, answer)] if run else []

    for match in re.finditer(f"{_MARKS.pattern}|{template.controls.pattern}", text):
        run, done = run + text[done : match.start()], match.end()
        if match[1] is not None:
            run += _said(template, turns[int(match[1])])
        else:
            pieces += [*flush(run), Piece(match[0], answer, "image" if match[0] == IMAGE else "control")]
            run = ""
    return pieces + flush(run + text[done:])


def _begun(template: ChatTemplate, text: str) -> list[Piece]:
    """The begin token, where the tokenizer puts one in front of every text and the template leaves that to it."""
    begin = template.tokenizer.bos_token
    return [Piece(begin, False, "control")] if template.adds_begin and not text.startswith(begin) else []


def _said(template: ChatTemplate, turn: Turn) -> str:
    text = turn.text.removeprefix(IMAGE).removeprefix("\n") if turn.text.startswith(IMAGE) else turn.text
    return text.strip() if turn.role in template.trimmed else text


def _kinds(turns: Sequence[Turn]) -> list[str]:
    """What the words of a template can depend on: who speaks, and where the image is."""
    return ["image" if turn.text.startswith(IMAGE) else turn.role for turn in turns]


@functools.lru_cache(maxsize=256)
def _written(template: ChatTemplate, kinds: tuple[str, ...], asks: bool) -> str:
    """The rendering with marks in place of what was said."""
    messages = [_message(template.parts, kind, _MARK.format(i)) for i, kind in enumerate(kinds)]
    return _applied(template.tokenizer, template.jinja, messages, asks)


def _message(parts: bool, kind: str, text: str) -> dict[str, Any]:
    role, image = _ROLES.get(kind, "user"), kind == "image"
    if parts:
        return {"role": role, "content": [*([{"type": "image"}] if image else []), {"type": "text", "text": text}]}
    return {"role": role, "content": f"{IMAGE}\n{text}" if image else text}


def _applied(tokenizer: Tokenizer, jinja: str, messages: list[dict[str, Any]], asks: bool) -> str:
    try:
        return tokenizer.apply_chat_template(messages, chat_template=jinja, tokenize=False, add_generation_prompt=asks)
    except Exception as error:
        # A template may do whatever Jinja can, its own complaints included.
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"a chat template that fails ({reason})", "--template with a name") from None


def _takes_parts(tokenizer: Tokenizer, jinja: str) -> bool:
    """Whether a list of parts comes out as an image and a text, and not as Python spells a list."""
    try:
        text = _applied(tokenizer, jinja, [_message(True, "image", _MARK.format(0))], True)
    except InputError:
        return False
    return IMAGE in text and "'type'" not in text and '"type"' not in text


def _trims(template: ChatTemplate, role: str) -> bool:
    """Whether spaces around a text are lost."""
    spaced = {"human": "\tx\t", "gpt": "\ty\t"}
    marked = {one: spaced[one] if one == role else one for one in _ROLES}
    messages = [_message(template.parts, one, marked[one]) for one in ("human", "gpt", "human")]
    text = _applied(template.tokenizer, template.jinja, messages, True)
    return text.count(spaced[role]) < {"human": 2, "gpt": 1}[role]
