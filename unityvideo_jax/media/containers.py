"""Video files, as FFmpeg decodes them."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unityvideo_jax.errors import UserError
from unityvideo_jax.media.source import (
    DEFAULT_FPS,
    Shown,
    VideoInfo,
    check_pixels,
    note,
    on_black,
    rate_of,
)

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts"),
    *(".wmv", ".flv", ".ogv", ".y4m"),
)
# Only containers, never playlists: those open other files and addresses that they name.
DEMUXERS = "mov,matroska,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,yuv4mpegpipe,gif"
OPTIONS = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
# Transfer functions of high dynamic range (ITU-T H.273).
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
# Orientations of pictures turned by 0, 90, 180 and 270 degrees counter-clockwise.
QUARTERS = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))
# Stamps in milliseconds change the interval of 60 frames per second by up to this share.
ROUNDED = 0.04
# Decoders that keep the transparency of WebM, which FFmpeg's own drop.
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Containers in which time stamps after a seek are not those of the frames that follow.
NO_SEEK = ("mpeg", "mpegvideo")
# A file that decodes to less than this share of the frames that its header counts was cut off.
COMPLETE = 0.97


@dataclasses.dataclass(frozen=True)
class Container:
    """A video file.

    Frames are turned and mirrored as the display matrix says, deinterlaced if they are interlaced,
    and converted by the matrix and range that they are tagged with; without tags by BT.601 and
    limited range, FFmpeg's defaults. Transparent pixels are shown on black.

    Attributes:
      path: of the file.

    Raises (all methods):
      UserError: no such file, no video in it, damage, high dynamic range, or too many pixels.
    """

    path: pathlib.Path
    has_rate = True

    def info(self) -> VideoInfo:
        """Reads every packet but decodes the first frame only."""
        with _opened(self.path) as (container, stream):
            first = self._first(_decoded(container, stream))
            turn = _orientation(self.path, first)
            width, height = (first.width, first.height)[:: -1 if turn[0] == 0 else 1]
        with _opened(self.path) as (container, stream):
            stated = _stated(container, stream) or (container.duration or 0) / 1e6
            times, last = _stamps(self.path, container, stream)
            rates = [float(r) for r in (stream.average_rate, stream.base_rate) if r]
        step, varies = 1 / rates[0] if rates else 1 / DEFAULT_FPS, False
        if len(times) > 1:
            measured, varies = rate_of(times)
            # The header's rate is exact where the stamps, in some containers, are rounded.
            close = [1 / rate for rate in rates if abs(rate * measured - 1) < ROUNDED]
            step = close[0] if close else measured
        return VideoInfo(
            fps=1 / step,
            num_frames=len(times),
            height=height,
            width=width,
            seconds=times[-1] - times[0] + (last or step),
            stated_seconds=stated,
            rotation=int(first.rotation) % 360,
            is_upright=turn == QUARTERS[0],
            is_hdr=first.color_trc in HDR_TRANSFERS,
            has_variable_rate=varies,
        )

    def frames(self, start: float = 0.0) -> Iterator[Shown]:
        """Yields frames in order; `start` > 0 seeks to that time in seconds."""
        with _opened(self.path) as (container, stream):
            decoded = _decoded(container, stream)
            first = self._first(decoded)
            if transfer := HDR_TRANSFERS.get(first.color_trc):
                raise UserError(
                    f"{self.path}: high dynamic range ({transfer}); map its tones to BT.709 first"
                )
            if stream.sample_aspect_ratio and stream.sample_aspect_ratio != 1:
                note(
                    "pixels not square",
                    f"{self.path}: pixels of {stream.sample_aspect_ratio} are taken as squares",
                )
            origin = _seconds(first) or 0.0
            step = 1 / float(stream.average_rate or DEFAULT_FPS)
            if start > 0 and container.format.name not in NO_SEEK:
                target = int((origin + start) / stream.time_base)
                container.seek(target, stream=stream, backward=True)
                decoded = _decoded(container, stream)
                first = next(decoded, None)
                # With a broken index seeking fails: decode from the beginning.
                if first is None or _seconds(first) is None or _seconds(first) - origin > start:
                    yield from self.frames()
                    return
            decoded = itertools.chain([first], decoded)
            shown = Shown(time=-step, seconds=step, pixels=first.to_ndarray)
            for number, frame in enumerate(_progressive(self.path, stream, decoded)):
                stamp = _seconds(frame)
                now = shown.time + step if stamp is None else stamp - origin
                if number and now <= shown.time:  # a stamp that was lost, or set back
                    now = shown.time + step
                seconds = float(frame.duration * frame.time_base) if frame.duration else step
                pixels = functools.partial(_upright_rgb, self.path, frame)
                shown = Shown(time=now, seconds=seconds, pixels=pixels)
                yield shown
            end, stated = shown.time + shown.seconds, _stated(container, stream)
            # Some containers count from zero although the first frame comes later, or add a frame.
            if start <= 0 and end + max(origin, 0.0) < COMPLETE * stated - 2 * step:
                raise UserError(
                    f"{self.path}: cut off, {end:.2f} s of {stated:.2f} s are there; download or "
                    "encode it again, or leave it out"
                )

    def _first(self, decoded: Iterator[Any]) -> Any:
        first = next(decoded, None)
        if first is None:
            raise UserError(f"{self.path}: no frame decodes; re-encode it or leave it out")
        return first


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[Any, Any]]:
    """A file's container and the video stream that players show."""
    import av

    if not path.is_file():
        raise UserError(f"{path}: no such video or image folder; check the path")
    if not path.stat().st_size:
        raise UserError(f"{path}: an empty file; write it again or leave it out")
    try:
        # An absolute path, since FFmpeg takes what is before a colon as a protocol.
        with av.open(os.path.abspath(path), options=OPTIONS) as container:
            # The cover of a song is a stream of one picture, not a video.
            flags = av.stream.Disposition
            cover = flags.attached_pic | flags.timed_thumbnails
            streams = [s for s in container.streams.video if not s.disposition & cover]
            if not streams:
                raise UserError(f"{path}: no video stream in it; give a video or an image folder")
            stream = min(streams, key=lambda s: not s.disposition & flags.default)
            if stream.codec_context is None:
                raise UserError(f"{path}: FFmpeg has no decoder of its codec; re-encode it")
            check_pixels(path, stream.width, stream.height)
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        what = str(error).split(":")[0].split("]")[-1].strip()
        raise UserError(
            f"{path}: does not decode as video ({what}); re-encode it or leave it out"
        ) from error


