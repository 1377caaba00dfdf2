"""Dynamic noising: which streams of a sample are noised, and at which timestep.

The paper's three tasks are three assignments of timesteps to streams (UnityVideo sec. 3.2), drawn
for each sample inside the compiled step, so that a batch mixes them without recompilation. A fourth
noises any set of streams, as UniVidX does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from unityvideo_jax.flow_matching.config import ObjectiveConfig
from unityvideo_jax.flow_matching.timesteps import sample_timesteps, shift_timesteps

TASKS = ("conditional", "estimation", "joint")
CONDITIONAL, ESTIMATION, JOINT = range(3)
ANY = 3


class Noising(NamedTuple):
    """Task, noised streams and timesteps of each sample of a batch.

    Attributes:
      task: index in `TASKS`, or `ANY`.
      noised: streams that are to be predicted and carry a loss.
      timestep: of each stream: the sample's t (or with `own_timesteps` the stream's) where noised,
        0 where clean, 1 where a clean stream was dropped.
    """

    task: Int[Array, "b"]
    noised: Bool[Array, "b s"]
    timestep: Float[Array, "b s"]


def noised_streams(task: Int[Array, "b"], streams: int) -> Bool[Array, "b {streams}"]:
    """The streams that a task noises: conditional stream 0, estimation the others, joint all."""
    is_rgb = jnp.arange(streams) == 0
    conditional = (task == CONDITIONAL)[:, None] & is_rgb
    estimation = (task == ESTIMATION)[:, None] & ~is_rgb
    return conditional | estimation | (task == JOINT)[:, None]


def draw_noising(key: Key[Array, ""], batch: int, streams: int, config: ObjectiveConfig) -> Noising:
    """Draws task, timestep and condition dropout for every sample (UnityVideo sec. 3.2 and 3.4).

    With a single stream there is nothing to condition on or to estimate from: all are joint. The
    clean streams of a sample are dropped together, as guidance by the condition drops them.

    Args:
      key: used up by this draw.
      batch, streams: B and S; stream 0 is RGB, or the only stream.
      config: probabilities and timestep distribution.
    """
    task_key, time_key, drop_key = jax.random.split(key, 3)
    draws = 1 if config.one_draw else batch
    if streams == 1:
        task = jnp.full((draws,), JOINT, jnp.int32)
    else:
        task = _draw_tasks(task_key, draws, config)
    timestep = _draw_timesteps(time_key, (draws,), config)
    further = shift_timesteps(timestep, config.estimation_shift)
    if config.estimation_noise_share:
        at_noise = jax.random.fold_in(time_key, 2)
        at_noise = jax.random.bernoulli(at_noise, config.estimation_noise_share, (draws,))
        further = jnp.where(at_noise, 1.0, further)
    timestep = jnp.where(task == ESTIMATION, further, timestep)[:, None]
    noised = noised_streams(task, streams)
    if config.p_any and streams > 1:
        is_any = (task == ANY)[:, None]
        drawn = _draw_any(jax.random.fold_in(task_key, 1), draws, streams)
        noised = jnp.where(is_any, drawn, noised)
        if config.own_timesteps:
            own = _draw_timesteps(jax.random.fold_in(time_key, 1), (draws, streams), config)
            timestep = jnp.where(is_any, own, timestep)
    dropped = jax.random.bernoulli(drop_key, config.condition_dropout, (batch,))
    of_clean = dropped.astype(jnp.float32)[:, None]
    task = jnp.broadcast_to(task, (batch,))
    noised = jnp.broadcast_to(noised, (batch, streams))
    return Noising(task, noised, jnp.where(noised, timestep, of_clean))


def _draw_tasks(key: Key[Array, ""], count: int, config: ObjectiveConfig) -> Int[Array, "{count}"]:
    # Comparing one uniform draw with the running sums never picks a task of probability zero.
    draw = jax.random.uniform(key, (count,))
    p_cond, p_est, p_joint, p_any = config.task_probabilities
    task = (draw >= p_cond).astype(jnp.int32) + (draw >= p_cond + p_est).astype(jnp.int32)
    return task + (draw >= p_cond + p_est + p_joint).astype(jnp.int32) if p_any else task


def _draw_any(key: Key[Array, ""], count: int, streams: int) -> Bool[Array, "{count} {streams}"]:
    """Non-empty sets of streams, each with the same probability: the bits of a number from 1."""
    number = jax.random.randint(key, (count,), 1, 2**streams)
    return (number[:, None] >> jnp.arange(streams)) % 2 == 1


def _draw_timesteps(
    key: Key[Array, ""], shape: tuple[int, ...], config: ObjectiveConfig
) -> Float[Array, "..."]:
    return sample_timesteps(
        key,
        shape,
        distribution=config.timestep,
        logit_mean=config.logit_mean,
        logit_std=config.logit_std,
        shift=config.shift,
        uniform_share=config.uniform_share,
        noise_share=config.noise_share,
    )


def draw_first_frames(
    key: Key[Array, ""],
    noised: Bool[Array, "b s"],
    is_rgb: Bool[Array, "b s"],
    frames: int,
    chance: float,
) -> Bool[Array, "b s {frames}"]:
    """Draws latent frames that stay clean in a noised stream: the first of RGB, in some samples.

    Args:
      key: used up by this draw.
      noised: streams that are noised.
      is_rgb: streams that show RGB.
      frames: latent frames of a stream.
      chance: probability for a sample whose RGB is noised.

    Returns:
      True at latent frames that stay clean, at t = 0 and without a loss.
    """
    drawn = jax.random.bernoulli(key, chance, noised.shape[:1])
    return (drawn[:, None] & noised & is_rgb)[..., None] & (jnp.arange(frames) == 0)
