"""Clips as files inside TFDS records: `<dir>/<dataset>/<modality>/1.0.0/*.array_record*`.

Where `shards` holds latents, these series hold each clip's files byte for byte (a video as it was
published, an npz of exact arrays), so nothing is lost and any size can be prepared from them.
Record n of every series belongs to the same clip n. `data/openuni` and `data/unibench` are such
datasets; the card `<dir>/<dataset>/clips.json` is written last, so it means complete.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unityvideo_jax import media
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import checksums, provenance, strict_json
from unityvideo_jax.inputs import shards
from unityvideo_jax.inputs.records import Records
from unityvideo_jax.inputs.sources import Source
from unityvideo_jax.inputs.video_files import VideoFiles

DATASETS = ("openuni", "unibench")
VERSION = "1.0.0"
CARD_NAME = "clips.json"
# Files of this size read as fast as larger ones, and a lost one costs little.
BYTES_PER_FILE = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipFile:
    """One record: a modality of a clip.

    Attributes:
      key: the clip's name, the same in every series.
      text: the caption (rgb) or the modality prompt (others; empty means the registry's).
      name: the file's name, whose suffix gives its format: a video, or .npz.
      data: the file's bytes.
      fps, num_frames, height, width: of the video; 0 where the file is no video.
      metadata: everything else that was published of the clip, as a JSON object; rgb only.
    """

    key: str
    text: str
    name: str
    data: bytes
    fps: float = 0.0
    num_frames: int = 0
    height: int = 0
    width: int = 0
    metadata: str = "{}"


def clip_features() -> Any:
    """The TFDS features of a `ClipFile`."""
    import tensorflow_datasets as tfds

    kinds = {
        str: tfds.features.Text(),
        bytes: tfds.features.Tensor(shape=(), dtype=np.bytes_),
        int: tfds.features.Scalar(np.int32),
        float: tfds.features.Scalar(np.float32),
    }
    fields = dataclasses.fields(ClipFile)
    return tfds.features.FeaturesDict({field.name: kinds[field.type] for field in fields})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipCard:
    """The content of `clips.json`.

    Attributes:
      dataset: 'openuni' or 'unibench'.
      subset: which part of it this folder holds, such as 'Koala36M' or 'rendered'.
      counts: clips in each split.
      modalities: the series that exist, 'rgb' first.
      settings: everything that decided the content.
    """

    dataset: str
    subset: str
    counts: dict[str, int]
    modalities: tuple[str, ...]
    settings: dict[str, Any]

    def __post_init__(self):
        if self.dataset not in DATASETS:
            raise ValueError(f"dataset {self.dataset!r}")
        if not all(type(n) is int and n >= 0 for n in self.counts.values()):
            raise ValueError("counts must be integers")


def series_path(directory: str | os.PathLike, dataset: str, modality: str) -> pathlib.Path:
    """The folder of one modality's files."""
    return pathlib.Path(directory) / dataset / modality / VERSION


def write_series(
    directory: str | os.PathLike,
    dataset: str,
    modality: str,
    splits: Mapping[str, Callable[[], Iterator[ClipFile]]],
    *,
    num_bytes: int,
) -> None:
    """Packs one modality by the dataset's TFDS builder, whole or not at all.

    Args:
      directory: the TFDS data_dir.
      dataset: one of DATASETS.
      modality: name of the series.
      splits: for each split, what makes an iterator of its records.
      num_bytes: of all of them, to choose the number of files.
    """
    import tensorflow_datasets as tfds

    module = shards.builder_module(dataset)
    tfds.disable_progress_bar()
    with shards.quiet():
        builder = module.Builder(
            splits=splits,
            data_dir=os.fspath(directory),
            config=tfds.core.BuilderConfig(name=modality, version=VERSION),
            file_format="array_record",
        )
        shards.build(builder, num_shards=max(1, -(-num_bytes // BYTES_PER_FILE)))


def write_card(directory: str | os.PathLike, card: ClipCard) -> None:
    """Writes `clips.json`, which declares the dataset complete."""
    path = pathlib.Path(directory) / card.dataset / CARD_NAME
    provenance.write_json(path, checksums.sealed(dataclasses.asdict(card)))


def find_card(directory: str | os.PathLike) -> ClipCard | None:
    """Reads the card of the dataset in a folder; None if there is none.

    Raises:
      UserError: a card that does not parse, or two datasets in one folder.
    """
    found = [p for d in DATASETS if (p := pathlib.Path(directory) / d / CARD_NAME).exists()]
    if not found:
        return None
    if len(found) > 1:
        raise UserError(f"{directory}: holds {found[0]} and {found[1]}; keep them in two folders")
    content = strict_json.read_object(found[0], "pack the clips again")
    content = checksums.unsealed(found[0], content, "restore it, or pack the clips again")
    try:
        content["modalities"] = tuple(content["modalities"])
        return ClipCard(**content)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{found[0]}: not a card ({reason(error)}); pack the clips again") from None


class ClipSeries:
    """Random access to the records of one modality; picklable.

    Raises:
      UserError: no such series or split, or a broken file, by name.
    """

    def __init__(self, directory: str | os.PathLike, dataset: str, modality: str, split: str):
        path = series_path(directory, dataset, modality)
        if not path.is_dir():
            raise UserError(f"{path}: no series of modality {modality!r}; pack it, or leave it out")
        fix = f"restore the file, or delete {path} and pack the clips again"
        self._records = Records(path, dataset, split, clip_features(), fix)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int | np.integer) -> ClipFile:
        record = self._records[index]
        values = {
            f.name: record[f.name].decode() if f.type is str else f.type(record[f.name])
            for f in dataclasses.fields(ClipFile)
        }
        return ClipFile(**values)


class ClipShardsSource(VideoFiles):
    """The clips of such a dataset, for prepare and for Grain.

    Args:
      directory: the TFDS data_dir.
      modalities: what to read; the dataset must have a series for each.
      split: which split of the dataset.
      num_clips: only the first so many; None is all.
      target: num_frames, height, width, fps, as `VideoFiles` takes them.

    Raises:
      UserError: no dataset in the folder, or a split or series that it lacks.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        modalities: Sequence[str],
        *,
        split: str,
        num_clips: int | None = None,
        **target: Any,
    ):
        super().__init__(**target)
        self._arguments = (
            (directory, modalities),
            {
                "split": split,
                "num_clips": num_clips,
                **target,
            },
        )
        card = find_card(directory)
        if card is None:
            raise UserError(
                f"{directory}: holds no packed clips; see `python -m unityvideo_jax.pack`"
            )
        if split not in card.counts:
            raise UserError(f"--split={split}: {directory} has {', '.join(card.counts)}")
        self._card, self._split = card, split
        self._foreign_drawings = card.dataset == "openuni"
        self._series = {m: ClipSeries(directory, card.dataset, m, split) for m in modalities}
        count = min(len(s) for s in self._series.values())
        self._number = {self._series[registry.RGB][n].key: n for n in range(count)[:num_clips]}
        self.keys = list(self._number)
        self.fps = self._target_fps or (self._series[registry.RGB][0].fps if count else 0.0)
        self._folder = tempfile.TemporaryDirectory(prefix="clips-")

    def __reduce__(self) -> tuple:
        arguments, options = self._arguments
        return functools.partial(ClipShardsSource, **options), arguments

    def settings(self) -> dict[str, Any]:
        """The dataset, its part, and everything that decided its content."""
        content = json.dumps(dataclasses.asdict(self._card), sort_keys=True)
        return {
            **self._target(),
            "split": self._split,
            "dataset": f"{self._card.dataset}/{self._card.subset}",
            "packed as": hashlib.sha256(content.encode()).hexdigest()[:12],
        }

    def identity(self, key: str, modality: str) -> str:
        """The clip's key: the settings decide everything else."""
        return key

    def texts(self, modalities: Sequence[str]) -> None:
        """None: texts lie in the records, beside the videos."""

    def record(self, key: str, modality: str) -> ClipFile:
        """Reads a clip's record.

        Raises:
          UserError: the series do not belong together.
        """
        record = self._series[modality][self._number[key]]
        if record.key != key:
            raise UserError(
                f"record {self._number[key]} of {modality} is of clip {record.key!r}, but of "
                f"{key!r} in rgb; the series were not packed together, pack them again"
            )
        return record

    def _file(self, key: str, modality: str) -> pathlib.Path:
        # Video decoders and np.load want names; the next clip's file takes the place of this one.
        record = self.record(key, modality)
        suffix = pathlib.Path(record.name).suffix.lower()
        if suffix not in (*media.VIDEO_SUFFIXES, ".npz"):
            raise UserError(f"clip {key}: {modality} is a file {record.name!r}; pack it as a video")
        path = pathlib.Path(self._folder.name) / f"{threading.get_ident()}-{modality}{suffix}"
        path.write_bytes(record.data)
        return path

    def _text(self, key: str, modality: str) -> str:
        text = self.record(key, modality).text
        return text if text or modality == registry.RGB else registry.get(modality).prompt


class DecodedClips:
    """A source of clips as Grain reads one: `grain.MapDataset.source(DecodedClips(source, ...))`.

    Yields {key, video: modality -> f32[T,H,W,3] in [-1,1], text: modality -> str}.
    """

    def __init__(self, source: Source, modalities: Sequence[str]):
        self._source, self._modalities = source, tuple(modalities)

    def __len__(self) -> int:
        return len(self._source.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self._source.load([int(index)], self._modalities)
        return {
            "key": self._source.keys[int(index)],
            "video": {m: np.asarray(batch.videos[m][0]) for m in self._modalities},
            "text": {m: batch.texts[m][0] for m in self._modalities},
        }
