"""From latent shards to batches: mixed by weight, shuffled, repeated, resumable to the record."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Float

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import shards
from unityvideo_jax.inputs.config import DataConfig, as_data_config, stage_modality_weights
from unityvideo_jax.inputs.mixing import Mixture


class PairSource:
    """RGB and one modality of one folder, joined by record number.

    Yields {latents f16[2,t,h,w,C], modality i32[2], context f16[2,L,D], null f16[L,D], index i32};
    `index` counts on over the folders of a config, so that it names one clip.
    """

    def __init__(
        self,
        rgb: shards.Series,
        series: shards.Series,
        null_context: Float[np.ndarray, "l d"],
        modality_ids: tuple[int, int],
        offset: int,
    ):
        self._rgb, self._series = rgb, series
        self._null = null_context.astype(np.float16)
        self._ids = np.asarray(modality_ids, np.int32)
        self._offset = offset

    def __len__(self) -> int:
        return len(self._rgb)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rgb, other = self._rgb[index], self._series[index]
        if rgb["key"] != other["key"]:
            raise UserError(
                f"{self._series.path}: record {index} is of clip {other['key']!r}, but of "
                f"{rgb['key']!r} in rgb; the series were not prepared together, prepare them again"
            )
        return {
            "latents": np.stack([rgb["latents"], other["latents"]]),
            "modality": self._ids,
            "context": np.stack([rgb["embedding"], other["embedding"]]),
            "null": self._null,
            "index": np.asarray(self._offset + index, np.int32),
        }

    def __repr__(self) -> str:
        return f"PairSource({self._series.path})"


@dataclasses.dataclass(frozen=True)
class DropContext(grain.transforms.RandomMap):
    """Replaces caption and modality prompt by the null context.

    Guidance needs a model that has also learned without text. The public release drops the caption
    alone, so the two probabilities are separate.
    """

    caption: float
    prompt: float

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Draws once a stream; always two draws, so that one rate does not shift the other's."""
        element = dict(element)
        drop = rng.random(2) < (self.caption, self.prompt)
        null = element.pop("null")
        if drop.any():
            element["context"] = np.where(drop[:, None, None], null, element["context"])
        return element


def check_against(
    card: shards.Card, config: DataConfig, directory: str, vae_id: str | None
) -> None:
    """Raises UserError unless the shards are what the config describes.

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


def open_sources(
    config: DataConfig, modalities: Sequence[str], drawn: Mapping[str, float]
) -> tuple[list[PairSource], list[float]]:
    """Opens one source a (folder, modality) with its weight, and checks them against the config.

    A folder's weight is shared by those of the drawn modalities that it has, so that groups of
    unlike modalities keep their shares; every drawn modality must be in some folder.
    """
    from unityvideo_jax.inputs.encode import vae_id_or_none

    vae_id = vae_id_or_none(config.vae)
    sources: list[PairSource] = []
    weights: list[float] = []
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
        rgb = shards.Series(directory, "rgb")
        present = {name: weight for name, weight in drawn.items() if name in card.modalities}
        held.update(present if dir_weight > 0 else ())
        for name, weight in present.items():
            series = shards.Series(directory, name)
            if not len(series) == len(rgb) == card.count:
                raise UserError(
                    f"{directory}: {len(series)} records of {name}, {len(rgb)} of rgb, "
                    f"{card.count} in {shards.CARD_NAME}; prepare the shards again"
                )
            if dir_weight > 0:
                check_codec(card, config, directory, name)
                ids = (modalities.index("rgb"), modalities.index(name))
                sources.append(PairSource(rgb, series, null_context, ids, offset))
                weights.append(dir_weight * weight / sum(present.values()))
        offset += card.count
    if not any(config.weights_of_dirs()):
        raise UserError("config.data.dir_weights: every weight is 0; give one folder more")
    if lost := [name for name in drawn if name not in held]:
        raise UserError(
            f"{', '.join(config.dirs)}: no series of modality {lost[0]!r}; add it with `python -m "
            f"unityvideo_jax.prepare --workdir={config.dirs[0]} --modalities=...,{lost[0]}`, or "
            "give it weight 0"
        )
    return sources, weights


def make_dataset(
    config: DataConfig,
    modalities: Sequence[str],
    *,
    seed: int,
    stage_weights: Mapping[str, float | int] | None = None,
) -> grain.MapDataset:
    """The endless stream of single samples, the same for any batch size and process count.

    Each source is shuffled anew every epoch on its own and the mix is by weight, so in every epoch
    of a (folder, modality) each of its records appears once.
    """
    drawn = stage_modality_weights(config, modalities, stage_weights)
    sources, weights = open_sources(config, tuple(modalities), drawn)
    streams = [
        grain.MapDataset.source(source).shuffle(seed=(seed + 7919 * n) % 2**32).repeat()
        for n, source in enumerate(sources)
    ]
    mixed = grain.MapDataset.select_from_datasets(streams, Mixture(weights))
    drop = DropContext(caption=float(config.caption_dropout), prompt=float(config.prompt_dropout))
    return mixed.random_map(drop, seed=(seed + 1) % 2**32)


def make_iterator(
    data_config: object,
    modalities: Sequence[str],
    *,
    batch_size: int,
    seed: int,
    stage_weights: Mapping[str, float | int] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Batches for one process from latent shards.

    Args:
      data_config: a DataConfig or dict-like `config.data`.
      modalities: `config.model.modalities`; a modality's id is its place here.
      batch_size: rows of the global batch; this process yields batch_size / process_count of them,
        and its rows do not depend on the others.
      seed: of shuffling and text dropout.
      stage_weights: modality weights of the curriculum stage; None takes the config's.
      process_index: which consecutive part of every global batch this process yields.
      process_count: processes that share each batch.

    Returns:
      An endless iterator of {latents f16[B,2,t,h,w,C], modality i32[B,2], context f16[B,2,L,D],
      index i32[B]}, stream 0 being RGB; the step widens them on the device. `get_state()` /
      `set_state()` resume at the exact batch.

    Raises:
      UserError: shards missing, corrupt, or of another size, encoder or VAE than the config says;
        unknown modalities; a batch that does not divide.
    """
    config = as_data_config(data_config)
    rows = rows_per_process(batch_size, process_index, process_count)
    dataset = make_dataset(config, modalities, seed=seed, stage_weights=stage_weights)
    dataset = dataset.batch(rows)[process_index::process_count]
    stream = dataset.to_iter_dataset(
        grain.ReadOptions(
            num_threads=config.read_threads, prefetch_buffer_size=4 * config.read_threads
        )
    )
    if config.num_workers:
        stream = stream.mp_prefetch(
            grain.multiprocessing.MultiprocessingOptions(num_workers=config.num_workers)
        )
    return iter(stream)


def rows_per_process(batch_size: int, process_index: int, process_count: int) -> int:
    """Rows of a global batch that each process yields.

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
