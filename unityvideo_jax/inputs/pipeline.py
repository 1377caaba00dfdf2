"""From latent shards to batches: mixed by weight, shuffled, repeated, resumable to the record."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Float

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import shards
from unityvideo_jax.inputs.config import DataConfig, as_data_config, stage_modality_weights
from unityvideo_jax.inputs.shares import RGB, Share, make_mix
from unityvideo_jax.media.source import note


class StreamSource:
    """The same streams of one folder's clips, joined by record number.

    Yields {latents f16[S,t,h,w,C], modality i32[S], context f16[S,L,D], null f16[L,D], index i32};
    `index` counts on over the folders of a config, so that it names one clip.
    """

    def __init__(
        self,
        series: Sequence[shards.Series],
        null_context: Float[np.ndarray, "l d"],
        modality_ids: Sequence[int],
        offset: int,
    ):
        self._series = series
        self._null = null_context.astype(np.float16)
        self._ids = np.asarray(modality_ids, np.int32)
        self._offset = offset

    def __len__(self) -> int:
        return len(self._series[0])

    def __getitem__(self, index: int) -> dict[str, Any]:
        records = [series[index] for series in self._series]
        for series, record in zip(self._series, records, strict=True):
            if record["key"] != records[0]["key"]:
                raise UserError(
                    f"{series.path}: record {index} is of clip {record['key']!r}, but of "
                    f"{records[0]['key']!r} in {self._series[0].path.name}; the series were not "
                    "prepared together, prepare them again"
                )
        return {
            "latents": np.stack([record["latents"] for record in records]),
            "modality": self._ids,
            "context": np.stack([record["embedding"] for record in records]),
            "null": self._null,
            "index": np.asarray(self._offset + index, np.int32),
        }

    def __repr__(self) -> str:
        return f"StreamSource({', '.join(str(series.path) for series in self._series)})"


@dataclasses.dataclass(frozen=True)
class DropContext(grain.transforms.RandomMap):
    """Replaces caption and modality prompts by the null context.

    Guidance needs a model that has also learned without text (UnityVideo sec. 4.1). The public
    release drops the caption alone, so the two probabilities are separate. The prompts of a sample
    are dropped together, as guidance drops them.

    Attributes:
      caption: probability for the caption.
      prompt: probability for the modality prompts.
    """

    caption: float
    prompt: float

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Drops texts of a sample; always draws twice, so that the two rates are independent."""
        element = dict(element)
        drop = rng.random(2) < (self.caption, self.prompt)
        null = element.pop("null")
        if drop.any():
            dropped = np.where(element["modality"] == 0, *drop)[:, None, None]
            element["context"] = np.where(dropped, null, element["context"])
        return element


def check_against(
    card: shards.Card, config: DataConfig, directory: str, vae_id: str | None
) -> None:
    """Raises UserError unless the shards are what the config describes; notes another frame rate.

    Args:
      card: of the folder.
      config: the frames, size, text encoder and VAE that the run expects.
      directory: for the message.
      vae_id: fingerprint of the config's VAE, None if its weights are not at hand.
    """
    pairs = [
        ("num_frames", card.num_frames, config.num_frames),
        ("height", card.height, config.height),
        ("width", card.width, config.width),
        # The folder behind umt5:FOLDER differs from machine to machine.
        ("text_encoder", card.text_encoder, config.text_encoder.partition(":")[0]),
        ("text_length", card.text_length, config.text_length),
    ]
    for name, stored, wanted in pairs:
        if stored != wanted:
            raise UserError(
                f"{directory}: the shards have {name}={stored}, config.data.{name} is {wanted}; "
                f"set --config.data.{name}={stored}, or prepare shards with --{name}={wanted}"
            )
    if vae_id is not None and vae_id != card.vae:
        raise UserError(
            f"{directory}: the shards were encoded by VAE {card.vae}, but config.data.vae="
            f"{config.vae!r} is {vae_id}; point config.data.vae at the weights that made them, or "
            "prepare the shards again"
        )
    if not math.isclose(card.fps, config.fps, rel_tol=1e-3):
        note(
            "rate of shards",
            f"{directory}: clips of {card.fps:g} frames per second, while samples are made and "
            f"videos read at config.data.fps={config.fps:g}; set --config.data.fps={card.fps:g}, "
            f"or prepare shards with --fps={config.fps:g}",
        )


