"""The one reader of videos, animations, images and folders of images."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import stores
from unityvideo_jax.media import containers, images, values
from unityvideo_jax.media.pixels import fit
from unityvideo_jax.media.source import DEFAULT_FPS, Shown, VideoInfo, note

# Each has `info()`, `frames(start)` and `has_rate`, which is False for still images.
Source = containers.Container | images.Animation | images.ImageFolder
# Every program takes all of these.
IMAGE_SUFFIXES = images.SUFFIXES
NUMBERS = images.NUMBERS
VIDEO_SUFFIXES = (*containers.SUFFIXES, *images.ANIMATED)
SUFFIXES = tuple(dict.fromkeys((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)))
# Containers round time stamps to a millisecond; at high rates a share of the interval is less.
CLOCK, CLOCK_SHARE = 0.002, 1 / 6
# A video read whole may take this much memory; larger ones are refused.
MAX_BYTES = 16 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video:
    """Frames that were read.

    Attributes:
      frames: RGB in [0, 255], upright.
      fps: frames per second of `frames`.
      numbers: which stored frame each of them is, counted from 0.
      stored_size: height and width before any scaling, upright.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    fps: float
    numbers: Int[np.ndarray, " t"]
    stored_size: tuple[int, int]


def read(
    path: str | os.PathLike,
    *,
    fps: float | int | None = None,
    num_frames: int | None = None,
    numbers: Sequence[int] | Int[np.ndarray, " t"] | None = None,
    size: tuple[int, int] | None = None,
) -> Video:
    """Reads the frames that are wanted, and keeps no others in memory.

    Args:
      path: a video, an animation, an image, or a folder of images, which stand for one frame each.
      fps: takes the frame that is on display at 0, 1/fps, 2/fps, ... seconds. Input that is slower
        repeats frames, and a printed note says so. None keeps every frame; a video of variable rate
        is then taken at one over its median interval.
      num_frames: at most so many; None takes all.
      numbers: takes these stored frames instead, ascending.
      size: height and width that every frame is scaled to cover and cropped to; None leaves them.

    Raises:
      UserError: nothing there, no frame, damage up to the last frame wanted, frames whose sizes
        differ, high dynamic range, numbers instead of colours, or more than memory is to hold.
    """
    path = stores.local(path)
    source = open_source(path)
    if numbers is not None:
        wanted = [int(number) for number in numbers]
        chosen, rate = _numbered(source.frames(), wanted), fps or DEFAULT_FPS
    elif not source.has_rate:
        chosen, rate = enumerate(source.frames()), fps or DEFAULT_FPS
    elif fps is not None:
        chosen, rate = on_display(source.frames(), _grid(fps)), fps
    else:
        info = source.info()
        chosen, rate = enumerate(source.frames()), info.fps
        if info.has_variable_rate:
            note(
                "variable rate",
                f"{path}: variable frame rate, taken by time at {rate:g} frames per second",
            )
            chosen = on_display(source.frames(), _grid(rate))
    collected, stored = _collect(path, itertools.islice(chosen, num_frames), size)
    if not collected:
        raise UserError(f"{path}: holds no decodable frame; re-encode it or leave it out")
    indices = np.asarray([number for number, _ in collected])
    if fps is not None and source.has_rate and numbers is None:
        _note_repeats(path, indices, fps)
    return Video(
        frames=np.stack([pixels for _, pixels in collected]),
        fps=float(rate),
        numbers=indices,
        stored_size=stored,
    )


