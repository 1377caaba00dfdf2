"""Which of two clips a model finds more likely: its denoising loss on each, at equal noise.

Protocol `likephys_t<K>`, after LikePhys (arXiv 2510.11512): both clips of a pair are noised with
the same noise at the same K timesteps, in the middle of K equal slices of [0, 1], and the model
denoises them under the valid clip's caption. The loss, a surrogate of the negative likelihood, is
averaged over timesteps and noised streams. The plausibility error is the share of pairs where the
invalid clip has the lower one (ties count half); chance is 0.5, and 0 is best.

It differs from LikePhys in these: rectified flow's squared velocity error instead of the error of
predicted noise; procedural worlds instead of Blender; both clips are equal to the bit until the
violation begins; pairs are counted one by one rather than every valid clip against every invalid
one of a scene; no guidance; and streams of modalities may be noised with RGB.

Two baselines know no physics:
  frame_differences       the clip with the larger energy of frame differences is taken for the
    invalid one.
  likephys_t<K>_shuffled  the same loss of the same model on the clip's frames in a fixed random
    order: what single frames give away.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.fixed_noise import clip_keys, noise_of
from unityvideo_jax.evaluation.physics.kinds import RAISING
from unityvideo_jax.flow_matching import path
from unityvideo_jax.metrics.scores import ClipScore


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlausibilityConfig:
    """Settings of plausibility.

    Attributes:
      timesteps: K of the protocol's name.
      seed: of the noise.
    """

    timesteps: int = 5
    seed: int = 0

    def __post_init__(self):
        if self.timesteps < 1:
            raise UserError(f"timesteps={self.timesteps}: the physics benchmark takes at least 1")

    @property
    def protocol(self) -> str:
        """Name of the protocol, part of the keys."""
        return f"likephys_t{self.timesteps}"

    @property
    def levels(self) -> Float[np.ndarray, " k"]:
        """The timesteps."""
        return (np.arange(self.timesteps) + 0.5) / self.timesteps


def protocols(config: PlausibilityConfig) -> dict[str, str]:
    """Definitions of the protocols in the keys, by name."""
    return {
        config.protocol: "share of pairs where the denoising loss of the invalid clip is lower, at "
        "equal noise and timesteps, under the caption; after LikePhys (arXiv 2510.11512); 0.5 is "
        "chance",
        f"{config.protocol}_shuffled": "the same on the frames in a fixed random order",
        "frame_differences": "share of pairs where the invalid clip has the lower energy of frame "
        "differences; no model",
    }


def denoising_errors(
    velocity_fn: path.VelocityFn,
    latents: Float[Array, "b 2 s t h w c"],
    modality: Int[Array, "b s"],
    context: Float[Array, "b s l d"],
    index: Int[Array, " b"],
    config: PlausibilityConfig,
) -> Float[Array, "b 2 k s"]:
    """Returns the squared velocity error of both clips of every pair, by timestep and stream.

    Args:
      velocity_fn: the model.
      latents: clean, valid then invalid.
      modality, context: of the streams, the same for both.
      index: number of each pair, which with its streams and the timestep decides the noise.
      config: timesteps and seed.
    """
    batch, _, streams = latents.shape[:3]
    flat = latents.astype(jnp.float32).reshape(2 * batch, *latents.shape[2:])
    twice = [jnp.repeat(array, 2, axis=0) for array in (modality, context)]
    keys = clip_keys(config.seed, index)

    def error(case: tuple[Array, Array]) -> Float[Array, "b 2 s"]:
        level, draw = case
        noise = jnp.repeat(noise_of(keys, draw, latents[:, 0].shape), 2, axis=0)
        timestep = jnp.full((2 * batch, streams), level)
        noised = path.interpolate(flat, noise, timestep)
        predicted = velocity_fn(noised, timestep, *twice).astype(jnp.float32)
        wrong = jnp.square(predicted - path.velocity(flat, noise))
        return wrong.mean(axis=(2, 3, 4, 5)).reshape(batch, 2, streams)

    levels = jnp.asarray(config.levels, jnp.float32)
    errors = jax.lax.map(error, (levels, jnp.arange(len(levels))))
    return errors.transpose(1, 2, 0, 3)


def frame_energy(rgb: Float[np.ndarray, "t h w 3"]) -> float:
    """Mean squared difference of frames that follow each other."""
    return float(np.square(np.diff(rgb.astype(np.float64), axis=0)).mean())


def shuffled(frames: int, number: int) -> Int[np.ndarray, " t"]:
    """A random order of frames, fixed by a pair's number, the same for both clips."""
    return np.random.default_rng([number, frames]).permutation(frames)


def prefers_invalid(valid: float, invalid: float) -> float:
    """Returns 1 where the invalid clip has the lower number, 0.5 where the two are equal."""
    return 0.5 if valid == invalid else float(invalid < valid)


def score(
    kind: str,
    losses: Mapping[str, Mapping[str, Sequence[float]]],
    energy: Sequence[float],
) -> ClipScore:
    """Scores one pair.

    Args:
      kind: of the violation.
      losses: protocol -> streams -> losses of the valid and the invalid clip.
      energy: of frame differences, likewise.

    Returns:
      Means "plausibility_error/<protocol>/<group>[/<streams>]", where the group is the kind, "all",
      and "raising" or "lowering" by what the kind does to motion.
    """
    found = {
        f"{protocol}/{{}}/{streams}": both
        for protocol, by_streams in losses.items()
        for streams, both in by_streams.items()
    } | {"frame_differences/{}": energy}
    groups = ("all", "raising" if kind in RAISING else "lowering", kind)
    means = {
        f"plausibility_error/{key.format(group)}": (prefers_invalid(*both), 1.0)
        for key, both in found.items()
        for group in groups
    }
    return ClipScore(means=means, counts={f"pairs/{kind}": 1})
