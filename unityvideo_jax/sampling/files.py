"""Given streams from files, and sampled streams to files."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from unityvideo_jax import media, modalities, provenance
from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities.base import Side
from unityvideo_jax.modalities.checks import check_clip
from unityvideo_jax.npz import read_npz
from unityvideo_jax.sampling.streams import RGB, TOKEN_PIXELS, Samples, check_size

# Reads far enough for clips filmed at up to this rate, and not a whole film.
MAX_SOURCE_FPS = 240.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """A stream read from a file.

    Attributes:
      video: f32 in [-1, 1].
      side: the codec's record if the file held ground truth, else None.
      source: path, hash, rate and frames taken, as the result file records them.
    """

    video: Float[np.ndarray, "t h w 3"]
    side: Side | None
    source: dict[str, Any]


def pick_frames(available: int, source_fps: float, fps: float) -> Int[np.ndarray, " n"]:
    """Indices that bring a video down to `fps`; all frames if it is not faster than that."""
    ratio = max(source_fps / fps, 1.0)
    picks = np.round(np.arange(int((available - 1) / ratio + 1e-6) + 1) * ratio).astype(int)
    return picks[picks < available]


def read_given(
    paths: Mapping[str, str],
    *,
    num_frames: int | None,
    default_frames: int,
    height: int,
    width: int,
    fps: float,
    multiple: tuple[int, int] = (TOKEN_PIXELS, TOKEN_PIXELS),
) -> dict[str, Given]:
    """Reads every given stream at one size and length.

    A video or an image folder is brought down to `fps`, scaled to cover the size, cropped in the
    centre and cut to length. An npz holds ground truth under the clip's keys, which the modality's
    codec encodes; it is not scaled, so it must have the size.

    Args:
      paths: file or folder per modality.
      num_frames: exactly so many frames; None takes `default_frames`, or the largest 4n+1 below
        that all inputs have.
      height, width: in pixels.
      fps: of the model.
      multiple: height and width of a token in pixels.

    Raises:
      UserError: names the path and what is wrong with it.
    """
    check_size(num_frames or default_frames, height, width, multiple)
    limit = num_frames or default_frames
    loaded = {
        name: _read_truth(name, path)
        if pathlib.Path(path).suffix == ".npz"
        else _read_video(path, limit, height, width, fps)
        for name, path in paths.items()
    }
    shortest = min((len(g.video) for g in loaded.values()), default=limit)
    length = limit
    if shortest < limit:
        if num_frames is not None:
            short = next(n for n, g in loaded.items() if len(g.video) == shortest)
            raise UserError(
                f"{paths[short]}: {shortest} frames at {fps:g} frames/s but num_frames="
                f"{num_frames}; give a longer video or fewer frames"
            )
        length = (shortest - 1) // 4 * 4 + 1
    for name, one in loaded.items():
        if one.video.shape[1:3] != (height, width):
            raise UserError(
                f"{paths[name]}: truth of {one.video.shape[1]}x{one.video.shape[2]} pixels but "
                f"{height}x{width} is sampled; pass its own --height and --width"
            )
    return {
        name: dataclasses.replace(one, video=one.video[:length]) for name, one in loaded.items()
    }


def read_first_frame(path: str, *, height: int, width: int) -> Given:
    """An image, or the first frame of a video or image folder, as a video of one frame.

    It is scaled to cover the size and cropped in the centre.

    Raises:
      UserError: nothing there, or nothing that decodes.
    """
    return _read_video(path, 1, height, width, MAX_SOURCE_FPS)


def _read_video(path: str, limit: int, height: int, width: int, fps: float) -> Given:
    frames, source_fps = media.read_video(path, int(limit * max(MAX_SOURCE_FPS / fps, 1.0)))
    # Images carry no rate: every one of them is meant.
    is_folder = pathlib.Path(path).is_dir()
    picks = np.arange(len(frames)) if is_folder else pick_frames(len(frames), source_fps, fps)
    picks = picks[:limit]
    video = media.fit(frames[picks], height=height, width=width)
    return Given(
        video=media.to_float(video),
        side=None,
        source={
            "path": path,
            "sha256": provenance.file_hash(path),
            "fps": source_fps,
            "size": list(frames.shape[1:3]),
            "frames": picks.tolist(),
        },
    )


def _read_truth(name: str, path: str) -> Given:
    codec = modalities.get(name).codec
    if not pathlib.Path(path).is_file():
        raise UserError(f"{path}: no such file; give a video, an image folder or an npz of truth")
    clip = read_npz(path, ())
    check_clip(codec, clip, path)
    video, side = codec.encode({key: jnp.asarray(clip[key]) for key in codec.keys})
    return Given(
        video=np.asarray(video, np.float32),
        side={key: np.asarray(value) for key, value in side.items()},
        source={"path": path, "sha256": provenance.file_hash(path), "codec": codec.version},
    )


def write_samples(
    folder: str | os.PathLike,
    samples: Samples,
    *,
    sides: Mapping[str, Side],
    fps: float,
    record: Mapping[str, Any],
    index: int = 0,
) -> list[str]:
    """Writes one sample: `<stream>.mp4`, `<modality>.npz`, `sheet.png` and, last, `sample.json`.

    The npz holds decoded arrays under the clip's keys: metres, pixels, instance numbers. A stream
    without a side record is decoded with the codec's default.

    Args:
      folder: made if missing.
      samples: of a pipeline's call.
      sides: side records of given streams.
      fps: of the mp4 files.
      record: what `sample.json` says besides the files.
      index: which sample of the batch.

    Returns:
      The names of the files.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted, files, rows = record["request"]["wanted"], [], {}
    for name in samples.streams:
        video = samples.videos[name][index]
        frames = media.to_uint8(video)
        media.write_video(folder / f"{name}.mp4", frames, fps)
        files.append(f"{name}.mp4")
        rows[f"{name} ({'sampled' if name in wanted else 'given'})"] = frames
        if name == RGB:
            continue
        codec = modalities.get(name).codec
        _save_npz(folder / f"{name}.npz", codec.decode(video, sides.get(name, codec.default_side)))
        files.append(f"{name}.npz")
    height = next(iter(rows.values())).shape[1]
    media.contact_sheet(rows, folder / "sheet.png", scale=max(1, 128 // height))
    files.append("sheet.png")
    provenance.write_json(folder / "sample.json", {**record, "files": files})
    return [*files, "sample.json"]


def _save_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as stream:
        np.savez_compressed(stream, **{k: np.asarray(v) for k, v in arrays.items()})
    os.replace(temporary, path)
