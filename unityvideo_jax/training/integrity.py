"""Checks that the devices compute correctly: copies agree, and a loss repeats itself.

A device can compute or store wrong numbers without any error. Copies of the parameters that differ,
or a loss that differs when it is computed again, show it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Integer, Shaped, UInt32

from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching import ObjectiveConfig, flow_matching_loss
from unityvideo_jax.parallel.rules import AxisRules, num_parts, split_axes
from unityvideo_jax.training.state import TrainState

BATCH_AXES = ("slice", "data", "fsdp")


class IntegrityCheck:
    """Compares a state's copies on the mesh bit by bit, and a probe's losses with themselves.

    Args:
      graphdef: of the model.
      layout: shardings of the state.
      mesh: of them.
      objective: of the loss.
      modalities: names of the modality ids.
      step: of the state that is held to be right, from which the run continues.
      probe: a batch on the devices, the same in every check.
      parts: number of parts of the probe, of which one is used, to bound memory.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        layout: TrainState,
        mesh: Mesh,
        objective: ObjectiveConfig,
        *,
        modalities: Sequence[str],
        step: int,
        probe: Mapping[str, Array],
        parts: int = 1,
    ):
        self._mesh, self._probe, self._right = mesh, dict(probe), step
        paths = jax.tree_util.tree_leaves_with_path(layout)
        self._names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
        self._specs = [leaf.spec for _, leaf in paths]
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._digests = jax.jit(replica_digests(self._specs, mesh), out_shardings=everywhere)

        def losses(params: Any, batch: Mapping[str, Array]) -> Float[Array, "b"]:
            part = {k: x.reshape(-1, parts, *x.shape[1:])[:, 0] for k, x in batch.items()}
            key = jax.random.key(0)
            velocity = nnx.merge(graphdef, params)
            return flow_matching_loss(velocity, part, key, objective, modalities=modalities)[1][
                "samples"
            ]

        self._losses: Callable[..., Array] = jax.jit(losses, out_shardings=everywhere)

    def __call__(self, state: TrainState, step: int) -> None:
        """Checks the state after a step; every process must call it.

        Raises:
          UserError: devices disagree; names them, and the last step at which they did not.
        """
        table = np.asarray(self._digests(jax.tree.leaves(state)))
        first, second = (np.asarray(self._losses(state.weights, self._probe)) for _ in range(2))
        fault = differing_copies(table, self._names, self._specs, self._mesh)
        fault = fault or differing_losses(first, second, self._mesh)
        if fault:
            raise UserError(
                f"step {step}: {fault}; take that hardware out of service and remove the "
                f"checkpoints after step {self._right}, when all was right, before you resume"
            )
        self._right = step


def digest(x: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    """Returns a sum over the elements of a hash of index and bits.

    Any change of one element changes it.

    Args:
      x: of any shape and type.
    """
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    bits = bits.reshape(-1).astype(jnp.uint32)
    h = bits ^ (jax.lax.iota(jnp.uint32, bits.size) * jnp.uint32(0x9E3779B9))
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)


def replica_digests(
    specs: Sequence[PartitionSpec], mesh: Mesh
) -> Callable[[Sequence[Array]], Integer[Array, "..."]]:
    """Makes (arrays laid out by `specs`) -> u32[*mesh, arrays], a digest of each device's part."""

    def own(arrays: list[Array]) -> UInt32[Array, "..."]:
        digests = jnp.stack([digest(x) for x in arrays])
        return digests.reshape(*(1 for _ in mesh.axis_names), -1)

    # Every device digests what lies in its own memory: nothing may assume that copies are equal.
    return jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(list(specs),),
        out_specs=PartitionSpec(*mesh.axis_names),
        check_vma=False,
    )


def differing_copies(
    table: Integer[np.ndarray, "..."],
    names: Sequence[str],
    specs: Sequence[PartitionSpec],
    mesh: Mesh,
) -> str:
    """Returns which device's copy of which array differs from the others, in words; "" if none.

    Args:
      table: digests u32[*mesh, arrays].
      names, specs: of the arrays.
      mesh: of the table.
    """
    for place, (name, spec) in enumerate(zip(names, specs, strict=True)):
        split = {axis for axes in spec for axis in split_axes(axes, mesh)}
        copied = [n for n, axis in enumerate(mesh.axis_names) if axis not in split]
        count = int(np.prod([mesh.devices.shape[n] for n in copied]))

        def rows(x: np.ndarray, copied=copied, count=count) -> np.ndarray:
            return np.moveaxis(x, copied, range(len(copied))).reshape(count, -1)

        digests, devices = rows(table[..., place]), rows(mesh.devices)
        for column in np.flatnonzero((digests != digests[0]).any(axis=0)):
            values, counts = np.unique(digests[:, column], return_counts=True)
            odd = digests[:, column] != values[np.argmax(counts)]
            if 2 * counts.max() == count:  # nobody knows which half is right
                odd[:] = True
            found = ", ".join(map(_device, devices[odd, column]))
            return f"{name} differs between its {count} copies, which must be equal: on {found}"
    return ""


def differing_losses(
    first: Float[np.ndarray, "b"], second: Float[np.ndarray, "b"], mesh: Mesh
) -> str:
    """Returns which device's loss differed the second time, in words; "" if none.

    Args:
      first, second: losses of the probe's samples.
      mesh: of the devices that computed them.
    """
    rows = np.flatnonzero(first.view(np.uint32) != second.view(np.uint32))
    if not len(rows):
        return ""
    size = len(first) // num_parts(BATCH_AXES, mesh)
    layout = NamedSharding(mesh, AxisRules().spec(("batch",)))
    held = layout.devices_indices_map(first.shape)
    found = [d for d, (part,) in held.items() if (part.start or 0) == rows[0] // size * size]
    return (
        f"the loss of row {rows[0]} of the probe is {second[rows[0]]!r} after {first[rows[0]]!r}, "
        f"on the same input: on {', '.join(map(_device, found))}"
    )


def _device(device: jax.Device) -> str:
    return f"device {device.id} ({device.device_kind}, process {device.process_index})"
