"""Answers on eight devices: those of one, and no weights on the way between devices for a token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sharded_steps import CONFIG, prompts, role, weights

from tpu.program import Program
from vlm_jax.generate.decode import generate
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.llava import init_llava
from vlm_jax.models.quantize import quantize_base
from vlm_jax.parallel.compile import place, place_batch
from vlm_jax.parallel.mesh import make_mesh

# At most so many; no other loop (layers, blocks of the tower) runs as often.
STEPS = 13
RULE = Sampling(max_new_tokens=STEPS)


def answered(quantised=False, **axes):
    """Tokens, and what the compiled program moves between devices."""
    mesh = make_mesh(**axes)
    base = weights(lambda: init_llava(CONFIG, jax.random.key(0)), 0)
    base = place(mesh, quantize_base(jax.tree.map(jnp.asarray, base), "int8") if quantised else base)
    lora = place(mesh, {"lora": role(1)["lora"]})["lora"]
    batch = place_batch(mesh, prompts(0).prompt)
    with jax.set_mesh(mesh):
        run = jax.jit(functools.partial(generate, CONFIG), static_argnums=4)
        compiled = run.lower(base, lora, batch, jax.random.key(0), RULE).compile()
        tokens = np.asarray(compiled(base, lora, batch, jax.random.key(0)).tokens)
    return tokens, Program(compiled.as_text()).transfers()


@functools.cache
def on_one_device(quantised):
    return answered(quantised)[0]


@pytest.mark.parametrize(
    ("axes", "quantised"),
    [
        ({"fsdp": 8}, False),
        pytest.param({"fsdp": 2, "tensor": 4}, False, marks=pytest.mark.slow),
        pytest.param({"data": 2, "fsdp": 2, "tensor": 2}, False, marks=pytest.mark.slow),
        pytest.param({"fsdp": 8}, True, marks=pytest.mark.slow),
    ],
    ids=["fsdp", "mixed", "all", "int8"],
)
def test_only_activations_travel_for_a_token(axes, quantised):
    tokens, transfers = answered(quantised, **axes)
    np.testing.assert_array_equal(tokens, on_one_device(quantised))
    rows, language = len(tokens), CONFIG.language
    wide = rows * max(language.width, language.mlp_width) * 4
    for_a_token = [one for one in transfers if one.times == STEPS]
    assert for_a_token
    for one in for_a_token:
        assert one.bytes <= 2 * wide, one
        assert (language.width, language.width) not in one.shapes
    # Several small ones a layer: fewer bytes than one kernel of one layer has.
    assert sum(one.bytes for one in for_a_token) / language.layers < 8 * wide


@pytest.mark.parametrize("kind", ["embedding", "image"])
def test_no_table_travels(kind):
    """Neither the token table nor the states of other rows' images."""
    _, transfers = answered(fsdp=8)
    language, vision = CONFIG.language, CONFIG.vision
    table = (language.vocab_size, language.width)
    images = (16, vision.patches, language.width)
    assert all({"embedding": table, "image": images}[kind] not in one.shapes for one in transfers)
