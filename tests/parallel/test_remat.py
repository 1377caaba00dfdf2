"""Rematerialisation changes which arrays are saved, never what is computed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unityvideo_jax.models import DiT, DiTConfig
from unityvideo_jax.models.config import REMAT_POLICIES


def _config(remat, scan_layers=True):
    return DiTConfig(
        dim=32,
        ffn_dim=64,
        num_heads=2,
        num_layers=3,
        in_channels=4,
        freq_dim=16,
        text_dim=8,
        text_len=4,
        modalities=("rgb", "depth"),
        dtype="float32",
        remat=remat,
        scan_layers=scan_layers,
    )


@pytest.fixture(scope="module")
def compiled():
    """Gradient of each policy's model, compiled, with its arguments."""
    rng = np.random.default_rng(0)
    state = nnx.split(DiT(_config("none"), rngs=nnx.Rngs(0)))[1]
    # Heads start at zero, and would let no gradient through.
    state = jax.tree.map(lambda w: w + 0.1 * rng.standard_normal(w.shape, np.float32), state)
    latents = jnp.asarray(rng.standard_normal((2, 2, 4, 8, 8, 4)), jnp.float32)
    timestep, modality = jnp.full((2, 2), 0.3), jnp.tile(jnp.arange(2), (2, 1))
    context = jnp.asarray(rng.standard_normal((2, 2, 4, 8)), jnp.float32)

    def gradient(remat, scan_layers=True):
        model = nnx.eval_shape(lambda: DiT(_config(remat, scan_layers), rngs=nnx.Rngs(0)))
        graphdef = nnx.split(model)[0]

        def loss(state):
            velocity = nnx.merge(graphdef, state)(latents, timestep, modality, context)
            return jnp.mean(jnp.square(velocity))

        return (
            jax.jit(jax.grad(loss))
            .lower(state)
            .compile(compiler_options={"xla_backend_optimization_level": 0})
        )

    programs = {remat: gradient(remat) for remat in REMAT_POLICIES}
    return programs | {"unrolled": gradient("attention", scan_layers=False)}, state


def test_gradients_are_equal(compiled):
    programs, state = compiled
    expected = programs["none"](state)
    assert max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(expected)) > 1e-3
    for remat in (*REMAT_POLICIES[1:], "unrolled"):
        chex.assert_trees_all_close(programs[remat](state), expected, rtol=1e-4, atol=1e-6)


def test_memory_orders_by_what_is_saved(compiled):
    none, matmuls, attention_ffn, attention, full = (
        compiled[0][remat].memory_analysis().temp_size_in_bytes for remat in REMAT_POLICIES
    )
    assert full < attention < attention_ffn < matmuls < 0.9 * none
