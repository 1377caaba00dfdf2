"""The autoencoder, streamed against whole, and the faults of its files.

`tests/interop/test_vae.py` holds it against diffusers.
"""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.vae.causal_conv import Carry, CausalConv3d, ChannelNorm
from unityvideo_jax.models.vae.tiling import decode_tiled, encode_tiled
from unityvideo_jax.models.vae.wan_vae import WAN_2_1, VAEConfig, WanVAE
from unityvideo_jax.pretrained import vae
from unityvideo_jax.pretrained.vae import load_vae, save_vae

SMALL = VAEConfig(base_dim=4, z_dim=4, num_res_blocks=1, latents_std=(0.5, 1.0, 2.0, 3.0))


@pytest.fixture(scope="module")
def small():
    """Random weights, of a size that keeps activations about one; filled on the host, quickly."""
    graph, state = nnx.split(nnx.eval_shape(lambda: WanVAE(SMALL, rngs=nnx.Rngs(1))))
    rng = np.random.default_rng(1)

    def fill(weight):
        spread = rng.standard_normal(weight.shape)
        if weight.ndim == 1:
            return jnp.asarray(0.1 * spread, jnp.float32)
        return jnp.asarray(spread / np.sqrt(np.prod(weight.shape[:-1])), jnp.float32)

    vae = nnx.merge(graph, jax.tree.map(fill, state))
    for _, module in nnx.iter_graph(vae):
        if isinstance(module, ChannelNorm):
            module.gamma[...] += 1.0
    return vae


@pytest.mark.parametrize(("frames", "size"), [(1, (40, 56)), (5, (16, 16)), (17, (40, 56))])
def test_streamed_equals_whole(small, frames, size):
    key = jax.random.key(frames)
    video = jax.random.uniform(key, (2, frames, *size, 3), minval=-1.0, maxval=1.0)
    latents = small.encode(video)
    assert latents.shape == (2, *SMALL.latent_shape(frames, *size))
    np.testing.assert_allclose(small.encode_streamed(video), latents, atol=1e-4)
    noise = jax.random.normal(jax.random.fold_in(key, 1), latents.shape)
    decoded = small.decode(noise)
    assert decoded.shape == video.shape
    np.testing.assert_allclose(small.decode_streamed(noise), decoded, atol=1e-4)


def test_one_tile_is_exact_and_several_bound_what_is_held(small, monkeypatch):
    key = jax.random.key(7)
    video = np.asarray(jax.random.uniform(key, (1, 5, 40, 56, 3), minval=-1.0, maxval=1.0))
    latents = np.asarray(small.encode_streamed(video))
    np.testing.assert_array_equal(encode_tiled(small, video, tile=64, overlap=8), latents)
    decoded = small.decode_streamed(latents)
    tiled = decode_tiled(small, latents, tile=64, overlap=8)
    np.testing.assert_allclose(tiled, decoded, atol=1e-6)

    held = []

    def chunks(self, latents, **_):
        b, t, h, w, _ = latents.shape
        held.append((h, w))
        yield from (np.zeros((b, frames, 8 * h, 8 * w, 3), np.float32) for frames in (1, 4)[:t])

    monkeypatch.setattr(WanVAE, "decode_chunks", chunks)
    assert decode_tiled(small, latents, tile=32, overlap=16).shape == video.shape
    # 5 x 7 cells: rows 0-4, 2-5; columns 0-4, 2-6, 4-7.
    assert held == [(4, 4), (4, 4), (4, 3), (3, 4), (3, 4), (3, 3)]


@pytest.mark.parametrize(("tile", "overlap"), [(20, 8), (32, 0), (32, 12), (32, 24)])
def test_tiles_that_do_not_fit(small, tile, overlap):
    with pytest.raises(UserError, match=f"tile={tile}, overlap={overlap}: make both multiples"):
        decode_tiled(small, np.zeros((1, 1, 5, 7, 4), np.float32), tile=tile, overlap=overlap)


