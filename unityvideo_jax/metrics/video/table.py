"""The table of video metrics, and which of them can run with the weights at hand."""

import pathlib

from unityvideo_jax.metrics.video.base import VideoMetric, missing
from unityvideo_jax.metrics.video.consistency import (
    BackgroundConsistency,
    SubjectConsistency,
    TemporalFlickering,
)
from unityvideo_jax.metrics.video.fvd import FVD, FrechetProxy
from unityvideo_jax.metrics.video.motion import DynamicDegree, MotionSmoothness
from unityvideo_jax.metrics.video.quality import AestheticQuality, ImagingQuality
from unityvideo_jax.metrics.video.text import OverallConsistency

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


def available(weights: pathlib.Path | None) -> tuple[list[type[VideoMetric]], dict[str, str]]:
    """Returns the metrics whose files are there, and by name why each of the others is skipped."""
    reasons = {m.name: missing(m, weights) for m in VIDEO_METRICS}
    ready = [m for m in VIDEO_METRICS if reasons[m.name] is None]
    return ready, {name: reason for name, reason in reasons.items() if reason}
