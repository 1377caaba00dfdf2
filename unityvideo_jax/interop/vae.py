"""Wan's autoencoders, 2.1 and 2.2, read and written under diffusers' or the original names."""

import dataclasses
import json
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import checksums, paths, strict_json
from unityvideo_jax.interop import identify
from unityvideo_jax.interop.tensors import TensorFiles, Wanted
from unityvideo_jax.models import build
from unityvideo_jax.models.vae.wan_vae import WAN_2_1, WAN_2_2, VAEConfig, WanVAE

DIFFUSERS, ORIGINAL = "diffusers", "original"
CLASS_NAME = "AutoencoderKLWan"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
# Our field: diffusers'. "temperal" is how it is spelt there.
CONFIG_FIELDS = {
    "base_dim": "base_dim",
    "decoder_base_dim": "decoder_base_dim",
    "z_dim": "z_dim",
    "dim_mult": "dim_mult",
    "num_res_blocks": "num_res_blocks",
    "temporal_downsample": "temperal_downsample",
    "latents_mean": "latents_mean",
    "latents_std": "latents_std",
    "residual": "is_residual",
    "patch_size": "patch_size",
}
# Ours to the original's: there, blocks are rows of modules, activations counted.
ORIGINAL_NAMES = (
    (r"(\d)\.norm1\.", r"\1.residual.0."),
    (r"(\d)\.conv1\.", r"\1.residual.2."),
    (r"(\d)\.norm2\.", r"\1.residual.3."),
    (r"(\d)\.conv2\.", r"\1.residual.6."),
    (r"\.head\.norm\.", ".head.0."),
    (r"\.head\.conv\.", ".head.2."),
    (r"\.resample\.(\w+)$", r".resample.1.\1"),
)
DIFFUSERS_NAMES = (
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"\.head\.norm\.", ".norm_out."),
    (r"\.head\.conv\.", ".conv_out."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"\.resample\.(\w+)$", r".resample.1.\1"),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
)


def tensor_name(path: str, config: VAEConfig, names: str) -> str:
    """The name of our parameter `path` in a checkpoint whose `names` are "diffusers" or "original".

    >>> tensor_name("decoder.upsamples.5.norm1.gamma", WAN_2_1, "diffusers")
    'decoder.up_blocks.1.resnets.1.norm1.gamma'
    >>> tensor_name("decoder.upsamples.5.norm1.gamma", WAN_2_1, "original")
    'decoder.upsamples.5.residual.0.gamma'
    """
    for pattern, replacement in ORIGINAL_NAMES if names == ORIGINAL else DIFFUSERS_NAMES:
        path = re.sub(pattern, replacement, path)
    return path if names == ORIGINAL else _group_levels(path, config)


def _group_levels(path: str, config: VAEConfig) -> str:
    """diffusers groups the decoder's layers by level, and in Wan 2.2 the encoder's too."""
    blocks = {"down": config.num_res_blocks, "up": config.num_res_blocks + 1}
    if config.residual:

        def split(match: re.Match) -> str:
            way, level, layer = match[1], match[2], int(match[3])
            part = f"resnets.{layer}" if layer < blocks[way] else f"{way}sampler"
            return f".{way}_blocks.{level}.{part}."

        return re.sub(r"\.(down|up)samples\.(\d+)\.\1samples\.(\d+)\.", split, path)

    def split_row(match: re.Match) -> str:
        level, layer = divmod(int(match[1]), blocks["up"] + 1)
        part = f"resnets.{layer}" if layer < blocks["up"] else "upsamplers.0"
        return f".up_blocks.{level}.{part}."

    path = re.sub(r"\.upsamples\.(\d+)\.", split_row, path)
    return path.replace(".downsamples.", ".down_blocks.")


