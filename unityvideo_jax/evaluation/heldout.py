"""Held-out flow-matching loss at fixed noise and fixed timesteps, so that checkpoints compare.

Training's own loss draws task, timestep and noise anew each step; here every clip meets the same
ones in every evaluation. Protocol `uniform_t<K>`: K timesteps in the middle of K equal slices of
[0, 1], each task in turn, no dropout; the squared velocity error is averaged over the noised
streams of a sample (UnityVideo sec. 3.4), then over clips and timesteps.

These timesteps end at 1 - 1/2K, but sampling starts at 1. Protocol `near_noise` gives the same loss
at t = 0.97 and t = 1, each separately; `uniform_t<K>` leaves them out.

The mean over the streams of a joint sample says neither how good RGB is nor the modality. So under
`streams_<S>` each stream has a number of its own, by the number of streams of its sample: RGB and
each modality alone (S = 1), RGB with each modality (S = 2), and RGB with S - 1 of them.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.fixed_noise import clip_keys, noise_of
from unityvideo_jax.flow_matching import path
from unityvideo_jax.flow_matching.loss import BAND_EDGES
from unityvideo_jax.flow_matching.tasks import JOINT, TASKS, noised_streams
from unityvideo_jax.metrics.base import mean

# K must give each quarter of the timesteps as many.
QUARTERS = 4
PROTOCOLS = {
    "uniform_t<K>": "flow-matching loss at K fixed timesteps and fixed noise, all three tasks; "
    "streams_<S> has each stream of samples of S streams by itself",
    "near_noise": "the same loss at timesteps near 1, where sampling starts",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldoutConfig:
    """Settings of the held-out loss.

    Attributes:
      timesteps: K of the protocol's name, a multiple of 4.
      near_noise: further timesteps.
      seed: of the noise.
      streams: numbers of streams; () is those that the run trains, and pairs if it has modalities.
    """

    timesteps: int = 8
    near_noise: tuple[float, ...] = (0.97, 1.0)
    seed: int = 0
    streams: tuple[int, ...] = ()

    def __post_init__(self):
        if self.timesteps < QUARTERS or self.timesteps % QUARTERS:
            raise UserError(
                f"timesteps={self.timesteps}: the held-out loss needs a multiple of {QUARTERS}"
            )

    @property
    def levels(self) -> Float[np.ndarray, " k"]:
        """The K timesteps of `uniform_t<K>`, ascending, then those of `near_noise`."""
        uniform = (np.arange(self.timesteps) + 0.5) / self.timesteps
        return np.concatenate([uniform, self.near_noise])


def tasks_of(streams: int) -> tuple[int, ...]:
    """Tasks that samples of so many streams can have, as indices of `TASKS`."""
    return (JOINT,) if streams == 1 else tuple(range(len(TASKS)))


def stream_sets(names: Sequence[str], counts: Iterable[int]) -> list[tuple[str, ...]]:
    """Sets of streams to measure, for every number of streams.

    Args:
      names: of the streams that there is truth of, RGB first.
      counts: numbers of streams; more than there are names give none.

    Returns:
      For 1 every stream alone; for S > 1 RGB with S - 1 modalities that follow each other in
      `names`, from each of them on, so that each is in as many sets as any other.
    """
    rgb, others = names[:1], names[1:]
    found: dict[tuple[str, ...], None] = {}
    for count in sorted(set(counts)):
        if count == 1:
            found |= dict.fromkeys((name,) for name in names)
        elif count <= len(names):
            for first in range(len(others)):
                chosen = {others[(first + n) % len(others)] for n in range(count - 1)}
                found[(*rgb, *(name for name in others if name in chosen))] = None
    return list(found)


def heldout_errors(
    velocity_fn: path.VelocityFn,
    latents: Float[Array, "b s t h w c"],
    modality: Int[Array, "b s"],
    context: Float[Array, "b s l d"],
    index: Int[Array, " b"],
    config: HeldoutConfig,
) -> Float[Array, "b task k s"]:
    """Returns the squared velocity error of every clip and stream, by task and timestep.

    Args:
      velocity_fn: the model.
      latents: clean, RGB first, or a single stream.
      modality: id per stream; the last stream's id and `index` decide the noise.
      context: text embeddings per stream.
      index: number of each clip.
      config: timesteps and seed.

    Returns:
      float32, tasks in the order of `tasks_of`; 0 of streams that a task does not noise.
    """
    latents = latents.astype(jnp.float32)
    batch, streams = latents.shape[:2]
    keys = clip_keys(config.seed, index, modality[:, -1])

    def error(case):
        task, level, draw = case
        noised = noised_streams(jnp.full((batch,), task), streams)
        timestep = jnp.where(noised, level, 0.0)
        noise = noise_of(keys, draw, latents.shape)
        noisy = path.interpolate(latents, noise, timestep)
        predicted = velocity_fn(noisy, timestep, modality, context).astype(jnp.float32)
        squared = jnp.square(predicted - path.velocity(latents, noise)).mean(axis=(2, 3, 4, 5))
        return jnp.where(noised, squared, 0.0)

    count, chosen = len(config.levels), list(tasks_of(streams))
    tasks = np.repeat(chosen, count)
    levels = np.tile(config.levels, len(chosen)).astype(np.float32)
    # The noise of `uniform_t<K>` does not depend on the further timesteps.
    uniform = config.timesteps
    draws = np.arange(len(TASKS) * count).reshape(len(TASKS), count)
    draws[:, :uniform] = np.arange(len(TASKS) * uniform).reshape(len(TASKS), uniform)
    draws[:, uniform:] += len(TASKS) * count
    cases = (jnp.asarray(tasks), jnp.asarray(levels), jnp.asarray(draws[chosen].ravel()))
    errors = jax.lax.map(error, cases)
    return errors.reshape(len(chosen), count, batch, streams).transpose(2, 0, 1, 3)


def require_finite(what: str, errors: Float[np.ndarray, "b task k s"], name: str) -> None:
    """Raises UserError naming the clips unless all errors are finite."""
    if not np.isfinite(errors).all():
        raise UserError(f"{name}: the {what} loss is not finite; is the checkpoint sound?")


class HeldoutLoss:
    """Averages of `heldout_errors` by task, stream, number of streams and timestep band.

    Keys, with <protocol> "uniform_t<K>" or "near_noise/t<timestep>":
      "heldout_loss/<protocol>/streams_<S>/<task>" of samples of S streams, and ".../<task>/<name>"
        of the stream <name> in them alone.
      "heldout_loss/uniform_t<K>/all", "heldout_loss/<protocol>/<task>" and ".../<task>/<modality>",
        where a sample counts as the mean over its noised streams: of RGB with one modality, or of
        the least streams that were measured.
      ".../uniform_t<K>/timestep_<low>-<high>" and ".../near_noise/timestep_<low>-<high>" of these.
    """

    def __init__(self, config: HeldoutConfig) -> None:
        self.config = config
        self._errors: dict[tuple[str, ...], list[Float[np.ndarray, "b task k s"]]] = {}

    def update(
        self, streams: Sequence[str], errors: Float[np.ndarray, "b task k s"], name: str
    ) -> None:
        """Adds clips of one set of streams; UserError naming the clips if one is not finite."""
        require_finite(", ".join(streams), errors, name)
        self._errors.setdefault(tuple(streams), []).append(errors)

    def compute(self) -> dict[str, float]:
        """Every average; UserError if there was no clip."""
        prefix = f"heldout_loss/uniform_t{self.config.timesteps}"
        if not self._errors:
            mean(np.zeros(0), prefix)  # raises, and names the prefix
        found = {names: np.concatenate(parts) for names, parts in self._errors.items()}
        counts = sorted({len(names) for names in found})
        results: dict[str, float] = {}
        for label, levels in self._protocols().items():
            results |= _of_samples(f"heldout_loss/{label}", found, counts, levels)
            for count in counts:
                of_count = {names: x for names, x in found.items() if len(names) == count}
                where = f"heldout_loss/{label}/streams_{count}"
                results |= _of_streams(where, of_count, levels)
        for low, high in itertools.pairwise(BAND_EDGES):
            for label, levels in self._bands(low, high).items():
                where = f"heldout_loss/{label}/timestep_{low:.2f}-{high:.2f}"
                results[where] = _mean_of_samples(where, _headline(found, counts), levels)
        results[f"{prefix}/all"] = _mean_of_samples(
            prefix, _headline(found, counts), np.arange(self.config.timesteps)
        )
        return results

    def _protocols(self) -> dict[str, Int[np.ndarray, " n"]]:
        """Places of the levels that each protocol averages over."""
        uniform = self.config.timesteps
        near = {
            f"near_noise/t{level:.2f}": np.array([uniform + n])
            for n, level in enumerate(self.config.near_noise)
        }
        return {f"uniform_t{uniform}": np.arange(uniform)} | near

    def _bands(self, low: float, high: float) -> dict[str, Int[np.ndarray, " n"]]:
        """Places of the levels in a band, those of `near_noise` apart."""
        levels, uniform = self.config.levels, self.config.timesteps
        inside = (levels >= low) & ((levels < high) | (high == BAND_EDGES[-1]))
        places = np.flatnonzero(inside)
        parts = {
            f"uniform_t{uniform}": places[places < uniform],
            "near_noise": places[places >= uniform],
        }
        return {label: part for label, part in parts.items() if len(part)}


# Errors [b, task, k, s] by the names of the streams, of which sets have different numbers.
Found = dict[tuple[str, ...], Float[np.ndarray, "..."]]


def _headline(found: Found, counts: Sequence[int]) -> Found:
    """What the numbers without a number of streams are of: pairs, or the least that there is."""
    count = 2 if 2 in counts else counts[0]
    return {names: errors for names, errors in found.items() if len(names) == count}


def _by_sample(errors: Float[np.ndarray, "b task k s"]) -> Float[np.ndarray, "b task k"]:
    """The mean over the noised streams."""
    streams = errors.shape[-1]
    noised = np.asarray(noised_streams(jnp.asarray(tasks_of(streams)), streams))
    return errors.sum(axis=-1) / noised.sum(axis=1)[:, None]


def _mean_of_samples(where: str, found: Found, levels: Int[np.ndarray, " n"]) -> float:
    parts = [_by_sample(errors)[..., levels].ravel() for errors in found.values()]
    return mean(np.concatenate(parts), where)


def _of_samples(
    where: str, found: Found, counts: Sequence[int], levels: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Means over samples by task, and by task and last stream."""
    chosen = _headline(found, counts)
    results: dict[str, float] = {}
    for place, task in enumerate(tasks_of(len(next(iter(chosen))))):
        rows = {names[-1]: _by_sample(x)[:, place, levels].ravel() for names, x in chosen.items()}
        results[f"{where}/{TASKS[task]}"] = mean(np.concatenate([*rows.values()]), where)
        for name, values in rows.items():
            results[f"{where}/{TASKS[task]}/{name}"] = mean(values, where)
    return results


def _of_streams(where: str, found: Found, levels: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Means over samples by task, and over each noised stream by its own name."""
    results: dict[str, float] = {}
    streams = len(next(iter(found)))
    noised = np.asarray(noised_streams(jnp.asarray(tasks_of(streams)), streams))
    for place, task in enumerate(tasks_of(streams)):
        own: dict[str, list[np.ndarray]] = {}
        for names, errors in found.items():
            for stream in np.flatnonzero(noised[place]):
                values = errors[:, place, levels, stream].ravel()
                own.setdefault(names[stream], []).append(values)
        samples = [_by_sample(x)[:, place, levels].ravel() for x in found.values()]
        results[f"{where}/{TASKS[task]}"] = mean(np.concatenate(samples), where)
        for name, parts in own.items():
            results[f"{where}/{TASKS[task]}/{name}"] = mean(np.concatenate(parts), where)
    return results
