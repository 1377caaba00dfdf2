"""A folder of videos with ground truth beside them.

    FOLDER/<key>.mp4                 RGB; also .mov, .mkv, .webm, .avi, or a folder of images <key>/
    FOLDER/<key>.txt                 the caption, UTF-8 or UTF-16, may be empty
    FOLDER/<key>.<modality>.npz      the arrays that the modality's codec reads, by their clip names
    FOLDER/<key>.<modality>.mp4      or: the modality as its codec draws it, of the requested size
    FOLDER/<key>.<modality>/         or: the same as a folder of images
    FOLDER/<key>.<modality>.txt      optional: this clip's modality prompt

A key contains no dot. Subfolders are searched too, and their name goes before the key, as in
`train/b`; files that are none of these are ignored, and listed.

Arrays belong to the RGB frames one to one: the same number, height and width. Both are then scaled
to cover the requested size and cropped at the centre together; depth, ids and flow by the nearest
pixel, since their values must not mix across an edge.
"""

import abc
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from unityvideo_jax import media, text_files
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.faults import Fault, list_ignored, refuse
from unityvideo_jax.inputs.listing import Listing, scan
from unityvideo_jax.inputs.sources import ClipBatch
from unityvideo_jax.npz import read_npz

ALLOW = "fix it, or pass --allow_faults to go on without what is faulty"
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
      keys, fps, faults: as `sources.Source` has them.
    """

    keys: Sequence[str]
    fps: float
    faults: Sequence[Fault] = ()
    # Whether modalities given as pictures are drawn by others than our codecs. No numbers are read
    # from such pictures, so they are scaled like RGB, as the public release does, and flow may
    # lack the last frame, which has no next one.
    _foreign_drawings = False

    def __init__(self, *, num_frames: int, height: int, width: int, fps: float = 0.0):
        """`fps` resamples to that rate; 0 keeps each video's own and takes the first frames."""
        self._num_frames, self._size = num_frames, (height, width)
        self._target_fps = float(fps)
        self._encoders: dict[str, Any] = {}

    def settings(self) -> dict[str, Any]:
        """What decides the content of all clips, as `sources.Source` has it."""
        return {"fps": self._target_fps}

    def identity(self, key: str, modality: str) -> str:
        """Name, text, and the names, sizes and times of the files, as `sources.Source` has it."""
        return self._identity(key, key, modality)

    def _identity(self, name: str, key: str, modality: str) -> str:
        path = self._file(key, modality)
        try:
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            stats = [(f.name, (stat := f.stat()).st_size, int(stat.st_mtime)) for f in inside]
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be opened ({error.strerror})") from error
        text = json.dumps([name, self._text(key, modality), stats])
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def texts(self, modalities: Sequence[str]) -> Mapping[str, Sequence[str]] | None:
        """The text of every clip by modality, as `sources.Source` has it."""
        return {m: [self._text(key, m) for key in self.keys] for m in modalities}

    def _rate(self) -> float:
        """Frames per second of the first video that can be read."""
        for key in self.keys:
            try:
                return media.read_video(self._file(key, "rgb"), 1)[1]
            except UserError as error:
                first = error
        raise first

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
    """Clips of a folder and its subfolders; the layout is in the module's docstring.

    Args:
      folder: where the files are.
      modalities: what to prepare; every clip must have a file for each.
      num_frames, height, width: of the result.
      fps: resample to this rate; 0 keeps each video's own, and takes frames from the start.
      num_clips: only the first so many by name; None is all.
      keys: only these clips; None is all.
      allow_faults: leave out clips that lack a file or whose caption does not read, and list them
        in `faults`; otherwise the first one raises.

    Raises:
      UserError: a folder without videos, a file that no rule explains, or a file that a clip lacks.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        modalities: Sequence[str],
        *,
        num_clips: int | None = None,
        keys: Sequence[str] | None = None,
        allow_faults: bool = False,
        **target: Any,
    ):
        super().__init__(**target)
        self._folder = pathlib.Path(folder)
        self._modalities = tuple(modalities)
        if not self._folder.is_dir():
            what = "a file; give a folder, or a .csv" if self._folder.exists() else "no such folder"
            raise UserError(f"--source={folder}: {what} (or 'worlds' for rendered scenes)")
        listing = scan(self._folder)
        self._files = listing.files
        self._texts: dict[tuple[str, str], str] = {}
        list_ignored(folder, listing.ignored)
        if keys is None:
            found, self.faults = listing.keys, listing.faults
        else:
            # Clips of our own making; whatever else lies in the folder is not asked for.
            found, self.faults = sorted(set(keys) & set(listing.keys)), []
        if not found and not self.faults:
            raise UserError(
                f"--source={folder}: no videos in it ({', '.join(media.VIDEO_SUFFIXES)} or a folder"
                " of images per clip)"
            )
        self.keys: list[str] = []
        for key in found:
            if num_clips is not None and len(self.keys) == num_clips:
                break
            try:
                self._check(key, listing)
                self.keys.append(key)
            except UserError as error:
                self.faults.append(Fault(what=f"clip {key!r}", reason=str(error)))
        if self.faults and not (allow_faults and self.keys):
            refuse(self.faults, len(found), ALLOW)
        self.fps = self._target_fps or self._rate()

    def _check(self, key: str, listing: Listing) -> None:
        """Reads a clip's texts; UserError if it lacks a file or one does not read."""
        if reason := listing.spoiled.get(key):
            raise UserError(reason)
        for modality in self._modalities:
            if (key, modality) not in self._files:
                raise UserError(
                    f"no {modality} file; add {key}.{modality}.npz (or .mp4, or a folder of "
                    f"images), take {modality} out of --modalities, or move the clip away"
                )
        if (key, "rgb") not in listing.texts:
            raise UserError(f"no caption; add {key}.txt (it may be empty)")
        for modality in self._modalities:
            if path := listing.texts.get((key, modality)):
                self._texts[key, modality] = text_files.read_text(path).strip()
            self.identity(key, modality)  # meets links to nothing and the like

    def _file(self, key: str, modality: str) -> pathlib.Path:
        return self._files[key, modality]

    def _text(self, key: str, modality: str) -> str:
        return self._texts.get((key, modality), registry.get(modality).prompt)


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
