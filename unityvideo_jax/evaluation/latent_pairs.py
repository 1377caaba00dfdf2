"""Latents and texts of clips with truth, as the model meets them: RGB with modalities, or alone.

And the held-out errors over them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unityvideo_jax import modalities
from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.evaluation.heldout import (
    HeldoutConfig,
    heldout_errors,
    require_finite,
    stream_sets,
)
from unityvideo_jax.inputs import buckets
from unityvideo_jax.inputs.config import DataConfig
from unityvideo_jax.modalities import RGB
from unityvideo_jax.sampling.pipeline import Pipeline


def drawing(codec: modalities.Codec) -> Callable[[Mapping[str, Any]], Float[Array, "b t h w 3"]]:
    """Draws batches of clips as the codec of a modality does; compiled once per shape."""
    return jax.jit(jax.vmap(lambda clip: codec.encode(clip)[0]))


class Streams(NamedTuple):
    """A batch of streams.

    Attributes:
      latents: clean, RGB first unless a modality is alone.
      modality: ids.
      context: text embeddings.
    """

    latents: Float[Array, "b s t h w c"]
    modality: Int[Array, "b s"]
    context: Float[Array, "b s l d"]


class Pair(NamedTuple):
    """A batch of RGB with one modality.

    Attributes:
      latents: clean, RGB first.
      modality: ids.
      context: text embeddings.
    """

    latents: Float[Array, "b 2 t h w c"]
    modality: Int[Array, "b 2"]
    context: Float[Array, "b 2 l d"]


class LatentPairs:
    """Draws and encodes batches of clips, every modality of a pipeline in turn."""

    def __init__(self, pipeline: Pipeline):
        self._pipeline = pipeline
        self._draw = {name: drawing(pipeline.codec(name)) for name in pipeline.modalities}

    def _latents(self, batch: Batch, name: str) -> Float[Array, "b t h w c"]:
        return self._pipeline.encode(np.asarray(self._draw[name](batch.clip)), name)

    def _known(self, batch: Batch) -> tuple[str, ...]:
        """The model's modalities that the clips have truth of; worlds do not render all."""
        keys = {name: set(modalities.get(name).codec.keys) for name in self._draw}
        return tuple(name for name in self._draw if name == RGB or keys[name] <= set(batch.clip))

    def _streams(
        self,
        batch: Batch,
        captions: Sequence[str],
        latents: Mapping[str, Float[Array, "b t h w c"]],
    ) -> Streams:
        names = tuple(latents)
        ids = jnp.array([self._pipeline.modalities.index(name) for name in names], jnp.int32)
        prompts = {
            name: [p.get(name, modalities.get(name).prompt) for p in batch.prompts]
            for name in names
            if name != RGB
        }
        context, _ = self._pipeline.contexts(names, captions, prompts)
        rows = jnp.tile(ids, (len(captions), 1))
        return Streams(jnp.stack([*latents.values()], axis=1), rows, jnp.asarray(context))

    def __call__(self, batch: Batch, captions: Sequence[str]) -> Iterator[tuple[str, Pair]]:
        """Yields each modality with truth, by name; the prompts are the clips' own."""
        rgb = self._latents(batch, RGB)
        for name in self._known(batch)[1:]:
            latents = {RGB: rgb, name: self._latents(batch, name)}
            yield name, Pair(*self._streams(batch, captions, latents))

    def sets(
        self, batch: Batch, captions: Sequence[str], counts: Collection[int]
    ) -> Iterator[tuple[tuple[str, ...], Streams]]:
        """Yields each of `heldout.stream_sets` of the streams with truth, by its names."""
        known = self._known(batch)
        latents = {name: self._latents(batch, name) for name in known}
        for names in stream_sets(known, counts):
            yield names, self._streams(batch, captions, {name: latents[name] for name in names})


class HeldoutErrors:
    """The held-out errors of a pipeline over every set of streams, as its run trains them."""

    def __init__(self, pipeline: Pipeline, pairs: LatentPairs, config: HeldoutConfig):
        self._params, self._pairs = pipeline.params, pairs
        self._counts = config.streams or trained_counts(pipeline)
        self._errors = jax.jit(
            lambda params, *arrays: heldout_errors(pipeline.velocity(params), *arrays, config)
        )

    def measure(self, batch: Batch, rows: Mapping[int, dict[str, list]]) -> None:
        """Adds the errors of a batch to its rows; the caption is the clip's own, as in training.

        Args:
          batch: clips.
          rows: by the number of the clip; they get errors [task][timestep][stream] by the names of
            the streams, joined by "+".

        Raises:
          UserError: an error that is not finite.
        """
        for names, streams in self._pairs.sets(batch, batch.captions, self._counts):
            errors = self._errors(self._params, *streams, jnp.asarray(batch.index))
            errors = np.asarray(errors)[: batch.count]
            require_finite(", ".join(names), errors, f"clips {', '.join(map(str, rows))}")
            for row, error in zip(rows.values(), errors, strict=True):
                row["+".join(names)] = error.tolist()


def trained_counts(pipeline: Pipeline) -> tuple[int, ...]:
    """Numbers of streams that a run trains, and pairs if it has modalities."""
    data = pipeline.config["data"]
    weights = {n: w for n, w in enumerate(data.get("streams", DataConfig.streams), 1) if w}
    entries = buckets.parse(data.get("buckets", ()), "config.data.buckets")
    counts = {bucket.streams for bucket in buckets.by_streams(entries, weights)} or set(weights)
    if len(pipeline.modalities) > 1:
        counts.add(2)
    return tuple(sorted(counts))
