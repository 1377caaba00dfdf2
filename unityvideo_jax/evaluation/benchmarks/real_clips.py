"""UniBench's real half from a user's own folder: chosen, cut to one size, frozen by checksum.

    FOLDER/<key>.mp4                 also .mov, .webm, .gif and so on, or a folder of images <key>/
    FOLDER/<key>.txt                 optional: the caption
    FOLDER/<key>.<modality>.npz      optional: annotations under the clip's keys, at its size; depth
                                     and segmentation may be folders of pictures that hold numbers

The choice is by the SHA-256 of the videos, so it depends on nothing but them: the smallest hashes
of those that are long enough. The card lists the others with reasons.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping

import numpy as np

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance, strict_json, text_files
from unityvideo_jax.files.faults import list_ignored, reason_of
from unityvideo_jax.files.names import safe_path
from unityvideo_jax.files.npz import is_npz
from unityvideo_jax.inputs import pictures
from unityvideo_jax.inputs.clip_folders import Clip
from unityvideo_jax.inputs.crop import Crop, hide_outside, resize
from unityvideo_jax.inputs.listing import Listing, scan
from unityvideo_jax.inputs.shown_frames import at_frames
from unityvideo_jax.metrics.depth_units import UNIT
from unityvideo_jax.modalities import RGB

CARD_NAME = "real.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """The size of a frozen clip.

    Attributes:
      num_frames: taken from the start.
      height, width: pixels that frames are scaled to cover and cropped to.
    """

    num_frames: int = 33
    height: int = 384
    width: int = 672


def build(
    source: pathlib.Path, workdir: pathlib.Path, *, num_clips: int, target: Target | None = None
) -> list[str]:
    """Writes the chosen clips as `evaluate --benchmark` reads them, then the card.

    Args:
      source: FOLDER, as above.
      workdir: the benchmark; clips that it has already are left.
      num_clips: how many to choose.
      target: their size.

    Returns:
      The keys of the chosen clips.

    Raises:
      UserError: no such folder, no usable video, or a card of another choice.
    """
    target = target or Target()
    if not source.is_dir():
        raise UserError(f"--real={source}: no such folder")
    listing = scan(source)
    list_ignored(source, listing.ignored)
    aside = {fault.what: fault.reason for fault in listing.faults} | listing.spoiled
    # A clip of a subfolder, `train/b`, becomes a folder of one name.
    keys = {
        path: key
        for (key, modality), path in listing.files.items()
        if modality == "rgb" and key not in listing.spoiled
    }
    hashes: dict[pathlib.Path, str] = {}
    for path in keys:
        try:
            hashes[path] = provenance.file_hash(path)
        except OSError as error:
            aside[str(path.relative_to(source))] = f"does not open ({error.strerror})"
    chosen: dict[str, str] = {}
    twice: dict[str, pathlib.Path] = {}
    for path in sorted(hashes, key=lambda p: (hashes[p], p)):
        if len(chosen) == num_clips:
            break
        name, shown = keys[path].replace("/", "-"), str(path.relative_to(source))
        if (same := twice.setdefault(hashes[path], path)) != path:
            aside[shown] = f"the same file as {same.relative_to(source)}"
            continue
        if name in chosen:
            aside[shown] = f"another clip is named {name} too; rename one"
            continue
        try:
            if not safe_path(workdir, name, where=f"{path}:").exists():
                _write(keys[path], listing, workdir / name, target)
        except Exception as error:
            aside[shown] = reason_of(error)
        else:
            chosen[name] = hashes[path]
    if not chosen:
        raise UserError(f"--real={source}: no usable video in it: {json.dumps(aside)}")
    card = {
        "target": dataclasses.asdict(target),
        "sources": chosen,
        "set_aside": aside,
        "files": {key: _sums(workdir / key) for key in sorted(chosen)},
    }
    earlier = read_card(workdir)
    if earlier is not None and earlier != card:
        raise UserError(
            f"{workdir / CARD_NAME}: freezes other clips than {source} gives now; restore the "
            "folder, or give another --workdir"
        )
    provenance.write_json(workdir / CARD_NAME, card)
    return sorted(chosen)


def read_card(workdir: pathlib.Path) -> dict | None:
    """The card of frozen real clips; None if the folder has none.

    Raises:
      UserError: a card that lists no files.
    """
    path = workdir / CARD_NAME
    if not path.exists():
        return None
    card = strict_json.read_object(path)
    files = card.get("files")
    if not isinstance(files, dict) or not all(isinstance(sums, dict) for sums in files.values()):
        raise UserError(
            f"{path}: lists no files of clips; restore it, or build the benchmark again"
        )
    return card


def verify_clip(clip: Clip, card: Mapping) -> None:
    """Raises UserError unless the files of a clip are those that the card freezes."""
    frozen = card["files"].get(clip.name)
    if frozen is None:
        raise UserError(f"{clip.path}: not one of the frozen clips; move it away")
    found = _sums(clip.path)
    for name in sorted(frozen.keys() | found.keys()):
        if frozen.get(name) != found.get(name):
            raise UserError(
                f"{clip.path / name}: not the file that {CARD_NAME} freezes; restore it, or build "
                "the benchmark again"
            )


def _sums(folder: pathlib.Path) -> dict[str, str]:
    return {p.name: provenance.file_hash(p) for p in sorted(folder.iterdir()) if p.is_file()}


def _write(key: str, listing: Listing, folder: pathlib.Path, target: Target) -> None:
    """One clip: RGB and whatever annotations it has, scaled and cropped together."""
    video = media.read(listing.files[key, RGB], num_frames=target.num_frames)
    frames = video.frames
    if len(frames) < target.num_frames:
        raise UserError(f"{len(frames)} frames, fewer than {target.num_frames}")
    crop = Crop(source=frames.shape[1:3], target=(target.height, target.width))
    streams: dict[str, dict[str, np.ndarray]] = {}
    for modality, metric in modalities.metrics().items():
        file = listing.files.get((key, modality))
        if file is None:
            continue
        if not is_npz(file) and not pictures.holds_numbers(modality, file):
            raise UserError(f"{file.name}: a drawing; give its arrays as .npz, or move it away")
        stored = pictures.read_truth(modality, file, metric.keys)
        unit = {name: stored.pop(name) for name in (UNIT,) if name in stored}
        for name, array in stored.items():
            flat = array.ndim >= 3 and name not in ("keypoints", "visibility")
            if flat and array.shape[1:3] != crop.source:
                raise UserError(
                    f"{file.name}: {name} is {array.shape}, the video {frames.shape[:3]}; annotate "
                    "every frame at the video's size"
                )
        streams[modality] = {
            name: resize(name, at_frames(name, array, video.numbers, file.name), crop)
            for name, array in stored.items()
        }
        hide_outside(streams[modality], (target.height, target.width))
        streams[modality] |= unit
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    rgb = media.fit(frames, height=target.height, width=target.width)
    media.write_lossless(temporary / "rgb.mkv", rgb, video.fps)
    for modality, arrays in streams.items():
        np.savez_compressed(temporary / f"{modality}.npz", **arrays)
    text = listing.texts.get((key, RGB))
    caption = text_files.read_text(text).strip() if text else ""
    provenance.write_json(temporary / "clip.json", {"caption": caption, "fps": video.fps})
    temporary.rename(folder)
