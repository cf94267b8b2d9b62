"""Answers from prompts: one prefill of the left-padded prompts, then a ``while_loop`` over a filled cache."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vlm_jax.arrays import Batch, Generation, Params
from vlm_jax.config import LlavaConfig
from vlm_jax.generate.sampling import Part, Sampling, choose
from vlm_jax.models.attention import Cache
from vlm_jax.models.layers import unstacked
from vlm_jax.models.llama import empty_cache
from vlm_jax.models.llava import Edit, blocks_apart, forward, logits
from vlm_jax.parallel.mesh import platform, spread_for_decoding


@flax.struct.dataclass
class _State:
    """``step`` tokens are chosen; the newest of them has not been fed to the model yet."""

    step: Int32[Array, ""]
    tokens: Int32[Array, "b r"]
    log_probs: Float[Array, "b r"]
    mask: Bool[Array, "b r"]
    ended: Bool[Array, " b"]
    cache: Cache


def _apart(
    config: LlavaConfig, base: Params, adapter: Params | None, cache: Cache
) -> tuple[Params, Params | tuple[Params, ...] | None, Cache]:
    """Weights and cache as the steps of a loop read them fastest: split for decoding; on a GPU, and for CPUs, layer by
    layer, while a TPU reads its share of a stack where it lies."""
    language = base["language"]
    spread = {part: spread_for_decoding(language[part], f"language/{part}") for part in ("blocks", "head")}
    base = {**base, "language": {**language, **spread}}
    adapter = adapter and spread_for_decoding(adapter, "lora")
    if platform() == "tpu":
        return base, adapter, cache
    return blocks_apart(config, base), adapter and unstacked(adapter, config.language.layers), cache.apart()


def generate(
    config: LlavaConfig,
    base: Params,
    adapter: Params | None,
    prompts: Batch,
    key: Array,
    sampling: Sampling,
    edit: Callable[[Batch], Edit] | None = None,
    part: Part | None = None,
    copies: int = 1,
) -> Generation:
    """Sample an answer to every prompt.

    Args:
        config, base, adapter: See :func:`vlm_jax.models.llava.forward`.
        prompts: LEFT-padded, so that every row's next token lands in the same slot.
        key: Typed PRNG key.
        sampling: Static rule and limit.
        edit: Asked for the change of block outputs in the prompts [b, t], and then in every step's tokens [b, 1].
        part: Where the answers are some rows of a larger batch.
        copies: Answers to each prompt, which is read once; they are rows side by side.

    Returns:
        See :class:`Generation`; stops early when every row has ended. The image placeholder is never drawn, unless the
        model is to answer as transformers does.
    """
    asked, width = prompts.tokens.shape
    rows = asked * copies
    ends = jnp.array((config.eos_token_id, *config.end_token_ids))
    cache = empty_cache(config.language, asked, width + sampling.max_new_tokens, jnp.dtype(config.dtype))
    if adapter is not None:
        # Once, and not for every token.
        adapter = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(config.dtype)), adapter)
    prefill = forward(config, base, adapter, prompts, cache=cache, prefill=True, edit=edit and edit(prompts))
    base, adapter, cache = _apart(config, base, adapter, _copied(prefill.cache, copies))
    # Beyond any table: no id is forbidden.
    forbidden = config.image_token_id if config.as_transformers is None else config.language.vocab_size
    blank = (rows, sampling.max_new_tokens)
    state = _State(
        step=jnp.zeros((), jnp.int32),
        tokens=jnp.full(blank, config.pad_token_id, jnp.int32),
        log_probs=jnp.zeros(blank, jnp.float32),
        mask=jnp.zeros(blank, bool),
        ended=jnp.zeros(rows, bool),
        cache=cache,
    )

    def emit(state: _State, hidden: Float[Array, "b 1 d"]) -> _State:
        drawn, log_probs = choose(
            jax.random.fold_in(key, state.step),
            logits(config, base, hidden)[:, 0],
            sampling,
            forbidden,
            part,
        )
        alive = ~state.ended
        return state.replace(
            step=state.step + 1,
            tokens=state.tokens.at[:, state.step].set(jnp.where(alive, drawn, config.pad_token_id)),
            log_probs=state.log_probs.at[:, state.step].set(jnp.where(alive, log_probs, 0.0)),
            mask=state.mask.at[:, state.step].set(alive),
            ended=state.ended | jnp.isin(drawn, ends),
        )

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.step < sampling.max_new_tokens) & ~state.ended.all()

    def advance(state: _State) -> _State:
        newest = jax.lax.dynamic_index_in_dim(state.tokens, state.step - 1, axis=1)
        alive = jax.lax.dynamic_index_in_dim(state.mask, state.step - 1, axis=1)
        nothing = jnp.zeros_like(alive)
        batch = Batch(tokens=newest, attention_mask=alive, image_mask=nothing, loss_mask=nothing, images=None)
        out = forward(config, base, adapter, batch, cache=state.cache, edit=edit and edit(batch))
        return emit(state.replace(cache=out.cache), out.hidden)

    state = jax.lax.while_loop(unfinished, advance, emit(state, _side_by_side(prefill.hidden[:, -1:], copies, 0)))
    return Generation(
        tokens=state.tokens,
        log_probs=state.log_probs,
        mask=state.mask,
        lengths=state.mask.sum(1).astype(jnp.int32),
        ended=state.ended,
        # NaN or infinity among a row's logits leaves no token a finite log-probability.
        finite=jnp.isfinite(state.log_probs).all(1),
    )


def _copied(cache: Cache, copies: int) -> Cache:
    """Every row of a cache several times."""
    return cache.replace(
        keys=_side_by_side(cache.keys, copies, 1),
        values=_side_by_side(cache.values, copies, 1),
        mask=_side_by_side(cache.mask, copies, 0),
    )


def _side_by_side(x: Array, copies: int, axis: int) -> Array:
    return x if copies == 1 else jnp.repeat(x, copies, axis)
