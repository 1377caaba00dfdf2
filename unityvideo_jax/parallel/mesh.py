"""The one device mesh: data, fsdp, context, tensor."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from unityvideo_jax.errors import UserError

AXES = ("data", "fsdp", "context", "tensor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis; at most one may be -1, which takes what the others leave.

    Attributes:
      data: copies of the parameters, each on other samples.
      fsdp: parts of the parameters and optimiser state, each part on other samples.
      context: parts of the token sequence.
      tensor: parts of the heads and of the feed-forward width.
    """

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
    """The mesh over all devices (or those given), laid out for the fastest links."""
    devices = jax.devices() if devices is None else list(devices)
    shape = config.shape(len(devices))
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
