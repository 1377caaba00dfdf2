"""Distributions of the training timestep on (0, 1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

TIMESTEP_DISTRIBUTIONS = ("uniform", "logit_normal")


def shift_timesteps(timestep: Float[Array, "..."], shift: float) -> Float[Array, "..."]:
    """t <- s t / (1 + (s - 1) t): s > 1 moves time towards noise, keeping 0 and 1 in place.

    The public release trains with s = 5; s = 1 changes nothing.
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
) -> Float[Array, "..."]:
    """Independent timesteps in (0, 1), float32.

    Args:
      key: used up by this draw.
      shape: of the result.
      distribution: "uniform", or "logit_normal" = sigmoid of N(logit_mean, logit_std^2).
      logit_mean, logit_std: of the logit-normal distribution.
      shift: applied after the draw, see `shift_timesteps`.
    """
    if distribution == "uniform":
        timestep = jax.random.uniform(key, shape, jnp.float32)
    elif distribution == "logit_normal":
        logits = logit_mean + logit_std * jax.random.normal(key, shape, jnp.float32)
        timestep = jax.nn.sigmoid(logits)
    else:
        raise ValueError(f"unknown timestep distribution {distribution!r}")
    return shift_timesteps(timestep, shift)
