"""Whether a run can fit its devices at all, from its sizes alone, before anything is traced."""

import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.config import DataConfig
from unityvideo_jax.models.config import DiTConfig, parameter_count
from unityvideo_jax.models.lora import LoraConfig
from unityvideo_jax.parallel.device_memory import device_bytes
from unityvideo_jax.planning.closed_form import FLOAT32, Step, kept_bytes
from unityvideo_jax.planning.weights import weights_of
from unityvideo_jax.runtime import capacity
from unityvideo_jax.settings.sections import section


def largest_streams(config: ml_collections.ConfigDict) -> int:
    """The most streams of a training sample, over all stages of the curriculum."""
    asked = [stage.get("streams", ()) for stage in config.get("curriculum", ())]
    asked.append(config.data.get("streams", DataConfig.streams))
    return max(n for weights in asked for n, weight in enumerate(weights, 1) if weight)


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
    streams = largest_streams(config)
    step = Step(
        model=model,
        latent_shape=latent_shape,
        streams=streams,
        batch=config.train.batch_size,
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
    kept = model.num_layers * kept_bytes(step) + step.texts * model.text_dim * FLOAT32
    device = mesh.devices.flat[0]
    needed, have = state + kept, device_bytes(device)
    if needed > have:
        raise UserError(
            f"config.model has {weights:,} weights: training it needs at least "
            f"{capacity.show(state)} for weights and optimiser and {capacity.show(kept)} for "
            f"{config.train.batch_size} x {streams} streams on each of {mesh.size} devices "
            f"({device.device_kind}), which have {capacity.show(have)}; lower config.model.dim, "
            "num_layers or text_len, the video's size, config.train.batch_size or the length of "
            "config.data.streams, or raise config.mesh.fsdp over more devices"
        )
