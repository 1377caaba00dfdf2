"""The flow-matching loss on the noised streams (UnityVideo sec. 3.4)."""

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from unityvideo_jax.flow_matching import path
from unityvideo_jax.flow_matching.config import ObjectiveConfig
from unityvideo_jax.flow_matching.path import VelocityFn
from unityvideo_jax.flow_matching.tasks import TASKS, Noising, draw_first_frames, draw_noising
from unityvideo_jax.modalities import BUILT_IN

# The last two are where sampling starts: an estimate is decided there.
BAND_EDGES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)

Metrics = dict[str, Float[Array, "b"] | tuple[Float[Array, ""], Float[Array, ""]]]


def flow_matching_loss(
    velocity_fn: VelocityFn,
    batch: Mapping[str, Array],
    key: Key[Array, ""],
    config: ObjectiveConfig,
    *,
    modalities: Sequence[str] = BUILT_IN,
) -> tuple[Float[Array, ""], Metrics]:
    """The mean over samples of the mean squared velocity error on a sample's noised streams.

    A sample weighs the same whatever its task, so the loss of a batch is the mean of the losses of
    its parts, and micro-batches or hosts can be averaged.

    Args:
      velocity_fn: the model.
      batch: "latents" [B,S,t,h,w,C], "modality" [B,S], "context" [B,S,L,D]; stream 0 is RGB, or the
        only stream. Used as float32, whatever precision they come in.
      key: used up by this call; draws task, timestep, dropout and noise.
      config: the objective.
      modalities: names of the modality ids, for the metrics by modality and their loss weights.

    Returns:
      The loss, float32, with `config.modality_loss_weights`; and metrics, without these weights, as
      (sum, count) pairs, to be added up and then divided:
      "loss", "loss/streams/<S>" and "loss/task/<task>" per sample, "loss/modality/<name>" and
      "loss/timestep/<low>-<high>" per noised stream. Besides, "samples" f32[B], each sample's loss.
    """
    clean = batch["latents"].astype(jnp.float32)
    draw_key, noise_key, frame_key = jax.random.split(key, 3)
    noising = draw_noising(draw_key, clean.shape[0], clean.shape[1], config)
    noise = jax.random.normal(noise_key, clean.shape, jnp.float32)
    noised = path.interpolate(clean, noise, noising.timestep)
    inputs = (noising.timestep, batch["modality"], batch["context"].astype(jnp.float32))
    if config.first_frame > 0 and clean.shape[2] > 1:
        is_rgb = batch["modality"] == 0
        chance, frames = config.first_frame, clean.shape[2]
        held = draw_first_frames(frame_key, noising.noised, is_rgb, frames, chance)
        noised = jnp.where(held[..., None, None, None], clean, noised)
        predicted = velocity_fn(noised, *inputs, clean=held)
    else:
        held = jnp.zeros(clean.shape[:3], bool)
        predicted = velocity_fn(noised, *inputs)
    error = jnp.square(predicted.astype(jnp.float32) - path.velocity(clean, noise))
    by_stream = jnp.mean(error, axis=(2, 3, 4, 5), where=~held[..., None, None, None])

    weights = noising.noised.astype(jnp.float32)
    by_stream = jnp.where(noising.noised, by_stream, 0.0)
    by_sample = jnp.sum(by_stream, axis=1) / jnp.sum(weights, axis=1)
    tasks = (*TASKS, "any") if config.p_any else TASKS
    metrics = _metrics(by_sample, by_stream, noising, tasks)
    for index, name in enumerate(modalities):
        chosen = weights * (batch["modality"] == index)
        metrics[f"loss/modality/{name}"] = _pair(by_stream, chosen)
    if config.modality_loss_weights:
        factors = [config.modality_loss_weights.get(name, 1.0) for name in modalities]
        by_stream = by_stream * jnp.asarray(factors, jnp.float32)[batch["modality"]]
        by_sample = jnp.sum(by_stream, axis=1) / jnp.sum(weights, axis=1)
    return jnp.mean(by_sample), metrics


def _pair(
    values: Float[Array, "..."], weights: Float[Array, "..."]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    # where, not a product: a value that is not chosen must not count even if it is not finite.
    return jnp.sum(jnp.where(weights > 0, values, 0.0)), jnp.sum(weights)


def _metrics(
    by_sample: Float[Array, "b"],
    by_stream: Float[Array, "b s"],
    noising: Noising,
    tasks: Sequence[str],
) -> Metrics:
    metrics: Metrics = {"samples": by_sample}
    metrics["loss"] = _pair(by_sample, jnp.ones_like(by_sample))
    metrics[f"loss/streams/{by_stream.shape[1]}"] = metrics["loss"]
    for index, name in enumerate(tasks):
        chosen = (noising.task == index).astype(jnp.float32)
        metrics[f"loss/task/{name}"] = _pair(by_sample, chosen)
    # t = 1 belongs to the last band.
    bands = jnp.searchsorted(jnp.asarray(BAND_EDGES[1:-1]), noising.timestep, side="right")
    for index, (low, high) in enumerate(itertools.pairwise(BAND_EDGES)):
        chosen = (noising.noised & (bands == index)).astype(jnp.float32)
        metrics[f"loss/timestep/{low:.2f}-{high:.2f}"] = _pair(by_stream, chosen)
    return metrics
