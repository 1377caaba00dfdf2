"""Whether a run can fit its devices at all, from its sizes alone, before anything is traced."""

import math

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from unityvideo_jax import capacity
from unityvideo_jax.errors import UserError
from unityvideo_jax.models.config import DiTConfig, parameter_count
from unityvideo_jax.parallel.chips import chip_of
from unityvideo_jax.parallel.closed_form import BFLOAT16, FLOAT32, Step, kept_bytes
from unityvideo_jax.sections import section

# Of a training sample: RGB and one modality.
STREAMS = 2
# Arrays of the tokens' width that a block holds at once, at least: its input, and queries, keys and
# values.
WORKING = 4


def device_bytes(device: jax.Device) -> int:
    """Memory of a device; of a CPU device its share of the host's."""
    stats = device.memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return limit
    if chip := chip_of(device.device_kind):
        return chip.memory
    local = [one for one in jax.devices() if one.process_index == device.process_index]
    return capacity.host_bytes() // len(local)


def check_training(
    config: ml_collections.ConfigDict, latent_shape: tuple[int, int, int], mesh: Mesh
) -> None:
    """Raises UserError if the least that a training step holds is more than a device has.

    Counts the weights, their average, the optimiser's moments, what every layer keeps between the
    passes, and the texts, each as the mesh divides it.

    Args:
      config: an experiment whose sections were checked.
      latent_shape: (time, height, width) of one stream's latents.
      mesh: of the run.
    """
    model, sizes = section(DiTConfig, config, "model"), dict(mesh.shape)
    step = Step(
        model=model,
        latent_shape=latent_shape,
        streams=STREAMS,
        batch=config.train.batch_size,
        mesh=sizes,
        moment_bytes=jnp.dtype(config.optimizer.get("moments", "float32")).itemsize,
        keep_ema=config.optimizer.get("ema_decay", 1.0) > 0,
        accumulation=config.optimizer.get("accumulation", 1),
    )
    weights = parameter_count(model)
    each = FLOAT32 * (1 + step.keep_ema) + 2 * step.moment_bytes
    state = weights * each // (sizes["fsdp"] * sizes["tensor"])
    kept = model.num_layers * kept_bytes(step) + step.texts * model.text_dim * FLOAT32
    device = mesh.devices.flat[0]
    needed, have = state + kept, device_bytes(device)
    if needed > have:
        raise UserError(
            f"config.model has {weights:,} weights: training it needs at least "
            f"{capacity.show(state)} for weights and optimiser and {capacity.show(kept)} for "
            f"{config.train.batch_size} samples per step on each of {mesh.size} devices "
            f"({device.device_kind}), which have {capacity.show(have)}; lower config.model.dim, "
            "num_layers or text_len, the video's size or config.train.batch_size, or raise "
            "config.mesh.fsdp over more devices"
        )


def check_sampling(
    model: DiTConfig, latent_shape: tuple[int, int, int], streams: int, batch: int
) -> None:
    """Raises UserError if the tokens of a model call are more than a device holds.

    Args:
      model: its width counts.
      latent_shape: (time, height, width) of one stream's latents.
      streams: of a sample.
      batch: samples of one device at once.
    """
    tokens = batch * streams * math.prod(model.token_grid(latent_shape))
    check_device(
        WORKING * BFLOAT16 * tokens * model.dim,
        f"{batch} samples of {streams} streams, {tokens:,} tokens",
        "sample fewer frames, pixels or samples at once",
    )


def check_device(needed: int, what: str, fix: str) -> None:
    """Raises UserError if `needed` bytes are more than a device of this process has.

    Args:
      needed: the least that it takes.
      what: the key or flag that asks for it.
      fix: what to do about it.
    """
    device = jax.local_devices()[0]
    if needed > (have := device_bytes(device)):
        raise UserError(
            f"{what}: needs at least {capacity.show(needed)}, a device ({device.device_kind}) has "
            f"{capacity.show(have)}; {fix}"
        )
