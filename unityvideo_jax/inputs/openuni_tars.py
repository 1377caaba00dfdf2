"""The published layout of OpenUni: tars of videos, one folder per modality, and CSV metadata.

    ROOT/<split>/<subset>/RGB/<subset>_RGB_part001.tar.gz
    ROOT/<split>/<subset>/depth/<subset>_depth_part113.tar.gz
    ROOT/<split>/<subset>/raft/<subset>_raft_part43.tar.gz       optical flow
    ROOT/<split>/<subset>/segmentation/<subset>_segmentation_part225.tar.gz
    ROOT/<split>/<subset>/metadata/*.csv                         or ROOT/<split>/*.csv

Seen of the public release: these folders, the names of the tars, and that parts of two modalities
do not correspond. Not seen, and therefore found from the data: paths inside the tars (a clip is
known by its file's stem), and the columns of the CSV (the one whose values name the clips).
"""

import dataclasses
import json
import pathlib
import re
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Container, Mapping, Sequence

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import disk, provenance, strict_json, text_files
from unityvideo_jax.files.faults import Fault, list_ignored, shown
from unityvideo_jax.files.names import name_fault, safe_path
from unityvideo_jax.files.npz import is_npz
from unityvideo_jax.files.paths import atomic_path
from unityvideo_jax.modalities import RGB

FOLDERS = {
    "rgb": "rgb",
    "depth": "depth",
    "raft": "flow",
    "segmentation": "segmentation",
    "densepose": "densepose",
    "skeleton": "skeleton",
}
CAPTIONS = ("prompt", "caption", "text", "description")
SUFFIXES = (*media.VIDEO_SUFFIXES, ".npz")
# Aspects that differ by a larger share than this are no rounding to whole blocks of pixels.
SAME_ASPECT = 0.02
TAR_ERRORS = (tarfile.TarError, EOFError, OSError, ValueError, zlib.error)
# Members that stand for a long name or for further headers: `tarfile` reads them into memory.
HEADERS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
MAX_HEADER = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subset:
    """One source's folder in one split.

    Attributes:
      path: of the folder.
      split: its name.
    """

    path: pathlib.Path
    split: str

    @property
    def tars(self) -> dict[str, list[pathlib.Path]]:
        """The tars of each modality, in order of name."""
        found = {}
        for folder in sorted(p for p in self.path.iterdir() if p.is_dir()):
            if modality := FOLDERS.get(folder.name.lower()):
                found[modality] = sorted(p for p in folder.iterdir() if ".tar" in p.suffixes)
        return {modality: tars for modality, tars in found.items() if tars}

    @property
    def tables(self) -> list[pathlib.Path]:
        """The CSV files that may describe its clips."""
        own = sorted((self.path / "metadata").glob("*.csv"))
        return own or sorted(self.path.parent.glob("*.csv"))


def find_subset(root: pathlib.Path, name: str) -> list[Subset]:
    """A subset in each split that has it.

    Raises:
      UserError: no folder of that name with an `RGB` folder of tars in it.
    """
    if not root.is_dir():
        raise UserError(f"--tars={root}: no such folder")
    folders = [Subset(path=p, split=p.parent.name) for p in sorted(root.glob("*/*")) if p.is_dir()]
    everything = [subset for subset in folders if "rgb" in subset.tars]
    found = [subset for subset in everything if subset.path.name == name]
    if not found:
        known = ", ".join(sorted({subset.path.name for subset in everything}))
        raise UserError(
            f"--tars={root}: no subset {name!r} with tars in {root}/<split>/{name}/RGB; "
            + (f"it has {known}: name one by --subset" if known else "see data/openuni/README.md")
        )
    return found


def clip_key(name: str, modality: str) -> str:
    """The clip that a file belongs to: its stem, less the name of its modality at the end."""
    names = [modality, *(folder for folder, m in FOLDERS.items() if m == modality)]
    return re.sub(rf"[._-]({'|'.join(names)})$", "", pathlib.PurePosixPath(name).stem, flags=re.I)


