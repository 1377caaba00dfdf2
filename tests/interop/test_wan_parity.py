"""Our transformer against diffusers' WanTransformer3DModel, both from the same files."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import save_file
from wan_torch import (
    call,
    channels_last,
    original_names,
    our_config,
    quick_jit,
    relative_error,
    torch_wan,
)

from unityvideo_jax.interop.wan import load_dit

LIBRARY = "diffusers WanTransformer3DModel"
TIMESTEP = np.float32([0.137, 0.861])
SWITCHES = [("none", "shared"), ("adaln", "per_modality"), ("additive", "shared")]


@pytest.fixture(scope="module")
def reference():
    return torch_wan()


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    """A transformer as diffusers writes it, in several shards."""
    path = tmp_path_factory.mktemp("wan")
    reference.save_pretrained(path, max_shard_size="100KB")
    assert len(list(path.glob("*.safetensors"))) > 2
    return path


def random_inputs(shape, seed=0):
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((2, 4, *shape), np.float32)
    context = rng.standard_normal((2, 7, 12), np.float32)
    context[:, 5:] = 0.0
    return latents, context


def run_torch(model, latents, timestep, context):
    with torch.no_grad():
        return model(
            torch.from_numpy(latents),
            torch.from_numpy(1000.0 * timestep),
            torch.from_numpy(context),
            return_dict=False,
        )[0].numpy()


def run_ours(model, latents, context, **kwargs):
    """One stream, RGB."""
    return call(
        model,
        jnp.asarray(channels_last(latents)),
        jnp.asarray(TIMESTEP)[:, None],
        jnp.zeros((2, 1), jnp.int32),
        jnp.asarray(context)[:, None],
        **kwargs,
    )


@pytest.mark.parametrize(("switcher", "heads"), SWITCHES)
def test_rgb_output_is_the_pretrained_one(reference, folder, switcher, heads, parity):
    model = load_dit(folder, our_config(switcher=switcher, heads=heads))
    latents, context = random_inputs((3, 4, 6))
    expected = channels_last(run_torch(reference, latents, TIMESTEP, context))
    name = f"DiT, RGB stream, switcher {switcher}"
    parity(name, LIBRARY, run_ours(model, latents, context), expected, bound=1e-5)

    # RGB and a modality are, to a pretrained Wan, one video of twice the width.
    wide = np.concatenate([latents, latents[::-1]], axis=-1)
    expected = channels_last(run_torch(reference, wide, TIMESTEP, context))
    streams = np.stack([channels_last(latents)[:, 0], channels_last(latents[::-1])[:, 0]], 1)
    other = 0 if switcher == "none" else 4
    ours = call(
        model,
        jnp.asarray(streams),
        jnp.repeat(jnp.asarray(TIMESTEP)[:, None], 2, 1),
        jnp.asarray([[0, other and 1], [0, other]], jnp.int32),
        jnp.repeat(jnp.asarray(context)[:, None], 2, 1),
    )
    ours = np.concatenate([ours[:, 0], ours[:, 1]], axis=-2)[:, None]
    parity(f"DiT, two streams, switcher {switcher}", LIBRARY, ours, expected, bound=1e-5)


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 8, 4), (5, 6, 10)])
def test_shapes(reference, folder, shape, parity):
    model = load_dit(folder, our_config(modalities=("rgb",), switcher="none"))
    latents, context = random_inputs(shape)
    expected = channels_last(run_torch(reference, latents, TIMESTEP, context))
    parity("DiT, other shapes", LIBRARY, run_ours(model, latents, context), expected, bound=1e-5)


def test_other_sizes_patches_and_types(tmp_path, parity):
    """Other sizes match: three layers, patches that join frames, weights stored in bfloat16."""
    sizes = dict(num_heads=3, head_dim=16, layers=3, ffn=40, channels=3, text=10, patch=(2, 1, 2))
    reference = torch_wan(1, **sizes)
    stored = {name: weight.bfloat16() for name, weight in reference.state_dict().items()}
    save_file(stored, tmp_path / "model.safetensors")
    reference.load_state_dict(stored)
    model = load_dit(tmp_path, our_config(**sizes, modalities=("rgb",), switcher="none"))
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 3, 4, 3, 4), np.float32)
    context = rng.standard_normal((2, 7, 10), np.float32)
    expected = channels_last(run_torch(reference, latents, TIMESTEP, context))
    ours = run_ours(model, latents, context)
    parity("DiT, patches of two frames", LIBRARY, ours, expected, bound=1e-5)


@pytest.mark.parametrize("frames", [(0,), (0, 2), ()])
def test_clean_frames_are_timesteps_of_tokens(reference, folder, frames, parity):
    """Wan 2.2 TI2V-5B: the conditioning frames' tokens have t = 0 (expand_timesteps)."""
    model = load_dit(folder, our_config())
    latents, context = random_inputs((3, 4, 6))
    noisy = np.ones((2, 3, 2, 3), np.float32)
    noisy[:, list(frames)] = 0.0
    per_token = (noisy * TIMESTEP[:, None, None, None]).reshape(2, -1)
    expected = channels_last(run_torch(reference, latents, per_token, context))
    clean = jnp.asarray(noisy[:, None, :, 0, 0] == 0)
    ours = run_ours(model, latents, context, clean=clean)
    parity("DiT, a timestep per token (2.2)", LIBRARY, ours, expected, bound=1e-5)
    if frames:
        plain = run_ours(model, latents, context)
        assert relative_error(plain, expected) > 1e-2


