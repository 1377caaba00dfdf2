"""Digests of arrays that do not depend on how the arrays are divided.

A digest is two sums modulo 2**32 over an array's elements, each weighted by its place. Sums of
parts add up to that of the whole in any order, so devices, hosts and chunks of a file all give the
same. A flipped bit changes both sums; the chance that other damage changes neither is about 2**-60.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Shaped, UInt32

from unityvideo_jax.runtime import threads

Sums = UInt32[np.ndarray, "2"]
# Odd numbers that distinguish the weights of rows and, in either sum, of columns.
ROWS, COLUMNS, ACROSS = 0x9E3779B1, 0xC2B2AE35, 0x27D4EB2F
BLOCK = 2**17  # elements that stay in a processor's cache between the passes over them
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def _weights(places: Any, salt: int) -> Any:
    """Odd pseudo-random numbers: an odd factor keeps every bit of what it multiplies."""
    mixed = (places + np.uint32(1)) * np.uint32(salt)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x85EBCA6B)
    return mixed ^ (mixed >> np.uint32(13)) | np.uint32(1)


def _place_weights(
    origin: Sequence[int], sizes: Sequence[int], shape: Sequence[int], xp: Any = np
) -> tuple[Any, Any, Any]:
    """Weights of a part's rows, and of its columns in either sum; the last axis has the columns.

    Args:
      origin: where in the whole the part begins.
      sizes: of the part.
      shape: of the whole.
      xp: NumPy, or `jax.numpy` inside a program.

    Returns:
      uint32 vectors; places are counted modulo 2**32.
    """
    rows = xp.zeros(1, np.uint32)
    for first, count, size in zip(origin[:-1], sizes[:-1], shape[:-1], strict=True):
        places = xp.arange(count, dtype=np.uint32) + np.uint32(first % 2**32)
        rows = (rows[:, None] * np.uint32(size % 2**32) + places).ravel()
    first, count = (origin[-1], sizes[-1]) if shape else (0, 1)
    columns = xp.arange(count, dtype=np.uint32) + np.uint32(first % 2**32)
    return _weights(rows, ROWS), _weights(columns, COLUMNS), _weights(columns, ACROSS)


def of_part(
    part: Shaped[np.ndarray, "..."], origin: Sequence[int] = (), shape: Sequence[int] = ()
) -> Sums:
    """Returns the sums of one part of an array in memory.

    Args:
      part: of 1, 2 or 4 bytes per element.
      origin: where in the whole it begins, one number per axis.
      shape: of the whole.
    """
    rows, columns, across = _place_weights(origin, part.shape, shape)
    bits = np.ascontiguousarray(part).view(UNSIGNED[part.itemsize])
    bits = bits.reshape(len(rows), len(columns))
    by_column = np.zeros(len(columns), np.uint32)
    step = max(1, BLOCK // max(1, len(columns)))
    buffer = np.empty((min(step, len(rows)), len(columns)), np.uint32)
    for start in range(0, len(rows), step):
        block = bits[start : start + step].astype(np.uint32, copy=False)
        mixed = np.right_shift(block, 16, out=buffer[: len(block)])
        mixed ^= block
        mixed *= rows[start : start + step, None]
        by_column += mixed.sum(axis=0, dtype=np.uint32)
    return np.stack([(by_column * w).sum(dtype=np.uint32) for w in (columns, across)])


@jax.jit(static_argnums=(1, 2))
def _on_device(
    parts: Sequence[Shaped[Array, "..."]], origin: tuple[int, ...], shape: tuple[int, ...]
) -> UInt32[Array, "n 2"]:
    """`of_part`, of parts on an accelerator that have the same place in arrays of one shape."""
    rows, columns, across = _place_weights(origin, parts[0].shape, shape, jnp)

    def sums(part: Shaped[Array, "..."]) -> UInt32[Array, "2"]:
        bits = jax.lax.bitcast_convert_type(part, UNSIGNED[part.dtype.itemsize])
        bits = bits.astype(jnp.uint32).reshape(len(rows), len(columns))
        by_column = ((bits ^ (bits >> 16)) * rows[:, None]).sum(axis=0, dtype=jnp.uint32)
        return jnp.stack([(by_column * w).sum(dtype=jnp.uint32) for w in (columns, across)])

    return jnp.stack([sums(part) for part in parts])


def of_arrays(arrays: Mapping[str, jax.Array]) -> dict[str, str]:
    """Digests by name, the same on every mesh; all processes of a job call this together.

    Args:
      arrays: of 1, 2 or 4 bytes per element, laid out over any devices.
    """
    # Shards that one program takes, because starting a program per array takes longer than its
    # work: (device, dtype, place, shape of the part and of the whole) -> (number of array, part).
    groups: dict[tuple, list[tuple[int, jax.Array]]] = collections.defaultdict(list)
    for number, array in enumerate(arrays.values()):
        for shard in array.addressable_shards:
            if shard.replica_id == 0:
                origin = tuple(part.start or 0 for part in shard.index)
                kind = (shard.device, array.dtype, origin, shard.data.shape, array.shape)
                groups[kind].append((number, shard.data))

    def of_group(kind: tuple, parts: Sequence[jax.Array]) -> Sequence[Sums] | Array:
        device, _, origin, _, shape = kind
        if device.platform == "cpu":  # memory that numpy reads as it is, and faster than XLA
            return [of_part(np.asarray(part), origin, shape) for part in parts]
        return _on_device(parts, origin, shape)

    split = ((kind, [part for _, part in group]) for kind, group in groups.items())
    found = threads.map_all(lambda entry: of_group(*entry), split)
    sums = np.zeros((len(arrays), 2), np.uint32)
    for group, parts in zip(groups.values(), jax.device_get(found), strict=True):
        for (number, _), part in zip(group, parts, strict=True):
            sums[number] += part
    if jax.process_count() > 1:
        sums = multihost_utils.process_allgather(sums).sum(axis=0, dtype=np.uint32)
    return {name: as_text(row) for name, row in zip(arrays, sums, strict=True)}


def as_text(sums: Sums) -> str:
    """Returns a digest as 16 hexadecimal digits."""
    return f"{int(sums[0]):08x}{int(sums[1]):08x}"
