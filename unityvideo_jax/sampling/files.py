"""Given streams from files."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped, UInt8

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import provenance, stores
from unityvideo_jax.files.npz import is_npz, read_npz
from unityvideo_jax.files.paths import argument as path_argument
from unityvideo_jax.inputs import pictures
from unityvideo_jax.inputs.crop import Crop, resize
from unityvideo_jax.media.source import note
from unityvideo_jax.metrics.depth_units import unit_of
from unityvideo_jax.modalities import RGB
from unityvideo_jax.modalities.base import Codec, Side
from unityvideo_jax.modalities.checks import check_clip
from unityvideo_jax.models.sizes import TOKEN_PIXELS
from unityvideo_jax.sampling.streams import check_size

# What is lighter in a mask is white.
MID_GREY = 127.5
# The kinds of files that are taken, for messages.
PICTURES = "an image, a video or a folder of images"
DRAWN = "a video or a folder of images"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """A stream from a file, or an array of a caller's.

    Attributes:
      video: f32 [T,H,W,3] in [-1, 1] if it was read; else as it was passed in.
      side: the codec's record if the file held ground truth, else None.
      unit: of depth that the file held: "m", or "relative" where its scale is unknown.
      source: path, hash, rate and frames taken, as the result file records them.
    """

    video: Shaped[np.ndarray, "..."]
    side: Side | None
    unit: str = ""
    source: dict[str, Any]


def as_given(given: Mapping[str, Any], **options: Any) -> dict[str, Given]:
    """Given streams as a caller passes them: files are read, the others are taken as they are.

    Args:
      given: per stream a path, a `Given`, or a video.
      options: of `read_given`.

    Raises:
      UserError: as `read_given`.
    """
    paths = {name: _path(f"given {name}", value) for name, value in given.items()}
    files = {name: path for name, path in paths.items() if path}
    read = read_given(files, **options) if files else {}
    return {
        name: read.get(name) or _wrapped(f"given {name}", value) for name, value in given.items()
    }


def as_image(role: str, image: Any, *, height: int, width: int) -> Given:
    """Returns an image as a caller passes it, as a video of one frame or a batch of them.

    Args:
      role: of the image, for messages.
      image: a path, a `Given` of one frame, or an array [H,W,3] or [B,H,W,3].
      height, width: that it must have.

    Raises:
      UserError: as `read_image`, or another shape.
    """
    if path := _path(role, image):
        return read_image(path, height=height, width=width)
    if isinstance(image, Given):
        return image
    given = _wrapped(role, image)
    if given.video.ndim not in (3, 4) or given.video.shape[-3:-1] != (height, width):
        raise UserError(
            f"{role}: shape {given.video.shape} is not [H,W,3] or [B,H,W,3] of (height, width) "
            f"{(height, width)}; resize it, or pass its own height and width"
        )
    return dataclasses.replace(given, video=given.video[..., None, :, :, :])


def as_mask(mask: Any, size: tuple[int, int, int], *, fps: float) -> Given:
    """Returns a mask as a caller passes it: a path, a `Given`, or an array.

    Raises:
      UserError: as `read_mask`.
    """
    if path := _path("masks", mask):
        return read_mask(path, size, fps=fps)
    return _wrapped("masks", mask)


def _path(name: str, value: Any) -> str | None:
    """The path that an argument is, if it is one; raises UserError for an empty one."""
    if not isinstance(value, str | os.PathLike):
        return None
    return path_argument(name, value)


def _wrapped(name: str, value: Any) -> Given:
    """An argument as it was passed; raises UserError if it is no array."""
    if isinstance(value, Given):
        return value
    try:
        video = np.asarray(value)
    except ValueError as error:
        raise UserError(f"{name}: is no array ({reason(error)}); give one") from error
    return Given(video=video, side=None, source={"array": list(video.shape)})


def read_given(
    paths: Mapping[str, str],
    *,
    num_frames: int | None,
    default_frames: int,
    height: int,
    width: int,
    fps: float,
    multiple: tuple[int, int] = (TOKEN_PIXELS, TOKEN_PIXELS),
    depth_unit: str = "",
    codecs: Mapping[str, Codec] = types.MappingProxyType({}),
) -> dict[str, Given]:
    """Reads every given stream at one size and length.

    Frames of a video are taken by time at `fps`, those of an image folder one by one; they are
    scaled to cover the size, cropped in the centre and cut to length. Pictures that hold numbers
    (`inputs.pictures`) are too, by the nearest pixel, and are then encoded by the modality's codec.
    An npz holds ground truth under the clip's keys, which is encoded likewise; it is not scaled, so
    it must have the size. What is drawn, such as the bounds of depth, follows the frames taken.

    Args:
      paths: file or folder per modality.
      num_frames: exactly so many frames; None takes `default_frames`, or the largest 4n+1 below
        that all inputs have, and a printed note says so.
      height, width: in pixels.
      fps: of the model.
      multiple: height and width of a token in pixels.
      depth_unit: of stored depth whose unit no file states, as `inputs.pictures` says.
      codecs: that draw arrays, by modality; the modality's own where there is none.

    Raises:
      UserError: names the path and what is wrong with it.
    """
    check_size(num_frames or default_frames, height, width, multiple)
    limit = num_frames or default_frames
    found = {
        name: _read_stream(
            name,
            path,
            limit,
            (height, width),
            fps,
            codecs.get(name, modalities.get(name).codec),
            depth_unit,
        )
        for name, path in paths.items()
    }
    length = limit
    if short := min(found, key=lambda name: found[name][0], default=None):
        length = _length(paths[short], found[short][0], num_frames, limit, fps)
    given = {name: first(length) for name, (_, first) in found.items()}
    for name, one in given.items():
        if one.video.shape[1:3] != (height, width):
            raise UserError(
                f"{paths[name]}: truth of {one.video.shape[1]}x{one.video.shape[2]} pixels but "
                f"{height}x{width} is sampled; pass its own --height and --width"
            )
    return given


def _length(path: str, shortest: int, num_frames: int | None, limit: int, fps: float) -> int:
    """The frames to take where the shortest input has so many; says so if that is not `limit`."""
    if shortest >= limit:
        return limit
    if num_frames is not None:
        raise UserError(
            f"{path}: {shortest} frames at {fps:g} frames/s but num_frames={num_frames}; give a "
            "longer video or fewer frames"
        )
    length = (shortest - 1) // 4 * 4 + 1
    note(
        "short inputs",
        f"{path}: {shortest} frames at {fps:g} frames/s, so {length} are sampled instead of "
        f"{limit}; models take 4n+1",
    )
    return length


def stream_given(
    name: str, path: str, *, fps: float, size: tuple[int, int], depth_unit: str = ""
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields the frames of a given video one by one, as `media.stream` does.

    Args:
      name: of the stream.
      path: a video, or a folder of images that are drawings.
      fps, size: as `media.stream` takes them.
      depth_unit: as `read_given` takes it.

    Raises:
      UserError: as `media.stream`, or a file that holds numbers, which are drawn as a whole.
    """
    file = stores.local(path)
    if is_npz(file) or (name != RGB and pictures.holds_numbers(name, file, depth_unit=depth_unit)):
        raise UserError(
            f"{path}: holds numbers, and a long video is read as frames of colours; give {name} as "
            "a video, or leave out --long"
        )
    with _kinds_named(path, DRAWN):
        yield from media.stream(file, fps=fps, size=size)


