"""Small videos, animations and PNG files of many kinds, made on the fly."""

import fractions
import struct
import zlib

import av
import numpy as np
from PIL import Image

COLOURS = {"R": (200, 30, 30), "G": (30, 200, 30), "B": (30, 30, 200), "W": (220, 220, 220)}
MILLISECONDS = fractions.Fraction(1, 1000)


def quadrants(count=5, height=64, width=48):
    """Red top left, green top right, blue bottom left, white bottom right."""
    video = np.empty((count, height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    video[:, :top, :left], video[:, :top, left:] = COLOURS["R"], COLOURS["G"]
    video[:, top:, :left], video[:, top:, left:] = COLOURS["B"], COLOURS["W"]
    return video


def points(frame):
    """The colours near the four corners, in reading order."""
    y, x = frame.shape[0] // 8, frame.shape[1] // 8
    return np.stack([frame[p] for p in ((y, x), (y, -x), (-y, x), (-y, -x))]).astype(int)


def corners(frame):
    """Initials of the colours nearest to the four corners."""
    errors = {n: np.abs(points(frame) - c).sum(axis=1) for n, c in COLOURS.items()}
    return "".join(min(errors, key=lambda n: errors[n][i]) for i in range(4))


def worst(frame):
    """The largest error of a corner's colour."""
    return np.abs(points(frame) - list(COLOURS.values())).max()


def encode(path, frames, *, codec="libx264", pixels="yuv420p", fps=8, convert=None, stamps=None,
           options=None, before=None, **tags):  # fmt: skip
    """Writes frames with tags of the stream or of its codec, and what `before` adds first."""
    with av.open(str(path), "w") as container:
        rest = before(container) if before else []
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.options = options if options is not None else {"crf": "5"}
        if turn := tags.pop("turn", None):
            stream.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if stamps is not None:
            stream.codec_context.time_base = MILLISECONDS
        for n, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if convert:
                frame = frame.reformat(format=pixels, **convert)
            if stamps is not None:
                frame.pts, frame.time_base = int(stamps[n]), MILLISECONDS
            container.mux(stream.encode(frame))
        container.mux([*stream.encode(), *rest])
    return path


def png(path, width, height, bits, colour, rows):
    """A PNG of any bit depth, as the specification has it; Pillow writes few of them."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    palette = chunk(b"PLTE", bytes(48)) if colour == 3 else b""
    parts = chunk(b"IHDR", header) + palette + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def animate(path, delays, levels=range(0, 200, 25), **options):
    """An animation of flat grey levels that stay for `delays` milliseconds."""
    pictures = [Image.new("RGB", (32, 16), (level,) * 3) for level in levels]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=list(delays), **options
    )
    return path
