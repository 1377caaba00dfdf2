"""The listing of a folder of clips: the files of each clip, faults, and ignored files.

`folder` describes the layout. A subfolder of images is a clip or a modality of one; any other
subfolder is searched, and its clips have its name before theirs, as in `train/b`.
"""

import dataclasses
import pathlib

from unityvideo_jax import media
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.files.faults import Fault, shown
from unityvideo_jax.files.names import UNPRINTED, has_unprinted
from unityvideo_jax.files.npz import is_npz


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a folder of clips.

    Attributes:
      files: by clip and modality, a video, a folder of images, or an npz.
      texts: by clip and modality, a .txt.
      stills: by clip and modality, an image file.
      faults: files that no rule explains.
      spoiled: clips that cannot be used, with the reason.
      ignored: names of all other files, relative to the folder, except hidden files and
        `<key>.<modality>.json`.
    """

    files: dict[tuple[str, str], pathlib.Path] = dataclasses.field(default_factory=dict)
    texts: dict[tuple[str, str], pathlib.Path] = dataclasses.field(default_factory=dict)
    stills: dict[tuple[str, str], pathlib.Path] = dataclasses.field(default_factory=dict)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    spoiled: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored: list[str] = dataclasses.field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        """The clips, in order of name."""
        return sorted(key for key, modality in self.files if modality == registry.RGB)


def scan(folder: pathlib.Path) -> Listing:
    """Lists a folder and its subfolders; links are followed, each folder once.

    Raises:
      UserError: the folder cannot be listed.
    """
    listing = Listing()
    try:
        _scan(folder, "", listing, {folder.resolve()})
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error
    # A still image is a clip of one frame if it has a caption and no video has its name.
    known = set(listing.keys)
    for key, modality in list(listing.stills):
        if (key, "rgb") in listing.stills and (key, "rgb") in listing.texts and key not in known:
            listing.files[key, modality] = listing.stills.pop((key, modality))
    listing.ignored.extend(str(path.relative_to(folder)) for path in listing.stills.values())
    clips = set(listing.keys)
    for table in (listing.files, listing.texts):
        for entry in [entry for entry in table if entry[0] not in clips]:
            listing.ignored.append(str(table.pop(entry).relative_to(folder)))
    listing.ignored.sort()
    return listing


def _scan(folder: pathlib.Path, prefix: str, listing: Listing, seen: set[pathlib.Path]) -> None:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if has_unprinted(path.name):
            reason = f"its name {UNPRINTED}; rename it"
            listing.faults.append(Fault(what=shown(path), reason=reason))
        elif path.is_dir():
            _scan_folder(path, prefix, listing, seen)
        elif is_npz(path) or media.is_video(path):
            _add(path, path.stem, prefix, listing)
        elif path.suffix.lower() in (".txt", *media.IMAGE_SUFFIXES):
            _add_beside(path, prefix, listing)
        elif path.suffix != ".json" or path.stem.partition(".")[2] not in registry.names():
            listing.ignored.append(prefix + path.name)


def _add_beside(path: pathlib.Path, prefix: str, listing: Listing) -> None:
    """A text or a still: `<key>` or `<key>.<modality>`; ignored if there is no such modality."""
    name, _, modality = path.stem.partition(".")
    key, modality = prefix + name, modality or registry.RGB
    table = listing.texts if path.suffix.lower() == ".txt" else listing.stills
    if modality not in registry.names():
        listing.ignored.append(prefix + path.name)
    elif (key, modality) in table:
        listing.spoiled[key] = f"{table[key, modality]} and {path}: keep one"
    else:
        table[key, modality] = path


def _scan_folder(
    path: pathlib.Path, prefix: str, listing: Listing, seen: set[pathlib.Path]
) -> None:
    """A folder of images is a stream of a clip; of any other the content is listed."""
    try:
        inside = [p for p in path.iterdir() if not p.name.startswith(".")]
    except OSError as error:
        reason = f"cannot be listed ({error.strerror})"
        listing.faults.append(Fault(what=shown(path), reason=reason))
        return
    images = sum(p.suffix.lower() in media.IMAGE_SUFFIXES for p in inside)
    videos = any(media.is_video(p) for p in inside if not p.is_dir())
    folders = [p for p in inside if p.is_dir()]
    if images and not videos and images >= len(folders):
        _add(path, path.name, prefix, listing)
        listing.ignored.extend(f"{prefix}{path.name}/{p.name}/" for p in folders)
    elif not inside:
        listing.ignored.append(f"{prefix}{path.name}/")
    elif path.resolve() not in seen:
        seen.add(path.resolve())
        _scan(path, f"{prefix}{path.name}/", listing, seen)


def _add(path: pathlib.Path, stem: str, prefix: str, listing: Listing) -> None:
    """A stream of a clip: `<key>` or `<key>.<modality>`."""
    name, _, modality = stem.partition(".")
    key = prefix + name
    try:
        if modality:
            registry.get(modality)
        elif is_npz(path):
            raise UserError("name it <key>.<modality>.npz")
    except UserError as error:
        listing.faults.append(Fault(what=str(path), reason=f"{error}; a key contains no dot"))
        return
    entry = (key, modality or registry.RGB)
    if entry in listing.files:
        listing.spoiled[key] = (
            f"{path} and {listing.files[entry]} are both {entry[1]} of {key}; keep one"
        )
    listing.files[entry] = path
