"""A batch shared equally among devices, each of which holds all parameters."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import AxisRules
from unityvideo_jax.settings.sections import check_instance


class Devices:
    """The devices of a batch; without devices, JAX chooses.

    Raises:
      UserError: no list of devices.
    """

    def __init__(self, devices: Sequence[jax.Device] = ()):
        give = "a list of them, such as jax.devices()"
        check_instance(Collection, devices, "devices", give)
        for device in devices:
            check_instance(jax.Device, device, "devices", give)
        self.count = max(len(devices), 1)
        self.mesh: Mesh | None = make_mesh(MeshConfig(), devices) if self.count > 1 else None

    def replicate(self, tree: Any) -> Any:
        """Returns the arrays of the tree, on every device."""
        if self.mesh is None:
            return tree
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def share(self, rows: Shaped[np.ndarray, "b ..."] | Shaped[jax.Array, "b ..."]) -> Any:
        """Spreads rows over the devices; copies of the last row make the shares equal."""
        if self.mesh is None:
            return rows
        total = -(-len(rows) // self.count) * self.count
        filled = rows[np.minimum(np.arange(total), len(rows) - 1)]
        layout = NamedSharding(self.mesh, AxisRules().spec(("batch",)))
        return jax.device_put(filled, layout)

    def one_by_one(
        self, function: Callable[[Any], Array], rows: Shaped[np.ndarray, "b ..."]
    ) -> Iterator[Array]:
        """Applies `function` to one row per device at a time, to bound memory."""
        for first in range(0, len(rows), self.count):
            part = rows[first : first + self.count]
            yield function(self.share(part))[: len(part)]
