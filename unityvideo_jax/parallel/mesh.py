"""The one device mesh: slice, data, fsdp, context, tensor."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from unityvideo_jax.errors import UserError

AXES = ("slice", "data", "fsdp", "context", "tensor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis; at most one may be -1, which takes what the others leave.

    Attributes:
      slice: groups of devices whose links to each other are slow: TPU slices, or hosts without a
        common fast network. Copies of the parameters, each on other samples.
      data: copies of the parameters, each on other samples.
      fsdp: parts of the parameters and optimiser state, each part on other samples.
      context: parts of the token sequence.
      tensor: parts of the heads and of the feed-forward width.
    """

    slice: int = 1
    data: int = -1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1

    def shape(self, num_devices: int) -> tuple[int, ...]:
        """Sizes in the order of `AXES`.

        Raises:
          UserError: the sizes do not multiply to the number of devices.
        """
        sizes = [getattr(self, axis) for axis in AXES]
        if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
            raise UserError(f"config.mesh={self}: sizes must be positive, at most one may be -1")
        known = math.prod(size for size in sizes if size > 0)
        if -1 in sizes:
            sizes[sizes.index(-1)] = num_devices // known
        if math.prod(sizes) != num_devices:
            raise UserError(
                f"config.mesh asks for {known} devices along its fixed axes and there are "
                f"{num_devices}; choose sizes whose product is {num_devices}"
            )
        return tuple(sizes)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes the mesh over all devices (or those given), laid out for the fastest links.

    With `slice` > 1 only that axis crosses from a TPU slice to another, or, where devices have no
    slices, from a group of whole processes to another.

    Raises:
      UserError: the sizes fit neither the devices nor their slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = config.shape(len(devices))
    types = (AxisType.Auto,) * len(AXES)
    groups = [devices] if config.slice == 1 else _groups(devices, shape[0])
    return Mesh(np.stack([_within(shape[1:], g) for g in groups]), AXES, axis_types=types)


def _within(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    # Unlike `jax.make_mesh`, which cuts an axis of a v5e's torus in two where a mesh asks for that,
    # but refuses to cut a v6e's or a v5p's.
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def _groups(devices: Sequence[Any], count: int) -> list[list[Any]]:
    """Devices slice by slice; those without slices in equal runs of whole processes."""

    def members(attribute: str) -> list[list[Any]]:
        found: dict[Any, list[Any]] = {}
        for device in devices:
            found.setdefault(getattr(device, attribute, None), []).append(device)
        return [found[key] for key in sorted(found)]

    slices = members("slice_index")
    if len(slices) == count:
        return slices
    processes = members("process_index")
    if len(slices) > 1 or (len(processes) > 1 and len(processes) % count):
        raise UserError(
            f"config.mesh.slice={count} does not fit {len(slices)} slices and {len(processes)} "
            "processes: set it to the number of slices, or to a divisor of the processes"
        )
    ordered = [device for process in processes for device in process]
    size = len(devices) // count
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
