"""The parts of a pipeline, as `Pipeline` takes them, from a run or from a pretrained model."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths
from unityvideo_jax.inputs.config import READ_LATER, VAE_DTYPES, DataConfig
from unityvideo_jax.kernels import attention
from unityvideo_jax.models import build
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.models.lora import LoraConfig
from unityvideo_jax.pretrained import model as pretrained
from unityvideo_jax.pretrained.text import load_text_encoder
from unityvideo_jax.pretrained.vae import load_vae
from unityvideo_jax.runtime import threads
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.settings.sections import check_keys, check_value, check_values, section

# Keys of config.data that sampling needs, with the values of runs that lack them.
DEFAULTS = {"depth_codec": "relative", "prompt_dropout": 0.0}
DATA = (*READ_LATER, *DEFAULTS)
# Further keys that evaluation needs: how many streams a sample had in training.
TRAINED = ("streams", "buckets")


def from_workdir(
    workdir: str | os.PathLike,
    *,
    step: int | None,
    use_ema: bool,
    fallback: bool,
    vae: str | None,
    text_encoder: str | None,
    vae_dtype: str,
) -> dict[str, Any]:
    """Keywords of `Pipeline` for a run; arguments and errors as `Pipeline.from_workdir`."""
    _check_names(vae, text_encoder, vae_dtype)
    workdir = paths.argument("workdir", workdir)
    # Here, so that pretrained models start without Orbax.
    from unityvideo_jax.checkpoints.inference import open_run

    config, load, step = open_run(workdir, step=step, use_ema=use_ema, fallback=fallback)
    parts = _assembled(workdir, config.to_dict(), load, vae, text_encoder, vae_dtype)
    return parts | {"step": step, "folder": pathlib.Path(workdir)}


def from_pretrained(
    name: str | os.PathLike, *, vae: str | None, text_encoder: str | None, vae_dtype: str
) -> dict[str, Any]:
    """Keywords of `Pipeline` for a model; arguments and errors as `Pipeline.from_pretrained`."""
    _check_names(vae, text_encoder, vae_dtype)
    folder = pretrained.find(name)
    config = pretrained.read_config(folder)
    vae = vae or pretrained.find_own_vae(folder, config)
    parts = _assembled(
        folder / pretrained.CONFIG_FILE,
        {key: config[key] for key in pretrained.SECTIONS},
        lambda: pretrained.load(folder, config),
        vae,
        text_encoder,
        vae_dtype,
    )
    return parts | {"step": config["step"], "folder": folder}


def _check_names(vae: Any, text_encoder: Any, vae_dtype: Any) -> None:
    """Raises UserError for arguments of another type than None or text, or an unknown type."""
    if vae is not None:
        paths.argument("vae", vae, empty=True)
    if text_encoder is not None:
        check_value(str, text_encoder, "text_encoder")
    if vae_dtype not in VAE_DTYPES:
        raise UserError(f"vae_dtype={vae_dtype!r}: use one of {', '.join(VAE_DTYPES)}")


def _assembled(
    source: str | os.PathLike,
    config: Mapping[str, Any],
    load: Callable[[], Any],
    vae: str | os.PathLike | None,
    text_encoder: str | None,
    vae_dtype: str,
) -> dict[str, Any]:
    """The parts that a configuration describes, loaded side by side.

    Args:
      source: names the configuration in errors.
      config: with the sections model, data and sampling.
      load: gives the transformer's parameters.
      vae, text_encoder: instead of config.data's.
      vae_dtype: in which the autoencoder computes.
    """
    data, where = config["data"], f"{source}: config.data."
    check_keys(data, list(data), where, READ_LATER)
    check_values(DataConfig, {key: data[key] for key in READ_LATER}, where)
    model = section(DiTConfig, config, "model")
    graph = build.sampler_graph(model, LoraConfig.of(config))
    encoder = text_encoder or data["text_encoder"]
    loaded = threads.call_all(
        vae=lambda: load_vae(vae or data["vae"] or None, dtype=vae_dtype),
        text_encoder=lambda: load_text_encoder(encoder, data["text_length"]),
        params=load,
        # While the others wait for files and the device.
        kernels=lambda: attention.import_libraries(
            model.attention, jnp.dtype(model.dtype), model.head_dim
        ),
    )
    return {
        "vae": loaded["vae"],
        "text_encoder": loaded["text_encoder"],
        "model": nnx.merge(graph, loaded["params"]),
        "num_frames": data["num_frames"],
        "height": data["height"],
        "width": data["width"],
        "fps": data["fps"],
        "sampler": section(SamplerConfig, config, "sampling"),
        **{key: data.get(key, default) for key, default in DEFAULTS.items()},
        "config": config,
    }


def describe(pipeline: Any) -> dict[str, Any]:
    """Returns the sections model, data and sampling that describe a pipeline's parts."""
    texts = pipeline.text_encoder
    data = {key: getattr(pipeline, key) for key in DATA if hasattr(pipeline, key)}
    data |= _trained(getattr(pipeline, "config", None))
    return {
        "model": dataclasses.asdict(pipeline.model_config),
        "data": data | {"text_encoder": texts.name, "text_length": texts.length, "vae": ""},
        "sampling": dataclasses.asdict(pipeline.sampler),
    }


def describe_run(config: Any) -> dict[str, Any]:
    """Returns the sections of a run's configuration that sampling needs."""
    data = DEFAULTS | {key: config["data"][key] for key in DATA if key in config["data"]}
    data |= _trained(config)
    sampler = section(SamplerConfig, config, "sampling")
    return {
        "model": dataclasses.asdict(section(DiTConfig, config, "model")),
        "data": data,
        "sampling": dataclasses.asdict(sampler),
    }


def _trained(config: Any) -> dict[str, Any]:
    data = config["data"] if config else {}
    return {key: data[key] for key in TRAINED if data.get(key)}