def read_image(path: str, *, height: int, width: int) -> Given:
    """Reads an image, or the first frame of a video or image folder, as a video of one frame.

    It is scaled to cover the size and cropped in the centre.

    Raises:
      UserError: nothing there, or nothing that decodes.
    """
    with _kinds_named(path, PICTURES):
        video = media.read(path, numbers=[0], size=(height, width))
    return _given(path, media.to_float(video.frames), None, frames=[0])


def read_mask(path: str, size: tuple[int, int, int], *, fps: float) -> Given:
    """Reads a mask from an image for all frames, a video or an image folder, as bool [T,H,W].

    Frames are taken, scaled and cropped as `read_given` takes those of videos; what is lighter than
    mid grey is True.

    Args:
      path: file or folder.
      size: (frames, height, width) that the mask is for.
      fps: of the model.

    Raises:
      UserError: nothing there, nothing that decodes, nothing white, or some frames but fewer than
        `size` has.
    """
    frames, height, width = size
    with _kinds_named(path, PICTURES):
        video = media.read(path, fps=fps, num_frames=frames, size=(height, width))
    if len(video.frames) not in (1, frames):
        raise UserError(
            f"{path}: a mask of {len(video.frames)} frames at {fps:g} frames/s for {frames}; give "
            "an image, or as many frames"
        )
    white = video.frames.mean(axis=-1)
    if white.max() <= MID_GREY:
        raise UserError(
            f"{path}: nothing in this mask is white (its lightest pixel is {white.max():.0f} of "
            "255); draw white what it selects"
        )
    mask = np.broadcast_to(white > MID_GREY, size)
    return _given(path, mask, None, fps=video.fps, frames=video.numbers.tolist())


