"""A CSV of clips, as the public release takes them: `video,prompt,<modality>...`.

    video,prompt,depth,raft,depth_prompt
    clips/1.mp4,A person walks.,depth/1.mp4,flow/1.mp4,how far everything is

Paths are absolute, URLs of object stores or relative to the CSV, of videos, folders of images, or
npz files of the arrays that the modality's codec reads. Every row has a prompt and as many fields
as the header; a text with a comma is quoted. `raft` is another name of `flow`. A column
`<modality>_prompt` may give a clip's own modality prompt; other columns are refused. Videos of
modalities are taken as drawn by others: they are scaled like RGB and decoded by nobody.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths, stores, text_files
from unityvideo_jax.files.faults import Fault, refuse
from unityvideo_jax.inputs.openuni_tars import FOLDERS, mismatch
from unityvideo_jax.inputs.video_files import ALLOW, VideoFiles
from unityvideo_jax.media.source import note


class ManifestSource(VideoFiles):
    """The clips of a CSV, in its order, named by their row and video.

    Args:
      table: the CSV.
      modalities: what to prepare; each but rgb is a column.
      num_clips: only the first so many; None is all.
      allow_faults: leave out bad rows and list them in `faults`; otherwise the first one raises.
      target: num_frames, height, width, fps, as `VideoFiles` takes them.

    Raises:
      UserError: a file that is no such CSV, a column that it lacks or that is not known, a bad row
        (with its line), or no good row at all.
    """

    _foreign_drawings = True

    def __init__(
        self,
        table: str | pathlib.Path,
        modalities: Sequence[str],
        *,
        num_clips: int | None = None,
        allow_faults: bool = False,
        **target: Any,
    ):
        super().__init__(**target)
        self._table, self._modalities = stores.local(table), tuple(modalities)
        self._rows: dict[str, dict[str, str]] = {}
        self.faults: list[Fault] = []
        lines: dict[tuple[str, ...], int] = {}
        for line, row, fault in self._read():
            if reason := fault or self._reason(row):
                self.faults.append(Fault(what=f"{table}, line {line}", reason=reason))
            else:
                if (first := lines.setdefault(tuple(row.values()), line)) != line:
                    note("same row", f"{table}, line {line}: as line {first}; both become clips")
                self._rows[f"{line:08d}-{pathlib.PurePath(row[registry.RGB].strip()).stem}"] = row
            if num_clips and len(self._rows) == num_clips:
                break
        self.keys = list(self._rows)
        if self.faults and not (allow_faults and self.keys):
            refuse(self.faults, len(self.faults) + len(self.keys), ALLOW)
        if not self.keys:
            raise UserError(f"{table}: no row in it")
        self.fps = self._target_fps or self._rate()

    def _read(self) -> Iterator[tuple[int, dict[str, str], str]]:
        """Line numbers, rows by modality and 'prompt', and why a row does not read."""
        alias = {"video": registry.RGB} | FOLDERS
        prompts = [f"{name}_prompt" for name in registry.names() if name != registry.RGB]
        known = ("video", "prompt", *alias, *registry.names(), *prompts)
        for row in text_files.read_table(self._table, known=tuple(dict.fromkeys(known))):
            names = {alias.get(column, column): column for column in row.columns}
            if len(names) < len(row.columns):
                raise UserError(
                    f"{self._table}: two columns of one modality among {', '.join(row.columns)} "
                    "(raft is flow, video is rgb); keep one"
                )
            if missing := [c for c in ("prompt", *self._modalities) if c not in names]:
                lacking = ["video" if name == registry.RGB else name for name in missing]
                raise UserError(
                    f"{self._table}: lacks the column {', '.join(lacking)} (it has "
                    f"{', '.join(row.columns)}); add it, or take it out of --modalities"
                )
            cells = {} if row.fault else {name: row.cells[c].strip() for name, c in names.items()}
            yield row.line, cells, row.fault

    def _path(self, row: dict[str, str], modality: str) -> pathlib.Path:
        file = paths.expand(row[modality])
        return stores.local(file if stores.url(file) else self._table.parent / file)

    def _reason(self, row: dict[str, str]) -> str | None:
        """What is wrong with a row that its files' headers show; None if nothing is."""
        if not row["prompt"]:
            return "no prompt"
        files = {}
        for modality in self._modalities:
            if not row[modality]:
                return f"no file of {modality}"
            try:
                path = self._path(row, modality)
                if not path.exists():
                    return f"{path}: no such file of {modality}"
            except (OSError, RuntimeError) as error:
                return f"the path of {modality} cannot be used ({error})"
            files[modality] = path
        return mismatch(files)

    def identity(self, key: str, modality: str) -> str:
        """Hash of the row's content, not of its place, so that a row above can be deleted."""
        return self._identity(self._rows[key][modality], key, modality)

    def _file(self, key: str, modality: str) -> pathlib.Path:
        return self._path(self._rows[key], modality)

    def _text(self, key: str, modality: str) -> str:
        row = self._rows[key]
        if modality == registry.RGB:
            return row["prompt"]
        return row.get(f"{modality}_prompt") or registry.get(modality).prompt
