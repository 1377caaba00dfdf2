"""The interface of every kind of video source: facts, and upright frames in order of time."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from unityvideo_jax.errors import UserError
from unityvideo_jax.files.escape import one_line

# Still images carry no frame rate of their own.
DEFAULT_FPS = 8.0
# Larger pictures are refused before memory is taken for them: 8192 x 8192.
MAX_PIXELS = 1 << 26
# Notes of one kind that are printed; a data set may have thousands.
MOST_NOTES = 10

_notes: dict[str, set[str]] = collections.defaultdict(set)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """One frame on display.

    Attributes:
      time: when it appears, in seconds after the first frame.
      seconds: how long it stays if no other follows.
      pixels: converts it, upright, to RGB in [0, 255].
    """

    time: float
    seconds: float
    pixels: Callable[[], UInt8[np.ndarray, "h w 3"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """The facts of a source, by its header and its packets.

    Attributes:
      fps: frames per second; one over the median interval if the rate varies.
      num_frames: that are shown.
      height, width: pixels, upright.
      seconds: that the frames cover.
      stated_seconds: that the header claims; 0 if it claims nothing.
      rotation: degrees, counter-clockwise, that a player turns the stored picture.
      is_upright: whether the picture is stored as it is shown, neither turned nor mirrored.
      is_hdr: high dynamic range (PQ or HLG transfer).
      has_variable_rate: some frame lies off the even grid by more than half an interval.
    """

    fps: float
    num_frames: int
    height: int
    width: int
    seconds: float
    stated_seconds: float = 0.0
    rotation: int = 0
    is_upright: bool = True
    is_hdr: bool = False
    has_variable_rate: bool = False


def rate_of(times: list[float]) -> tuple[float, bool]:
    """Seconds between frames, and whether it varies.

    Args:
      times: of at least two frames, ascending, in seconds.

    Returns:
      The mean interval if every frame lies within half an interval of an even grid, else the
      median one.
    """
    stamps = np.asarray(times)
    step = (stamps[-1] - stamps[0]) / (len(stamps) - 1)
    off = np.abs(stamps - stamps[0] - step * np.arange(len(stamps))).max()
    varies = bool(off > 0.5 * step)
    return (float(np.median(np.diff(stamps))) if varies else float(step)), varies


def check_pixels(path: pathlib.Path, width: int, height: int) -> None:
    """Raises UserError if a picture has no pixels or more than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path}: {width}x{height} pixels, more than the limit of {MAX_PIXELS} "
            f"({MAX_PIXELS >> 20} Mi); scale it down first"
        )
    if width < 1 or height < 1:
        raise UserError(f"{path}: {width}x{height} pixels; re-encode it or leave it out")


def on_black(path: pathlib.Path, pixels: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """Shows transparent pixels on black, which is the background of every modality, and says so."""
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return pixels[..., :3]
    note("transparent", f"{path}: transparent pixels are shown on black")
    return ((pixels[..., :3] * alpha + 127) // 255).astype(np.uint8)


def note(kind: str, line: str) -> None:
    """Prints a change of an input, once; after a few of a kind, that there are more."""
    seen = _notes[kind]
    if line in seen or len(seen) > MOST_NOTES:
        return
    seen.add(line)
    more = len(seen) > MOST_NOTES
    text = f"further inputs like these are not listed ({kind})" if more else one_line(line)
    print(f"note: {text}", flush=True)
