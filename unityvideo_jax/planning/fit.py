"""Refusal of runs that cannot fit their devices, from sizes alone, before anything is traced."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.buckets import Bucket
from unityvideo_jax.inputs.config import as_data_config
from unityvideo_jax.models.config import DiTConfig, parameter_count
from unityvideo_jax.models.lora import LoraConfig
from unityvideo_jax.models.vae.wan_vae import WAN_2_1, WAN_2_2
from unityvideo_jax.parallel.device_memory import device_bytes
from unityvideo_jax.parallel.rules import num_parts
from unityvideo_jax.planning.closed_form import FLOAT32, Step, saved_bytes
from unityvideo_jax.planning.weights import weights_of
from unityvideo_jax.pretrained.vae import load_vae_config
from unityvideo_jax.runtime import capacity
from unityvideo_jax.settings.sections import section
from unityvideo_jax.training import batches
from unityvideo_jax.training.curriculum import stages


def stage_shapes(config: ml_collections.ConfigDict) -> list[tuple[Bucket, ...]]:
    """The shapes that the steps of each stage of the curriculum may have.

    Raises:
      UserError: a wrong key of `config.data` or a stage.
    """
    whole, found = as_data_config(config.data), []
    for stage in stages(config.get("curriculum", ()), whole.modality_weights, config.train.steps):
        changes = {
            key: getattr(stage, key) or getattr(whole, key) for key in ("streams", "buckets")
        }
        data = dataclasses.replace(whole, **changes)
        found.append(data.shapes(config.train.batch_size))
    return found


def training_shapes(config: ml_collections.ConfigDict) -> tuple[Bucket, ...]:
    """The shapes of all steps of a run, each once."""
    once = {
        (bucket.label, bucket.batch_size): bucket
        for shapes in stage_shapes(config)
        for bucket in shapes
    }
    return tuple(once.values())


def largest(config: ml_collections.ConfigDict) -> Bucket:
    """The shape whose step has the most tokens."""
    return max(training_shapes(config), key=lambda bucket: bucket.batch_size * bucket.volume)


def latent_shape(
    config: ml_collections.ConfigDict, size: Sequence[int] | None = None
) -> tuple[int, int, int, int]:
    """(time, height, width, channels) of the latents of a video.

    Args:
      config: the run's.
      size: frames, height and width; None is those of `config.data`.

    Raises:
      UserError: a video size that does not fit the autoencoder's strides.
    """
    channels, data = config.model.in_channels, config.data
    try:
        vae = load_vae_config(data.vae)
    except UserError:  # not at hand, and not needed: Wan's are known by their channels
        vae = WAN_2_2 if channels == WAN_2_2.z_dim else WAN_2_1
    sizes = vae.latent_shape(*(size or (data.num_frames, data.height, data.width)))
    return *sizes[:3], channels


def step_tokens(config: ml_collections.ConfigDict, bucket: Bucket) -> int:
    """Tokens of all samples of a step."""
    model = section(DiTConfig, config, "model")
    grid = model.token_grid(latent_shape(config, bucket.size)[:3])
    return bucket.batch_size * bucket.streams * math.prod(grid)


def batch_parts(config: ml_collections.ConfigDict, mesh: Mesh) -> int:
    """The number of parts that the mesh and accumulation divide a batch into."""
    return num_parts(("slice", "data", "fsdp"), mesh) * config.optimizer.get("accumulation", 1)


def check_divides(config: ml_collections.ConfigDict, shapes: Sequence[Bucket], parts: int) -> None:
    """Raises UserError unless `batch_parts` divides every batch."""
    for bucket in shapes:
        own = bucket.batch_size != config.train.batch_size
        key = f"config.data.buckets, {bucket.label}: " if own else "config.train."
        batches.check_divides(f"{key}batch_size", bucket.batch_size, parts)


def check_training(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Raises UserError if the least that a training step holds is more than a device has.

    Counts the weights, their average, the optimiser's moments, what every layer keeps between the
    passes, and the texts, each as the mesh divides it, for every shape that steps have.

    Args:
      config: an experiment whose sections were checked.
      mesh: of the run.
    """
    for bucket in training_shapes(config):
        _check_bucket(config, mesh, bucket)


def _check_bucket(config: ml_collections.ConfigDict, mesh: Mesh, bucket: Bucket) -> None:
    model, sizes = section(DiTConfig, config, "model"), dict(mesh.shape)
    step = Step(
        model=model,
        latent_shape=latent_shape(config, bucket.size)[:3],
        streams=bucket.streams,
        batch=bucket.batch_size,
        mesh=sizes,
        moment_bytes=jnp.dtype(config.optimizer.get("moments", "float32")).itemsize,
        keep_ema=config.optimizer.get("ema_decay", 1.0) > 0,
        accumulation=config.optimizer.get("accumulation", 1),
        lora=LoraConfig.of(config),
    )
    weights = parameter_count(model)
    each = FLOAT32 * (1 + step.keep_ema) + 2 * step.moment_bytes
    state = weights * each // (sizes["fsdp"] * sizes["tensor"])
    if step.lora.rank:
        held = weights_of(model, step.lora, sizes)
        state = held.frozen + (held.kernels + held.rest) * each
    saved = model.num_layers * saved_bytes(step) + step.texts * model.text_dim * FLOAT32
    device = mesh.devices.flat[0]
    needed, have = state + saved, device_bytes(device)
    if needed > have:
        raise UserError(
            f"config.model has {weights:,} weights: training it needs at least "
            f"{capacity.show(state)} for weights and optimiser and {capacity.show(saved)} for "
            f"{bucket.batch_size} x {bucket.label} on each of {mesh.size} devices "
            f"({device.device_kind}), which have {capacity.show(have)}; lower config.model.dim, "
            "num_layers or text_len, the video's size, config.train.batch_size, the length of "
            "config.data.streams or its buckets, or raise config.mesh.fsdp over more devices"
        )
