"""Clips whose modalities are files: reading the files of one clip, whoever lists them."""

import abc
import copy
import hashlib
import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from unityvideo_jax import media
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.files.faults import Fault
from unityvideo_jax.files.npz import is_npz, read_npz
from unityvideo_jax.inputs import pictures
from unityvideo_jax.inputs.crop import Crop, hide_outside, is_sparse, resize
from unityvideo_jax.inputs.shown_frames import at_frames
from unityvideo_jax.inputs.sources import ClipBatch
from unityvideo_jax.media.source import note
from unityvideo_jax.metrics.depth_units import UNIT

ALLOW = "fix it, or pass --allow_faults to continue without what is faulty"
# Rates that differ by a larger share than this are reported.
SAME_RATE = 0.01
# Bytes that the arrays of a modality take at most per pixel of the video; people's come on top.
MAX_PIXEL_BYTES = 64


class VideoFiles(abc.ABC):
    """Clips whose modalities are files: reads, checks, scales and draws them.

    A subclass says which clips there are and where their files and texts lie.

    Attributes:
      keys, fps, codecs, faults: as `sources.Source` has them.
    """

    keys: Sequence[str]
    fps: float
    faults: Sequence[Fault] = ()
    # Whether modalities given as pictures are drawn by others than our codecs. No numbers are read
    # from such pictures, so they are scaled like RGB, as the public release does, and flow may
    # lack the last frame, which has no next one.
    _foreign_drawings = False

    def __init__(
        self,
        *,
        num_frames: int,
        height: int,
        width: int,
        fps: float = 0.0,
        depth_unit: str = "",
        codecs: Mapping[str, str] = types.MappingProxyType({}),
    ):
        """Sets the size, rate and units of the clips.

        Args:
          num_frames, height, width: of every clip; frames are taken from the start.
          fps: frames are taken by time at this rate; 0 keeps each video's own.
          depth_unit: of depth in arrays and pictures without a file that states it; "" is metres
            in an .npz, and in pictures as `inputs.pictures` says.
          codecs: as `sources.Source` has it.
        """
        self.codecs = codecs
        self._num_frames, self._size = num_frames, (height, width)
        self._target_fps, self._depth_unit = float(fps), depth_unit
        self._encoders: dict[str, Any] = {}

    def _target(self) -> dict[str, Any]:
        """Settings that decide the content beside the files; part of `settings`."""
        unit = {"depth_unit": self._depth_unit} if self._depth_unit else {}
        return {"fps": self._target_fps, **unit}

    def settings(self) -> dict[str, Any]:
        """Settings that decide the content of all clips, as `sources.Source` has them."""
        return self._target()

    def identity(self, key: str, modality: str) -> str:
        """Name, text, and the names, sizes and times of the files, as `sources.Source` has it."""
        return self._identity(key, key, modality)

    def _identity(self, name: str, key: str, modality: str) -> str:
        path = self._file(key, modality)
        beside = pictures.side_file(path)
        try:
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            files += [beside] * beside.exists()
            stats = [(f.name, (stat := f.stat()).st_size, int(stat.st_mtime)) for f in files]
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
                return media.video_info(self._file(key, registry.RGB)).fps
            except UserError as error:
                first = error
        raise first

    def extent(self, key: str) -> tuple[int, int, int]:
        """Frames that a clip has at the rate that is asked for, their height and width.

        Raises:
          UserError: nothing there that reads.
        """
        path = self._file(key, "rgb")
        info, frames = media.video_info(path), None
        if self._target_fps and media.open_source(path).has_rate:
            frames = int(max(info.seconds - media.CLOCK, 0) * self._target_fps) + 1
        return frames or info.num_frames, info.height, info.width

    def part(
        self, keys: Sequence[str], size: tuple[int, int, int], faults: Sequence[Fault]
    ) -> "VideoFiles":
        """Some of the clips at another size.

        Args:
          keys: of the clips.
          size: frames, height and width of the result.
          faults: of what is left out.
        """
        other = copy.copy(self)
        other.keys, other.faults, other._encoders = list(keys), list(faults), {}
        other._num_frames, other._size = size[0], size[1:]
        return other

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
        path = self._file(key, registry.RGB)
        rgb = self._read_rgb(path)
        stored = media.video_info(path)
        crop = Crop(source=rgb.stored_size, target=self._size)
        colour = rgb.frames.astype(np.float32) / 255
        result: dict[str, Any] = {}
        for modality in modalities:
            if modality == registry.RGB:
                video, side = self._encode(registry.RGB, {"rgb": colour})
            elif (arrays := self._read_arrays(key, modality, stored, rgb.numbers)) is not None:
                arrays = {k: resize(k, v, crop) for k, v in arrays.items()}
                hide_outside(arrays, self._size)
                codec = self._codec(modality)
                if "rgb" in codec.keys:  # for the frame's size, say; it is never in the npz
                    arrays["rgb"] = colour
                codec.check(arrays, str(self._file(key, modality)))
                video, side = self._encode(modality, {k: arrays[k] for k in codec.keys})
            else:
                video, side = self._read_drawn(key, modality, stored, rgb.numbers)
            result[modality] = (
                np.asarray(video),
                jax.device_get(dict(side)),
                self._text(key, modality),
            )
        return result

    def _read_rgb(self, path: pathlib.Path) -> media.Video:
        video = media.read(
            path, fps=self._target_fps or None, num_frames=self._num_frames, size=self._size
        )
        available = len(video.frames)
        if available < self._num_frames:
            raise UserError(
                f"{path}: {available} frames at {video.fps:g} fps are too few for --num_frames="
                f"{self._num_frames}; use --num_frames={(available - 1) // 4 * 4 + 1} or less, or "
                "move the clip away"
            )
        if self._num_frames > 1 and abs(video.fps / self.fps - 1) > SAME_RATE:
            note(
                "rates differ",
                f"{path}: {video.fps:g} fps beside {self.fps:g} of the first clip; --fps brings "
                "all to one rate",
            )
        return video

    def _read_arrays(
        self, key: str, modality: str, rgb: media.VideoInfo, numbers: np.ndarray
    ) -> dict[str, np.ndarray] | None:
        """The arrays of a modality at these frames; None if it is given as a drawing."""
        file = self._file(key, modality)
        if not is_npz(file):
            if not pictures.holds_numbers(modality, file, depth_unit=self._depth_unit):
                return None
            found = media.video_info(file)
            _check_count(file, found.num_frames, rgb)
            _check_size(file, modality, (found.height, found.width), rgb)
            return pictures.read_arrays(modality, file, numbers, depth_unit=self._depth_unit)
        keys = [key for key in self._codec(modality).keys if key != "rgb"]
        limit = (1 << 20) + MAX_PIXEL_BYTES * rgb.num_frames * rgb.height * rgb.width
        stored = read_npz(file, keys, limit=limit)
        arrays = {key: stored[key] for key in keys}
        unit = {UNIT: stored[UNIT]} if UNIT in stored and "depth" in keys else {}
        for name, array in arrays.items():
            if array.ndim < 1:
                raise UserError(f"{file}: {name} is one number; give one entry per frame")
            _check_count(file, len(array), rgb, f"{name} has shape {array.shape}")
            if not is_sparse(name):
                _check_size(file, name, array.shape[1:3], rgb)
        arrays = {k: at_frames(k, array, numbers, file) for k, array in arrays.items()} | unit
        pictures.scaled_depth(arrays, file, depth_unit=self._depth_unit)
        return arrays

    def _read_drawn(
        self, key: str, modality: str, rgb: media.VideoInfo, numbers: np.ndarray
    ) -> tuple[np.ndarray, Any]:
        file, side = self._file(key, modality), self._codec(modality).default_side
        drawn = media.video_info(file)
        are_timed = all(media.open_source(f).has_rate for f in (file, self._file(key, "rgb")))
        if are_timed and abs(drawn.fps / rgb.fps - 1) > SAME_RATE:
            note(
                "rates of a clip",
                f"{file}: {drawn.fps:g} fps beside {rgb.fps:g} of the RGB video; frames are taken "
                "by their number",
            )
        if self._foreign_drawings:
            if self._codec(modality) != registry.get(modality).codec:
                raise UserError(
                    f"{file}: drawn by others, of unknown scale; leave --{modality}_codec out"
                )
            if modality == "flow" and drawn.num_frames == rgb.num_frames - 1:
                numbers = np.minimum(numbers, drawn.num_frames - 1)
            else:
                _check_count(file, drawn.num_frames, rgb)
            return media.to_float(media.read(file, numbers=numbers, size=self._size).frames), side
        _check_count(file, drawn.num_frames, rgb)
        if not self._size == (drawn.height, drawn.width) == (rgb.height, rgb.width):
            raise UserError(
                f"{file}: {drawn.height}x{drawn.width} beside RGB of {rgb.height}x{rgb.width}; a "
                f"modality given as pictures cannot be scaled, so both must be of the requested "
                f"{self._size[0]}x{self._size[1]}. Give the arrays as .npz instead, or set "
                "--height and --width to the files' size"
            )
        return media.to_float(media.read(file, numbers=numbers).frames), side

    def _codec(self, modality: str) -> registry.Codec:
        return registry.chosen_codec(modality, self.codecs)

    def _encode(self, modality: str, arrays: dict[str, np.ndarray]) -> tuple[Any, Any]:
        if modality not in self._encoders:
            self._encoders[modality] = jax.jit(self._codec(modality).encode)
        return self._encoders[modality](arrays)


def _check_count(file: pathlib.Path, found: int, rgb: media.VideoInfo, what: str = "") -> None:
    if found != rgb.num_frames:
        raise UserError(
            f"{file}: {what or f'{found} frames'}, but the RGB video has {rgb.num_frames} frames; "
            "make them equal"
        )


def _check_size(
    file: pathlib.Path, name: str, found: tuple[int, ...], rgb: media.VideoInfo
) -> None:
    if found != (rgb.height, rgb.width):
        raise UserError(
            f"{file}: {name} is {'x'.join(map(str, found))}, but the RGB frames are "
            f"{rgb.height}x{rgb.width}; bring them to one size"
        )
