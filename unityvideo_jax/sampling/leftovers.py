"""Files of an earlier sample in the folder of a new one, which does not replace all of them."""

import pathlib
from collections.abc import Collection

from unityvideo_jax import modalities
from unityvideo_jax.media.source import note

SHEET = "sheet.png"


def note_leftovers(folder: pathlib.Path, files: Collection[str]) -> None:
    """Prints one line that names what an earlier sample left in a folder.

    Args:
      folder: that a sample was written to.
      files: names of what it wrote.
    """
    ours = {f"{name}{kind}" for name in modalities.names() for kind in (".mp4", ".npz")} | {SHEET}
    there = {file.name for file in folder.iterdir()}
    if others := sorted(ours & there - set(files)):
        note("earlier samples", f"{folder}: {', '.join(others)} stay from an earlier sample")