def to_torch(path: str, tensor: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Returns our parameter as PyTorch stores it.

    Args:
      path: dotted path of the parameter.
      tensor: ours, channels last.

    Returns:
      Channels first; norm scales with axes to broadcast.
    """
    if tensor.ndim >= 4:
        return np.moveaxis(tensor, (-1, -2), (0, 1))
    if path.endswith("gamma"):
        # The attention's norm sees frames, the others see videos.
        return tensor.reshape(-1, *([1] * (2 if re.search(r"middle\.1\.", path) else 3)))
    return tensor


def from_torch(path: str, tensor: Float[Array, "..."]) -> Float[Array, "..."]:
    """The inverse of `to_torch`, on the device."""
    if path.endswith("gamma"):
        return tensor.reshape(-1)
    return tensor.transpose(*range(2, tensor.ndim), 1, 0) if tensor.ndim >= 4 else tensor


@jax.jit
def _all_from_torch(tensors: dict[str, Array]) -> dict[str, Array]:
    """One program: dozens of shapes are dozens of programs otherwise, which a start waits for."""
    return {path: from_torch(path, tensor) for path, tensor in tensors.items()}


def load_wan_vae(
    source: str | os.PathLike, *, config: VAEConfig | None = None, dtype: str = "float32"
) -> WanVAE:
    """Reads Wan's autoencoder.

    Args:
      source: folder of diffusers (config.json, *.safetensors), folder or file of the original
        Wan (.pth, or the same as safetensors).
      config: of original weights without a config.json; None picks `WAN_2_1` or `WAN_2_2` by the
        number of latent channels.
      dtype: compute type of the result; its parameters are float32 always.

    Raises:
      UserError: files that are missing, truncated, or do not fit each other.
    """
    source = pathlib.Path(source)
    tensors = TensorFiles(source)
    names = DIFFUSERS if "quant_conv.weight" in tensors else ORIGINAL
    config = config or find_config(source)
    graph, state = build.abstract(WanVAE, config, dtype=dtype)
    leaves = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    theirs = {ours: tensor_name(ours, config, names) for ours in leaves}
    tensors.check(
        {
            theirs[ours]: to_torch(ours, _blank(leaf.get_value().shape)).shape
            for ours, (_, leaf) in leaves.items()
        },
        identify.VAE,
    )
    stored = tensors.load({ours: Wanted(name=theirs[ours], dtype=jnp.float32) for ours in leaves})
    arrays = _all_from_torch(stored)
    loaded = {path: leaf.replace(arrays[ours]) for ours, (path, leaf) in leaves.items()}
    return nnx.merge(graph, nnx.from_flat_state(loaded))


def parameter_paths(vae: WanVAE) -> list[str]:
    """Dotted paths of our parameters, as `tensor_name` takes them."""
    return [".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(vae, nnx.Param))]


def save_wan_vae(vae: WanVAE, directory: str | os.PathLike, *, names: str = DIFFUSERS) -> None:
    """Writes float32 weights that diffusers, or the original Wan code, reads.

    Args:
      vae: the autoencoder.
      directory: made if missing; gets diffusion_pytorch_model.safetensors and, for either names,
        diffusers' config.json.
      names: "diffusers" or "original".

    Raises:
      UserError: unknown `names`.
    """
    if names not in (DIFFUSERS, ORIGINAL):
        raise UserError(f"names={names!r} is unknown: choose {DIFFUSERS} or {ORIGINAL}.")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for path, leaf in nnx.to_flat_state(nnx.state(vae, nnx.Param)):
        ours = ".".join(map(str, path))
        value = to_torch(ours, np.asarray(leaf.get_value()))
        arrays[tensor_name(ours, vae.config, names)] = np.ascontiguousarray(value)
    fields = dataclasses.asdict(vae.config)
    config = {theirs: fields[ours] for ours, theirs in CONFIG_FIELDS.items()}
    config |= {
        "_class_name": CLASS_NAME,
        "patch_size": config["patch_size"] if config["patch_size"] > 1 else None,
        "in_channels": vae.config.pixel_channels,
        "out_channels": vae.config.pixel_channels,
        "scale_factor_temporal": vae.config.temporal_stride,
        "scale_factor_spatial": vae.config.spatial_stride,
    }
    contents = {
        WEIGHTS_FILE: safetensors.numpy.save(arrays, metadata={"format": "pt"}),
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
    }
    checksums.write_sums(directory, contents)
    for name, content in contents.items():
        paths.write_bytes(directory / name, content)


def find_config(source: str | os.PathLike) -> VAEConfig:
    """Finds the configuration of a folder or file of Wan's autoencoder.

    Raises:
      UserError: a faulty config.json, or none and the weights are not Wan's own.
    """
    source = pathlib.Path(source)
    path = (source if source.is_dir() else source.parent) / "config.json"
    # Beside a single file there may be that of another model.
    if path.is_file() and (source.is_dir() or CLASS_NAME in path.read_text()):
        return read_config(path)
    return _guess_config(TensorFiles(source))


def read_config(path: pathlib.Path) -> VAEConfig:
    """Reads the configuration of diffusers' config.json.

    Raises:
      UserError: not the configuration of a Wan autoencoder, or one with parts that ours lacks.
    """
    checksums.check(path)
    try:
        values = strict_json.read_object(path)
        fields = {ours: values[o] for ours, o in CONFIG_FIELDS.items() if values.get(o) is not None}
        extras = values.get("attn_scales")
        kind = values.get("_class_name", CLASS_NAME)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not an {CLASS_NAME}'s ({error}); copy it again.") from error
    if kind != CLASS_NAME:
        raise UserError(f"{path}: is of a {kind}; give the folder of an {CLASS_NAME}.")
    if extras:
        raise UserError(f"{path}: attn_scales={extras} is not supported; Wan 2.1 and 2.2 have [].")
    return VAEConfig(**fields)


def _guess_config(tensors: TensorFiles) -> VAEConfig:
    channels = tensors.shape("conv2.bias") if "conv2.bias" in tensors else ()
    for config in (WAN_2_1, WAN_2_2):
        if channels == (config.z_dim,):
            return config
    tensors.refuse_others(identify.VAE)
    raise UserError(
        f"{tensors.path}: neither Wan 2.1's nor Wan 2.2's autoencoder under its original names; "
        "put the config.json that came with the weights beside them."
    )


def _blank(shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """An array of this shape that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)
