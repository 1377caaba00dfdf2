"""Folders of shards of several sizes, and the buckets that they fill.

`prepare --sizes` writes shards of each size into a folder of its own, `<workdir>/17x64x64/latents/`
and so on. `config.data.dirs` names the workdir, which stands for all of them.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import shards
from unityvideo_jax.inputs.buckets import Bucket, size_name
from unityvideo_jax.inputs.config import DataConfig

_SIZE = re.compile(r"[1-9]\d*x[1-9]\d*x[1-9]\d*")


def folders_of(directory: str | os.PathLike) -> list[str]:
    """The folders of shards that an entry of `config.data.dirs` stands for.

    They are the entry itself, or its sizes. Other files there do not matter; if there is nothing,
    reading the card says so.
    """
    path = pathlib.Path(directory)
    if shards.root_of(path).exists() or not path.is_dir():
        return [os.fspath(directory)]
    sizes = [p for p in path.iterdir() if _SIZE.fullmatch(p.name) and shards.root_of(p).exists()]
    return [os.fspath(p) for p in sorted(sizes)] or [os.fspath(directory)]


def size_of(card: shards.Card) -> tuple[int, int, int]:
    """Frames, height and width of the clips."""
    return card.num_frames, card.height, card.width


def filled_by(config: DataConfig, bucket: Bucket) -> DataConfig:
    """The data of one bucket: its size, its streams, and the folders that hold such clips.

    Args:
      config: of the run.
      bucket: of its shapes.

    Raises:
      UserError: no folder that has a weight holds clips of this size.
    """
    frames, height, width = bucket.size
    changes: dict = dict(num_frames=frames, height=height, width=width)
    if config.buckets:
        only = (*(0.0,) * (bucket.streams - 1), 1.0)
        changes |= dict(buckets=(), streams=only)
    if config.kind == "online":
        return dataclasses.replace(config, **changes)
    dirs: list[str] = []
    weights: list[float] = []
    for directory, weight in zip(config.dirs, config.weights_of_dirs(), strict=True):
        folders = folders_of(directory)
        if config.buckets or len(folders) > 1:
            folders = [f for f in folders if size_of(shards.read_card(f)) == bucket.size]
        dirs += folders
        weights += [weight] * len(folders)
    if not any(weights) and any(config.weights_of_dirs()):
        held = sorted({size_of(shards.read_card(f)) for d in config.dirs for f in folders_of(d)})
        raise UserError(
            f"{_key(config)}: nothing fills {size_name(bucket.size)}: {', '.join(config.dirs)} "
            f"hold {', '.join(map(size_name, held))}; prepare it with `--sizes`, or leave it out"
        )
    return dataclasses.replace(config, dirs=tuple(dirs), dir_weights=tuple(weights), **changes)


def _key(config: DataConfig) -> str:
    return "config.data.buckets" if config.buckets else "config.data.num_frames, height, width"


def table(config: DataConfig, shapes: Sequence[Bucket], tokens: Sequence[int]) -> list[str]:
    """A table of the folders that fill each bucket.

    Args:
      config: of the run.
      shapes: of its steps.
      tokens: of a step of each.
    """
    rows = [("bucket", "samples", "tokens", "clips", "cropped")]
    for bucket, count in zip(shapes, tokens, strict=True):
        shown = ("worlds", "0.0%")
        if config.kind == "shards":
            cards = [shards.read_card(folder) for folder in filled_by(config, bucket).dirs]
            clips = sum(card.count for card in cards)
            cropped = sum(card.count * card.cropped for card in cards) / clips
            shown = (f"{clips:,}", f"{cropped:.1%}")
        rows.append((bucket.label, f"{bucket.batch_size:,}", f"{count:,}", *shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if place == 0 else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def unused(config: DataConfig, shapes: Sequence[Bucket]) -> list[str]:
    """A line for each folder of shards whose size is that of no bucket."""
    if config.kind == "online":
        return []
    taken = {folder for bucket in shapes for folder in filled_by(config, bucket).dirs}
    folders = dict.fromkeys(f for directory in config.dirs for f in folders_of(directory))
    cards = {folder: shards.read_card(folder) for folder in folders if folder not in taken}
    return [
        f"{folder}: {card.count:,} clips of {size_name(size_of(card))} fit no bucket and are not "
        "drawn"
        for folder, card in cards.items()
    ]
