"""Filters of clips. Each writes its score, and rejects what lies outside its bounds.

UnityVideo keeps clips of at least 5 s, larger than 512 pixels, with an aesthetic score over 80 of
100, without text, and with motion (supplement, data). Its thresholds for text and motion are not
given; the defaults here are ours.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from unityvideo_jax import media
from unityvideo_jax.annotators import base
from unityvideo_jax.annotators.flow import DIS
from unityvideo_jax.curation.stage import Clip, Job, Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length(Stage):
    """Selects videos or scenes of the right length.

    Attributes:
      min_seconds, max_seconds: bounds; 0 is no upper bound.
    """

    name: ClassVar[str] = "length"
    min_seconds: float | int = 5.0
    max_seconds: float | int = 0.0

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Scores scene_seconds, and rejects a clip outside the bounds."""
        seconds = clip.end - clip.start
        clip = clip.score(scene_seconds=seconds)
        if seconds < self.min_seconds - 1e-6:
            reason = f"{seconds:.2f} s, shorter than {self.min_seconds:g} s"
            return [clip.reject(self.name, reason)]
        if self.max_seconds and seconds > self.max_seconds:
            reason = f"{seconds:.2f} s, longer than {self.max_seconds:g} s"
            return [clip.reject(self.name, reason)]
        return [clip]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size(Stage):
    """Selects videos with enough pixels and sides that are not too unequal.

    Attributes:
      min_side: least pixels of the shorter side.
      max_aspect: greatest ratio of the longer side to the shorter one.
    """

    name: ClassVar[str] = "size"
    min_side: int = 512
    max_aspect: float | int = 3.0

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Rejects a video that is too small or too long-drawn; reads the probe's scores."""
        short, long = sorted((int(clip.scores["width"]), int(clip.scores["height"])))
        if short < self.min_side:
            reason = f"shorter side {short}, less than {self.min_side} pixels"
            return [clip.reject(self.name, reason)]
        if long > self.max_aspect * short:
            reason = f"{long / short:.2f} times longer than wide, more than {self.max_aspect:g}"
            return [clip.reject(self.name, reason)]
        return [clip]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlackBars(Stage):
    """Selects clips without letter or pillar boxes.

    A row or column belongs to a bar if it touches the edge through such rows or columns and no
    pixel of it is ever brighter than `dark`. Score black_bars: their share of the picture.

    Attributes:
      dark: greatest value of a pixel of a bar, 0 to 255.
      max_share: greatest score.
    """

    name: ClassVar[str] = "black_bars"
    dark: int = 24
    max_share: float | int = 0.02

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Scores black_bars, and rejects a clip with more than `max_share`."""
        clip = job.load(clip)
        brightest = clip.frames.max(axis=(0, 3))
        rows, columns = brightest.max(axis=1) > self.dark, brightest.max(axis=0) > self.dark
        # A clip that is all dark is no bar; other filters see it.
        picture = _extent(rows) * _extent(columns) if rows.any() else brightest.size
        share = 1.0 - picture / brightest.size
        clip = clip.score(black_bars=share)
        if share > self.max_share:
            return [clip.reject(self.name, f"{share:.1%} of the picture are black bars")]
        return [clip]


def _extent(lit: np.ndarray) -> int:
    where = np.flatnonzero(lit)
    return int(where[-1] - where[0] + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Motion(Stage):
    """Selects clips that are neither stills nor chaos, by DIS optical flow on small frames.

    Score motion: mean speed over pixels and frames, in percent of the diagonal per second; it
    depends on neither size nor frame rate.

    Attributes:
      least, most: bounds; `most` 0 is none.
      side: shorter side of the frames that flow is computed on.
      pairs: of neighbouring frames, spread over the clip.
    """

    name: ClassVar[str] = "motion"
    least: float | int = 0.5
    most: float | int = 60.0
    side: int = 144
    pairs: int = 8

    def setup(self) -> None:
        """Checks that OpenCV is installed."""
        DIS().setup()

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Scores motion, and rejects a clip outside the bounds."""
        clip = job.load(clip)
        first = np.unique(np.linspace(0, len(clip.frames) - 2, self.pairs).round().astype(int))
        scale = min(1.0, self.side / min(clip.frames.shape[1:3]))
        height, width = (max(16, round(n * scale)) for n in clip.frames.shape[1:3])
        small = [media.fit(clip.frames[i], height=height, width=width) for i in (first, first + 1)]
        speed = np.linalg.norm(DIS(preset="fast").between(*small), axis=-1).mean()
        motion = 100.0 * float(speed) / math.hypot(height, width) * clip.fps
        clip = clip.score(motion=motion)
        if motion < self.least:
            reason = f"{motion:.2f} % of the diagonal a second, less than {self.least:g}: a still"
            return [clip.reject(self.name, reason)]
        if self.most and motion > self.most:
            reason = f"{motion:.1f} % of the diagonal a second, more than {self.most:g}"
            return [clip.reject(self.name, reason)]
        return [clip]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aesthetic(base.Loaded, Stage):
    """Selects clips that please, by LAION's linear head on CLIP ViT-L/14.

    Score aesthetic: 0 to 100, the mean over `samples` frames. The paper's threshold of 80 is on a
    scale that it does not name; on this one few clips exceed 65.

    Attributes:
      weights: folder with `clip-vit-large-patch14` and `sa_0_4_vit_l_14_linear.pth` (both MIT);
        '' skips the stage.
      least: least score of a clip.
      samples: frames looked at, spread over the clip.
    """

    name: ClassVar[str] = "aesthetic"
    weights: str = ""
    least: float | int = 50.0
    samples: int = 4

    def skipped(self) -> str:
        """Says that the weights are missing; '' if they are given."""
        return "" if self.weights else "config.aesthetic.weights names no folder"

    @functools.cached_property
    def network(self) -> Any:
        """The metric, loaded."""
        from unityvideo_jax.metrics.video.quality import AestheticQuality

        base.weights_path(self.weights, "config.aesthetic.weights")
        return AestheticQuality(pathlib.Path(self.weights))

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Scores aesthetic, and rejects a clip below `least`."""
        clip = job.load(clip)
        picks = np.linspace(0, len(clip.frames) - 1, self.samples).round().astype(int)
        scores = self.network.measure(clip.frames[picks], float(clip.fps), "", None)
        value = float(scores.means[self.network.key][0])
        clip = clip.score(aesthetic=value)
        if value < self.least:
            return [clip.reject(self.name, f"aesthetic score {value:.1f}, less than {self.least}")]
        return [clip]
