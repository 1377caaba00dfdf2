"""Every variant of the ablations learns: a few steps of plain gradient descent on one batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_dit import inputs, quick_jit, tiny

from unityvideo_jax.flow_matching import ObjectiveConfig, flow_matching_loss
from unityvideo_jax.models import DiT

# Each value of a switch meets each value of the others.
VARIANTS = [
    ("adaln", True, "per_modality"),
    ("adaln", False, "shared"),
    ("additive", True, "shared"),
    ("additive", False, "per_modality"),
    ("none", True, "shared"),
    ("none", False, "per_modality"),
]


@pytest.mark.parametrize(("switcher", "in_context", "heads"), VARIANTS)
def test_variant_trains(switcher, in_context, heads):
    config = tiny(switcher=switcher, in_context=in_context, heads=heads)
    graphdef, state = nnx.split(DiT(config, rngs=nnx.Rngs(0)))
    latents, _, modality, context = inputs(config, [[0, i] for i in (1, 2, 3, 4, 5, 1)])
    # Equal values in each clip: something that a few steps can learn.
    batch = {
        "latents": jnp.broadcast_to(2.0 * latents[:, :, :1, :1, :1], latents.shape),
        "modality": modality,
        "context": context,
    }

    def loss_fn(state, key):
        return flow_matching_loss(
            nnx.merge(graphdef, state), batch, key, ObjectiveConfig(), modalities=config.modalities
        )[0]

    @quick_jit
    def run(state):
        def step(state, key):
            loss, gradient = jax.value_and_grad(loss_fn)(state, key)
            norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradient)))
            rate = 0.2 / jnp.maximum(norm, 1.0)
            return jax.tree.map(lambda w, g: w - rate * g, state, gradient), loss

        keys = jax.random.split(jax.random.key(1), 60)
        return jax.lax.scan(step, state, keys)

    trained, losses = run(state)
    assert np.all(np.isfinite(losses))
    assert np.mean(losses[-15:]) < 0.75 * np.mean(losses[:5]), losses
    # What the variant adds has moved from its zero start.
    added = {"adaln": ("modality_embedding",), "additive": ("additive_switch",), "none": ()}
    for name in added[switcher]:
        for leaf in jax.tree.leaves(trained[name]):
            assert np.any(leaf)