def _stated(container: Any, stream: Any) -> float:
    """Seconds of video that the header claims; 0 if it claims none of the video alone."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yields the frames of a stream from where the file stands, with their transparency."""
    import av

    alpha = stream.metadata.get("alpha_mode") == "1"
    name = WITH_ALPHA.get(stream.codec_context.name) if alpha else None
    if name is None:
        yield from container.decode(stream)
        return
    decoder = av.CodecContext.create(name, "r")
    for packet in container.demux(stream):
        yield from decoder.decode(packet)


def _stamps(path: pathlib.Path, container: Any, stream: Any) -> tuple[list[float], float]:
    """Seconds at which the frames appear, ascending, as their packets say.

    Returns:
      Them, and how many seconds the last frame stays, 0 if no packet says it.
    """
    import av

    stamps: list[int | None] = []
    stays: dict[int | None, int] = {}
    # A file that was cut off ends in an error; what it held until then is counted.
    with contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                stamps.append(packet.dts if packet.pts is None else packet.pts)
                stays[stamps[-1]] = packet.duration or 0
    if not stamps:
        raise UserError(f"{path}: holds no frames; re-encode it or leave it out")
    known = sorted(stamp for stamp in stamps if stamp is not None)
    if len(set(known)) == len(stamps):
        times = [float(stamp * stream.time_base) for stamp in known]
        return times, float(stays[known[-1]] * stream.time_base)
    rate = float(stream.average_rate or DEFAULT_FPS)
    return [n / rate for n in range(len(stamps))], 0.0


def _seconds(frame: Any) -> float | None:
    return None if frame.pts is None else float(frame.pts * frame.time_base)


def _progressive(path: pathlib.Path, stream: Any, decoded: Iterator[Any]) -> Iterator[Any]:
    """Frames with the two moments that an interlaced one holds taken apart; the first stays."""
    import av

    graph = None
    for frame in decoded:
        if graph is None and frame.interlaced_frame:
            note("interlaced", f"{path}: interlaced, so every other line is interpolated")
            graph = av.filter.Graph()
            graph.link_nodes(
                graph.add_buffer(template=stream),
                graph.add("bwdif", "mode=send_frame:deint=interlaced"),
                graph.add("buffersink"),
            ).configure()
        if graph is None:
            yield frame
            continue
        graph.push(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _pulled(graph: Any) -> Iterator[Any]:
    """Yields the frames that a filter gives until it wants more input."""
    import av

    with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
        while True:
            yield graph.pull()


def _orientation(path: pathlib.Path, frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d) of 0 and +-1: the point (x, y) is shown at (a x + c y, b x + d y).

    Raises:
      UserError: the display matrix turns by other than quarters.
    """
    try:
        data = {entry.type.name: entry for entry in frame.side_data}.get("DISPLAYMATRIX")
    except ValueError:  # side data of a kind that PyAV does not know hides the matrix
        return QUARTERS[round(frame.rotation / 90) % 4]
    if data is None:
        return QUARTERS[0]
    matrix = np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]] / 65536.0
    a, b, c, d = np.round(matrix).astype(int).tolist()
    if np.abs(matrix - [a, b, c, d]).max() > 0.01 or sorted((abs(a * d), abs(b * c))) != [0, 1]:
        raise UserError(
            f"{path}: shown turned by {frame.rotation} degrees or scaled, which no grid of pixels "
            "holds; re-encode it upright"
        )
    return a, b, c, d


def _upright_rgb(path: pathlib.Path, frame: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Converts one frame.

    Raises:
      UserError: the frame is damaged, has grown too large, or holds grey of more than 8 bits.
    """
    import av

    if frame.is_corrupt:
        raise UserError(
            f"{path}: the frame at {_seconds(frame) or 0:.2f} s is damaged; re-encode it or leave "
            "it out"
        )
    check_pixels(path, frame.width, frame.height)
    parts = frame.format.components
    if len(parts) == 1 and parts[0].bits > 8:
        raise UserError(
            f"{path}: grey of {parts[0].bits} bits, which holds numbers, not colours; write it as "
            "a folder of 16-bit PNG files, or as .npz"
        )
    has_alpha = any(part.is_alpha for part in parts)
    try:
        pixels = frame.to_ndarray(
            format="rgba" if has_alpha else "rgb24", src_color_range=frame.color_range
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise UserError(
            f"{path}: pixels of {frame.format.name} do not convert to RGB ({error}); re-encode it"
        ) from error
    if has_alpha:
        pixels = on_black(path, pixels)
    a, b, c, d = _orientation(path, frame)
    if not a:
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[::d, ::a])
