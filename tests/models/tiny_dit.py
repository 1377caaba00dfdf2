"""A transformer small enough to compile in a second, shared by its tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unityvideo_jax.models import DiT, DiTConfig, build

# Compiling takes most of these tests' time; unoptimised code is fast enough at this size.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def tiny(**changes) -> DiTConfig:
    """A configuration of two layers; `changes` replaces fields."""
    fields = dict(
        dim=48,
        ffn_dim=64,
        num_heads=3,
        num_layers=2,
        in_channels=4,
        freq_dim=32,
        text_dim=8,
        text_len=5,
        dtype="float32",
        remat="none",
    )
    return DiTConfig(**(fields | changes))


def random_model(config: DiTConfig, seed: int = 0) -> DiT:
    """A model in which no weight, head or table is zero or alike."""
    rng = np.random.default_rng(seed)
    graphdef, state = build.abstract_transformer(config)

    def fill(path, weight):
        scale = 0.3 if path[-1] != "kernel" else weight.shape[-2] ** -0.5
        centre = 1.0 if path[-1] == "scale" else 0.0
        values = centre + scale * rng.standard_normal(weight.shape)
        return weight.replace(jnp.asarray(values, jnp.float32))

    filled = [(path, fill(path, weight)) for path, weight in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def inputs(config: DiTConfig, modality, grid=(2, 4, 6), seed: int = 0) -> tuple:
    """Latents, timestep, modality and context for the given modality ids [B][S]."""
    rng = np.random.default_rng(seed)
    modality = np.asarray(modality, np.int32)
    latents = rng.standard_normal((*modality.shape, *grid, config.in_channels), np.float32)
    timestep = rng.uniform(size=modality.shape).astype(np.float32)
    context = rng.standard_normal((*modality.shape, config.text_len, config.text_dim), np.float32)
    return tuple(jnp.asarray(x) for x in (latents, timestep, modality, context))


@functools.cache
def _compiled(config: DiTConfig):
    graphdef = build.abstract_transformer(config)[0]
    return quick_jit(lambda state, *args: nnx.merge(graphdef, state)(*args))


def call(model: DiT, *args) -> jax.Array:
    """The model's output, compiled once for all models of its configuration."""
    return _compiled(model.config)(nnx.state(model), *args)
