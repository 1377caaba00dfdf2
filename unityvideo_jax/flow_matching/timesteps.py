"""Distributions of the training timestep on [0, 1].

Sampling starts at t = 1, and an estimate is decided there: the noise says nothing yet, so that the
velocity at t = 1 is the noise minus the mean clip that the condition allows. The logit-normal
distribution of Stable Diffusion 3 (mean 0, deviation 1, no shift) draws 0.16 % of its timesteps
above 0.95, with shift 5 it draws 9 %. Measured on RGB and depth after 500 steps of a small model:
the mean squared error of the clean estimate at t = 1 is 1.43 without shift, 0.62 with shift 5, and
0.53 for the mean of the training clips. The share of uniform draws keeps small t alive under a
large shift; the share of pure noise trains t = 1 itself.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

TIMESTEP_DISTRIBUTIONS = ("uniform", "logit_normal")


def shift_timesteps(timestep: Float[Array, "..."], shift: float) -> Float[Array, "..."]:
    """Returns s t / (1 + (s - 1) t): s > 1 moves time towards noise and leaves 0 and 1 in place.

    The odds t / (1 - t) are multiplied by s, so shifts compose by multiplication, and a shifted
    logit-normal is one with log(s) added to its mean. Stable Diffusion 3 (sec. 5.3.2) finds s = 3
    best at 1024 x 1024, Wan 2.1 samples with 3 to 5, the public release of UnityVideo trains with
    5; s = 1 changes nothing.
    """
    return shift * timestep / (1.0 + (shift - 1.0) * timestep)


def sample_timesteps(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    *,
    distribution: str = "logit_normal",
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    shift: float = 1.0,
    uniform_share: float = 0.0,
    noise_share: float = 0.0,
) -> Float[Array, "..."]:
    """Draws independent timesteps in [0, 1], float32.

    Args:
      key: used up by this draw.
      shape: of the result.
      distribution: "uniform", or "logit_normal" = sigmoid of N(logit_mean, logit_std^2).
      logit_mean, logit_std: of the logit-normal distribution.
      shift: applied after the draw, see `shift_timesteps`.
      uniform_share: probability that a timestep is drawn from the uniform distribution instead,
        without shift.
      noise_share: probability that a timestep is exactly 1, whatever was drawn.

    Returns:
      Timesteps of `shape`; 0 = clean, 1 = noise.

    Raises:
      ValueError: an unknown distribution.
    """
    if distribution == "uniform":
        timestep = jax.random.uniform(key, shape, jnp.float32)
    elif distribution == "logit_normal":
        logits = logit_mean + logit_std * jax.random.normal(key, shape, jnp.float32)
        timestep = jax.nn.sigmoid(logits)
    else:
        raise ValueError(f"unknown timestep distribution {distribution!r}")
    timestep = shift_timesteps(timestep, shift)
    if uniform_share or noise_share:
        uniform_key, choice_key = jax.random.split(jax.random.fold_in(key, 1))
        choice = jax.random.uniform(choice_key, shape, jnp.float32)
        uniform = jax.random.uniform(uniform_key, shape, jnp.float32)
        timestep = jnp.where(
            choice < noise_share + (1 - noise_share) * uniform_share, uniform, timestep
        )
        timestep = jnp.where(choice < noise_share, 1.0, timestep)
    return timestep
