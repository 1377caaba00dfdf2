"""Worlds rendered and encoded on the accelerator while training; nothing is stored."""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.config import as_data_config, stage_modality_weights
from unityvideo_jax.inputs.encode import LatentEncoder, load_encoder
from unityvideo_jax.inputs.pipeline import rows_per_process
from unityvideo_jax.inputs.rendered import SceneEncoder
from unityvideo_jax.inputs.shares import make_mix
from unityvideo_jax.inputs.sources import asks_for_all, check_rendered, sample_worlds, text_of
from unityvideo_jax.models.text.encoder import CutTexts, TextEncoder
from unityvideo_jax.pretrained.text import load_text_encoder


def group_size(rows: int, sets: int, limit: int = 16) -> int:
    """The number of clips with the same streams that are rendered at once: a divisor of `rows`.

    The largest one such that a batch holds at least two groups per set of streams, if it can, and
    at most `limit`, which bounds the memory of rendering and encoding.
    """
    most = max(1, min(limit, rows // (2 * sets)))
    return max(n for n in range(1, most + 1) if rows % n == 0)


class OnlineWorlds:
    """An endless iterator of batches over worlds 0, 1, 2, ... of a split; each is seen once.

    A batch is divided into groups of the same streams, drawn by weight as in the shards' pipeline.
    They are rendered, drawn and encoded as `inputs.rendered` says, by programs that compile once.

    Args:
      data_config: a DataConfig or dict-like `config.data`; its split, frames, size, fps, weights,
        dropouts, prompts, text encoder and VAE are used.
      modalities: `config.model.modalities`; a modality's id is its place here.
      batch_size: rows of the global batch; this process yields its share.
      seed: of the worlds, the order of modalities, their prompts and text dropout.
      streams: S, of every sample.
      first_world: where the worlds begin, for iterators of one seed that are to share none.
      stage_weights: modality weights of the curriculum stage; None takes the config's.
      process_index, process_count: which part of each global batch this process yields.
      encoder: overrides the VAE that `data_config` names.
      text_encoder: overrides the text encoder that `data_config` names.
      clips_per_group: overrides `group_size`.

    Attributes:
      shares: asked and drawn, of what the samples are.
      shapes: (B, S, t, h, w, C) of the latents of a global batch, the only one.

    Yields:
      {latents f32[B,S,t,h,w,C] on the devices, rows in order, not waited for; modality i32[B,S],
      context f32[B,S,L,D] and index i32[B] on the host}, stream 0 being RGB, or the only stream.

    Raises:
      UserError: an unknown modality, split or encoder, or a batch that does not divide.
    """

    def __init__(
        self,
        data_config: Any,
        modalities: Sequence[str],
        batch_size: int,
        seed: int,
        *,
        streams: int = 2,
        first_world: int = 0,
        stage_weights: Mapping[str, float | int] | None = None,
        process_index: int = 0,
        process_count: int = 1,
        encoder: LatentEncoder | None = None,
        text_encoder: TextEncoder | None = None,
        clips_per_group: int | None = None,
    ):
        from unityvideo_jax import worlds

        self._config = config = as_data_config(data_config)
        self._rows = rows_per_process(batch_size, process_index, process_count)
        self._batch_size, self._seed = batch_size, seed
        self._first = process_index * self._rows
        drawn = stage_modality_weights(config, modalities, stage_weights)
        mix = make_mix(
            [tuple(drawn)],
            {"worlds": 1.0},
            drawn,
            streams,
            float(config.rgb_alone),
            config.never_together,
        )
        self.shares, self._mixture = mix.shares, mix.mixture
        self._names = tuple(modalities)
        # Modality ids of each set of streams.
        self._sets = np.asarray(
            [[self._names.index(name) for name in names] for _, names in mix.sources], np.int32
        )
        limit = min(16, max(1, 32 // streams))
        self._group = clips_per_group or group_size(self._rows, len(self._sets), limit)
        if self._rows % self._group:
            raise UserError(
                f"clips_per_group={self._group}: must divide the {self._rows} rows of a process"
            )
        self._world = worlds.WorldConfig(
            height=config.height,
            width=config.width,
            num_frames=config.num_frames,
            fps=float(config.fps),
            split=config.split,
            seed=seed,
            closeup=float(config.closeup),
        )
        self._encoder = encoder or load_encoder(config.vae, config.vae_dtype)
        self._texts = text_encoder or load_text_encoder(config.text_encoder, config.text_length)
        self._null = self._texts([""])[0]
        # Asked about the first batch alone: its captions are of all kinds.
        self._warn_of_cut = CutTexts(self._texts, f"config.data.text_length={self._texts.length}")
        for name in modalities:
            if name != registry.RGB:
                check_rendered(name, registry.chosen_codec(name, config.codecs))
        # Seeds decide the contents of a scene, not how it is drawn: one compilation serves all.
        self._encode = SceneEncoder(
            dataclasses.replace(self._world, seed=0),
            tuple((name, registry.chosen_codec(name, config.codecs)) for name in self._names),
            self._encoder,
            size=self._group,
            groups=self._rows // self._group,
            streams=streams,
        )
        latents = self._encoder.latent_shape(config.num_frames, config.height, config.width)
        self.shapes = ((batch_size, streams, *latents),)
        self._next_index = first_world
        # A batch in the background: what the host does for it takes as long as several small steps,
        # and its programs are compiled while the step is.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="worlds")
        self._ahead: tuple[int, Future] | None = None

    def __iter__(self) -> "OnlineWorlds":
        return self

    def get_state(self) -> dict[str, int]:
        """The index of the next global batch's first world."""
        return {"next_index": self._next_index}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Restores a state that `get_state` gave, whatever the batch size was.

        Raises:
          ValueError: not such a state.
        """
        index = state["next_index"]
        if type(index) is not int or index < 0:
            raise ValueError(f"next_index={index!r}")
        self._next_index = index

    def describe(self, index: int) -> str:
        """A world by its number, for messages."""
        return f"world {index} of split {self._world.split!r}, seed {self._seed}"

    def __next__(self) -> dict[str, Any]:
        self.begin()
        batch = self._ahead[1].result()
        self._next_index += self._batch_size
        self.begin()
        return batch

    def begin(self) -> None:
        """Begins the next batch in the background, unless it has begun."""
        start = self._next_index
        if self._ahead is None or self._ahead[0] != start:
            self._ahead = (start, self._thread.submit(self._batch, start))

    def _batch(self, start: int) -> dict[str, Any]:
        """The batch whose first world has this number."""
        from unityvideo_jax import worlds

        index = self._indices(start)
        scenes = sample_worlds(self._world, index, self._for_all(index))
        descriptions = worlds.describe(self._world, scenes)
        groups = self._groups(start)
        modality = self._sets[np.repeat(groups, self._group)]
        return {
            "latents": self._encode(scenes, self._sets[groups]),
            "modality": modality,
            "context": self._context(descriptions, modality, index),
            "index": index,
        }

    def _indices(self, start: int) -> Int[np.ndarray, "b"]:
        first = start + self._first
        return np.arange(first, first + self._rows, dtype=np.int64).astype(np.int32)

    def _for_all(self, index: Int[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
        return asks_for_all(self._seed, index, self._config.registry_prompt_rate)

    def _groups(self, start: int) -> Int[np.ndarray, "g"]:
        """Which set of streams each group of this process's rows has."""
        first = (start + self._first) // self._group
        count = self._rows // self._group
        return np.asarray([self._mixture[n][0] for n in range(first, first + count)])

    def _context(
        self,
        descriptions: Sequence[Any],
        modality: Int[np.ndarray, "b s"],
        index: Int[np.ndarray, " b"],
    ) -> Float[np.ndarray, "b s l d"]:
        for_all = self._for_all(index)
        texts = [
            [
                text_of(d, self._names[m], bool(a))
                for d, m, a in zip(descriptions, stream, for_all, strict=True)
            ]
            for stream in modality.T
        ]
        if self._warn_of_cut:
            self._warn_of_cut([text for stream in texts for text in stream])
            self._warn_of_cut = None
        context = np.stack([self._texts(stream) for stream in texts], axis=1).astype(np.float32)
        rates = (self._config.caption_dropout, self._config.prompt_dropout)
        # One generator per world: what is dropped depends on its index, not on the batch around it.
        drop = np.stack([np.random.default_rng((self._seed, n)).random(2) for n in index]) < rates
        # The prompts of a sample are dropped together, as guidance drops them.
        drop = np.where(modality == 0, drop[:, :1], drop[:, 1:])
        return np.where(drop[..., None, None], self._null, context)
