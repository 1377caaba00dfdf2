"""Latent shards on disk: `<dir>/latents/<modality>/1.0.0/*.array_record*` and `dataset.json`.

Record n of every series belongs to the same clip n, so that any modality can be joined to RGB by
record number. `data/latents/README.md` describes the records.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import os
import pathlib
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import assets, checksums, provenance, strict_json
from unityvideo_jax.files.names import safe_name
from unityvideo_jax.files.npz import read_npy
from unityvideo_jax.inputs import values
from unityvideo_jax.inputs.records import Records

FORMAT = 1
VERSION = "1.0.0"
CARD_NAME = "dataset.json"
NULL_CONTEXT_NAME = "null_context.npy"
# TFDS's names of the dataset and its split; the card's settings say which clips it holds.
DATASET, TFDS_SPLIT = "latents", "train"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """The content of `dataset.json`, which is written last: shards that have it are complete.

    Attributes:
      format: version of the layout of the folder.
      count: clips, the same in every series.
      num_frames, height, width, fps: of the pixels that were encoded.
      latent_shape: (t, h, w, C) of one record.
      vae: fingerprint of the VAE that made the latents.
      text_encoder, text_length, text_dim: of the embeddings.
      modalities: the series that exist, 'rgb' first.
      codecs: codec version of each modality.
      settings: everything that decides the content, as prepare compares it.
      cropped: share of the pixels of the clips' frames, scaled to cover this size, that lie
        outside it.
      null_context, null_context_sha256: file of the empty text's embedding, and its checksum.
    """

    format: int = FORMAT
    count: int
    num_frames: int
    height: int
    width: int
    fps: float
    latent_shape: tuple[int, ...]
    vae: str
    text_encoder: str
    text_length: int
    text_dim: int
    modalities: tuple[str, ...]
    codecs: dict[str, str]
    settings: dict[str, Any]
    null_context: str = NULL_CONTEXT_NAME
    null_context_sha256: str = ""
    cropped: float = 0.0

    def __post_init__(self):
        sizes = (
            self.count,
            self.num_frames,
            self.height,
            self.width,
            self.text_length,
            self.text_dim,
            *self.latent_shape,
        )
        if len(self.latent_shape) != 4 or not all(type(n) is int and n > 0 for n in sizes):
            raise ValueError("counts and sizes must be positive integers")
        if not isinstance(self.fps, int | float) or self.fps <= 0:
            raise ValueError("fps must be positive")
        names = (self.vae, self.text_encoder, *self.modalities, *self.codecs)
        if not all(isinstance(name, str) for name in names):
            raise ValueError("names must be text")
        safe_name(self.null_context, "null_context")


def root_of(directory: str | os.PathLike) -> pathlib.Path:
    """The folder inside a prepare --workdir that holds the series."""
    return pathlib.Path(directory) / "latents"


def series_path(directory: str | os.PathLike, modality: str) -> pathlib.Path:
    """The folder of one modality's files."""
    return root_of(directory) / modality / VERSION


def write_card(directory: str | os.PathLike, card: Card) -> None:
    """Writes `dataset.json`, which declares the shards complete."""
    provenance.write_json(
        root_of(directory) / CARD_NAME, checksums.sealed(dataclasses.asdict(card))
    )


def read_card(directory: str | os.PathLike) -> Card:
    """Reads `dataset.json`.

    Raises:
      UserError: no such folder, no finished shards in it, or a card that does not parse.
    """
    path = root_of(directory) / CARD_NAME
    if not path.exists():
        what = "no such folder" if not pathlib.Path(directory).exists() else "no finished shards"
        raise UserError(
            f"{path.parent.parent}: {what} (looked for {path}); run `python -m unityvideo_jax."
            f"prepare --workdir={path.parent.parent} ...` to its end"
        )
    content = strict_json.read_object(path, "prepare the shards again")
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {content.get('format')}, this version reads {FORMAT}; prepare the "
            "shards again"
        )
    content = checksums.unsealed(path, content, "restore it, or prepare the shards again")
    try:
        content["latent_shape"] = tuple(content["latent_shape"])
        content["modalities"] = tuple(content["modalities"])
        return Card(**content)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: not a dataset card ({reason(error)}); prepare the shards again"
        ) from None


@functools.cache
def builder_module(name: str) -> types.ModuleType:
    """The module `data/<name>/<name>.py`, which defines a TFDS builder."""
    # By file, as in a checkout the folder lies outside the package; a folder `data` where the user
    # happens to stand must not shadow it.
    path = assets.folder("data") / name / f"{name}.py"
    full = f"unityvideo_jax.data.{name}.{name}"
    spec = importlib.util.spec_from_file_location(full, path)
    if spec is None or spec.loader is None or not path.exists():
        raise FileNotFoundError(f"{path}: the builder is missing from this installation")
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


