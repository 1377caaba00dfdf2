"""Parity with diffusers' Wan transformer at a small size; see make_wan_reference.py."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_dit import call, random_model

from unityvideo_jax.models import DiT, DiTConfig
from unityvideo_jax.models.backbone import adopt_backbone

REFERENCE = pathlib.Path(__file__).with_name("wan_reference.npz")

CONFIG = dict(
    dim=40,
    ffn_dim=72,
    num_heads=2,
    num_layers=2,
    in_channels=4,
    text_dim=12,
    text_len=7,
    dtype="float32",
    remat="none",
)
# Our name of a linear layer -> theirs.
LINEAR = {
    "text_embedding.up": "condition_embedder.text_embedder.linear_1",
    "text_embedding.down": "condition_embedder.text_embedder.linear_2",
    "time_embedding.up": "condition_embedder.time_embedder.linear_1",
    "time_embedding.down": "condition_embedder.time_embedder.linear_2",
    "time_projection": "condition_embedder.time_proj",
}
BLOCK_LINEAR = {"ffn.up": "ffn.net.0.proj", "ffn.down": "ffn.net.2"}
for ours, theirs in (("self_attention", "attn1"), ("cross_attention", "attn2")):
    for name in "qkv":
        BLOCK_LINEAR[f"{ours}.{name}"] = f"{theirs}.to_{name}"
    BLOCK_LINEAR[f"{ours}.o"] = f"{theirs}.to_out.0"


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as arrays:
        return dict(arrays)


def wan_backbone(reference) -> DiT:
    """The reference's weights in an RGB-only model."""
    weights = {k.removeprefix("weights/"): v for k, v in reference.items() if "weights/" in k}
    flat = {}

    def stacked(name):
        return np.stack([weights.pop(f"blocks.{i}.{name}") for i in range(2)])

    for ours, theirs in LINEAR.items():
        flat[f"{ours}.kernel"] = weights.pop(f"{theirs}.weight").T
        flat[f"{ours}.bias"] = weights.pop(f"{theirs}.bias")
    for ours, theirs in BLOCK_LINEAR.items():
        flat[f"blocks.{ours}.kernel"] = stacked(f"{theirs}.weight").transpose(0, 2, 1)
        flat[f"blocks.{ours}.bias"] = stacked(f"{theirs}.bias")
    for ours, theirs in (("self_attention", "attn1"), ("cross_attention", "attn2")):
        for name in "qk":
            flat[f"blocks.{ours}.{name}_norm.scale"] = stacked(f"{theirs}.norm_{name}.weight")
    flat["blocks.cross_norm.scale"] = stacked("norm2.weight")
    flat["blocks.cross_norm.bias"] = stacked("norm2.bias")
    flat["blocks.modulation.table"] = stacked("scale_shift_table")
    # Convolution [dim, c, pt, ph, pw] -> patches ordered (pt, ph, pw, c).
    patch = weights.pop("patch_embedding.weight").transpose(2, 3, 4, 1, 0)
    flat["patch_embedding.kernel"] = patch.reshape(1, 16, 40)
    flat["patch_embedding.bias"] = weights.pop("patch_embedding.bias")[None]
    flat["heads.kernel"] = weights.pop("proj_out.weight").T[None]
    flat["heads.bias"] = weights.pop("proj_out.bias")[None]
    flat["heads.modulation.table"] = weights.pop("scale_shift_table")
    assert not weights, sorted(weights)

    model = random_model(DiTConfig(**CONFIG, switcher="none", modalities=("rgb",)))
    state = dict(nnx.to_flat_state(nnx.state(model)))
    assert {".".join(path) for path in state} == set(flat)
    for path, weight in state.items():
        value = flat[".".join(path)]
        assert value.shape == weight.shape, path
        state[path] = weight.replace(jnp.asarray(value))
    nnx.update(model, nnx.from_flat_state(state))
    return model


def relative_error(ours, expected) -> float:
    return float(np.linalg.norm(ours - expected) / np.linalg.norm(expected))


def channels_last(x):
    """[B, C, T, H, W] -> [B, 1, T, H, W, C]."""
    return jnp.asarray(np.moveaxis(x, 1, -1)[:, None])


@pytest.mark.parametrize(("switcher", "heads"), [("adaln", "per_modality"), ("additive", "shared")])
def test_pretrained_wan_is_reproduced(reference, switcher, heads):
    model = DiT(DiTConfig(**CONFIG, switcher=switcher, heads=heads), rngs=nnx.Rngs(0))
    adopt_backbone(model, wan_backbone(reference))
    timestep = jnp.asarray(reference["timestep"])[:, None]
    context = jnp.asarray(reference["context"])[:, None]

    half = channels_last(reference["latents"][..., :6])
    ours = call(model, half, timestep, jnp.zeros((2, 1), jnp.int32), context)
    assert relative_error(ours, channels_last(reference["velocity_half"])) < 1e-5

    # RGB and a modality are, to a pretrained Wan, one video of twice the width.
    other = channels_last(reference["latents"][..., 6:])
    ours = call(
        model,
        jnp.concatenate([half, other], axis=1),
        jnp.repeat(timestep, 2, axis=1),
        jnp.asarray([[0, 1], [0, 4]]),
        jnp.repeat(context, 2, axis=1),
    )
    ours = jnp.concatenate([ours[:, :1], ours[:, 1:]], axis=-2)
    assert relative_error(ours, channels_last(reference["velocity_whole"])) < 1e-5
