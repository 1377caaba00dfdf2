"""Scenes to latents on the devices of a process, in two programs.

One program renders a few clips per device, whatever their streams; it takes longest to compile, and
serves every number of streams. The other draws what the streams show and encodes it.
"""

import functools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from unityvideo_jax import modalities as registry
from unityvideo_jax.inputs.encode import LatentEncoder

# Clips that a device renders and encodes at once, which bounds the memory that this takes.
_AT_ONCE = 8
# Iterators of several threads share the renderer, which the first of them compiles.
_COMPILES_ONCE = threading.Lock()
_ROWS, _WHOLE = PartitionSpec("rows"), PartitionSpec()

Drawers = tuple[tuple[str, registry.Codec], ...]


class SceneEncoder:
    """Renders, draws and encodes groups of scenes that have the same streams.

    The devices share out the groups, if their number divides them.

    Args:
      world: of the scenes; its seed does not matter.
      drawers: name and codec of every modality of the model, by modality id.
      encoder: of the videos.
      size: scenes of a group.
      groups: of a batch.
      streams: S, of every scene.
    """

    def __init__(
        self,
        world: Any,
        drawers: Drawers,
        encoder: LatentEncoder,
        *,
        size: int,
        groups: int,
        streams: int,
    ):
        devices = math.gcd(groups, jax.local_device_count())
        # Without a mesh of their own the programs would be bound to that of the model.
        self._mesh = _mesh(devices)
        self._size, self._at_once = size, math.gcd(size, _AT_ONCE)
        self._per_device = groups * size // devices
        self._render = _renderer(world, self._mesh, self._at_once)
        self._encode = _encoder(world, drawers, encoder, self._mesh, streams)
        self._join = _joiner(self._mesh)
        self._params = jax.device_put(encoder.params, NamedSharding(self._mesh, _WHOLE))

    def __call__(self, scenes: Any, ids: Int[np.ndarray, "g s"]) -> Float[Array, "b s t h w c"]:
        """Encodes the scenes of a batch; does not wait for the latents.

        Args:
          scenes: of all groups, one after the other.
          ids: the modality ids of each group.
        """
        firsts = np.arange(0, len(ids) * self._size, self._per_device)
        scenes = jax.device_put(scenes, NamedSharding(self._mesh, _ROWS))
        parts = []
        with jax.set_mesh(self._mesh):
            for start in range(0, self._per_device, self._at_once):
                with _COMPILES_ONCE:
                    clips = self._render(scenes, np.int32(start))
                # A part lies in one group on each device.
                own = ids[(firsts + start) // self._size]
                parts.append(self._encode(self._params, clips, own))
            return self._join(parts)


@functools.cache
def _mesh(devices: int) -> Mesh:
    chosen = np.asarray(jax.local_devices()[:devices])
    return Mesh(chosen, ("rows",), axis_types=(AxisType.Auto,))


def _on_rows(function: Callable, mesh: Mesh, *specs: PartitionSpec) -> Callable:
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=_ROWS, check_vma=False)
    return jax.jit(mapped)


@functools.lru_cache(maxsize=8)
def _renderer(world: Any, mesh: Mesh, count: int) -> Callable:
    """(scenes, start i32[]) -> the arrays of `count` clips per device, from its own start on."""
    from unityvideo_jax import worlds

    def render(scenes: Any, start: Int[Array, ""]) -> dict[str, Array]:
        part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, count), scenes)
        return dict(worlds.render(world, part))

    return _on_rows(render, mesh, _ROWS, _WHOLE)


@functools.lru_cache(maxsize=32)
def _encoder(
    world: Any, drawers: Drawers, encoder: LatentEncoder, mesh: Mesh, streams: int
) -> Callable:
    """(params, clips, ids i32[devices,S]) -> normalised latents f32[clips,S,t,h,w,C].

    Has a branch for the codec of every modality of the model and is cached, so that the next
    curriculum stage does not compile it again.
    """

    def drawn(codec: registry.Codec, clips: Mapping[str, Array]) -> Float[Array, "g t h w 3"]:
        return jax.vmap(lambda clip: codec.encode(clip)[0])({k: clips[k] for k in codec.keys})

    branches = [functools.partial(drawn, codec) for _, codec in drawers]
    channels = encoder.latent_shape(world.num_frames, world.height, world.width)[-1]
    table = encoder.table([name for name, _ in drawers], channels)

    def encode(
        params: Any, clips: Mapping[str, Array], ids: Int[Array, "1 s"]
    ) -> Float[Array, "g s t h w c"]:
        ids = ids[0]
        # Beside others the first stream is RGB, which needs no switch.
        videos = [branches[0](clips)] if streams > 1 else []
        videos += [jax.lax.switch(n, branches, clips) for n in ids[len(videos) :]]
        latents = encoder.apply(params, jnp.concatenate(videos)).astype(jnp.float32)
        latents = jnp.stack(jnp.split(latents, streams), axis=1)
        rows = (1, streams, 1, 1, 1, channels)
        means, stds = map(jnp.asarray, table)
        return (latents - means[ids].reshape(rows)) / stds[ids].reshape(rows)

    return _on_rows(encode, mesh, _WHOLE, _ROWS, _ROWS)


@functools.lru_cache(maxsize=8)
def _joiner(mesh: Mesh) -> Callable:
    """Parts of the rows of every device -> all rows, each on its device."""

    def join(parts: Sequence[Float[Array, "g *x"]]) -> Float[Array, "b *x"]:
        return jnp.concatenate(parts)

    return _on_rows(join, mesh, _ROWS)
