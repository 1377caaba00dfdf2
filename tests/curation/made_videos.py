"""Videos of every kind of fault, and sound ones, made by FFmpeg on the spot."""

import fractions
import struct

import av
import numpy as np


def moving(num_frames=40, height=96, width=128, seed=0, speed=2.0):
    """Smooth random texture that slides to the right: u8 [t, h, w, 3]."""
    rng = np.random.default_rng(seed)
    # Mostly grey, since video files keep colour at half the resolution.
    coarse = rng.integers(30, 215, (height // 8 + 1, width // 4, 1)).astype(np.float32)
    coarse = coarse + rng.integers(-15, 15, (height // 8 + 1, width // 4, 3))
    rows = np.linspace(0, coarse.shape[0] - 1.001, height)
    frames = []
    for t in range(num_frames):
        columns = (np.arange(width) / 8 - speed * t / 8) % (coarse.shape[1] - 1)
        r, c = rows.astype(int), columns.astype(int)
        fr, fc = (rows - r)[:, None, None], (columns - c)[None, :, None]
        top = coarse[r][:, c] * (1 - fc) + coarse[r][:, c + 1] * fc
        low = coarse[r + 1][:, c] * (1 - fc) + coarse[r + 1][:, c + 1] * fc
        frames.append(top * (1 - fr) + low * fr)
    return np.round(frames).astype(np.uint8)


def close(a, b, most=6.0):
    """Equal but for the codec's noise; the texture moves by two pixels per frame, which is more."""
    return np.abs(a.astype(np.float32) - b).mean() < most


def numbers(frames, known):
    """Which frame of `known` each is nearest to."""
    errors = np.abs(frames[:, None].astype(np.int16) - known[None]).mean(axis=(2, 3, 4))
    return errors.argmin(axis=1).tolist()


def write(path, frames, *, fps=8, codec="libx264", pix_fmt="yuv420p", times=None, options=None,
          color_trc=None, container_options=None):  # fmt: skip
    """Encodes frames; `times` are time stamps in milliseconds instead of a constant rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.options = {"crf": "20", **(options or {})} if codec == "libx264" else {}
        if times is not None:
            stream.time_base = stream.codec_context.time_base = fractions.Fraction(1, 1000)
        if color_trc is not None:
            stream.codec_context.color_trc = color_trc
        for n, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[n]), stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def truncated(path, frames, share=0.5):
    """Cut off in the middle, with its index in front, so that it still opens."""
    write(path, frames, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def without_index(path, frames):
    """An mp4 whose end, where the index is, was never written."""
    write(path, frames)
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def rotated(path, frames):
    """Marks a video as shown a quarter turn clockwise, by the matrix of its track header."""
    write(path, frames)
    data = bytearray(path.read_bytes())
    # tkhd: size, name, version and flags, 20 + 16 bytes of version 0, then the 3x3 matrix.
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16
    one, width = 1 << 16, frames.shape[1]
    turn = (0, one, 0, -one, 0, 0, width << 16, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *turn)
    path.write_bytes(bytes(data))
    return path


def sound_only(path):
    """Half a second of a tone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        wave = np.sin(np.arange(8192) / 10)[None].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def no_frames(path):
    """A Matroska file that declares a video stream and ends."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        container.start_encoding()
    return path


def broken_inside(path, frames):
    """Sound from outside: headers and the first frames are whole, the rest is noise."""
    write(path, frames, options={"g": "250"})
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + len(data) // 2
    noise = np.random.default_rng(0).integers(0, 256, len(data), np.uint8).tobytes()
    end = data.index(b"moov") if data.index(b"moov") > start else len(data)
    data[start : end - 8] = noise[start : end - 8]
    path.write_bytes(bytes(data))
    return path
