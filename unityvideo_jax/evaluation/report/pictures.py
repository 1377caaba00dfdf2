"""Truth, prediction and error of a clip as one picture and as a small video."""

import functools
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from unityvideo_jax import media, modalities
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.modalities import Rows, drawing

COLUMNS = 4
# The most that is drawn: a page shows no more.
HEIGHT, FRAMES = 192, 48
SMALL = 96  # rows below which pixels are magnified
PREVIEW = {"crf": 30, "preset": "veryfast"}


def write_comparison(
    stem: pathlib.Path, modality: str, prediction: Arrays, truth: Arrays, fps: float
) -> None:
    """Writes `stem`.png and `stem`.mp4: the rows that the modality's `compare` draws.

    Of more than `HEIGHT` rows or `FRAMES` frames only every n-th is drawn.
    """
    known = modalities.get(modality)
    every = _stride(len(truth[known.metric.keys[0]]))
    prediction, truth = (
        # A value without axes, such as a unit, is the whole clip's.
        {
            key: np.asarray(arrays[key])[::every] if np.ndim(arrays[key]) else arrays[key]
            for key in (*known.metric.keys, *known.metric.extra)
            if key in arrays
        }
        for arrays in (prediction, truth)
    )
    compare = known.compare or functools.partial(drawing.compare_drawn, known.codec)
    _write(stem, compare(prediction, truth, HEIGHT), fps / every)


def _stride(frames: int) -> int:
    return math.ceil(frames / FRAMES)


def write_videos(
    stem: pathlib.Path,
    video: UInt8[np.ndarray, "t h w 3"],
    reference: UInt8[np.ndarray, "rt rh rw 3"] | None,
    fps: float,
) -> None:
    """Writes `stem`.png and `stem`.mp4: a generated video, and the real one if there is one."""
    every = _stride(len(video))
    real = {} if reference is None else {"real": reference[::every]}
    _write(stem, {"generated": video[::every]} | real, fps / every)


def write_sheet(
    path: pathlib.Path, rows: Sequence[tuple[str, UInt8[np.ndarray, "t h w 3"]]]
) -> None:
    """Writes labelled videos as one contact sheet, `COLUMNS` frames of each."""
    scale = max(1, SMALL // rows[0][1].shape[1])
    media.contact_sheet(rows, path, columns=COLUMNS, scale=scale)


def _write(stem: pathlib.Path, rows: Rows, fps: float) -> None:
    """A contact sheet of the rows, and a small video of them side by side."""
    height = min(HEIGHT, next(iter(rows.values())).shape[1])
    rows = {label: _fit(frames, height) for label, frames in rows.items()}
    scale = max(1, SMALL // height)
    media.contact_sheet(rows, stem.with_name(f"{stem.name}.png"), columns=COLUMNS, scale=scale)
    length = min(len(frames) for frames in rows.values())
    joined = np.concatenate([frames[:length] for frames in rows.values()], axis=2)
    joined = joined.repeat(scale, axis=1).repeat(scale, axis=2)
    odd = [(0, joined.shape[axis] % 2) for axis in (1, 2)]
    joined = np.pad(joined, [(0, 0), *odd, (0, 0)], mode="edge")
    media.write_video(stem.with_name(f"{stem.name}.mp4"), joined, fps, **PREVIEW)


def _fit(frames: UInt8[np.ndarray, "t h w 3"], height: int) -> UInt8[np.ndarray, "t {height} _ 3"]:
    if frames.shape[1] == height:
        return frames
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    return media.fit(frames, height=height, width=width)
