"""The clips on which every run of a grid is scored, rendered and encoded once per process."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.benchmarks.clips import BenchmarkClips
from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.evaluation.latent_pairs import drawing
from unityvideo_jax.evaluation.physics.kinds import KINDS
from unityvideo_jax.evaluation.physics.run import EncodedPairs, PhysicsScorer
from unityvideo_jax.modalities import RGB

PEOPLE, OBJECTS, ANIMALS = "worlds_validation", "heldout_objects", "heldout_animals"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """The amount of clips to score. Defaults take about a minute of one H100.

    Attributes:
      clips: of validation worlds, for held-out losses and sampled RGB.
      estimated: of them, those that are estimated and controlled.
      skeletons: of them, those whose skeletons are estimated; reading one takes a second of a CPU.
      joint: of them, those whose streams are sampled together.
      zero_shot: clips of objects by prompt.
      animals: clips of animals' skeletons.
      pairs: of each kind of the physics benchmark.
      timesteps: of the held-out loss, a multiple of 4.
      steps: of the sampler; estimation takes one.
      batch_size: clips at once.
      seed: of the noise; clip i takes seed + i.
    """

    clips: int = 128
    estimated: int = 48
    skeletons: int = 12
    joint: int = 32
    zero_shot: int = 32
    animals: int = 16
    pairs: int = 64
    timesteps: int = 8
    steps: int = 20
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self):
        for name, least in (("clips", 2), ("joint", 2), ("batch_size", 1), ("estimated", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--measure={name}={getattr(self, name)}: give {least} or more")
        for name in ("estimated", "skeletons", "joint"):
            if getattr(self, name) > self.clips:
                raise UserError(f"--measure={name}={getattr(self, name)}: give at most clips")


class Truth:
    """Clips and pairs with their latents, on the host; made when they are first asked for.

    Args:
      vae: as a pipeline's `vae`.
      codec: gives the codec of a modality.
      data: of the runs, for the size of clips.
      names: modalities of the runs, RGB first.
      settings: how many.
    """

    def __init__(
        self,
        vae: Any,
        codec: Any,
        data: Mapping[str, Any],
        names: Sequence[str],
        settings: MeasureConfig,
    ):
        self._vae, self._codec, self._data = vae, codec, data
        self._settings = settings
        self._draw = {name: drawing(codec(name)) for name in names}
        self.names = tuple(names)

    def _batches(self, benchmark: str, count: int) -> list[Batch]:
        # Whole batches of one size, so that everything that takes them compiles once.
        size = self._settings.batch_size
        whole = -(-count // size) * size
        clips = BenchmarkClips(self._data, benchmark, num_clips=whole, batch_size=size)
        batches = [
            dataclasses.replace(batch, clip=jax.device_get(batch.clip))
            for batch in clips.batches(range(whole))
        ]
        return first_clips(batches, count)

    @functools.cached_property
    def people(self) -> list[Batch]:
        """The validation worlds."""
        return self._batches(PEOPLE, self._settings.clips)

    @functools.cached_property
    def objects(self) -> list[Batch]:
        """Worlds that ask for two objects."""
        return self._batches(OBJECTS, self._settings.zero_shot)

    @functools.cached_property
    def animals(self) -> list[Batch]:
        """Worlds of animals."""
        return self._batches(ANIMALS, self._settings.animals)

    @functools.cached_property
    def latents(self) -> list[dict[str, Float[np.ndarray, "b t h w c"]]]:
        """Latents of every stream of each batch of `people`."""
        return [{name: self.encode(batch, name) for name in self.names} for batch in self.people]

    def drawn(self, batch: Batch, name: str) -> Float[np.ndarray, "b t h w 3"]:
        """Draws a stream of a batch as video in [-1, 1]."""
        return np.asarray(self._draw[name](batch.clip))

    def encode(self, batch: Batch, name: str) -> Float[np.ndarray, "b t h w c"]:
        """Encodes a stream of a batch."""
        return np.asarray(self._vae.encode(self.drawn(batch, name), modality=name))

    def decode(self, latents: Any, name: str) -> Float[np.ndarray, "b t h w 3"]:
        """Decodes the latents of a stream to video in [-1, 1]."""
        return np.asarray(self._vae.decode(latents, modality=name))

    def arrays(self, batch: Batch, name: str, b: int) -> dict[str, np.ndarray]:
        """Returns the arrays of a clip's truth that the metric of a modality reads."""
        metric = modalities.get(name).metric
        keys = (*metric.keys, *metric.extra)
        return {key: np.asarray(batch.clip[key][b]) for key in keys if key in batch.clip}

    def pairs(self, scorer: PhysicsScorer) -> list[EncodedPairs]:
        """Encodes the pairs of the physics benchmark; any model's scorer encodes them alike."""
        if not hasattr(self, "_pairs"):
            jobs = [(kind, n) for kind in KINDS for n in range(self._settings.pairs)]
            size = scorer.config.batch_size
            self._pairs = [
                scorer.encode(jobs[first : first + size]) for first in range(0, len(jobs), size)
            ]
        return self._pairs


def first_clips(batches: Sequence[Batch], most: int) -> list[Batch]:
    """Returns the batches of the first `most` clips; of the last one fewer may count."""
    found: list[Batch] = []
    for batch in batches:
        if most > 0:
            found.append(dataclasses.replace(batch, count=min(batch.count, most)))
        most -= batch.count
    return found


def own_prompts(batch: Batch, names: Sequence[str]) -> dict[str, list[str]]:
    """Returns each clip's own prompts, by modality."""
    return {
        name: [p.get(name, modalities.get(name).prompt) for p in batch.prompts]
        for name in names
        if name != RGB
    }
