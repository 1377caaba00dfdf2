"""A folder of videos with ground truth beside them.

    FOLDER/<key>.mp4                 RGB; also any other suffix of `media.VIDEO_SUFFIXES`, such as
                                     .mov, .webm and .gif, or a folder of images <key>/
    FOLDER/<key>.txt                 the caption, UTF-8, may be empty
    FOLDER/<key>.<modality>.npz      the arrays that the modality's codec reads, by their clip names
    FOLDER/<key>.<modality>.mp4      or: the modality as its codec draws it, of the requested size
    FOLDER/<key>.<modality>/         or: the same as a folder of images, or images that hold
                                     numbers: depth in 16 bits, ids of segments (`pictures`)
    FOLDER/<key>.depth.json          optional: {"unit": "mm", "scale": 1.0} of stored depth
    FOLDER/<key>.<modality>.txt      optional: this clip's modality prompt

A key contains no dot. Arrays belong to the RGB frames one to one: the same number, height and
width. Both are then scaled to cover the requested size and cropped at the centre together; depth,
ids and flow by the nearest pixel, since their values must not mix across an edge.
"""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

from unityvideo_jax import media
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import pictures
from unityvideo_jax.inputs.video_files import VideoFiles


class FolderSource(VideoFiles):
    """Clips of a folder; its layout is in the module's docstring.

    Args:
      folder: where the files are.
      modalities: what to prepare; every clip must have a file for each.
      num_frames, height, width: of the result.
      fps: takes frames by time at this rate; 0 keeps each video's own.
      depth_unit: of depth whose unit no file states; "" is the default of `inputs.pictures`.
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
        self.fps = self._target_fps or media.video_info(self._file(self.keys[0], "rgb")).fps

    def _scan(self) -> dict[tuple[str, str], pathlib.Path]:
        files: dict[tuple[str, str], pathlib.Path] = {}
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith(".") or path.suffix == ".txt":
                continue
            is_video = path.is_dir() or media.is_video(path)
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
        settings = self._target()
        for modality in self._modalities:
            digest = hashlib.sha256()
            for key in self.keys:
                path = self._files[key, modality]
                texts = self._folder / f"{key}{'' if modality == 'rgb' else '.' + modality}.txt"
                inside = sorted(path.iterdir()) if path.is_dir() else [path]
                beside = [p for p in (texts, pictures.side_file(path)) if p.exists()]
                for file in [*inside, *beside]:
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