def write_series(
    directory: str | os.PathLike,
    modality: str,
    records: Callable[[], Iterator[Mapping[str, Any]]],
    *,
    count: int,
    latent_shape: tuple[int, ...],
    embedding_shape: tuple[int, int],
    side_shapes: Mapping[str, tuple[int, ...]],
) -> pathlib.Path:
    """Packs one modality's records by the TFDS builder, whole or not at all.

    Args:
      directory: a prepare --workdir.
      modality: name of the series.
      records: makes an iterator of dicts with key, latents, text, embedding and, if the codec has
        one, side.
      count: how many there are, to choose the number of files.
      latent_shape: (t, h, w, C).
      embedding_shape: (L, D).
      side_shapes: shape of each number in the side record.

    Returns:
      The folder of the finished series.
    """
    import tensorflow_datasets as tfds

    module = builder_module("latents")
    size = 2 * count * (int(np.prod(latent_shape)) + int(np.prod(embedding_shape)))
    # 8 to 32 files read best, fewer if each would hold only a handful of records.
    num_shards = max(1, min(count // 8, max(8, min(32, size >> 28))))
    tfds.disable_progress_bar()
    with quiet():
        builder = module.Latents(
            records=records,
            split=TFDS_SPLIT,
            latent_shape=latent_shape,
            embedding_shape=embedding_shape,
            side_shapes=side_shapes,
            data_dir=os.fspath(directory),
            config=tfds.core.BuilderConfig(name=modality, version=VERSION),
            file_format="array_record",
        )
        build(builder, num_shards)
    return pathlib.Path(builder.data_dir)


def build(builder: Any, num_shards: int) -> None:
    """Runs a TFDS builder that downloads nothing, and leaves no folder for downloads."""
    import tensorflow_datasets as tfds

    with tempfile.TemporaryDirectory() as downloads:
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(num_shards=num_shards),
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides TFDS's talk of downloads and custom configurations; errors still raise."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def latent_features(
    latent_shape: tuple[int, ...],
    embedding_shape: tuple[int, int],
    side_shapes: Mapping[str, tuple[int, ...]],
) -> Any:
    """The TFDS features of a record of latents; `data/latents/README.md` describes them."""
    import tensorflow_datasets as tfds

    def half(shape: tuple[int, ...]) -> Any:
        # Raw bytes: ArrayRecord compresses, and a list of floats reads ten times slower.
        return tfds.features.Tensor(shape=shape, dtype=np.float16, encoding="bytes")

    features: dict[str, Any] = {
        "key": tfds.features.Text(),
        "latents": half(latent_shape),
        "text": tfds.features.Text(),
        "embedding": half(embedding_shape),
    }
    if side_shapes:
        features["side"] = {
            name: tfds.features.Tensor(shape=shape, dtype=np.float32)
            for name, shape in side_shapes.items()
        }
    return tfds.features.FeaturesDict(features)


def side_shapes(codec: registry.Codec) -> dict[str, tuple[int, ...]]:
    """Shape of each number in the side record of a codec."""
    return {name: np.shape(value) for name, value in codec.default_side.items()}


class Series:
    """Random access to the latents of one modality; picklable and safe to share among threads.

    Raises:
      UserError: as `Records` and `read_card`, and on opening if there is no such series.
    """

    def __init__(self, directory: str | os.PathLike, modality: str):
        self.directory, self.modality = os.fspath(directory), modality
        if not self.path.is_dir():
            raise UserError(
                f"{self.path}: no series of modality {self.modality!r}; add it with `python -m "
                f"unityvideo_jax.prepare --workdir={self.directory} --modalities=...`"
            )
        self._fix = (
            f"restore the file, or delete {self.path} and give the same prepare command again, "
            "which writes this series anew"
        )
        card = read_card(directory)
        codec = registry.get(modality).codec_of(card.codecs.get(modality), str(self.path))
        features = latent_features(
            card.latent_shape, (card.text_length, card.text_dim), side_shapes(codec)
        )
        self._records = Records(self.path, DATASET, TFDS_SPLIT, features, self._fix)

    @property
    def path(self) -> pathlib.Path:
        """The folder of the series' files."""
        return series_path(self.directory, self.modality)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int | np.integer) -> dict[str, Any]:
        """Record `index`: key, latents f16[t,h,w,C], side, text and embedding f16[L,D].

        Raises:
          UserError: the record is corrupt, or holds numbers that cannot be.
        """
        record = self._records[index]
        for name, largest in (
            ("latents", values.LARGEST_LATENT),
            ("embedding", values.LARGEST_EMBEDDING),
        ):
            if fault := values.fault(record[name], largest):
                raise UserError(
                    f"{self._records.file_of(index)}: record {index} (clip "
                    f"{record['key'].decode()!r}): its {name} hold {fault}; {self._fix}"
                )
        return {
            "key": record["key"].decode(),
            "latents": record["latents"],
            # TFDS gives bare floats for scalars.
            "side": {k: np.asarray(v, np.float32) for k, v in record.get("side", {}).items()},
            "text": record["text"].decode(),
            "embedding": record["embedding"],
        }


def read_null_context(directory: str | os.PathLike) -> Float[np.ndarray, "l d"]:
    """Reads the embedding of the empty text that the folder was prepared with.

    Raises:
      UserError: as `read_card`; or the file is missing or damaged.
    """
    card = read_card(directory)
    path = root_of(directory) / card.null_context
    try:
        null = read_npy(path, (card.text_length, card.text_dim)).astype(np.float16)
    except UserError as error:
        raise UserError(f"{error}; prepare the shards again") from error
    if fault := values.fault(null, values.LARGEST_EMBEDDING):
        raise UserError(f"{path}: holds {fault}; prepare the shards again")
    if card.null_context_sha256 not in ("", provenance.file_hash(path)):
        raise UserError(
            f"{path}: damaged or changed: its SHA-256 is not the one in {CARD_NAME}; prepare the "
            "shards again"
        )
    return null.astype(np.float32)
