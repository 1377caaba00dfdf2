"""A small WanTransformer3DModel of diffusers with random weights, and our configuration of it."""

import functools

import jax
import numpy as np
import torch
from diffusers import WanTransformer3DModel
from flax import nnx

from unityvideo_jax.models import build
from unityvideo_jax.models.dit import DiT, DiTConfig

# Compiling takes most of these tests' time; unoptimised code is fast enough at this size.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SIZES = dict(num_heads=2, head_dim=20, layers=2, ffn=72, channels=4, text=12)


def torch_wan(seed: int = 0, patch=(1, 2, 2), **changes) -> WanTransformer3DModel:
    """The real architecture; `changes` replaces sizes."""
    sizes = SIZES | changes
    generator = torch.Generator().manual_seed(seed)
    model = WanTransformer3DModel(
        patch_size=patch,
        num_attention_heads=sizes["num_heads"],
        attention_head_dim=sizes["head_dim"],
        in_channels=sizes["channels"],
        out_channels=sizes["channels"],
        text_dim=sizes["text"],
        freq_dim=256,
        ffn_dim=sizes["ffn"],
        num_layers=sizes["layers"],
    ).eval()
    # Norm scales start at one and biases at zero: random values make a mistake in them visible.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            centre = 1.0 if name.endswith(("norm_q.weight", "norm_k.weight", "norm2.weight")) else 0
            scale = 0.3 if weight.ndim == 1 else 1.0 / weight[0].numel() ** 0.5
            weight.copy_(centre + scale * noise)
    return model


def our_config(patch=(1, 2, 2), **changes) -> DiTConfig:
    """The configuration of `torch_wan`'s sizes; keys of either replace fields."""
    sizes = SIZES | {k: changes.pop(k) for k in list(changes) if k in SIZES}
    fields = dict(
        dim=sizes["num_heads"] * sizes["head_dim"],
        ffn_dim=sizes["ffn"],
        num_heads=sizes["num_heads"],
        num_layers=sizes["layers"],
        in_channels=sizes["channels"],
        text_dim=sizes["text"],
        text_len=7,
        patch_size=patch,
        dtype="float32",
        remat="none",
    )
    return DiTConfig(**(fields | changes))


@functools.cache
def _compiled(config: DiTConfig):
    graph = build.abstract_transformer(config)[0]
    return quick_jit(lambda state, *args, **kwargs: nnx.merge(graph, state)(*args, **kwargs))


def call(model: DiT, *args, **kwargs) -> jax.Array:
    """The model's output, compiled once for all models of its configuration."""
    return _compiled(model.config)(nnx.state(model), *args, **kwargs)


def original_names(names) -> dict[str, str]:
    """diffusers' names as the original Wan release spells them, from that release's own modules."""
    pairs = [
        ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("attn1.", "self_attn."),
        ("attn2.", "cross_attn."),
        (".to_out.0.", ".o."),
        (".to_q.", ".q."),
        (".to_k.", ".k."),
        (".to_v.", ".v."),
        ("ffn.net.0.proj.", "ffn.0."),
        ("ffn.net.2.", "ffn.2."),
        (".norm2.", ".norm3."),
        ("proj_out.", "head.head."),
    ]
    found = {}
    for name in names:
        new = name
        for old, replacement in pairs:
            new = new.replace(old, replacement)
        if new == "scale_shift_table":
            new = "head.modulation"
        found[name] = new.replace(".scale_shift_table", ".modulation")
    return found


def relative_error(ours, expected) -> float:
    """Largest difference relative to the largest value."""
    ours, expected = np.asarray(ours), np.asarray(expected)
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


def channels_last(x) -> np.ndarray:
    """[B, C, T, H, W] -> [B, 1, T, H, W, C]."""
    return np.moveaxis(np.asarray(x), 1, -1)[:, None]
