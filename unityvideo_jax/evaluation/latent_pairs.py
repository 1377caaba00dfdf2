"""Latents and texts of clips with truth, as the model meets them: RGB with each modality."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unityvideo_jax import modalities
from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.modalities import RGB
from unityvideo_jax.sampling.pipeline import Pipeline


def drawing(codec: modalities.Codec) -> Callable[[Mapping[str, Any]], Float[Array, "b t h w 3"]]:
    """Draws batches of clips as the codec of a modality does; compiled once a shape."""
    return jax.jit(jax.vmap(lambda clip: codec.encode(clip)[0]))


class Pair(NamedTuple):
    """A batch of RGB with one modality: clean latents, RGB first, modality ids, and texts."""

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

    def __call__(self, batch: Batch, captions: Sequence[str]) -> Iterator[tuple[str, Pair]]:
        """Each modality that the clips have truth of, by name; the prompts are the clips' own."""
        rgb = self._latents(batch, RGB)
        for name in self._draw:
            # A registered modality that worlds do not render has no truth here.
            if name == RGB or not set(modalities.get(name).codec.keys) <= set(batch.clip):
                continue
            latents = jnp.stack([rgb, self._latents(batch, name)], axis=1)
            ids = jnp.array([0, self._pipeline.modalities.index(name)], jnp.int32)
            prompts = [p.get(name, modalities.get(name).prompt) for p in batch.prompts]
            context, _ = self._pipeline.contexts((RGB, name), captions, {name: prompts})
            yield name, Pair(latents, jnp.tile(ids, (len(latents), 1)), jnp.asarray(context))
