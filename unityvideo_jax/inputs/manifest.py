"""A CSV of clips, as the public release takes them: `video,prompt,<modality>...`.

    video,prompt,depth,raft,depth_prompt
    clips/1.mp4,A person walks.,depth/1.mp4,flow/1.mp4,how far everything is

Paths are absolute or relative to the CSV, of videos, folders of images, or npz files of the arrays
that the modality's codec reads. `raft` is another name of `flow`. A column `<modality>_prompt` may
give a clip's own modality prompt. Videos of modalities are taken as drawn by others: they are
scaled like RGB and decoded by nobody.
"""

import csv
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

from unityvideo_jax import media, paths
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.openuni_tars import FOLDERS, Fault, mismatch, write_faults
from unityvideo_jax.inputs.video_files import VideoFiles

SET_ASIDE = "set_aside.json"


class ManifestSource(VideoFiles):
    """The clips of a CSV, in its order, named by their row and video.

    Args:
      table: the CSV.
      modalities: what to prepare; each but rgb is a column.
      num_clips: only the first so many; None is all.
      set_aside: write bad rows with their reasons to this file and go on; None raises at the first.
      target: num_frames, height, width, fps, as `VideoFiles` takes them.

    Raises:
      UserError: a file that is no such CSV, a column that it lacks, a bad row (with its line), or
        no good row at all.
    """

    _foreign_drawings = True

    def __init__(
        self,
        table: str | pathlib.Path,
        modalities: Sequence[str],
        *,
        num_clips: int | None = None,
        set_aside: pathlib.Path | None = None,
        **target: Any,
    ):
        super().__init__(**target)
        self._table, self._modalities = pathlib.Path(table), tuple(modalities)
        self._rows: dict[str, dict[str, str]] = {}
        faults = []
        for line, row in self._read():
            key = f"{line:08d}-{pathlib.PurePath(row['rgb']).stem}"
            if not (reason := self._reason(row)):
                self._rows[key] = row
            elif set_aside is None:
                raise UserError(
                    f"{table}, line {line}: {reason}; mend the row, or pass --allow_faults to set "
                    "bad rows aside"
                )
            else:
                faults.append(Fault(what=f"{table}, line {line}", reason=reason))
            if num_clips and len(self._rows) == num_clips:
                break
        if set_aside is not None:
            write_faults(set_aside, faults)
        if not self._rows:
            raise UserError(f"{table}: no good row in it" + (f", see {set_aside}" * bool(faults)))
        self.keys = list(self._rows)
        first = self._file(self.keys[0], "rgb")
        self.fps = self._target_fps or media.video_info(first).fps

    def _read(self) -> list[tuple[int, dict[str, str]]]:
        """Line numbers and rows, by modality and 'prompt'."""
        aliases = {folder: modality for folder, modality in FOLDERS.items()} | {"video": "rgb"}
        try:
            with open(self._table, encoding="utf-8-sig", newline="") as handle:
                reader = csv.DictReader(handle, strict=True)
                columns = {aliases.get(c, c): c for c in reader.fieldnames or ()}
                rows = [
                    (reader.line_num, {name: row[c] or "" for name, c in columns.items()})
                    for row in reader
                ]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self._table}: not a readable CSV in UTF-8 ({error})") from error
        if missing := [c for c in ("prompt", *self._modalities) if c not in columns]:
            names = ["video" if name == "rgb" else name for name in missing]
            raise UserError(
                f"{self._table}: lacks the column {', '.join(names)} (it has "
                f"{', '.join(columns.values())}); add it, or take it out of --modalities"
            )
        return rows

    def _path(self, row: dict[str, str], modality: str) -> pathlib.Path:
        return self._table.parent / paths.expand(row[modality])

    def _reason(self, row: dict[str, str]) -> str | None:
        """What is wrong with a row that its files' headers show; None if nothing is."""
        files = {}
        for modality in self._modalities:
            if not row[modality].strip():
                return f"no file of {modality}"
            path = self._path(row, modality)
            if not path.exists():
                return f"{path}: no such file of {modality}"
            if not path.is_dir():
                files[modality] = path
        return mismatch(files)

    def settings(self) -> dict[str, Any]:
        """Frame rate, and a fingerprint of the rows and of their files' sizes and times."""
        settings = self._target()
        for modality in self._modalities:
            digest = hashlib.sha256()
            for key, row in self._rows.items():
                stat = self._path(row, modality).stat()
                text = self._text(key, modality)
                digest.update(f"{key} {text} {stat.st_size} {int(stat.st_mtime)}\n".encode())
            settings[f"files of {modality}"] = digest.hexdigest()[:12]
        return settings

    def _file(self, key: str, modality: str) -> pathlib.Path:
        return self._path(self._rows[key], modality)

    def _text(self, key: str, modality: str) -> str:
        row = self._rows[key]
        if modality == "rgb":
            return row["prompt"].strip()
        return row.get(f"{modality}_prompt", "").strip() or registry.get(modality).prompt