@contextlib.contextmanager
def _kinds_named(path: str, kinds: str) -> Iterator[None]:
    """Names the kinds of files that are taken instead of one of no known suffix."""
    try:
        yield
    except UserError as error:
        file = stores.local(path)
        if not (file.is_file() and file.suffix) or file.suffix.lower() in media.SUFFIXES:
            raise
        raise UserError(f"{path}: no {file.suffix} files are read here; give {kinds}") from error


def _read_stream(
    name: str,
    path: str,
    limit: int,
    size: tuple[int, int],
    fps: float,
    codec: Codec,
    depth_unit: str,
) -> tuple[int, Callable[[int], Given]]:
    """How many frames can be taken of a stream, and what makes the first so many of them."""
    file = stores.local(path)
    if is_npz(file):
        arrays = _read_truth(file, depth_unit)
        check_clip(codec, arrays, path)
        return len(arrays[codec.keys[0]]), functools.partial(_encoded, codec, path, arrays)
    if name != RGB and pictures.holds_numbers(name, file, depth_unit=depth_unit):
        count = min(limit, media.video_info(file).num_frames)
        arrays = pictures.read_arrays(name, file, range(count), depth_unit=depth_unit)
        stored = next(iter(arrays.values())).shape[1:]
        crop = Crop(source=stored, target=size)
        arrays = {key: resize(key, array, crop) for key, array in arrays.items()}
        check_clip(codec, arrays, path)
        return count, functools.partial(_encoded, codec, path, arrays, size=stored)
    with _kinds_named(path, DRAWN if name == RGB else f"{DRAWN}, or an .npz of its arrays"):
        video = media.read(file, fps=fps, num_frames=limit, size=size)
    return len(video.frames), functools.partial(_drawn, path, video)


def _read_truth(file: pathlib.Path, depth_unit: str) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a video, an image folder or an npz of truth")
    arrays = read_npz(file, ())
    pictures.scaled_depth(arrays, file, depth_unit=depth_unit)
    return arrays


def _drawn(path: str, video: media.Video, length: int) -> Given:
    """The first frames of a drawing."""
    return _given(
        path,
        media.to_float(video.frames[:length]),
        None,
        fps=video.fps,
        size=video.stored_size,
        frames=video.numbers[:length].tolist(),
    )


def _encoded(
    codec: Codec, path: str, arrays: dict[str, np.ndarray], length: int, **source: Any
) -> Given:
    """The first frames of a modality's arrays as its codec draws them, by themselves."""
    video, side = codec.encode({key: jnp.asarray(arrays[key][:length]) for key in codec.keys})
    record = {key: np.asarray(value) for key, value in side.items()}
    frames = list(range(length))
    given = _given(
        path, np.asarray(video, np.float32), record, codec=codec.version, frames=frames, **source
    )
    unit = (unit_of(arrays) or "m") if "depth" in codec.keys else ""
    return dataclasses.replace(given, unit=unit)


def _given(path: str, video: np.ndarray, side: Side | None, **source: Any) -> Given:
    digest = provenance.file_hash(path)
    return Given(video=video, side=side, source={"path": path, "sha256": digest, **source})
