"""The clips of a benchmark by their numbers, in batches: rendered worlds, or a folder."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from unityvideo_jax import modalities, worlds
from unityvideo_jax.evaluation.benchmarks.folder import Batch, FolderClips, filled
from unityvideo_jax.runtime import capacity
from unityvideo_jax.sampling.streams import PIXEL_BYTES

BENCHMARKS = {
    "worlds_validation": "validation",
    "worlds_closeup": "closeup",
    "heldout_animals": "heldout_animals",
    "heldout_objects": "heldout_objects",
}


def clips(world: worlds.WorldConfig, indices: Sequence[int], batch_size: int) -> Iterator[Batch]:
    """Yields batches of clips; the last one is filled up, so that one size is compiled."""
    for first in range(0, len(indices), batch_size):
        chosen = indices[first : first + batch_size]
        index = filled(chosen, batch_size)
        scenes = worlds.sample_scenes(world, jnp.asarray(index))
        described = worlds.describe(world, scenes)
        yield Batch(
            index=index,
            count=len(chosen),
            clip=worlds.render(world, scenes),
            captions=[d.caption for d in described],
            prompts=[d.prompts for d in described],
        )


class BenchmarkClips:
    """The clips of a benchmark at the size of a run's data.

    Attributes:
      modalities: those that have truth.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        benchmark: str,
        *,
        num_clips: int,
        batch_size: int,
        worlds_seed: int = 0,
        truth_unit: str = "",
    ):
        """Takes what `score_run.BenchmarkConfig` says, and the run's data configuration.

        Raises:
          UserError: a folder that cannot be scored, or more clips than fit or than it has.
        """
        size = {key: data[key] for key in ("num_frames", "height", "width")}
        self._batch_size = min(batch_size, num_clips)
        frames, height, width = size.values()
        capacity.check_host(
            self._batch_size * frames * height * width * PIXEL_BYTES,
            f"batch_size={batch_size}",
            "score fewer clips at once",
        )
        self._folder = None
        self.modalities = {
            name for name, m in modalities.metrics().items() if {*m.keys} <= {*worlds.ARRAYS}
        }
        if benchmark not in BENCHMARKS:
            self._folder = FolderClips(benchmark, truth_unit=truth_unit, **size)
            self._folder.check(num_clips)
            self.modalities = self._folder.modalities
            return
        self._world = worlds.WorldConfig(
            **size,
            fps=float(data["fps"]),
            split=BENCHMARKS[benchmark],
            seed=worlds_seed,
        )

    def checksums(self, index: int) -> dict[str, str]:
        """SHA-256 of a clip's files; empty for worlds."""
        return self._folder.checksums(index) if self._folder else {}

    @property
    def faults(self) -> list[str]:
        """Clips that could not be read, and why; empty for worlds."""
        return [fault for _, fault in sorted(self._folder.faults.items())] if self._folder else []

    def batches(self, indices: Sequence[int]) -> Iterator[Batch]:
        """Yields batches of these clips."""
        if self._folder:
            return self._folder.batches(indices, self._batch_size)
        return clips(self._world, indices, self._batch_size)
