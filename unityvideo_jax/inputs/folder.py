"""A folder of videos with ground truth beside them.

    FOLDER/<key>.mp4                 RGB; also .mov, .mkv, .webm, .avi, or a folder of images <key>/
    FOLDER/<key>.txt                 the caption, UTF-8, may be empty
    FOLDER/<key>.<modality>.npz      the arrays that the modality's codec reads, by their clip names
    FOLDER/<key>.<modality>.mp4      or: the modality as its codec draws it, of the requested size
    FOLDER/<key>.<modality>/         or: the same as a folder of images
    FOLDER/<key>.<modality>.txt      optional: this clip's modality prompt

A key contains no dot. Arrays belong to the RGB frames one to one: the same number, height and
width. Both are then scaled to cover the requested size and cropped at the centre together; depth,
ids and flow by the nearest pixel, since their values must not mix across an edge.
"""

import abc
import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from unityvideo_jax import media
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.sources import ClipBatch
from unityvideo_jax.npz import read_npz

# Arrays that hold positions or displacements in pixels; every other array is a map of pixels.
POINTS, VECTORS = ("keypoints",), ("flow",)
# What is true only between a frame and the one right after it.
TO_NEXT_FRAME = ("flow", "occluded")
# What the arrays of a modality take at most for each pixel of the video; numbers of people besides.
MAX_PIXEL_BYTES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """Scale to cover, then centre crop: how one source size becomes the requested size."""

    source: tuple[int, int]
    target: tuple[int, int]

    @property
    def scaled(self) -> tuple[int, int]:
        """(height, width) after scaling and before cropping; as `media.fit` rounds them."""
        scale = max(t / s for t, s in zip(self.target, self.source, strict=True))
        return tuple(
            max(t, round(s * scale)) for t, s in zip(self.target, self.source, strict=True)
        )

    @property
    def factors(self) -> tuple[float, float]:
        """Pixels of the result a pixel of the source, (y, x)."""
        return tuple(a / s for a, s in zip(self.scaled, self.source, strict=True))

    @property
    def offset(self) -> tuple[int, int]:
        """Pixels cut off at (top, left)."""
        return tuple((a - t) // 2 for a, t in zip(self.scaled, self.target, strict=True))

    def nearest(self, array: np.ndarray) -> np.ndarray:
        """[t, h, w, ...] -> [t, H, W, ...] by the source pixel under each pixel centre."""
        rows, columns = (
            np.clip(((np.arange(n) + o + 0.5) / f).astype(int), 0, s - 1)
            for n, o, f, s in zip(self.target, self.offset, self.factors, self.source, strict=True)
        )
        return array[:, rows[:, None], columns]

    def points(self, points: np.ndarray) -> np.ndarray:
        """(x, y) positions of the source to those of the result."""
        factors, offset = np.asarray(self.factors[::-1]), np.asarray(self.offset[::-1])
        return (points * factors - offset).astype(np.float32)

    def vectors(self, vectors: np.ndarray) -> np.ndarray:
        """(dx, dy) displacements, scaled and cropped."""
        return (self.nearest(vectors) * np.asarray(self.factors[::-1])).astype(np.float32)


class VideoFiles(abc.ABC):
    """Clips whose modalities are files: reads, checks, scales and draws them.

    A subclass says which clips there are and where their files and texts lie.

    Attributes:
      keys, fps: as `sources.Source` has them.
    """

    keys: Sequence[str]
    fps: float
    # Whether modalities given as pictures are drawn by others than our codecs. No numbers are read
    # from such pictures, so they are scaled like RGB, as the public release does, and flow may
    # lack the last frame, which has no next one.
    _foreign_drawings = False

    def __init__(self, *, num_frames: int, height: int, width: int, fps: float = 0.0):
        """`fps` resamples to that rate; 0 keeps each video's own and takes the first frames."""
        self._num_frames, self._size = num_frames, (height, width)
        self._target_fps = float(fps)
        self._encoders: dict[str, Any] = {}

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides the content, as `sources.Source` has it."""

    @abc.abstractmethod
    def _file(self, key: str, modality: str) -> pathlib.Path:
        """A video, a folder of images, or an npz of arrays."""

    @abc.abstractmethod
    def _text(self, key: str, modality: str) -> str:
        """The caption for rgb, the prompt C_m for others."""

    def load(self, indices: Sequence[int], modalities: Sequence[str]) -> ClipBatch:
        """Reads, checks, scales and draws the clips, one after the other."""
        clips: dict[int, dict[str, Any]] = {}
        for index in indices:
            if index not in clips:
                clips[index] = self._clip(self.keys[index], modalities)
        rows = [clips[index] for index in indices]
        return ClipBatch(
            videos={m: np.stack([row[m][0] for row in rows]) for m in modalities},
            sides={
                m: {k: np.stack([row[m][1][k] for row in rows]) for k in rows[0][m][1]}
                for m in modalities
            },
            texts={m: [row[m][2] for row in rows] for m in modalities},
        )

    def _clip(self, key: str, modalities: Sequence[str]) -> dict[str, Any]:
        path = self._file(key, "rgb")
        rate = media.read_video(path, 1)[1]
        rgb, _ = media.read_video(path)
        picks = self._picks(path, len(rgb), rate)
        crop = Crop(source=rgb.shape[1:3], target=self._size)
        frames = media.fit(rgb[picks], height=self._size[0], width=self._size[1])
        colour = frames.astype(np.float32) / 255
        result: dict[str, Any] = {}
        for modality in modalities:
            if modality == "rgb":
                video, side = self._encode("rgb", {"rgb": colour})
            elif (file := self._file(key, modality)).suffix == ".npz":
                arrays = self._read_arrays(file, modality, rgb.shape[:3])
                consecutive = bool(np.all(np.diff(picks) == 1))
                if not consecutive and (bad := [k for k in arrays if k in TO_NEXT_FRAME]):
                    raise UserError(
                        f"{file}: {bad[0]} leads to the next frame, which --fps="
                        f"{self._target_fps:g} skips; resample the video before computing it, or "
                        "give no --fps"
                    )
                arrays = {k: resize(k, v[picks], crop) for k, v in arrays.items()}
                hide_outside(arrays, self._size)
                codec = registry.get(modality).codec
                if "rgb" in codec.keys:  # for the frame's size, say; it is never in the npz
                    arrays["rgb"] = colour
                codec.check(arrays, str(file))
                video, side = self._encode(modality, arrays)
            else:
                video, side = self._read_drawn(file, modality, rgb.shape[:3], picks)
            result[modality] = (
                np.asarray(video),
                jax.device_get(dict(side)),
                self._text(key, modality),
            )
        return result

    def _picks(self, path: pathlib.Path, available: int, rate: float) -> np.ndarray:
        step = rate / self._target_fps if self._target_fps else 1.0
        picks = np.floor(np.arange(self._num_frames) * step + 0.5).astype(int)
        if picks[-1] >= available:
            usable = int((available - 0.5) / step) + (available == 1)
            fits = max(1, (usable - 1) // 4 * 4 + 1)
            raise UserError(
                f"{path}: {available} frames at {rate:g} fps are too few for --num_frames="
                f"{self._num_frames}"
                + (f" at --fps={self._target_fps:g}" if self._target_fps else "")
                + f"; use --num_frames={fits} or less, or move the clip away"
            )
        return picks

    def _read_arrays(
        self, file: pathlib.Path, modality: str, size: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        keys = [key for key in registry.get(modality).codec.keys if key != "rgb"]
        arrays = read_npz(
            file, keys, others=False, limit=(1 << 20) + MAX_PIXEL_BYTES * math.prod(size)
        )
        for key, array in arrays.items():
            _check_shape(file, key, array, size)
        return arrays

    def _read_drawn(
        self, file: pathlib.Path, modality: str, size: tuple[int, ...], picks: np.ndarray
    ) -> tuple[np.ndarray, Any]:
        frames, _ = media.read_video(file)
        if self._foreign_drawings and modality == "flow" and len(frames) == size[0] - 1:
            frames = np.concatenate([frames, frames[-1:]])
        if len(frames) != size[0]:
            raise UserError(
                f"{file}: {len(frames)} frames, but the RGB video has {size[0]}; make them equal"
            )
        if self._foreign_drawings:
            frames = media.fit(frames[picks], height=self._size[0], width=self._size[1])
            return media.to_float(frames), registry.get(modality).codec.default_side
        if frames.shape[1:3] != self._size or tuple(size[1:]) != self._size:
            raise UserError(
                f"{file}: {frames.shape[1]}x{frames.shape[2]} beside RGB of {size[1]}x{size[2]}; a "
                f"modality given as pictures cannot be scaled, so both must be of the requested "
                f"{self._size[0]}x{self._size[1]}. Give the arrays as .npz instead, or set "
                "--height and --width to the files' size"
            )
        return media.to_float(frames[picks]), registry.get(modality).codec.default_side

    def _encode(self, modality: str, arrays: dict[str, np.ndarray]) -> tuple[Any, Any]:
        if modality not in self._encoders:
            self._encoders[modality] = jax.jit(registry.get(modality).codec.encode)
        return self._encoders[modality](arrays)


class FolderSource(VideoFiles):
    """Clips of a folder; its layout is in the module's docstring.

    Args:
      folder: where the files are.
      modalities: what to prepare; every clip must have a file for each.
      num_frames, height, width: of the result.
      fps: resample to this rate; 0 keeps each video's own, and takes frames from the start.
      num_clips: only the first so many by name; None is all.
      keys: only these clips; None is all.

    Raises:
      UserError: an empty folder, a file that no rule explains, or a file that a clip lacks.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        modalities: Sequence[str],
        *,
        num_clips: int | None = None,
        keys: Sequence[str] | None = None,
        **target: Any,
    ):
        super().__init__(**target)
        self._folder = pathlib.Path(folder)
        self._modalities = tuple(modalities)
        if not self._folder.is_dir():
            raise UserError(f"--source={folder}: no such folder (or 'worlds' for rendered scenes)")
        self._files = self._scan()
        found = sorted(key for key, modality in self._files if modality == "rgb")
        if keys is not None:
            wanted = set(keys)
            found = [key for key in found if key in wanted]
        if not found:
            raise UserError(
                f"--source={folder}: no videos in it ({', '.join(media.VIDEO_SUFFIXES)} or a folder"
                " of images a clip)"
            )
        self.keys: Sequence[str] = found[:num_clips]
        for key in self.keys:
            self._require(key)
        self.fps = self._target_fps or media.read_video(self._file(self.keys[0], "rgb"), 1)[1]

    def _scan(self) -> dict[tuple[str, str], pathlib.Path]:
        files: dict[tuple[str, str], pathlib.Path] = {}
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith(".") or path.suffix == ".txt":
                continue
            is_video = path.is_dir() or path.suffix.lower() in media.VIDEO_SUFFIXES
            if not is_video and path.suffix != ".npz":
                continue
            stem = path.name if path.is_dir() else path.stem
            key, _, modality = stem.partition(".")
            if modality:
                try:
                    registry.get(modality)
                except UserError as error:
                    raise UserError(f"{path}: {error}; a key contains no dot") from None
            elif path.suffix == ".npz":
                raise UserError(f"{path}: name it <key>.<modality>.npz")
            entry = (key, modality or "rgb")
            if entry in files:
                raise UserError(f"{path} and {files[entry]} are both {entry[1]} of {key}; keep one")
            files[entry] = path
        return files

    def _file(self, key: str, modality: str) -> pathlib.Path:
        return self._files[key, modality]

    def _require(self, key: str) -> None:
        for modality in self._modalities:
            if (key, modality) not in self._files:
                raise UserError(
                    f"{self._folder}: clip {key!r} has no {modality} file; add "
                    f"{key}.{modality}.npz (or .mp4, or a folder of images), take "
                    f"{modality} out of --modalities, or move the clip away"
                )
        if not (self._folder / f"{key}.txt").exists():
            raise UserError(
                f"{self._folder}: clip {key!r} has no caption; add {key}.txt (it may be empty)"
            )

    def settings(self) -> dict[str, Any]:
        """Frame rate, and per modality a fingerprint of its files' names, sizes and times."""
        settings: dict[str, Any] = {"fps": self._target_fps}
        for modality in self._modalities:
            digest = hashlib.sha256()
            for key in self.keys:
                path = self._files[key, modality]
                texts = self._folder / f"{key}{'' if modality == 'rgb' else '.' + modality}.txt"
                inside = sorted(path.iterdir()) if path.is_dir() else [path]
                for file in [*inside, *([texts] if texts.exists() else [])]:
                    stat = file.stat()
                    digest.update(f"{file.name} {stat.st_size} {int(stat.st_mtime)}\n".encode())
            settings[f"files of {modality}"] = digest.hexdigest()[:12]
        return settings

    def _text(self, key: str, modality: str) -> str:
        if modality == "rgb":
            return (self._folder / f"{key}.txt").read_text(encoding="utf-8").strip()
        path = self._folder / f"{key}.{modality}.txt"
        if path.exists():
            return path.read_text(encoding="utf-8").strip()
        return registry.get(modality).prompt