def test_the_carry_does_not_grow(small):
    def carried(video, frames):
        carry = Carry(frames)
        small.posterior(video, carry)
        return carry.saved

    video = jax.ShapeDtypeStruct((1, 1, 16, 16, 3), jnp.float32)
    chunk = jax.ShapeDtypeStruct((1, 4, 16, 16, 3), jnp.float32)
    start = jax.eval_shape(lambda v: carried(v, None), video)
    following = jax.eval_shape(carried, chunk, start)
    assert [f.shape for f in start] == [f.shape for f in following]
    assert all(f.shape[1] <= 2 for f in following)


def test_no_frame_sees_the_future(small):
    video = jax.random.uniform(jax.random.key(0), (1, 9, 16, 16, 3))

    # The frame is an argument, so that one compilation serves all.
    seen_by = jax.jit(jax.grad(lambda v, frame: jnp.sum(jnp.square(small.encode(v)[:, frame]))))
    for latent_frame, last in ((0, 0), (1, 4)):
        gradient = np.abs(seen_by(video, latent_frame)).sum(axis=(0, 2, 3, 4))
        assert gradient[last] > 0
        assert (gradient[last + 1 :] == 0).all()

    latents = jax.random.normal(jax.random.key(1), (1, 3, 2, 2, SMALL.z_dim))
    influence = jax.jit(jax.grad(lambda z, frame: jnp.sum(jnp.square(small.decode(z)[:, frame]))))
    for frame, last in ((0, 0), (4, 1), (5, 2)):
        gradient = np.abs(influence(latents, frame)).sum(axis=(0, 2, 3, 4))
        assert gradient[last] > 0
        assert (gradient[last + 1 :] == 0).all()


def test_causal_convolution_equals_its_definition():
    conv = CausalConv3d(2, 3, rngs=nnx.Rngs(0))
    x = np.asarray(jax.random.normal(jax.random.key(1), (1, 3, 4, 5, 2)))
    padded = np.pad(x, ((0, 0), (2, 0), (1, 1), (1, 1), (0, 0)))
    weight, bias = np.asarray(conv.weight[...]), np.asarray(conv.bias[...])
    expected = np.zeros((1, 3, 4, 5, 3))
    for t, h, w in np.ndindex(3, 4, 5):
        window = padded[0, t : t + 3, h : h + 3, w : w + 3]
        expected[0, t, h, w] = np.einsum("thwi,thwio->o", window, weight) + bias
    np.testing.assert_allclose(conv(jnp.asarray(x), Carry()), expected, atol=1e-5)


def test_channel_norm_has_length_sqrt_c_and_a_finite_gradient_at_zero():
    norm = ChannelNorm(9)
    x = jax.random.normal(jax.random.key(0), (4, 9)) * 100
    np.testing.assert_allclose(jnp.linalg.norm(norm(x), axis=-1), 3.0, rtol=1e-5)
    gradient = jax.grad(lambda x: norm(x).sum())(jnp.zeros((2, 9)))
    assert np.isfinite(gradient).all()


def test_wan_2_1_has_the_published_size():
    vae = nnx.eval_shape(lambda: WanVAE(WAN_2_1, rngs=nnx.Rngs(0)))
    count = sum(x.size for x in jax.tree.leaves(nnx.state(vae)))
    # The count of diffusers' AutoencoderKLWan with its default configuration.
    assert count == 126_892_531


def test_runs_inside_other_transformations(small):
    video = jax.random.uniform(jax.random.key(3), (1, 5, 16, 16, 3))
    inside = jax.jit(lambda v: small.decode(small.encode(v)))(video)
    np.testing.assert_allclose(inside, small.decode(small.encode(video)), atol=1e-5)


def test_bfloat16_computes_close_and_returns_float32(small):
    video = jax.random.uniform(jax.random.key(4), (1, 5, 16, 16, 3))
    graph, state = nnx.split(small)
    half = nnx.merge(graph, state)
    half.dtype = "bfloat16"
    latents = half.encode(video)
    assert latents.dtype == jnp.float32
    np.testing.assert_allclose(latents, small.encode(video), atol=0.1)


