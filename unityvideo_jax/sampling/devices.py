"""A batch shared equally among devices, each of which holds all parameters."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import AxisRules


class Devices:
    """The devices of a batch; without devices, JAX chooses."""

    def __init__(self, devices: Sequence[jax.Device] = ()):
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
