"""Pixels of videos in memory: scaled, cropped, and in the model's range."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


def fit(
    frames: UInt8[np.ndarray, "t h w 3"], *, height: int, width: int
) -> UInt8[np.ndarray, "t {height} {width} 3"]:
    """Scales the video to cover (height, width) and crops the centre.

    Args:
      frames: RGB in 0..255; their aspect ratio stays.
      height, width: of the result, in pixels.
    """
    scale = max(height / frames.shape[1], width / frames.shape[2])
    size = (max(width, round(frames.shape[2] * scale)), max(height, round(frames.shape[1] * scale)))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    box = (left, top, left + width, top + height)
    return np.stack(
        [
            np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS).crop(box))
            for f in frames
        ]
    )


def to_uint8(video: Float[np.ndarray, "*b t h w 3"]) -> UInt8[np.ndarray, "*b t h w 3"]:
    """Maps [-1, 1] to uint8 in [0, 255], rounded and clipped."""
    return np.round((np.clip(np.asarray(video), -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def to_float(frames: UInt8[np.ndarray, "*b t h w 3"]) -> Float[np.ndarray, "*b t h w 3"]:
    """Maps [0, 255] to float32 in [-1, 1]."""
    return frames.astype(np.float32) / 127.5 - 1.0
