"""The number of people that a clip shows: two of the paper's four groups are chosen by it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from unityvideo_jax.annotators import base
from unityvideo_jax.annotators.detection import Detector
from unityvideo_jax.curation.stage import Clip, Job, Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class People(base.Loaded, Stage):
    """Score people: the median count of people over some frames.

    Attributes:
      weights: folder of a person detector; '' skips the stage.
      label: its class of people.
      threshold: its least score.
      samples: frames looked at, spread over the clip; an odd number has a whole median.
    """

    name: ClassVar[str] = "people"
    alone: ClassVar[bool] = True
    weights: str = ""
    label: str = "person"
    threshold: float | int = 0.5
    samples: int = 5

    def skipped(self) -> str:
        """Says that the weights are missing; '' if they are given."""
        return "" if self.weights else "config.people.weights names no folder"

    @functools.cached_property
    def network(self) -> Detector:
        """The detector, set up."""
        detector = Detector(weights=self.weights, labels=(self.label,), threshold=self.threshold)
        detector.setup()
        return detector

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Scores people."""
        clip = job.load(clip)
        picks = np.linspace(0, len(clip.frames) - 1, self.samples).round().astype(int)
        counts = [len(boxes) for boxes in self.network(clip.frames[picks])]
        return [clip.score(people=int(np.median(counts)))]
