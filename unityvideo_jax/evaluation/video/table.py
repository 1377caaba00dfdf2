"""The table of video metrics, and which of them can run with the weights at hand."""

import pathlib

from unityvideo_jax.evaluation.video.base import VideoMetric, missing
from unityvideo_jax.evaluation.video.consistency import (
    BackgroundConsistency,
    SubjectConsistency,
    TemporalFlickering,
)
from unityvideo_jax.evaluation.video.fvd import FVD, FrechetProxy
from unityvideo_jax.evaluation.video.motion import DynamicDegree, MotionSmoothness
from unityvideo_jax.evaluation.video.quality import AestheticQuality, ImagingQuality
from unityvideo_jax.evaluation.video.text import OverallConsistency

VIDEO_METRICS: tuple[type[VideoMetric], ...] = (
    SubjectConsistency,
    BackgroundConsistency,
    TemporalFlickering,
    MotionSmoothness,
    DynamicDegree,
    AestheticQuality,
    ImagingQuality,
    OverallConsistency,
    FVD,
    FrechetProxy,
)
VIDEO_PROTOCOLS = {name: text for m in VIDEO_METRICS for name, text in m.protocols.items()}


def load(weights: pathlib.Path | None) -> tuple[list[VideoMetric], dict[str, str]]:
    """The metrics that can run, loaded, and by name why each of the others is skipped.

    Raises:
      UserError: a file is there but does not load.
    """
    reasons = {m.name: missing(m, weights) for m in VIDEO_METRICS}
    ready = [m(weights) for m in VIDEO_METRICS if reasons[m.name] is None]
    return ready, {name: reason for name, reason in reasons.items() if reason}
