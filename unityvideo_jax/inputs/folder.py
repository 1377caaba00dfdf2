"""A folder of videos with ground truth beside them.

    FOLDER/<key>.mp4                 RGB; also any other suffix of `media.VIDEO_SUFFIXES`, such as
                                     .mov, .webm and .gif, or a folder of images <key>/
    FOLDER/<key>.png                 or: a clip of one frame, if no video has its name and it has a
                                     caption; its modalities may be <key>.<modality>.png
    FOLDER/<key>.txt                 the caption, UTF-8 or UTF-16, may be empty
    FOLDER/<key>.<modality>.npz      the arrays that the modality's codec reads, by their clip names
    FOLDER/<key>.<modality>.mp4      or: the modality as its codec draws it, of the requested size
    FOLDER/<key>.<modality>/         or: the same as a folder of images, or images that hold
                                     numbers: depth in 16 bits, ids of segments (`pictures`)
    FOLDER/<key>.depth.json          optional: {"unit": "mm", "scale": 1.0} of stored depth
    FOLDER/<key>.<modality>.txt      optional: this clip's modality prompt

A key contains no dot. Subfolders are searched too, and their name goes before the key, as in
`train/b`; files that are none of these are ignored, and listed.

Arrays belong to the RGB frames one to one: the same number, height and width. Both are then scaled
to cover the requested size and cropped at the centre together; depth, ids and flow by the nearest
pixel, since their values must not mix across an edge.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from unityvideo_jax import media
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import text_files
from unityvideo_jax.files.faults import Fault, list_ignored, refuse
from unityvideo_jax.inputs.listing import Listing, scan
from unityvideo_jax.inputs.video_files import ALLOW, VideoFiles


class FolderSource(VideoFiles):
    """Clips of a folder and its subfolders; the layout is in the module's docstring.

    Args:
      folder: where the files are.
      modalities: what to prepare; every clip must have a file for each.
      num_frames, height, width: of the result.
      fps: takes frames by time at this rate; 0 keeps each video's own.
      depth_unit: of depth whose unit no file states; "" is the default of `inputs.pictures`.
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
        if (key, registry.RGB) not in listing.texts:
            raise UserError(f"no caption; add {key}.txt (it may be empty)")
        for modality in self._modalities:
            if path := listing.texts.get((key, modality)):
                self._texts[key, modality] = text_files.read_text(path).strip()
            self.identity(key, modality)  # meets links to nothing and the like

    def _file(self, key: str, modality: str) -> pathlib.Path:
        return self._files[key, modality]

    def _text(self, key: str, modality: str) -> str:
        return self._texts.get((key, modality), registry.get(modality).prompt)