def check_codec(card: shards.Card, config: DataConfig, directory: str, modality: str) -> None:
    """Raises UserError unless the config's codec reads what the shards of a modality show."""
    codec = registry.chosen_codec(modality, config.codecs)
    version = card.codecs[modality]
    if not registry.reads(codec, version):
        variants = registry.get(modality).variants
        fits = [name for name, one in variants.items() if registry.reads(one, version)]
        fix = f"set --config.data.{modality}_codec={fits[0]}" if fits else "prepare them again"
        raise UserError(
            f"{directory}: the shards of {modality} were drawn by codec {version}, and "
            f"the config's is {codec.version}; {fix}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Folder:
    """A folder of shards.

    Attributes:
      null_context: embedding of no text, f32[L,D].
      series: of RGB and of the drawn modalities that it has, by name.
      offset: clips of the folders before it.
      latent_shape: (t, h, w, C) of a record.
    """

    null_context: Float[np.ndarray, "l d"]
    series: Mapping[str, shards.Series]
    offset: int
    latent_shape: tuple[int, ...]


def open_folders(config: DataConfig, drawn: Mapping[str, float]) -> list[_Folder]:
    """Opens every folder and checks it against the config.

    Args:
      config: names the folders.
      drawn: weights of the modalities; each must be in some folder that has a weight.

    Raises:
      UserError: folders that are not what the config says, or lack a modality.
    """
    from unityvideo_jax.inputs.encode import vae_id_or_none

    vae_id = vae_id_or_none(config.vae)
    folders: list[_Folder] = []
    shape, offset, held = None, 0, set()
    for directory, dir_weight in zip(config.dirs, config.weights_of_dirs(), strict=True):
        card = shards.read_card(directory)
        check_against(card, config, directory, vae_id)
        layout = (card.latent_shape, card.text_dim, card.vae)
        if shape is not None and layout != shape:
            raise UserError(
                f"{directory}: latent shape, text dim and VAE {layout} differ from {shape} of "
                f"{config.dirs[0]}; folders of one run must agree"
            )
        shape = layout
        null_context = shards.read_null_context(directory)
        rgb = shards.Series(directory, RGB)
        series = {RGB: rgb}
        for name in (name for name in drawn if name in card.modalities):
            series[name] = shards.Series(directory, name)
            if not len(series[name]) == len(rgb) == card.count:
                raise UserError(
                    f"{directory}: {len(series[name])} records of {name}, {len(rgb)} of rgb, "
                    f"{card.count} in {shards.CARD_NAME}; prepare the shards again"
                )
            if dir_weight > 0:
                check_codec(card, config, directory, name)
                held.add(name)
        folders.append(
            _Folder(
                null_context=null_context,
                series=series,
                offset=offset,
                latent_shape=card.latent_shape,
            )
        )
        offset += card.count
    if not any(config.weights_of_dirs()):
        raise UserError("config.data.dir_weights: every weight is 0; give one folder more")
    if lost := [name for name in drawn if name not in held]:
        raise UserError(
            f"{', '.join(config.dirs)}: no series of modality {lost[0]!r}; add it with `python -m "
            f"unityvideo_jax.prepare --workdir={config.dirs[0]} --modalities=...,{lost[0]}`, or "
            "give it weight 0"
        )
    return folders


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """An endless series of samples.

    Attributes:
      dataset: single samples, without end.
      shares: of them that were asked for and are drawn.
      latent_shape: (S, t, h, w, C) of each.
    """

    dataset: grain.MapDataset
    shares: tuple[Share, ...]
    latent_shape: tuple[int, ...]


def make_dataset(
    config: DataConfig,
    modalities: Sequence[str],
    streams: int,
    *,
    seed: int,
    stage_weights: Mapping[str, float | int] | None = None,
    first_record: int = 0,
) -> Samples:
    """Makes the endless series of single samples, the same for any batch size and process count.

    Each source, which is a folder and the streams that are read of its clips, is shuffled anew
    every epoch on its own and the mix is by weight, so in every epoch of a source each of its
    records appears once.

    Args:
      config: the data.
      modalities: `config.model.modalities`; a modality's id is its place here.
      streams: S, of every sample.
      seed: of shuffling and text dropout.
      stage_weights: modality weights of the curriculum stage; None takes the config's.
      first_record: number of the first record, which `index` counts from.
    """
    drawn = stage_modality_weights(config, modalities, stage_weights)
    folders = open_folders(config, drawn)
    weights = {
        f"{place}. {directory}" if config.dirs.count(directory) > 1 else str(directory): weight
        for place, (directory, weight) in enumerate(
            zip(config.dirs, config.weights_of_dirs(), strict=True)
        )
    }
    held = [folder.series for folder in folders]
    mix = make_mix(held, weights, drawn, streams, float(config.rgb_alone), config.never_together)
    parts = []
    for n, (place, names) in enumerate(mix.sources):
        folder, ids = folders[place], [tuple(modalities).index(name) for name in names]
        series = [folder.series[name] for name in names]
        source = StreamSource(series, folder.null_context, ids, first_record + folder.offset)
        shuffled = grain.MapDataset.source(source).shuffle(seed=(seed + 7919 * n) % 2**32)
        parts.append(shuffled.repeat())
    mixed = grain.MapDataset.select_from_datasets(parts, mix.mixture)
    drop = DropContext(caption=float(config.caption_dropout), prompt=float(config.prompt_dropout))
    return Samples(
        dataset=mixed.random_map(drop, seed=(seed + 1) % 2**32),
        shares=mix.shares,
        latent_shape=(streams, *folders[0].latent_shape),
    )


def make_iterator(
    data_config: object,
    modalities: Sequence[str],
    *,
    batch_size: int,
    seed: int,
    streams: int = 2,
    stage_weights: Mapping[str, float | int] | None = None,
    first_record: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> "ShardBatches":
    """Makes batches for one process from latent shards.

    Args:
      data_config: a DataConfig or dict-like `config.data`.
      modalities: `config.model.modalities`; a modality's id is its place here.
      batch_size: rows of the global batch; this process yields batch_size / process_count of them,
        and its rows do not depend on the others.
      seed: of shuffling and text dropout.
      streams: S, of every sample.
      stage_weights: modality weights of the curriculum stage; None takes the config's.
      first_record: number of the first record, which `index` counts from.
      process_index: which consecutive part of every global batch this process yields.
      process_count: processes that share each batch.

    Returns:
      An endless iterator of {latents f16[B,S,t,h,w,C], modality i32[B,S], context f16[B,S,L,D],
      index i32[B]}, stream 0 being RGB, or the only stream; the step widens them on the device.
      `get_state()` / `set_state()` resume at the exact sample.

    Raises:
      UserError: shards missing, corrupt, or of another size, encoder or VAE than the config says;
        unknown modalities; a batch that does not divide.
    """
    config = as_data_config(data_config)
    rows_per_process(batch_size, process_index, process_count)
    samples = make_dataset(
        config,
        modalities,
        streams,
        seed=seed,
        stage_weights=stage_weights,
        first_record=first_record,
    )
    return ShardBatches(samples, config, batch_size, process_index, process_count, first_record)


class ShardBatches:
    """One process's batches of an endless stream of samples, from any sample on.

    Its state is the number of samples that all processes have drawn, so that a run may resume with
    other batch sizes, processes, workers and threads, and still draws each sample once.

    Attributes:
      shares: asked and drawn, of what the samples are.
      shapes: (B, S, t, h, w, C) of the latents of a global batch, the only one.

    Args:
      samples: the stream, the same in every process.
      config: how to read, and which folders.
      batch_size: samples of the global batch.
      process_index, process_count: which part of each global batch this process yields.
      first_record: number of the first record.
    """

    def __init__(
        self,
        samples: Samples,
        config: DataConfig,
        batch_size: int,
        process_index: int,
        process_count: int,
        first_record: int = 0,
    ):
        self.shares = samples.shares
        self.shapes = ((batch_size, *samples.latent_shape),)
        self._samples, self._config, self._batch_size = samples.dataset, config, batch_size
        self._first_record = first_record
        self._share = (process_index, process_count)
        self._drawn = 0
        self._batches: Iterator[dict[str, Any]] | None = None

    def __iter__(self) -> "ShardBatches":
        return self

    def __next__(self) -> dict[str, Any]:
        if self._batches is None:
            self._batches = self._read()
        batch = next(self._batches)
        self._drawn += self._batch_size
        return batch

    def _read(self) -> Iterator[dict[str, Any]]:
        index, count = self._share
        rows = rows_per_process(self._batch_size, index, count)
        dataset = self._samples[self._drawn :].batch(rows)[index::count]
        threads = self._config.read_threads
        stream = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        )
        if self._config.num_workers:
            stream = stream.mp_prefetch(
                grain.multiprocessing.MultiprocessingOptions(num_workers=self._config.num_workers)
            )
        return iter(stream)

    def get_state(self) -> dict[str, int]:
        """The samples that all processes have drawn."""
        return {"samples": self._drawn}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Continues exactly where `get_state` was asked.

        Raises:
          ValueError: not such a state.
        """
        # Runs of earlier versions counted batches, of the size that they were started with.
        earlier = "next_index" in state
        drawn = state["next_index"] * self._batch_size if earlier else state["samples"]
        if type(drawn) is not int or not 0 <= drawn < len(self._samples):
            raise ValueError(f"samples={drawn!r}")
        self._drawn, self._batches = drawn, None

    def describe(self, index: int) -> str:
        """A record by its folder, number and clip, for messages.

        Args:
          index: as batches give it.
        """
        index -= self._first_record
        for directory in self._config.dirs:
            count = shards.read_card(directory).count
            if index < count:
                key = shards.Series(directory, RGB)[index]["key"]
                return f"record {index} of {directory} (clip {key!r})"
            index -= count
        raise IndexError(index)


def rows_per_process(batch_size: int, process_index: int, process_count: int) -> int:
    """The rows of a global batch that each process yields.

    Raises:
      UserError: the batch does not divide, or the index is out of range.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"config.train.batch_size={batch_size}: must be a positive multiple of the "
            f"{process_count} processes"
        )
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index={process_index}: must be below {process_count}")
    return batch_size // process_count
