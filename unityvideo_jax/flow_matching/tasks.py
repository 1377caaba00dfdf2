"""Dynamic noising: which streams of a sample are noised, and at which timestep.

The three tasks are three assignments of timesteps to streams (UnityVideo sec. 3.2), drawn for each
sample inside the compiled step, so that a batch mixes them without recompilation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from unityvideo_jax.flow_matching.config import ObjectiveConfig
from unityvideo_jax.flow_matching.timesteps import sample_timesteps, shift_timesteps

TASKS = ("conditional", "estimation", "joint")
CONDITIONAL, ESTIMATION, JOINT = range(3)


class Noising(NamedTuple):
    """How each sample of a batch is noised.

    Attributes:
      task: index in `TASKS`.
      noised: streams that are to be predicted and carry a loss.
      timestep: of each stream: the sample's t where noised, 0 where clean, 1 where a clean stream
        was dropped.
    """

    task: Int[Array, "b"]
    noised: Bool[Array, "b s"]
    timestep: Float[Array, "b s"]


def noised_streams(task: Int[Array, "b"], streams: int) -> Bool[Array, "b {streams}"]:
    """Streams that a task noises: conditional stream 0, estimation the others, joint all."""
    is_rgb = jnp.arange(streams) == 0
    conditional = (task == CONDITIONAL)[:, None] & is_rgb
    estimation = (task == ESTIMATION)[:, None] & ~is_rgb
    return conditional | estimation | (task == JOINT)[:, None]


def draw_noising(key: Key[Array, ""], batch: int, streams: int, config: ObjectiveConfig) -> Noising:
    """Draw task, timestep and condition dropout for every sample.

    With a single stream there is nothing to condition on or to estimate from: all are joint.

    Args:
      key: used up by this draw.
      batch, streams: B and S.
      config: probabilities and timestep distribution.
    """
    task_key, time_key, drop_key = jax.random.split(key, 3)
    if streams == 1:
        task = jnp.full((batch,), JOINT, jnp.int32)
    else:
        # Comparing one uniform draw with the running sums never picks a task of probability zero.
        p_cond, p_est, _ = config.task_probabilities
        draw = jax.random.uniform(task_key, (batch,))
        task = (draw >= p_cond).astype(jnp.int32) + (draw >= p_cond + p_est).astype(jnp.int32)
    timestep = sample_timesteps(
        time_key,
        (batch,),
        distribution=config.timestep,
        logit_mean=config.logit_mean,
        logit_std=config.logit_std,
        shift=config.shift,
        uniform_share=config.uniform_share,
        noise_share=config.noise_share,
    )
    further = shift_timesteps(timestep, config.estimation_shift)
    timestep = jnp.where(task == ESTIMATION, further, timestep)
    noised = noised_streams(task, streams)
    dropped = jax.random.bernoulli(drop_key, config.condition_dropout, (batch,))
    of_clean = dropped.astype(jnp.float32)[:, None]
    return Noising(task, noised, jnp.where(noised, timestep[:, None], of_clean))


def draw_first_frames(
    key: Key[Array, ""], noised: Bool[Array, "b s"], frames: int, chance: float
) -> Bool[Array, "b s {frames}"]:
    """Latent frames that stay clean in a noised stream: the first of RGB, in some samples.

    Args:
      key: used up by this draw.
      noised: streams that are noised.
      frames: latent frames of a stream.
      chance: of a sample whose RGB is noised.
    """
    drawn = jax.random.bernoulli(key, chance, noised.shape[:1])
    is_rgb = jnp.arange(noised.shape[1]) == 0
    return (drawn[:, None] & noised & is_rgb)[..., None] & (jnp.arange(frames) == 0)
