"""Video files written: tagged with what their pixels mean, and read back as they were."""

import contextlib
import fractions
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unityvideo_jax.errors import UserError
from unityvideo_jax.files.paths import atomic_path

# Frames per second are written as a fraction with at most this denominator, as 30000/1001 is.
DENOMINATOR = 1001
MAX_FPS = 1e6


def check_videos() -> None:
    """Raises UserError where no video can be read or written, since PyAV does not import."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError(f"videos need PyAV ({error}); run `pip install 'av>=14,<19'`") from error


def write_video(
    path: str | os.PathLike,
    frames: UInt8[np.ndarray, "t h w 3"],
    fps: float | int,
    crf: int = 12,
    preset: str = "medium",
    *,
    reproducible: bool = False,
) -> None:
    """Writes an H.264 mp4 in BT.709 colours of limited range, tagged as such.

    Args:
      path: appears only when it is whole.
      frames: of even height and width, which players ask for; others keep full colour resolution
        (4:4:4), which not every player shows.
      fps: frames per second; 12.5 is written as 25/2.
      crf: x264's constant rate factor: 12 is visually lossless, 30 a preview.
      preset: of x264: "veryfast" takes half the time of "medium".
      reproducible: the same bytes however many cores there are, in one thread. Frames of fewer than
        some 64 pixels excepted, which x264's lookahead reads beyond.

    Raises:
      UserError: no frames, or a rate that is not positive.
    """
    # x264's decisions depend on the number of its threads; and with its macroblock tree, one in
    # some hundred small clips comes out different from the same frames.
    options = {"threads": "1", "mbtree": "0"} if reproducible else {}
    size = frames.shape[1:3]
    _encode(path, frames, fps, **_mp4(*size, crf=str(crf), preset=preset, **options))


def write_lossless(
    path: str | os.PathLike, frames: UInt8[np.ndarray, "t h w 3"], fps: float | int
) -> None:
    """Writes an FFV1 Matroska file that `read_video` gives back bit for bit.

    Raises:
      UserError: no frames, or a rate that is not positive.
    """
    _encode(
        path,
        frames,
        fps,
        container_format="matroska",
        codec="ffv1",
        pixels="bgr0",
        options={"level": "3", "slicecrc": "1"},
    )


class VideoWriter:
    """Writes a video as `write_video` does, part by part; a context that makes the file whole.

    Nothing is at `path` before the context ends, nor after an error within it.
    """

    def __init__(self, path: str | os.PathLike, fps: float | int) -> None:
        if not 0 < fps < MAX_FPS:
            raise UserError(f"{path}: {fps:g} frames per second; give a positive number")
        self._path, self._fps = pathlib.Path(path), fps
        self._stack = contextlib.ExitStack()
        self._add: Callable[[UInt8[np.ndarray, "h w 3"]], None] | None = None

    def __enter__(self) -> "VideoWriter":
        return self

    def add(self, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Appends frames, all of one size; UserError as `write_video`."""
        if self._add is None:
            self._add = self._stack.enter_context(
                _opened(self._path, frames.shape[1:3], self._fps, **_mp4(*frames.shape[1:3]))
            )
        for frame in frames:
            self._add(frame)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def _mp4(height: int, width: int, **options: str) -> dict[str, Any]:
    is_even = height % 2 == 0 and width % 2 == 0
    return {
        "container_format": "mp4",
        "codec": "libx264",
        "pixels": "yuv420p" if is_even else "yuv444p",
        "options": {"crf": "12", "preset": "medium"} | options,
    }


def _encode(
    path: str | os.PathLike, frames: UInt8[np.ndarray, "t h w 3"], fps: float | int, **format: Any
) -> None:
    if not len(frames) or not 0 < fps < MAX_FPS:
        raise UserError(f"{path}: {len(frames)} frames at {fps:g} per second; give at least one")
    with _opened(path, frames.shape[1:3], fps, **format) as add:
        for frame in frames:
            add(frame)


@contextlib.contextmanager
def _opened(
    path: str | os.PathLike,
    size: tuple[int, int],
    fps: float | int,
    *,
    container_format: str,
    codec: str,
    pixels: str,
    options: dict[str, str],
) -> Iterator[Callable[[UInt8[np.ndarray, "h w 3"]], None]]:
    """A function that appends a frame to the file, which is there once the context ends."""
    import av

    path = pathlib.Path(path)
    rate = fractions.Fraction(fps).limit_denominator(DENOMINATOR)
    # The format is named, since the temporary name does not end in it.
    with (
        atomic_path(path, shared=True) as temporary,
        av.open(os.path.abspath(temporary), "w", format=container_format) as container,
    ):
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.options = options
        if pixels.startswith("yuv"):
            _tag(stream.codec_context)

        def add(frame: np.ndarray) -> None:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if pixels.startswith("yuv"):
                picture = picture.reformat(
                    format=pixels, dst_colorspace="ITU709", dst_color_range="MPEG"
                )
            container.mux(stream.encode(picture))

        yield add
        container.mux(stream.encode())


def _tag(context: Any) -> None:
    """Says that the pixels are BT.709 in limited range (1 of each list in ITU-T H.273)."""
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
