"""Frames as VBench's networks see them. Resizing is never antialiased, as there."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

# Frames that go through a network at once: memory stays bounded, however long the video.
BATCH = 8
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def tensor(frames: UInt8[np.ndarray, "t h w 3"]) -> Any:
    """Makes a torch float tensor [T, 3, H, W] in [0, 255]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float()


def resize(frames: Any, height: int, width: int, mode: str = "bilinear") -> Any:
    """Resizes to [T, 3, height, width], neither antialiased nor clipped."""
    import torch

    return torch.nn.functional.interpolate(
        frames, size=(height, width), mode=mode, align_corners=False
    )


def resize_shorter(frames: Any, size: int, mode: str = "bilinear") -> Any:
    """Resizes the shorter side to `size`; the longer one follows, rounded down."""
    height, width = frames.shape[-2:]
    short = min(height, width)
    return resize(frames, size * height // short, size * width // short, mode)


def centre_crop(frames: Any, size: int) -> Any:
    """Returns the middle size x size pixels."""
    top, left = (round((n - size) / 2) for n in frames.shape[-2:])
    return frames[..., top : top + size, left : left + size]


def normalise(frames: Any, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Any:
    """Maps [0, 255] to zero mean and unit deviation of a data set."""
    import torch

    mean, std = (torch.tensor(s).view(1, 3, 1, 1) for s in statistics)
    return (frames / 255.0 - mean) / std


def for_clip(frames: Any, size: int) -> Any:
    """Prepares frames as CLIP's networks take them: bicubic, cropped, normalised."""
    return normalise(centre_crop(resize_shorter(frames, size, "bicubic"), size), CLIP)


def features(
    video: UInt8[np.ndarray, "t h w 3"], network: Callable[[Any], Any]
) -> Float[np.ndarray, "t d"]:
    """Returns the network's feature vector of each frame, a few frames at a time.

    Args:
      video: RGB in 0..255.
      network: maps `batches` of frames to one row per frame.
    """
    import torch

    with torch.inference_mode():
        parts = [network(tensor(batch)).float().numpy() for batch in batches(video)]
    return np.concatenate(parts)


def batches(video: UInt8[np.ndarray, "t h w 3"]) -> Iterator[UInt8[np.ndarray, "n h w 3"]]:
    """Yields consecutive frames, `BATCH` at a time."""
    for first in range(0, len(video), BATCH):
        yield video[first : first + BATCH]


def pad_to_multiple(frames: Any, multiple: int) -> tuple[Any, tuple[slice, slice]]:
    """Repeats edges on both sides up to a multiple; also returns the frame's place in it."""
    import torch

    height, width = frames.shape[-2:]
    down, right = -height % multiple, -width % multiple
    padding = (right // 2, right - right // 2, down // 2, down - down // 2)
    padded = torch.nn.functional.pad(frames, padding, mode="replicate")
    inside = (slice(down // 2, down // 2 + height), slice(right // 2, right // 2 + width))
    return padded, inside


def middle_frames(num_frames: int, available: int) -> Int[np.ndarray, " n"]:
    """The middle frame of each of `num_frames` equal parts; the last one again if too few.

    (VBench's "middle" sampling.)
    """
    edges = np.linspace(0, available, min(num_frames, available) + 1).astype(int)
    middles = (edges[:-1] + edges[1:] - 1) // 2
    return np.pad(middles, (0, num_frames - len(middles)), mode="edge")
