"""A pipeline of random weights, small enough to compile in seconds, shared by several tests."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unityvideo_jax.files import provenance
from unityvideo_jax.models import build
from unityvideo_jax.models.dit import DiT, DiTConfig
from unityvideo_jax.models.vae.wan_vae import VAEConfig, WanVAE
from unityvideo_jax.pretrained.text import load_text_encoder
from unityvideo_jax.pretrained.vae import save_vae
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.training.checkpoints import Checkpointer
from unityvideo_jax.training.state import TrainState

CONFIG = {
    "seed": 0,
    "model": dict(
        dim=32,
        ffn_dim=48,
        num_heads=2,
        num_layers=2,
        in_channels=4,
        freq_dim=32,
        text_dim=256,
        text_len=16,
        dtype="float32",
        remat="none",
    ),
    "data": dict(
        num_frames=5,
        height=32,
        width=32,
        fps=8.0,
        text_encoder="words",
        text_length=16,
        vae="",
        prompt_dropout=0.0,
    ),
    "sampling": dict(steps=2, solver="euler", text_guidance=1.0, condition_guidance=1.0, shift=1.0),
}


@pytest.fixture(scope="module", autouse=True)
def quick_compile():
    """Compile time is what these tests cost; a module that imports this one halves it."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def _filled(abstract, seed: int, scale: float):
    """Graph and state in which no weight is zero: a new model's heads are, and would hide all.

    Filled on the host, which is faster than compiling every initialiser.
    """
    rng = np.random.default_rng(seed)
    graph, state = abstract

    def fill(weight):
        return weight.replace(jnp.asarray(scale * rng.standard_normal(weight.shape), jnp.float32))

    flat = [(path, fill(weight)) for path, weight in nnx.to_flat_state(state)]
    return graph, nnx.from_flat_state(flat)


@functools.cache
def tiny_params(seed: int = 0):
    config = DiTConfig(**CONFIG["model"])
    return _filled(build.abstract_transformer(config), seed, 0.2)[1]


@functools.cache
def tiny_vae() -> WanVAE:
    config = VAEConfig(base_dim=2, z_dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1)
    return nnx.merge(*_filled(build.abstract(WanVAE, config), 0, 0.3))


def tiny_model(**changes) -> DiT:
    """The tiny transformer; `changes` are of its configuration."""
    config = DiTConfig(**CONFIG["model"] | changes)
    return nnx.merge(*_filled(build.abstract_transformer(config), 0, 0.2))


def tiny_parts(**changes) -> dict:
    """What `Pipeline` takes; `changes` replace some."""
    return {
        "model": tiny_model(),
        "vae": tiny_vae(),
        "text_encoder": load_text_encoder("words", 16),
        **{key: CONFIG["data"][key] for key in ("num_frames", "height", "width", "fps")},
        "sampler": SamplerConfig(**CONFIG["sampling"]),
        "step": 7,
        **changes,
    }


@functools.cache
def tiny_pipeline() -> Pipeline:
    return Pipeline(**tiny_parts())


def save_run(run: pathlib.Path) -> dict:
    """Writes the workdir of a run of 7 steps whose average is the tiny pipeline; its config."""
    save_vae(tiny_vae(), run.parent / "vae", storage="float32")
    config = CONFIG | {"data": CONFIG["data"] | {"vae": str(run.parent / "vae")}}
    run.mkdir(parents=True)
    provenance.write_json(run / "config.json", config)
    checkpointer = Checkpointer(run, keep=2)
    state = TrainState(
        step=jnp.int32(7),
        params=tiny_params(1),
        ema=tiny_params(0),
        opt_state=[jnp.zeros(1)],
    )
    checkpointer.save(state, {}, config)
    checkpointer.wait()
    return config
