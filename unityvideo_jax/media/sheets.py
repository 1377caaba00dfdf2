"""Contact sheets: rows of frames in one picture."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from unityvideo_jax.files.paths import atomic_path


def contact_sheet(
    rows: Mapping[str, UInt8[np.ndarray, "t h w 3"]] | Sequence[tuple[str, np.ndarray]],
    path: str | os.PathLike,
    *,
    columns: int = 6,
    scale: int = 1,
) -> None:
    """Writes one PNG: one labelled row per video, `columns` frames spread over its length.

    Args:
      rows: label and uint8 frames of each row; a label may repeat if pairs are given.
      path: the PNG to write; it appears only when it is whole.
      columns: frames per row.
      scale: integer magnification of small frames (nearest, so that pixels stay honest).
    """
    pairs = list(rows.items()) if isinstance(rows, Mapping) else list(rows)
    label_height, gap = 14, 2
    tiles = []
    for label, frames in pairs:
        picks = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
        strip = np.concatenate(
            [np.pad(frames[i], ((0, 0), (0, gap), (0, 0)), constant_values=255) for i in picks],
            axis=1,
        )
        strip = strip.repeat(scale, axis=0).repeat(scale, axis=1)
        tiles.append((label, strip))
    width = max(strip.shape[1] for _, strip in tiles)
    height = sum(strip.shape[0] + label_height for _, strip in tiles)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for label, strip in tiles:
        draw.text((2, top + 1), label, fill="black")
        sheet.paste(Image.fromarray(strip), (0, top + label_height))
        top += strip.shape[0] + label_height
    with atomic_path(pathlib.Path(path)) as temporary:
        sheet.save(temporary, format="PNG")