def stream(
    path: str | os.PathLike, *, fps: float | int, size: tuple[int, int]
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields the frames of `read` one by one, so that a long video takes the memory of one.

    Args:
      path, fps, size: as `read` takes them.

    Raises:
      UserError: as `read` does, when the frame is reached.
    """
    path = stores.local(path)
    source = open_source(path)
    chosen = on_display(source.frames(), _grid(fps)) if source.has_rate else None
    last, number = None, -1
    stored: tuple[int, int] | None = None
    for index, shown in chosen or enumerate(source.frames()):
        if index != number:
            pixels = shown.pixels()
            if stored not in (None, pixels.shape[:2]):
                raise UserError(_other_size(path, index, pixels.shape, stored))
            stored, number = pixels.shape[:2], index
            last = fit(pixels[None], height=size[0], width=size[1])[0]
        yield last


def read_video(
    path: str | os.PathLike, max_frames: int | None = None
) -> tuple[UInt8[np.ndarray, "t h w 3"], float]:
    """Reads frames and frames per second of `read` at the video's own rate.

    Raises:
      UserError: as `read` does.
    """
    video = read(path, num_frames=max_frames)
    return video.frames, video.fps


def read_at(
    path: str | os.PathLike, times: Float[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Reads the frame on display at each time.

    Args:
      path: a video or an animation.
      times: seconds after its first frame, ascending.

    Raises:
      UserError: as `read` does, or it ends before the last time.
    """
    path = stores.local(path)
    source = open_source(path)
    collected, _ = _collect(path, on_display(source.frames(float(times[0])), times), None)
    if len(collected) < len(times):
        raise UserError(
            f"{path}: ends before {times[len(collected)]:.2f} s, {times[-1]:.2f} s were wanted"
        )
    if len(times) > 1:
        rate = (len(times) - 1) / (times[-1] - times[0])
        _note_repeats(path, np.asarray([number for number, _ in collected]), float(rate))
    return np.stack([pixels for _, pixels in collected])


def video_info(path: str | os.PathLike) -> VideoInfo:
    """Reads the facts of a video, an animation, an image or a folder of images.

    Raises:
      UserError: nothing there, or nothing that can be read.
    """
    return open_source(stores.local(path)).info()


def open_source(path: pathlib.Path) -> Source:
    """Chooses the reader of a path: a folder of images, Pillow by its suffix, or else FFmpeg."""
    if path.is_dir():
        return images.ImageFolder(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return images.Animation(path)
    return containers.Container(path)


def is_video(path: pathlib.Path) -> bool:
    """Whether a file is a video by its suffix; a still .gif, .webp or .apng is none."""
    suffix = path.suffix.lower()
    if suffix not in images.ANIMATED:
        return suffix in containers.SUFFIXES
    try:
        return images.Animation(path).has_rate
    except UserError:
        return True  # its reader names what is wrong


def stored_kind(path: str | os.PathLike) -> tuple[str, int]:
    """Pillow's mode and the bits per channel of an image, or of the first one of a folder.

    ("RGB", 8) for videos and animations. The modes of `NUMBERS` have one channel, which may hold
    numbers.

    Raises:
      UserError: no image that can be read.
    """
    source = open_source(stores.local(path))
    if isinstance(source, images.ImageFolder):
        return values.kind(source.files[0])
    if isinstance(source, images.Animation) and not source.has_rate:
        return values.kind(source.path)
    return "RGB", 8


def read_numbers(
    path: str | os.PathLike, numbers: Sequence[int] | Int[np.ndarray, " t"] | None = None
) -> Shaped[np.ndarray, "t h w"]:
    """Reads the numbers of single-channel images, never stretched.

    They are palette indices, integers or floats.

    Args:
      path: an image, a TIFF of several pages, or a folder of images of one size.
      numbers: only these pages or images, counted from 0; None reads all.

    Raises:
      UserError: colours, loss by compression, sizes or kinds that differ, or damage.
    """
    path = stores.local(path)
    source = open_source(path)
    if isinstance(source, images.ImageFolder):
        pages = [(file, 0) for file in source.files]
    else:
        pages = [(path, number) for number in range(source.info().num_frames)]
    if numbers is not None:
        pages = [pages[number] for number in numbers]
    arrays = [values.read_numbers(file, page) for file, page in pages]
    for (file, _), array in zip(pages, arrays, strict=True):
        if array.shape != arrays[0].shape or array.dtype != arrays[0].dtype:
            raise UserError(
                f"{file}: {array.shape[0]}x{array.shape[1]} {array.dtype}, but the first image has "
                f"{arrays[0].shape[0]}x{arrays[0].shape[1]} {arrays[0].dtype}; make all alike"
            )
    return np.stack(arrays)


def on_display(frames: Iterator[Shown], times: Iterable[float]) -> Iterator[tuple[int, Shown]]:
    """Yields the frame on display at each time, with its number, until the last frame's end."""
    wanted = iter(times)
    time = next(wanted, None)
    last: tuple[int, Shown] | None = None
    for number, shown in enumerate(frames):
        before = None if last is None else shown.time - _slack(shown.time - last[1].time)
        while before is not None and time is not None and time < before:
            yield last
            time = next(wanted, None)
        if time is None:
            return
        last = number, shown
    while last is not None and time is not None:
        slack = _slack(last[1].seconds)
        if time > last[1].time + last[1].seconds - slack and time > last[1].time + slack:
            return
        yield last
        time = next(wanted, None)


def _slack(interval: float) -> float:
    """Returns how many seconds after the time asked for a frame may appear and still be taken."""
    return min(CLOCK, CLOCK_SHARE * interval)


def _numbered(frames: Iterator[Shown], numbers: Iterable[int]) -> Iterator[tuple[int, Shown]]:
    """The frames of these numbers, ascending."""
    wanted = iter(numbers)
    number = next(wanted, None)
    for index, shown in enumerate(frames):
        while number == index:
            yield index, shown
            number = next(wanted, None)
        if number is None:
            return


def _grid(fps: float | int) -> Iterator[float]:
    return (n / fps for n in itertools.count())


def _collect(
    path: pathlib.Path, chosen: Iterable[tuple[int, Shown]], size: tuple[int, int] | None
) -> tuple[list[tuple[int, UInt8[np.ndarray, "h w 3"]]], tuple[int, int]]:
    """Converts and scales each chosen frame once; returns also the size that is stored."""
    collected: list[tuple[int, np.ndarray]] = []
    stored: tuple[int, int] = (0, 0)
    total = 0
    for number, shown in chosen:
        if collected and number == collected[-1][0]:
            pixels = collected[-1][1]
        else:
            pixels = shown.pixels()
            if collected and pixels.shape[:2] != stored:
                raise UserError(_other_size(path, number, pixels.shape, stored))
            stored = pixels.shape[:2]
            if size is not None:
                pixels = fit(pixels[None], height=size[0], width=size[1])[0]
        total += pixels.nbytes
        if total > MAX_BYTES:
            raise UserError(
                f"{path}: its frames take more than {MAX_BYTES >> 30} GiB of memory; cut it into "
                "shorter videos or scale it down"
            )
        collected.append((number, pixels))
    return collected, stored


def _other_size(
    path: pathlib.Path, number: int, size: tuple[int, ...], first: tuple[int, int]
) -> str:
    return (
        f"{path}: the size of frame {number}, {size[0]}x{size[1]}, differs from the first one's "
        f"{first[0]}x{first[1]}; make all frames one size"
    )


def _note_repeats(path: pathlib.Path, numbers: Int[np.ndarray, " t"], fps: float | int) -> None:
    repeated = int((np.diff(numbers) == 0).sum())
    if repeated:
        note(
            "slower",
            f"{path}: slower than {fps:g} frames per second, so {repeated} of {len(numbers)} "
            "frames repeat the one before",
        )