class _Header(tarfile.TarInfo):
    """A member's header, of bounded size."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Header":
        """Parses a header as `tarfile` does; ReadError for a header of over `MAX_HEADER` bytes."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in HEADERS and found.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {found.size} bytes")
        return found


def _member_fault(member: tarfile.TarInfo, files: Container[str], key: str) -> str:
    """Why a member of a tar is set aside; '' if it is not."""
    base = pathlib.PurePosixPath(member.name).name
    suffix = pathlib.PurePosixPath(base).suffix.lower()
    if not member.isfile():
        return "a link or a device"
    if fault := name_fault(base):
        return f"its name {fault}"
    if suffix not in SUFFIXES:
        return f"a {suffix or 'file without suffix'}, not one of {', '.join(SUFFIXES)}"
    if key in files:
        return f"a second file of clip {key}; the first is taken"
    if not member.size:
        return "an empty file"
    return "a sparse file" if member.issparse() else ""


def unpack(
    tar: pathlib.Path, modality: str, folder: pathlib.Path
) -> tuple[dict[str, pathlib.Path], list[Fault]]:
    """Extracts the files of one tar, byte for byte, by clip; an unpacked tar is not read again.

    Args:
      tar: plain or compressed.
      modality: that its files show.
      folder: where they go.

    Returns:
      Clip -> file, and what was set aside. A truncated tar yields the files before its break.

    Raises:
      UserError: the disk refuses to give the tar or to take its files.
    """
    receipt = folder / f"{tar.name}.json"
    stat = tar.stat()
    state = [stat.st_size, int(stat.st_mtime)]
    if (earlier := _unpacked(receipt, state)) is not None:
        return earlier
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    faults: list[Fault] = []
    hidden = []
    try:
        with tarfile.open(tar, "r|*", tarinfo=_Header) as stream:
            for member in stream:
                base = pathlib.PurePosixPath(member.name).name
                size, free = stream.offset - member.offset_data, shutil.disk_usage(folder).free
                # Not even skipped: `tarfile` would count to the end of what is claimed.
                if size > free:
                    raise tarfile.ReadError(f"a file of {size} bytes, the disk has {free} left")
                if member.isdir():
                    continue
                if base.startswith("."):
                    hidden.append(member.name)
                    continue
                key = clip_key(base, modality)
                if reason := _member_fault(member, files, key):
                    faults.append(Fault(what=f"{tar}: {shown(member.name)}", reason=reason))
                    continue
                with atomic_path(folder / base) as temporary, open(temporary, "wb") as out:
                    source = stream.extractfile(member)
                    while block := source.read(1 << 20):
                        out.write(block)
                files[key] = base
    except TAR_ERRORS as error:
        disk.raise_if_refused(error, folder)
        faults.append(
            Fault(
                what=str(tar),
                reason=f"breaks off after {len(files)} files ({error or 'end of file'}); "
                "download it again",
            )
        )
    list_ignored(tar, hidden)
    record = {"state": state, "files": files, "faults": [vars(f) for f in faults]}
    provenance.write_json(receipt, record)
    return {key: folder / name for key, name in files.items()}, faults


