"""Wan's autoencoders against diffusers' AutoencoderKLWan, from the files that diffusers writes."""

import json
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from wan_download import VAE_SIZES, torch_vae

from unityvideo_jax.errors import UserError
from unityvideo_jax.interop import vae as interop
from unityvideo_jax.models import build
from unityvideo_jax.models.vae.tiling import decode_tiled, encode_tiled
from unityvideo_jax.models.vae.wan_vae import WAN_2_1, WAN_2_2, VAEConfig, WanVAE
from unityvideo_jax.pretrained.vae import load_vae, save_vae

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["2.1", "2.2"])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def reference(version):
    return torch_vae(version)


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("vae")
    reference.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def vae(folder):
    return load_vae(folder)


def to_torch(x):
    return torch.from_numpy(np.moveaxis(np.array(x), -1, 1).copy())


def to_numpy(x):
    return np.moveaxis(x.numpy(), 1, -1)


# One size suffices to show that streaming in chunks gives the same: the last, of many chunks.
@pytest.mark.parametrize("frames", [1, 5, 17, 33])
def test_equals_diffusers(version, reference, vae, frames, parity):
    height, width = 3 * vae.config.spatial_stride, 5 * vae.config.spatial_stride
    names = [f"VAE {version} {way}, {frames} frames" for way in ("encode", "decode")]
    library = "diffusers AutoencoderKLWan"
    rng = np.random.default_rng(frames)
    video = rng.uniform(-1, 1, (1, frames, height, width, 3)).astype(np.float32)
    posterior = reference.encode(to_torch(video)).latent_dist
    exact = dict(bound=TOLERANCE, relative=False)
    expected = to_numpy(posterior.mean)
    if frames == 33:
        parity(names[0], library, vae.denormalize(vae.encode_streamed(video)), expected, **exact)
    else:
        mean, logvar = jax.jit(vae.posterior)(video)
        parity(names[0], library, mean, expected, **exact)
        parity(names[0], library, logvar, to_numpy(posterior.logvar), **exact)

    z = rng.standard_normal(expected.shape).astype(np.float32)
    expected = to_numpy(reference.decode(to_torch(z)).sample)
    assert expected.std() > 0.05  # A constant output would compare equal too easily.
    given = vae.normalize(jnp.asarray(z))
    decode = vae.decode_streamed if frames == 33 else vae.decode
    parity(names[1], library, decode(given), expected, **exact)


