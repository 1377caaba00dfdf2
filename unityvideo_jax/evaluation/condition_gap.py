"""Whether a model reads the video that it is given: its error with the right one and a wrong one.

A model that ignores its condition estimates the same from any clip's RGB, and its loss, an average
over clips and timesteps, hardly shows it. Here the same noised modality stream is denoised twice,
beside its own clip's RGB and beside another's; captions are left out, so that RGB is all there is.

Protocol `clean_mse`: mean squared error of the clean latents that the velocity implies, in the
latents' own unit, at fixed noise and at the timesteps of the keys, over the first clips.

  <modality>/t<timestep>_own    beside the clip's own RGB.
  <modality>/t<timestep>_other  beside the next clip's RGB. As large as `_own`: RGB is ignored.
  <modality>/mean_clip          of the mean clip, which needs no model: the variance of the latents
    at each place over the clips. An error above it at t = 1 is worse than no estimate.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.evaluation.fixed_noise import clip_keys, noise_of
from unityvideo_jax.evaluation.latent_pairs import Pair
from unityvideo_jax.flow_matching import path

PROTOCOLS = {
    "clean_mse": "error of the clean latents that the model estimates at a timestep beside the "
    "clip's own RGB and beside the next clip's, without captions; mean_clip needs no model",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionGapConfig:
    """Settings of the condition gap.

    Attributes:
      clips: how many, at least 2; each modality costs 2 x levels passes over them.
      levels: timesteps; sampling starts at 1, and its second step of 30 is at 0.967.
      seed: of the noise.
    """

    clips: int = 8
    levels: tuple[float, ...] = (0.5, 0.85, 0.97, 1.0)
    seed: int = 0

    def __post_init__(self):
        if self.clips < 2:
            raise UserError(f"clips={self.clips}: the condition gap compares at least 2 clips")


def clean_errors(
    velocity_fn: path.VelocityFn,
    pair: Pair,
    rgb: Float[Array, "b t h w c"],
    index: Int[Array, " b"],
    config: ConditionGapConfig,
) -> Float[Array, "b k"]:
    """Squared error of the clean estimate of every clip's modality beside `rgb`, by timestep.

    Args:
      velocity_fn: the model.
      pair: clean latents, ids and texts.
      rgb: clean latents of the condition, in place of the pair's own.
      index: number of each clip, which with the modality and the level decides the noise.
      config: levels and seed.

    Returns:
      Means over each clip's latents, at each of `config.levels`.
    """
    latents = pair.latents.astype(jnp.float32).at[:, 0].set(rgb)
    keys = clip_keys(config.seed, index, pair.modality[:, 1])
    is_modality = jnp.array([[False, True]])

    def error(case: tuple[Array, Array]) -> Float[Array, " b"]:
        level, draw = case
        timestep = jnp.where(is_modality, level, 0.0) * jnp.ones((len(latents), 1))
        noise = noise_of(keys, draw, latents.shape)
        noised = path.interpolate(latents, noise, timestep)
        predicted = velocity_fn(noised, timestep, pair.modality, pair.context).astype(jnp.float32)
        clean = path.predict_clean(noised, predicted, timestep)
        return jnp.square(clean - latents)[:, 1].mean(axis=(1, 2, 3, 4))

    levels = jnp.asarray(config.levels, jnp.float32)
    return jax.lax.map(error, (levels, jnp.arange(len(levels)))).T


def measure(
    velocity: Callable[[Any], path.VelocityFn],
    params: Any,
    pairs: Callable[[Batch, Sequence[str]], Iterable[tuple[str, Pair]]],
    batches: Iterable[Batch],
    config: ConditionGapConfig,
) -> dict[str, float]:
    """All numbers of `clean_mse` over the clips of some batches.

    Args:
      velocity: the model of its parameters.
      params: those.
      pairs: encodes a batch with captions, as `LatentPairs` does.
      batches: of one size; at least two clips in all.
      config: levels and seed.

    Raises:
      UserError: an error that is not finite.
    """
    parts: dict[str, list[Pair]] = {}
    index, counts = [], []
    for batch in batches:
        index.append(jnp.asarray(batch.index))
        counts.append(batch.count)
        for name, pair in pairs(batch, [""] * len(batch.index)):
            parts.setdefault(name, []).append(pair)
    errors = jax.jit(lambda params, *arrays: clean_errors(velocity(params), *arrays, config))

    def whole(rows: Iterable[Array]) -> Array:
        """Rows of all batches, without those that only fill a batch up."""
        return jnp.concatenate([row[:n] for row, n in zip(rows, counts, strict=True)])

    results: dict[str, float] = {}
    for name, batched in parts.items():
        latents = whole(pair.latents for pair in batched)
        own, other = latents[:, 0], jnp.roll(latents[:, 0], -1, axis=0)
        for label, rgb in (("own", own), ("other", other)):
            found, first = [], 0
            for pair, numbers, count in zip(batched, index, counts, strict=True):
                given = pair.latents[:, 0].at[:count].set(rgb[first : first + count])
                found.append(errors(params, pair, given, numbers)[:count])
                first += count
            values = np.concatenate([np.asarray(part, np.float64) for part in found])
            results |= _by_level(f"condition_gap/clean_mse/{name}", label, values, config)
        # Unbiased for the error of the true mean, however few the clips.
        results[f"condition_gap/clean_mse/{name}/mean_clip"] = float(
            np.asarray(latents[:, 1]).var(axis=0, ddof=1).mean()
        )
    return results


def _by_level(
    prefix: str, label: str, errors: Float[np.ndarray, "b k"], config: ConditionGapConfig
) -> dict[str, float]:
    if not np.isfinite(errors).all():
        raise UserError(f"{prefix}: the error is not finite; is the checkpoint sound?")
    return {
        f"{prefix}/t{level:.2f}_{label}": float(value)
        for level, value in zip(config.levels, errors.mean(axis=0), strict=True)
    }
