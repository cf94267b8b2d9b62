"""Random transformers models and their weights in our trees."""

import jax
import jax.numpy as jnp
import torch

from vlm_jax.checkpoints.layouts import Layout, gather, normalised, problems, slots, translated


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that every one of them shows in the output."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    return model.eval()


def tree_of(model: torch.nn.Module, layout: Layout, make, renames=()):
    """The model's weights as the tree that ``make`` starts, all of them used."""
    shapes = jax.eval_shape(make)
    tensors, expected = model.state_dict(), slots(layout, shapes)
    names = normalised(tensors, renames)
    assert not problems(expected, {name: tuple(tensors[here].shape) for name, here in names.items()})
    tree = gather(translated(expected, lambda name: tensors[names[name]].numpy()), shapes)
    return jax.tree.map(jnp.asarray, tree)
