"""Video files: what they are without decoding them, frames by time stamp, and clips written."""

import contextlib
import dataclasses
import fractions
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from unityvideo_jax.errors import UserError

# Containers round time stamps to a millisecond.
CLOCK = 0.002
# Transfer functions of high dynamic range (ITU-T H.273): PQ and HLG.
HDR_TRANSFERS = (16, 18)
# An interval is irregular if it differs from the median by more than this share of it; a video has
# a variable rate if more than a hundredth of its intervals do.
IRREGULAR, VARIABLE = 0.1, 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a file says of itself and what its packets say.

    Attributes:
      width, height: stored pixels, before rotation.
      fps: one over the median interval between frames.
      seconds: that the packets cover.
      stated_seconds: that the header claims; 0 if it claims nothing.
      frame_count: packets.
      rotation: degrees, counter-clockwise, that a player turns the picture.
      is_hdr: PQ or HLG transfer.
      has_variable_rate: more than a hundredth of the intervals differ from the median.
    """

    width: int
    height: int
    fps: float
    seconds: float
    stated_seconds: float
    frame_count: int
    rotation: int
    is_hdr: bool
    has_variable_rate: bool


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[tuple[Any, Any]]:
    """A file's container and its video stream.

    Raises:
      UserError: no file, an empty one, no video in it, or FFmpeg cannot read it.
    """
    import av

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not path.stat().st_size:
        raise UserError(f"{path.name}: an empty file")
    try:
        with av.open(str(path)) as container:
            # The cover of a song is a stream of one picture, not a video.
            cover = av.stream.Disposition.attached_pic
            streams = [s for s in container.streams.video if not s.disposition & cover]
            if not streams:
                raise UserError(f"{path.name}: no video stream")
            streams[0].thread_type = "AUTO"
            yield container, streams[0]
    except (av.error.FFmpegError, OSError) as error:
        what = str(error).split(":")[0].split("]")[-1].strip()
        raise UserError(f"{path.name}: does not decode ({what})") from error


def examine(path: pathlib.Path) -> VideoFacts:
    """Reads every packet but decodes one frame only.

    Raises:
      UserError: the file does not open, or holds no frame.
    """
    import av

    with opened(path) as (container, stream):
        stated = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if not stated and container.duration:
            stated = container.duration / av.time_base
        stamps = []
        # A file that was cut off ends in an error; what it held until then is counted.
        with contextlib.suppress(av.error.FFmpegError):
            for packet in container.demux(stream):
                if packet.size and packet.pts is not None:
                    stamps.append(packet.pts)
        if not stamps:
            raise UserError(f"{path.name}: no frames")
        times = np.sort(np.asarray(stamps, np.float64)) * float(stream.time_base)
        intervals = np.diff(times)
        rate = float(stream.average_rate or 0)
        step = float(np.median(intervals)) if len(intervals) else (1 / rate if rate else 0.0)
        irregular = np.abs(intervals - step) > max(IRREGULAR * step, CLOCK)
        context = stream.codec_context
        width, height, transfer = context.width, context.height, context.color_trc
    with opened(path) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise UserError(f"{path.name}: no frame decodes")
    return VideoFacts(
        width=width,
        height=height,
        fps=1 / step if step > 0 else 0.0,
        seconds=float(times[-1] - times[0] + step),
        stated_seconds=stated,
        frame_count=len(stamps),
        rotation=int(first.rotation) % 360,
        is_hdr=int(transfer or 0) in HDR_TRANSFERS,
        has_variable_rate=bool(len(irregular) and irregular.mean() > VARIABLE),
    )


def read_frames(path: pathlib.Path, times: Float[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w 3"]:
    """The frame on display at each time, turned upright.

    Args:
      path: a video.
      times: seconds from its first frame, ascending.

    Raises:
      UserError: it does not decode, or ends before the last time.
    """
    frames: list[np.ndarray] = []
    with opened(path) as (container, stream):
        start, tick = stream.start_time or 0, float(stream.time_base)
        if times[0] > 0:
            container.seek(start + int(times[0] / tick), stream=stream, backward=True)
        shown, interval = None, 0.0
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            now = (frame.pts - start) * tick
            if shown is not None:
                interval = now - shown[0]
                while len(frames) < len(times) and times[len(frames)] < now - CLOCK:
                    frames.append(_upright(shown[1]))
            shown = (now, frame)
            if len(frames) == len(times):
                break
        # The last frame is on display for as long as the one before it was.
        while shown is not None and len(frames) < len(times):
            if times[len(frames)] > shown[0] + interval + CLOCK:
                break
            frames.append(_upright(shown[1]))
    if len(frames) < len(times):
        raise UserError(
            f"{path.name}: ends before {times[len(frames)]:.2f} s, {times[-1]:.2f} s were wanted"
        )
    return np.stack(frames)


def _upright(frame: Any) -> UInt8[np.ndarray, "h w 3"]:
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, int(frame.rotation) // 90 % 4))


def write_clip(
    path: pathlib.Path, frames: UInt8[np.ndarray, "t h w 3"], fps: float | int, crf: int
) -> None:
    """Writes an H.264 mp4 that is the same byte for byte however many cores there are.

    Frames of fewer than some 64 pixels excepted, which x264's lookahead reads beyond.

    Args:
      path: appears only when it is whole.
      frames: of even height and width, which 4:2:0 chroma asks for.
      fps: frames a second.
      crf: x264's constant rate factor; 12 cannot be told from the original, 18 nearly.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with av.open(str(temporary), "w", format="mp4") as container:
        rate = fractions.Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # x264's decisions depend on the number of its threads; and with its macroblock tree, one in
        # some hundred small clips comes out different from the same frames.
        stream.options = {"crf": str(crf), "preset": "medium", "threads": "1", "mbtree": "0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    os.replace(temporary, path)
