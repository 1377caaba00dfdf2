"""Video files, image folders and contact sheets: pixels in, pixels out."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from unityvideo_jax.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
# A folder of images carries no frame rate of its own.
DEFAULT_FPS = 8.0


def read_video(
    path: str | os.PathLike, max_frames: int | None = None
) -> tuple[UInt8[np.ndarray, "t h w 3"], float]:
    """Reads a video file or a folder of images, in name order.

    Args:
      path: a video that FFmpeg decodes, or a folder of images of one size.
      max_frames: stop after this many frames; None reads all.

    Returns:
      RGB frames in [0, 255] and the frame rate in frames per second.

    Raises:
      UserError: nothing at `path`, an empty folder, sizes that differ, or an undecodable file.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _read_image_folder(path, max_frames), DEFAULT_FPS
    if not path.exists():
        raise UserError(f"{path}: no such video or image folder; check the path")
    import av

    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: holds no video stream; give a video or an image folder")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            fps = float(stream.average_rate or DEFAULT_FPS)
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
                if max_frames is not None and len(frames) >= max_frames:
                    break
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(
            f"{path}: does not decode as video ({error}); re-encode it or leave it out"
        ) from error
    if not frames:
        raise UserError(f"{path}: holds no decodable frame; re-encode it or leave it out")
    return np.stack(frames), fps


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Frames per second, number of coded frames, and pixels of a video file."""

    fps: float
    num_frames: int
    height: int
    width: int


def video_info(path: str | os.PathLike) -> VideoInfo:
    """Reads a video file's headers and counts its packets, without decoding them.

    Raises:
      UserError: no such file, no video in it, or none of its packets can be read.
    """
    import av

    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: holds no video stream; give a video")
            stream = container.streams.video[0]
            fps = float(stream.average_rate or DEFAULT_FPS)
            height, width = stream.height, stream.width
            count = sum(packet.size > 0 for packet in container.demux(stream))
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(
            f"{path}: does not open as video ({error}); re-encode it or leave it out"
        ) from error
    if not count or not height or not width:
        raise UserError(f"{path}: holds no frame; re-encode it or leave it out")
    return VideoInfo(fps=fps, num_frames=count, height=height, width=width)


def _read_image_folder(path: pathlib.Path, max_frames: int | None) -> UInt8[np.ndarray, "t h w 3"]:
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{path}: an empty folder, no images ({', '.join(IMAGE_SUFFIXES)}) in it")
    frames = []
    for file in files[:max_frames]:
        try:
            frames.append(np.asarray(Image.open(file).convert("RGB")))
        except OSError as error:
            raise UserError(f"{file}: not a readable image ({error})") from error
        if frames[-1].shape != frames[0].shape:
            raise UserError(
                f"{file}: size {frames[-1].shape[:2]} differs from the first image's "
                f"{frames[0].shape[:2]}; make all images of one folder one size"
            )
    return np.stack(frames)


def write_video(
    path: str | os.PathLike,
    frames: UInt8[np.ndarray, "t h w 3"],
    fps: float,
    crf: int = 12,
    preset: str = "medium",
) -> None:
    """Writes an H.264 mp4; the file appears only when it is whole.

    Height and width must be even, which 4:2:0 chroma asks for. `crf` is x264's constant rate
    factor: 12 is visually lossless, 30 a preview. `preset` is x264's: "veryfast" takes half the
    time of "medium".
    """
    options = {"crf": str(crf), "preset": preset}
    _encode(path, frames, fps, "mp4", "libx264", "yuv420p", options)


def write_lossless(
    path: str | os.PathLike, frames: UInt8[np.ndarray, "t h w 3"], fps: float
) -> None:
    """Writes an FFV1 Matroska file that `read_video` gives back bit for bit."""
    _encode(path, frames, fps, "matroska", "ffv1", "bgr0", {"level": "3", "slicecrc": "1"})


def _encode(
    path: str | os.PathLike,
    frames: UInt8[np.ndarray, "t h w 3"],
    fps: float,
    container_format: str,
    codec: str,
    pixels: str,
    options: dict[str, str],
) -> None:
    import av

    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    with av.open(str(temporary), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=round(fps) or 1)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.options = options
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    os.replace(temporary, path)


def fit(
    frames: UInt8[np.ndarray, "t h w 3"], *, height: int, width: int
) -> UInt8[np.ndarray, "t {height} {width} 3"]:
    """Scales the video to cover (height, width) and crops the centre, keeping the aspect ratio."""
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
    """From [-1, 1] to [0, 255], rounded and clipped."""
    return np.round((np.clip(np.asarray(video), -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def to_float(frames: UInt8[np.ndarray, "*b t h w 3"]) -> Float[np.ndarray, "*b t h w 3"]:
    """From [0, 255] to float32 in [-1, 1]."""
    return frames.astype(np.float32) / 127.5 - 1.0


def contact_sheet(
    rows: Mapping[str, UInt8[np.ndarray, "t h w 3"]] | Sequence[tuple[str, np.ndarray]],
    path: str | os.PathLike,
    *,
    columns: int = 6,
    scale: int = 1,
) -> None:
    """Writes one PNG: a labelled row a video, `columns` frames spread over its length.

    Args:
      rows: label and uint8 frames of each row; a label may repeat if pairs are given.
      path: the PNG to write; it appears only when it is whole.
      columns: frames a row.
      scale: integer magnification of small frames (nearest, so that pixels stay honest).
    """
    pairs = list(rows.items()) if isinstance(rows, Mapping) else list(rows)
    label_height, gap = 14, 2
    tiles = []
    for label, frames in pairs:
        picks = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
        strip = np.concatenate(
            [np.pad(frames[i], ((0, 0), (0, gap), (0, 0)), constant_values=255) for i in picks],
            axis=1,
        )
        strip = strip.repeat(scale, axis=0).repeat(scale, axis=1)
        tiles.append((label, strip))
    width = max(strip.shape[1] for _, strip in tiles)
    height = sum(strip.shape[0] + label_height for _, strip in tiles)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for label, strip in tiles:
        draw.text((2, top + 1), label, fill="black")
        sheet.paste(Image.fromarray(strip), (0, top + label_height))
        top += strip.shape[0] + label_height
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    sheet.save(temporary, format="PNG")
    os.replace(temporary, path)