def test_gradients(reference, folder, parity):
    """Gradients of a random projection of the output, for weights of every kind."""
    model = load_dit(folder, our_config(modalities=("rgb",), switcher="none"))
    latents, context = random_inputs((3, 4, 6))
    weight = np.random.default_rng(1).standard_normal(latents.shape).astype(np.float32)
    noisy = np.ones((2, 3, 2, 3), np.float32)
    noisy[:, 0] = 0.0
    per_token = (noisy * TIMESTEP[:, None, None, None]).reshape(2, -1)

    reference.zero_grad()
    out = reference(
        torch.from_numpy(latents),
        torch.from_numpy(1000.0 * per_token),
        torch.from_numpy(context),
        return_dict=False,
    )[0]
    (out * torch.from_numpy(weight)).sum().backward()
    theirs = {name: p.grad.numpy() for name, p in reference.named_parameters()}

    def loss(model):
        out = model(
            jnp.asarray(channels_last(latents)),
            jnp.asarray(TIMESTEP)[:, None],
            jnp.zeros((2, 1), jnp.int32),
            jnp.asarray(context)[:, None],
            clean=jnp.asarray(noisy[:, None, :, 0, 0] == 0),
        )
        return jnp.sum(out * channels_last(weight))

    graph, state = nnx.split(model)
    grads = quick_jit(jax.grad(lambda state: loss(nnx.merge(graph, state))))(state)
    ours = {
        ".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(grads)
    }
    pairs = [
        (ours["blocks.self_attention.q.kernel"][1].T, "blocks.1.attn1.to_q.weight"),
        (ours["blocks.self_attention.k_norm.scale"][0], "blocks.0.attn1.norm_k.weight"),
        (ours["blocks.cross_attention.v.bias"][1], "blocks.1.attn2.to_v.bias"),
        (ours["blocks.ffn.up.kernel"][0].T, "blocks.0.ffn.net.0.proj.weight"),
        (ours["blocks.cross_norm.bias"][0], "blocks.0.norm2.bias"),
        (ours["blocks.modulation.table"][1], "blocks.1.scale_shift_table"),
        (ours["time_projection.kernel"].T, "condition_embedder.time_proj.weight"),
        (
            ours["time_embedding.up.kernel"].T,
            "condition_embedder.time_embedder.linear_1.weight",
        ),
        (
            ours["text_embedding.down.kernel"].T,
            "condition_embedder.text_embedder.linear_2.weight",
        ),
        (ours["heads.kernel"][0].T, "proj_out.weight"),
    ]
    for mine, name in pairs:
        mine = mine.reshape(theirs[name].shape)
        parity("DiT, gradients of 10 weights", LIBRARY, mine, theirs[name], bound=1e-4)


def test_original_names_give_the_same_model(reference, folder, tmp_path):
    tensors = reference.state_dict()
    renamed = original_names(tensors)
    save_file({renamed[k]: v.contiguous() for k, v in tensors.items()}, tmp_path / "w.safetensors")
    config = our_config()
    one, two = load_dit(folder, config), load_dit(tmp_path / "w.safetensors", config)
    chex.assert_trees_all_equal(nnx.state(one), nnx.state(two))