def _check_shape(file: pathlib.Path, key: str, array: np.ndarray, size: tuple[int, ...]) -> None:
    if array.ndim < 1 or len(array) != size[0]:
        raise UserError(
            f"{file}: {key} has shape {array.shape}, but the RGB video has {size[0]} frames; make "
            "them equal"
        )
    if not _is_sparse(key) and array.shape[1:3] != tuple(size[1:]):
        raise UserError(
            f"{file}: {key} is {'x'.join(map(str, array.shape[1:3]))}, but the RGB frames are "
            f"{size[1]}x{size[2]}; bring them to one size"
        )


def _is_sparse(key: str) -> bool:
    return key in (*POINTS, "visibility")


def resize(key: str, array: np.ndarray, crop: Crop) -> np.ndarray:
    """One of a clip's arrays [t, ...], scaled and cropped by its kind."""
    if key in POINTS:
        return crop.points(array)
    if key in VECTORS:
        return crop.vectors(array)
    return array if _is_sparse(key) else crop.nearest(array)


def hide_outside(arrays: dict[str, np.ndarray], size: tuple[int, int]) -> None:
    """Keypoints that the crop cut away become absent (COCO visibility 0)."""
    if "keypoints" not in arrays or "visibility" not in arrays:
        return
    x, y = arrays["keypoints"][..., 0], arrays["keypoints"][..., 1]
    inside = (x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0])
    arrays["visibility"] = np.where(inside, arrays["visibility"], 0)
