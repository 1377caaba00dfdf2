"""A folder of clips with truth, scaled and cropped to the size of a run."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.benchmarks.frozen import verifier
from unityvideo_jax.files.faults import reason_of, shown
from unityvideo_jax.inputs.clip_folders import Clip, clips_of, scored_streams
from unityvideo_jax.inputs.crop import Crop, hide_outside, resize
from unityvideo_jax.inputs.shown_frames import at_frames
from unityvideo_jax.metrics.depth_units import UNIT
from unityvideo_jax.modalities import RGB

PEOPLE = ("keypoints", "visibility")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Clips of one size.

    Attributes:
      index: number of each clip.
      count: clips to score; the others fill the batch up.
      clip: arrays with a leading batch axis.
      captions: of each clip.
      prompts: of each clip, by modality.
      units: of the clips' depth, "" where unknown; empty for worlds, which are in metres.
    """

    index: Int[np.ndarray, " b"]
    count: int
    clip: dict[str, Any]
    captions: list[str]
    prompts: list[dict[str, str]]
    units: Sequence[str] = ()


def filled(index: Sequence[int], batch_size: int) -> Int[np.ndarray, " b"]:
    """The numbers of a batch, the last one repeated until it is full."""
    return np.array([*index, *[index[-1]] * (batch_size - len(index))], np.int32)


class FolderClips:
    """The clips of `folder`, in order of name.

    Every frame is scaled to cover height x width and cropped at its centre; depth, ids and flow by
    the nearest pixel. The first `num_frames` frames count. `truth_unit` is that of depth in numbers
    that do not state it; "" if unknown.

    Attributes:
      modalities: those whose truth every clip has, less clips with faults.
      faults: why a clip cannot be read, by its number; found as clips are read.

    Raises:
      UserError: no such folder, no clips in it, or no modality that all have.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        num_frames: int,
        height: int,
        width: int,
        truth_unit: str = "",
    ):
        self._num_frames, self._size, self._unit = num_frames, (height, width), truth_unit
        folder = pathlib.Path(folder)
        self._clips = list(clips_of(folder, "benchmark").values())
        self._verify = verifier(folder)
        self.faults: dict[int, str] = {}
        streams = [
            self._try(
                i, lambda c: {s for s in c.streams if s != RGB and c.holds_numbers(s, truth_unit)}
            )
            for i in range(len(self._clips))
        ]
        known = [found for found in streams if found is not None]
        self.modalities = set.intersection(*known) if known else set()
        if not self.modalities:
            raise UserError(f"--benchmark={folder}: no modality that every clip has in numbers")

    def check(self, num_clips: int) -> None:
        """Raises UserError if there are fewer clips than asked for."""
        if num_clips > len(self._clips):
            raise UserError(
                f"--num_clips={num_clips}: the benchmark has {len(self._clips)}; give that or less"
            )

    def _try(self, index: int, read: Callable[[Clip], Result]) -> Result | None:
        """What is read of a clip; None, and a fault, if it cannot be read."""
        clip = self._clips[index]
        try:
            return None if index in self.faults else read(clip)
        except Exception as error:
            self.faults[index] = f"{shown(clip.name)}: {reason_of(error)}"
            return None

    def checksums(self, index: int) -> dict[str, str]:
        """SHA-256 of the files of a clip; empty for one with faults."""
        return self._try(index, lambda clip: clip.checksums(scored_streams())) or {}

    def batches(self, indices: Sequence[int], batch_size: int) -> Iterator[Batch]:
        """Yields batches of these clips; the last is filled up with its last clip.

        A clip that is damaged, too short, inconsistent, or not the frozen one is left out, and
        named in `faults`.
        """
        read = ((i, self._try(i, self._arrays)) for i in indices)
        good = ((i, arrays) for i, arrays in read if arrays is not None)
        while pairs := list(itertools.islice(good, batch_size)):
            index = [i for i, _ in pairs]
            chosen = [self._clips[i] for i in index]
            rows = [arrays for _, arrays in pairs]
            units = [str(row.pop(UNIT, "")) for row in rows]
            rows += [rows[-1]] * (batch_size - len(rows))
            most = max(row["keypoints"].shape[1] for row in rows) if PEOPLE[0] in rows[0] else 0
            for row in rows:
                for key in PEOPLE * bool(most):
                    missing = most - row[key].shape[1]
                    width = [(0, 0), (0, missing), *[(0, 0)] * (row[key].ndim - 2)]
                    row[key] = np.pad(row[key], width)
            records = [clip.record for clip in chosen]
            records += [records[-1]] * (batch_size - len(records))
            yield Batch(
                index=filled(index, batch_size),
                count=len(index),
                clip={key: np.stack([row[key] for row in rows]) for key in rows[0]},
                captions=[record.get("caption", "") for record in records],
                prompts=[record.get("prompts", {}) for record in records],
                units=units,
            )

    def _arrays(self, clip: Clip) -> dict[str, Any]:
        self._verify(clip)
        _ = clip.record  # checked here, where a fault is this clip's
        video = clip.video(self._num_frames)
        frames = video.frames
        if len(frames) < self._num_frames:
            raise UserError(
                f"{clip.path}: {len(frames)} frames, fewer than the run's {self._num_frames}"
            )
        crop = Crop(source=frames.shape[1:3], target=self._size)
        height, width = self._size
        rgb = media.fit(frames, height=height, width=width)
        arrays: dict[str, Any] = {RGB: rgb.astype(np.float32) / 255.0}
        for modality in self.modalities:
            for key, array in (clip.truth(modality, self._unit) or {}).items():
                metric = modalities.get(modality).metric
                if key not in (*metric.keys, *metric.extra):
                    continue
                if key == UNIT:
                    arrays[key] = array
                    continue
                if key not in PEOPLE and array.shape[1:3] != crop.source:
                    raise UserError(
                        f"{clip.path}: {key} is {array.shape}, its video {frames.shape[:3]}"
                    )
                array = at_frames(key, array, video.numbers, clip.path)
                arrays[key] = resize(key, array, crop)
        hide_outside(arrays, self._size)
        return arrays
