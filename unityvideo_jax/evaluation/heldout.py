"""Held-out flow-matching loss at fixed noise and fixed timesteps, so that checkpoints compare.

Training's own loss draws task, timestep and noise anew each step; here every clip meets the same
ones in every evaluation. Protocol `uniform_t<K>`: K timesteps in the middle of K equal slices of
[0, 1], each task in turn, no dropout; the squared velocity error is averaged over the noised
streams of a sample (UnityVideo sec. 3.4), then over clips and timesteps.

These timesteps end at 1 - 1/2K, but sampling starts at 1. Protocol `near_noise` gives the same loss
at t = 0.97 and t = 1, each by itself; `uniform_t<K>` leaves them out.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching import path
from unityvideo_jax.flow_matching.tasks import TASKS, noised_streams
from unityvideo_jax.metrics.base import mean
from unityvideo_jax.sampling.generate import stream_noise

BANDS = 4
PROTOCOLS = {
    "uniform_t<K>": "flow-matching loss at K fixed timesteps and fixed noise, all three tasks",
    "near_noise": "the same loss at timesteps near 1, where sampling starts",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldoutConfig:
    """Attributes:
    timesteps: K of the protocol's name, a multiple of 4 so that every band gets as many.
    near_noise: further timesteps.
    seed: of the noise.
    """

    timesteps: int = 8
    near_noise: tuple[float, ...] = (0.97, 1.0)
    seed: int = 0

    def __post_init__(self):
        if self.timesteps < BANDS or self.timesteps % BANDS:
            raise UserError(
                f"timesteps={self.timesteps}: give the held-out loss a multiple of {BANDS}"
            )

    @property
    def levels(self) -> Float[np.ndarray, " k"]:
        """The K timesteps of `uniform_t<K>`, ascending, then those of `near_noise`."""
        uniform = (np.arange(self.timesteps) + 0.5) / self.timesteps
        return np.concatenate([uniform, self.near_noise])


def heldout_errors(
    velocity_fn: path.VelocityFn,
    latents: Float[Array, "b s t h w c"],
    modality: Int[Array, "b s"],
    context: Float[Array, "b s l d"],
    index: Int[Array, " b"],
    config: HeldoutConfig,
) -> Float[Array, "b task k"]:
    """Squared velocity error of every clip under every task at every timestep.

    Args:
      velocity_fn: the model.
      latents: clean, RGB first.
      modality: id per stream; the last stream's id and `index` decide the noise.
      context: text embeddings per stream.
      index: number of each clip.
      config: timesteps and seed.

    Returns:
      Mean over the noised streams, float32, tasks in the order of `flow_matching.tasks.TASKS`.
    """
    latents = latents.astype(jnp.float32)
    batch, streams = latents.shape[:2]
    fold = jax.vmap(jax.random.fold_in)
    keys = fold(jnp.broadcast_to(jax.random.key(config.seed), (batch,)), index)
    keys = fold(keys, modality[:, -1])

    def error(case):
        task, level, draw = case
        noised = noised_streams(jnp.full((batch,), task), streams)
        timestep = jnp.where(noised, level, 0.0)
        noise = stream_noise(fold(keys, jnp.broadcast_to(draw, (batch,))), latents.shape, 0)
        noisy = path.interpolate(latents, noise, timestep)
        predicted = velocity_fn(noisy, timestep, modality, context).astype(jnp.float32)
        squared = jnp.square(predicted - path.velocity(latents, noise)).mean(axis=(2, 3, 4, 5))
        return jnp.where(noised, squared, 0.0).sum(axis=1) / noised.sum(axis=1)

    count = len(config.levels)
    tasks = np.repeat(np.arange(len(TASKS)), count)
    levels = np.tile(config.levels, len(TASKS)).astype(np.float32)
    # The noise of `uniform_t<K>` does not depend on the further timesteps.
    uniform = config.timesteps
    draws = np.arange(len(TASKS) * count).reshape(len(TASKS), count)
    draws[:, :uniform] = np.arange(len(TASKS) * uniform).reshape(len(TASKS), uniform)
    draws[:, uniform:] += len(TASKS) * count
    cases = (jnp.asarray(tasks), jnp.asarray(levels), jnp.asarray(draws.ravel()))
    errors = jax.lax.map(error, cases)
    return errors.reshape(len(TASKS), count, batch).transpose(2, 0, 1)


def require_finite(modality: str, errors: Float[np.ndarray, "b task k"], name: str) -> None:
    """Raises UserError naming the clips unless all errors are finite."""
    if not np.isfinite(errors).all():
        raise UserError(f"{name}: the {modality} loss is not finite; is the checkpoint sound?")


class HeldoutLoss:
    """Averages of `heldout_errors` by task, modality and timestep band.

    Keys: "heldout_loss/uniform_t<K>/all", ".../<task>", ".../<task>/<modality>" and
    ".../timestep_<low>-<high>"; "heldout_loss/near_noise/t<timestep>/<task>" and
    ".../<task>/<modality>".
    """

    def __init__(self, config: HeldoutConfig) -> None:
        self.config = config
        self._errors: dict[str, list[Float[np.ndarray, "b task k"]]] = {}

    def update(self, modality: str, errors: Float[np.ndarray, "b task k"], name: str) -> None:
        """Adds clips of one modality; UserError naming the clips if an error is not finite."""
        require_finite(modality, errors, name)
        self._errors.setdefault(modality, []).append(errors)

    def compute(self) -> dict[str, float]:
        """Every average; UserError if there was no clip."""
        prefix = f"heldout_loss/uniform_t{self.config.timesteps}"
        by_modality: dict[str, np.ndarray] = {
            name: np.concatenate(parts) for name, parts in self._errors.items()
        }
        uniform = self.config.timesteps
        none = np.zeros((0, len(TASKS), len(self.config.levels)))
        everything = np.concatenate([none, *by_modality.values()])
        results = {f"{prefix}/all": mean(everything[..., :uniform].ravel(), prefix)}

        def by_task(prefix: str, levels: slice | int) -> None:
            for task, task_name in enumerate(TASKS):
                values = everything[:, task, levels].ravel()
                results[f"{prefix}/{task_name}"] = mean(values, prefix)
                for name, errors in by_modality.items():
                    values = errors[:, task, levels].ravel()
                    results[f"{prefix}/{task_name}/{name}"] = mean(values, prefix)

        by_task(prefix, slice(uniform))
        for band, part in enumerate(np.split(everything[..., :uniform], BANDS, axis=2)):
            low, high = band / BANDS, (band + 1) / BANDS
            results[f"{prefix}/timestep_{low:.2f}-{high:.2f}"] = mean(part.ravel(), prefix)
        for number, level in enumerate(self.config.near_noise):
            by_task(f"heldout_loss/near_noise/t{level:.2f}", uniform + number)
        return results
