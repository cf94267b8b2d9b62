"""The decoder against transformers' LlamaForCausalLM, float32."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
import transformers
from torch_weights import randomise, tree_of

from vlm_jax.checkpoints.layouts import llama
from vlm_jax.models.llava import Capture, forward, init_llava, logits

LAYOUT = llama("model", "lm_head", "language")


@pytest.fixture(scope="module", params=[6, 2, 1], ids=["full", "grouped", "single"])
def decoded(request, tiny, base, text_batch):
    """Our output and transformers' on the same weights and the same rows, one of them left-padded."""
    language = dataclasses.replace(tiny.language, kv_heads=request.param, rope_theta=700.0)
    config = dataclasses.replace(tiny, language=language)
    model = randomise(
        transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=language.vocab_size,
                hidden_size=language.width,
                num_hidden_layers=language.layers,
                num_attention_heads=language.heads,
                num_key_value_heads=language.kv_heads,
                intermediate_size=language.mlp_width,
                rms_norm_eps=language.norm_eps,
                rope_parameters={"rope_type": "default", "rope_theta": language.rope_theta},
            )
        )
    )
    with torch.no_grad():
        theirs = model(
            input_ids=torch.tensor(np.array(text_batch.tokens)).long(),
            attention_mask=torch.tensor(np.array(text_batch.attention_mask)).long(),
            output_hidden_states=True,
        )

    def decoder():
        return {"language": init_llava(config, jax.random.key(0))["language"]}

    weights = {**base, **tree_of(model, LAYOUT, decoder)}
    capture = Capture(tuple(range(language.layers + 1)))
    ours = forward(config, weights, None, text_batch, capture=capture)
    return ours, logits(config, weights, ours.hidden), theirs, np.asarray(text_batch.attention_mask)


def test_logits(decoded):
    _, ours, theirs, real = decoded
    assert theirs.logits.numpy()[real].std() > 0.1
    np.testing.assert_allclose(np.asarray(ours)[real], theirs.logits.numpy()[real], atol=1e-4, rtol=0)


def test_captured_layers_are_hidden_states(decoded):
    ours, _, theirs, real = decoded
    # transformers norms the last of its hidden states.
    found = [*ours.states["residual"][:-1], ours.hidden]
    for state, expected in zip(found, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(np.asarray(state)[real], expected.numpy()[real], atol=1e-4, rtol=0)