def _unpacked(
    receipt: pathlib.Path, state: list[int]
) -> tuple[dict[str, pathlib.Path], list[Fault]] | None:
    """What `unpack` returned for the same tar; None if it did not end, or something is lost."""
    if not receipt.exists():
        return None
    fix = f"delete {receipt.parent}"
    stored = strict_json.read_object(receipt, fix)
    try:
        if stored["state"] != state:
            return None
        files = {
            key: safe_path(receipt.parent, name, where=f"{receipt}:")
            for key, name in stored["files"].items()
        }
        faults = [Fault(**fault) for fault in stored["faults"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{receipt}: not as it was written ({error!r}); {fix}") from error
    return (files, faults) if all(path.is_file() for path in files.values()) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """A clip's caption, and its whole row of metadata as JSON."""

    caption: str
    metadata: str


def _named(value: object) -> str:
    """The clip that a cell may name; cells of long text name none."""
    if not isinstance(value, str) or len(value) > 1024:
        return ""
    return clip_key(value, "rgb")


def describe(
    tables: Sequence[pathlib.Path], keys: Sequence[str], caption_column: str = ""
) -> tuple[dict[str, Described], list[Fault]]:
    """Reads the metadata of these clips, and lists the rows that were set aside.

    Args:
      tables: CSV files with a header.
      keys: the clips.
      caption_column: its name; '' takes the first of `CAPTIONS` that is there.

    Raises:
      UserError: no table, none whose values name the clips, or no caption column.
    """
    if not tables:
        raise UserError("no metadata/*.csv beside the tars; download it, since it has the captions")
    wanted, found = set(keys), {}
    faults: list[Fault] = []
    for table in tables:
        hits: Counter[str] = Counter()
        columns: list[str] = []
        for row in text_files.read_table(table):
            columns = columns or list(row.columns)
            hits.update(c for c, cell in row.cells.items() if _named(cell) in wanted)
        if not hits:
            continue
        (key_column, _), *_ = hits.most_common(1)
        lower = {c.lower(): c for c in columns}
        names = [caption_column] if caption_column else [lower[c] for c in CAPTIONS if c in lower]
        if not names or names[0] not in columns:
            raise UserError(
                f"{table}: no caption column among {', '.join(columns)}; name it by "
                "--caption_column"
            )
        for row in text_files.read_table(table):
            where = f"{table}, line {row.line}"
            if row.fault:
                faults.append(Fault(what=where, reason=row.fault))
            elif (key := _named(row.cells[key_column])) in wanted:
                one = Described(
                    caption=row.cells[names[0]].strip(),
                    metadata=json.dumps(row.cells, ensure_ascii=False),
                )
                if found.setdefault(key, one) != one:
                    reason = f"a second row of clip {key}; the first is taken"
                    faults.append(Fault(what=where, reason=reason))
    if not found:
        raise UserError(
            f"{', '.join(map(str, tables))}: no column names any of the {len(wanted)} clips, such "
            f"as {min(wanted, default='')!r}; is it the metadata of these tars?"
        )
    return found, faults


def join(
    files: Mapping[str, Mapping[str, pathlib.Path]],
    described: Mapping[str, Described],
) -> tuple[list[str], list[Fault]]:
    """The clips that are whole, in order of name, and the faults of the others.

    Args:
      files: modality -> clip -> file, 'rgb' among them.
      described: clip -> metadata.
    """
    whole, faults = [], []
    for key in sorted(set().union(*files.values())):
        lacks = [modality for modality in files if key not in files[modality]]
        reason = f"no file of {', '.join(lacks)} in the tars" if lacks else None
        if not reason and key not in described:
            reason = "no row in the metadata"
        if not reason:
            reason = mismatch({m: files[m][key] for m in files})
        if reason:
            faults.append(Fault(what=key, reason=reason))
        else:
            whole.append(key)
    return whole, faults


def mismatch(files: Mapping[str, pathlib.Path]) -> str | None:
    """Why the videos of a clip do not belong together; None if they do.

    Flow from each frame to the next may have one frame fewer. Sizes may differ, aspects may not:
    every video is cropped at the centre by itself.
    """
    infos = {}
    for modality, path in files.items():
        if not is_npz(path):
            try:
                infos[modality] = media.video_info(path)
            except UserError as error:
                disk.raise_if_refused(error, path)
                return f"{modality}: {error}"
    rgb = infos.get(RGB)
    for modality, info in infos.items() if rgb else ():
        missing = rgb.num_frames - info.num_frames
        if missing not in ((0, 1) if modality == "flow" else (0,)):
            return f"{modality} has {info.num_frames} frames, rgb {rgb.num_frames}"
        if abs(info.width * rgb.height / (info.height * rgb.width) - 1) > SAME_ASPECT:
            return (
                f"{modality} is {info.height}x{info.width}, rgb {rgb.height}x{rgb.width}, of "
                "another aspect; bring them to one"
            )
    return None
