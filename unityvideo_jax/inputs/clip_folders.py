"""Clips in folders: the one layout of benchmarks and of any system's predictions.

  BENCHMARK/<clip>/clip.json           optional: {"caption": "...", "fps": 8}
  BENCHMARK/<clip>/<modality>.npz      ground truth under the clip's keys
  BENCHMARK/<clip>/rgb.mp4             the real video
  PREDICTIONS/<clip>/<modality>.npz    arrays under the same keys, or <modality>.mp4 in the codec's
                                       colours, which is decoded without the truth's side record
  PREDICTIONS/<clip>/rgb.mp4           generated video
  PREDICTIONS/<clip>/reestimated/<estimator>/<modality>.npz
                                       what an estimator reads from the generated video

Any video may also be an animation or a folder of images of that name, or an npz with "rgb"; depth
and segmentation may be a folder of images that hold numbers, with <modality>.json for the unit
(`unityvideo_jax/inputs/pictures.py`). `docs/evaluation.md` has more. A folder that `sample` wrote
is such a clip; only what was sampled counts.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance, strict_json
from unityvideo_jax.files.faults import list_ignored
from unityvideo_jax.files.npz import is_npz, read_npz
from unityvideo_jax.inputs import pictures
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.modalities import RGB

REESTIMATED = "reestimated"
MAX_FPS = 1000


def scored_streams() -> tuple[str, ...]:
    """The modalities that have a metric, RGB last."""
    return *modalities.metrics(), RGB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip's folder.

    Attributes:
      path: of the folder.
    """

    path: pathlib.Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    def source(self, stream: str) -> pathlib.Path | None:
        """The file or folder of a stream, numbers before pictures; None if there is none."""
        ranks = {suffix: rank for rank, suffix in enumerate((".npz", *media.SUFFIXES, ""))}
        there = self.path.iterdir() if self.path.is_dir() else ()
        found = [p for p in there if p.stem == stream and p.suffix.lower() in ranks]
        return min(found, key=lambda p: (ranks[p.suffix.lower()], p.name), default=None)

    @property
    def ignored(self) -> list[str]:
        """Names in the folder that nothing reads; a drawing beside numbers is not listed."""
        names = modalities.names()
        known = {"clip.json", "sample.json", "sheet.png", REESTIMATED}
        known |= {f"{name}{suffix}" for name in names for suffix in (".json", ".mp4")}
        known |= {source.name for name in names if (source := self.source(name))}
        others = (p.name for p in self.path.iterdir() if p.name not in known)
        return sorted(name for name in others if not name.startswith("."))

    @property
    def streams(self) -> tuple[str, ...]:
        """The modalities that can be scored and are there, RGB last.

        A sample's folder also has the streams that were given; those are nobody's prediction.

        Raises:
          UserError: a damaged `sample.json`.
        """
        record = self._json("sample.json")
        request = record.get("request", {})
        earlier = request.get("wanted", scored_streams()) if isinstance(request, dict) else None
        wanted = record.get("wanted", earlier)
        if not isinstance(wanted, list | tuple):
            raise UserError(f"{self.path / 'sample.json'}: wanted is no list; restore it")
        return tuple(s for s in scored_streams() if s in wanted and self.source(s) is not None)

    @property
    def estimators(self) -> dict[str, "Clip"]:
        """Modalities estimated again from the generated video, by estimator."""
        folder = self.path / REESTIMATED
        found = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        return {p.name: Clip(path=p) for p in found}

    def _json(self, name: str) -> dict:
        """A JSON object in the folder, empty if there is none."""
        path = self.path / name
        if not path.exists():
            return {}
        return strict_json.read_object(path)

    @property
    def record(self) -> dict:
        """The content of `clip.json`; empty if there is none.

        Raises:
          UserError: no JSON object, or a caption, prompts or fps of another type than they have.
        """
        record = self._json("clip.json")
        caption, prompts = record.get("caption", ""), record.get("prompts", {})
        fps = record.get("fps", media.DEFAULT_FPS)
        if not isinstance(caption, str):
            raise UserError(f"{self.path / 'clip.json'}: caption is no text")
        texts = [*prompts.values()] if isinstance(prompts, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{self.path / 'clip.json'}: prompts must map modalities to texts")
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= MAX_FPS:
            raise UserError(f"{self.path / 'clip.json'}: fps is not above 0 and up to {MAX_FPS}")
        return record

    @property
    def caption(self) -> str:
        """The caption, empty if there is none."""
        return self.record.get("caption", "")

    def video(self, max_frames: int | None = None) -> media.Video:
        """Reads RGB, the first `max_frames` frames or all; the clip's record may state its rate.

        Raises:
          UserError: names the file, and what is missing or not readable.
        """
        path = self.source(RGB)
        if path is None:
            raise UserError(f"{self.path}: holds no rgb.mp4, rgb.npz or folder rgb")
        if not is_npz(path):
            video = media.read(path, num_frames=max_frames)
        else:
            frames = self._frames(path)[:max_frames]
            video = media.Video(
                frames=frames,
                fps=media.DEFAULT_FPS,
                numbers=np.arange(len(frames)),
                stored_size=frames.shape[1:3],
            )
        return dataclasses.replace(video, fps=float(self.record.get("fps", video.fps)))

    @staticmethod
    def _frames(path: pathlib.Path) -> UInt8[np.ndarray, "t h w 3"]:
        rgb = read_npz(path, (RGB,))[RGB]
        if rgb.ndim != 4 or rgb.shape[3] != 3 or not len(rgb):
            raise UserError(f"{path}: rgb has shape {rgb.shape}; give [T, H, W, 3]")
        if rgb.dtype == np.uint8:
            return rgb
        if not np.isfinite(rgb).all() or rgb.min() < 0 or rgb.max() > 1.001:
            raise UserError(f"{path}: rgb must be uint8, or finite and in [0, 1]")
        return np.round(255.0 * np.clip(rgb, 0.0, 1.0)).astype(np.uint8)

    def arrays(self, modality: str, unit: str = "") -> Arrays:
        """Reads a modality's arrays, from numbers or decoded from its video.

        Args:
          modality: one that has a metric.
          unit: of depth in numbers that no file states, as a flag says it; "" if none does.

        Returns:
          The arrays; depth in metres where its unit is known, see `depth_units.in_metres`.

        Raises:
          UserError: names the file, and what is missing or not readable.
        """
        path = self.source(modality)
        if path is None:
            raise UserError(f"{self.path}: holds no {modality}.npz or {modality}.mp4")
        if self.holds_numbers(modality, unit):
            return self._stored(modality, path, unit)
        versions = self._json("sample.json").get("codecs")
        version = versions.get(modality) if isinstance(versions, dict) else None
        codec = modalities.get(modality).codec_of(version, str(path))
        return modalities.decode_alone(codec, media.to_float(media.read_video(path)[0]))

    def truth(self, modality: str, unit: str = "") -> Arrays | None:
        """Reads ground truth in numbers, as `arrays` gives it; None if there is none.

        Depth of 0, by which many files mark unmeasured pixels, becomes +inf: no surface.
        """
        if not self.holds_numbers(modality, unit):
            return None
        arrays = self._stored(modality, self.source(modality), unit)
        if modality == "depth" and (unmeasured := arrays["depth"] == 0).any():
            arrays["depth"] = np.where(unmeasured, np.float32(np.inf), arrays["depth"])
        return arrays

    def holds_numbers(self, modality: str, unit: str = "") -> bool:
        """Whether a modality lies there as an npz or as pictures of numbers, not as a drawing."""
        path = self.source(modality)
        if path is None or is_npz(path):
            return path is not None
        return pictures.holds_numbers(modality, path, depth_unit=unit)

    @staticmethod
    def _stored(modality: str, path: pathlib.Path, unit: str) -> Arrays:
        keys = modalities.get(modality).metric.keys
        return pictures.read_truth(modality, path, keys, depth_unit=unit)

    def checksums(self, streams: Sequence[str]) -> dict[str, str]:
        """SHA-256 of the files of these streams (and of the caption), by relative path."""
        paths = [self.source(s) for s in streams]
        paths += [self.path / f"{name}.json" for name in ("clip", "sample", *streams)]
        there = [p for p in paths if p is not None and p.exists()]
        return {str(p.relative_to(self.path)): provenance.file_hash(p) for p in there}


def clips_of(folder: pathlib.Path, flag: str) -> dict[str, Clip]:
    """The clips of a benchmark or of a system in order of name; lists the files that nothing reads.

    Raises:
      UserError: no such folder, or no clip in it; names the flag.
    """
    if not folder.is_dir():
        raise UserError(f"--{flag}={folder}: no such folder; see docs/evaluation.md for its layout")
    found = {
        p.name: Clip(path=p)
        for p in sorted(folder.iterdir())
        if p.is_dir() and not p.name.startswith(".")
    }
    if not found:
        raise UserError(f"--{flag}={folder}: holds no clips; make one folder per clip")
    others = [p.name for p in folder.iterdir() if p.is_file() and p.suffix != ".json"]
    others = sorted(name for name in others if not name.startswith("."))
    parts = [part for clip in found.values() for part in (clip, *clip.estimators.values())]
    others += [(p.path / name).relative_to(folder) for p in parts for name in p.ignored]
    list_ignored(folder, others)
    return found