@pytest.mark.parametrize(
    ("shape", "says"),
    [((1, 4, 16, 16, 3), "frames"), ((1, 5, 12, 16, 3), "height"), ((1, 5, 16, 4, 3), "width")],
)
def test_sizes_that_do_not_fit(small, shape, says):
    with pytest.raises(UserError, match=says):
        small.encode(np.zeros(shape, np.float32))
    with pytest.raises(UserError, match=says):
        small.encode_streamed(np.zeros(shape, np.float32))


def test_latents_that_do_not_fit(small):
    with pytest.raises(UserError, match="do not fit this autoencoder"):
        small.decode(np.zeros((1, 1, 2, 2, 16), np.float32))


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_dim": 0},
        {"temporal_downsample": (True,)},
        {"latents_mean": (0.0,) * 3},
        {"latents_std": (0.0,) * 16},
    ],
)
def test_configurations_that_cannot_be(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        VAEConfig(**wrong)


def test_saved_and_loaded(small, tmp_path):
    paths = save_vae(small, tmp_path / "vae", storage="float32")
    assert set(p.name for p in (tmp_path / "vae").iterdir()) == set(paths)
    loaded = load_vae(tmp_path / "vae")
    assert loaded.config == small.config
    video = jax.random.uniform(jax.random.key(5), (1, 5, 16, 16, 3))
    np.testing.assert_array_equal(loaded.encode(video), small.encode(video))

    save_vae(small, tmp_path / "half")
    half = load_vae(tmp_path / "half")
    np.testing.assert_allclose(half.encode(video), small.encode(video), atol=0.02)
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert size < 0.7 * (tmp_path / "vae" / "model.safetensors").stat().st_size


def test_weights_that_are_not_finite_are_not_saved(small, tmp_path):
    vae = nnx.clone(small)
    vae.conv1.bias[...] = jnp.full((2 * SMALL.z_dim,), jnp.nan)
    with pytest.raises(UserError, match=r"conv1\.bias is not finite"):
        save_vae(vae, tmp_path / "vae")
    assert not (tmp_path / "vae").exists()


def test_faulty_files_are_named(small, tmp_path, monkeypatch):
    good = tmp_path / "good"
    save_vae(small, good)
    with pytest.raises(UserError, match=r"nothing: holds no autoencoder; set --config\.data\.vae="):
        load_vae(tmp_path / "nothing")
    monkeypatch.setattr(vae, "SHIPPED", tmp_path / "not_shipped")
    with pytest.raises(UserError, match=r"not_shipped.*weights are missing.*train_vae"):
        load_vae()

    shutil.copytree(good, tmp_path / "flipped")
    weights = tmp_path / "flipped" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: damaged or changed.*SHA256SUMS"):
        load_vae(tmp_path / "flipped")

    (good / "SHA256SUMS").unlink()  # as in a folder that others wrote
    faults = {
        "truncated": lambda d: (d / "model.safetensors").write_bytes(
            (good / "model.safetensors").read_bytes()[:-100]
        ),
        "not an autoencoder's configuration": lambda d: (d / "config.json").write_text("{"),
        "does not fit": lambda d: (d / "config.json").write_text(
            (good / "config.json").read_text().replace('"base_dim": 4', '"base_dim": 8')
        ),
        r"lacks .* and \d+ more": lambda d: (d / "config.json").write_text(
            (good / "config.json").read_text().replace('"num_res_blocks": 1', '"num_res_blocks": 2')
        ),
        r"model\.safetensors.* missing": lambda d: (d / "model.safetensors").unlink(),
    }
    for i, (says, spoil) in enumerate(faults.items()):
        bad = tmp_path / str(i)
        shutil.copytree(good, bad)
        spoil(bad)
        with pytest.raises(UserError, match=says):
            load_vae(bad)