def test_tiles_equal_those_of_diffusers(version, reference, vae, parity):
    """5 x 8 cells by tiles of 4 x 4 that share one: the last ones are shorter."""
    # Every shape of a tile is compiled: the second autoencoder has them in one row.
    rows, columns = {"2.1": (5, 8), "2.2": (3, 8)}[version]
    cell, patch = vae.config.spatial_stride, vae.config.patch_size
    tiles = dict(tile=4 * cell, overlap=cell)
    rng = np.random.default_rng(1)
    video = rng.uniform(-1, 1, (1, 1, rows * cell, columns * cell, 3)).astype(np.float32)
    tiled = torch_vae(version)
    # Sizes of tiles are those of patches in its encoder, and of pixels in its decoder.
    tiled.enable_tiling(*[4 * cell // patch] * 2, *[3 * cell // patch] * 2)
    mean = to_numpy(tiled.encode(to_torch(video)).latent_dist.mean)
    ours = vae.denormalize(jnp.asarray(encode_tiled(vae, video, **tiles)))
    exact = dict(bound=TOLERANCE, relative=False)
    parity(f"VAE {version} encode, tiles", "diffusers AutoencoderKLWan", ours, mean, **exact)
    whole = to_numpy(reference.encode(to_torch(video)).latent_dist.mean)
    assert np.abs(whole - mean).max() > 0.01

    tiled.enable_tiling(*[4 * cell] * 2, *[3 * cell] * 2)
    z = 3 * rng.standard_normal((1, 2, *mean.shape[2:])).astype(np.float32)
    expected = to_numpy(tiled.decode(to_torch(z)).sample)
    assert (np.abs(expected) == 1).any()  # the blend is clipped, not what it is made of
    given = np.asarray(vae.normalize(jnp.asarray(z)))
    ours = decode_tiled(vae, given, **tiles)
    parity(f"VAE {version} decode, tiles", "diffusers AutoencoderKLWan", ours, expected, **exact)


def test_wan_2_2_has_the_published_size():
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKLWan(
            base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, patch_size=2,
            in_channels=12, out_channels=12, scale_factor_spatial=16,
        )  # fmt: skip
    ours = build.abstract(WanVAE, WAN_2_2)[1]
    assert sum(x.size for x in jax.tree.leaves(ours)) == sum(p.numel() for p in theirs.parameters())
    names = {
        interop.tensor_name(".".join(map(str, path)), WAN_2_2, "diffusers")
        for path, _ in nnx.to_flat_state(ours)
    }
    assert names == set(theirs.state_dict())
    assert WAN_2_2.latent_shape(121, 704, 1280) == (31, 44, 80, 48)


def test_wan_2_1_names_convert_as_diffusers_converts_them():
    """diffusers' own conversion of the original file, whose indices are those of the full size."""
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    with torch.device("meta"):
        theirs = set(diffusers.AutoencoderKLWan().state_dict())
    state = build.abstract(WanVAE, WAN_2_1)[1]
    paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]
    originals = {interop.tensor_name(path, WAN_2_1, "original"): path for path in paths}
    converted = convert_wan_vae_to_diffusers(dict(originals))
    assert set(converted) == theirs
    for name, path in converted.items():
        assert interop.tensor_name(path, WAN_2_1, "diffusers") == name


def test_original_names_of_wan_2_2():
    """Read off Wan 2.2's module tree: levels, blocks of seven counted modules, two heads."""
    for path, name in (
        ("encoder.conv1.weight", "encoder.conv1.weight"),
        ("encoder.downsamples.1.downsamples.0.norm1.gamma",
         "encoder.downsamples.1.downsamples.0.residual.0.gamma"),
        ("encoder.downsamples.1.downsamples.0.conv2.bias",
         "encoder.downsamples.1.downsamples.0.residual.6.bias"),
        ("encoder.downsamples.1.downsamples.2.resample.weight",
         "encoder.downsamples.1.downsamples.2.resample.1.weight"),
        ("encoder.downsamples.1.downsamples.2.time_conv.weight",
         "encoder.downsamples.1.downsamples.2.time_conv.weight"),
        ("decoder.upsamples.2.upsamples.0.shortcut.weight",
         "decoder.upsamples.2.upsamples.0.shortcut.weight"),
        ("decoder.middle.0.conv1.weight", "decoder.middle.0.residual.2.weight"),
        ("decoder.middle.1.to_qkv.weight", "decoder.middle.1.to_qkv.weight"),
        ("decoder.head.conv.bias", "decoder.head.2.bias"),
        ("conv1.weight", "conv1.weight"),
    ):  # fmt: skip
        assert interop.tensor_name(path, WAN_2_2, "original") == name


def test_written_back(reference, vae, tmp_path):
    interop.save_wan_vae(vae, tmp_path / "diffusers")
    again = diffusers.AutoencoderKLWan.from_pretrained(tmp_path / "diffusers")
    assert {k: v for k, v in again.config.items() if k in VAE_SIZES["2.2"]} == {
        k: v for k, v in reference.config.items() if k in VAE_SIZES["2.2"]
    } | {"decoder_base_dim": vae.config.decoder_base_dim}
    for name, tensor in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name

    original = tmp_path / "original"
    interop.save_wan_vae(vae, original, names="original")
    names = set(load_file(original / interop.WEIGHTS_FILE))
    assert "encoder.head.0.gamma" in names and not any("blocks" in name for name in names)
    for source, config in ((original, None), (original / interop.WEIGHTS_FILE, vae.config)):
        same = interop.load_wan_vae(source, config=config)
        chex.assert_trees_all_equal(nnx.state(same), nnx.state(vae))
    with pytest.raises(UserError, match="choose diffusers or original"):
        interop.save_wan_vae(vae, tmp_path, names="ours")


def test_our_own_folder_keeps_it(vae, tmp_path):
    save_vae(vae, tmp_path, storage="float32")
    again = load_vae(tmp_path)
    assert again.config == vae.config
    latents = jax.random.normal(jax.random.key(0), (1, 1, 1, 1, 4))
    np.testing.assert_array_equal(again.decode(latents), vae.decode(latents))


def test_faulty_folders_are_named(tmp_path):
    reference = torch_vae("2.1")
    good = tmp_path / "good"
    reference.save_pretrained(good)
    config = json.loads((good / "config.json").read_text())
    for i, (says, change) in enumerate(
        {
            r"decoder\.conv_in\.bias is \(16,\), not \(32,\).* and \d+ more": {"base_dim": 8},
            r"lacks decoder\.up_blocks": {"num_res_blocks": 2},
            r"attn_scales=\[1\.0\] is not supported": {"attn_scales": [1.0]},
            "is of a AutoencoderKL;": {"_class_name": "AutoencoderKL"},
            "vae.base_dim=-1": {"base_dim": -1},
        }.items()
    ):
        bad = tmp_path / str(i)
        shutil.copytree(good, bad)
        (bad / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=says):
            load_vae(bad)
    file = good / interop.WEIGHTS_FILE
    assert load_vae(file).config == load_vae(good).config
    (good / "config.json").unlink()
    for source in (good, file):
        with pytest.raises(UserError, match="neither Wan"):
            load_vae(source)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="truncated"):
        load_vae(good)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "nothing"))):
        interop.load_wan_vae(tmp_path / "nothing")


@pytest.mark.parametrize("wrong", [{"dim_mult": (1, 3, 4, 4)}, {"patch_size": 0}])
def test_configurations_that_cannot_be(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        VAEConfig(residual=True, **wrong)
