"""Learning rates by group of parameters: factors on the updates of a modality's parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

# The public release's names of the parts that it gives ten times the rate: flow_patch_embedding,
# modality_embeddings and flow_in, and flow_head; it has no tables.
GROUPS = ("inputs", "switch", "tables", "heads", "backbone")
_GROUP_OF = {
    "patch_embedding": "inputs",
    "modality_embedding": "switch",
    "additive_switch": "switch",
    "heads": "heads",
}


def scale_by_group(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies updates, hence rates and decay, by the factors of their groups.

    "inputs", "tables" and "heads" are the rows of all modalities but RGB in input layers, blocks
    and heads, "switch" is the modality embedding or the additive switch, and "backbone" is all
    that an RGB-only model has. A group without a factor has 1, and a factor of 0 freezes it.

    Args:
      factors: by group.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, x: x * _factor(path, x, factors), updates
        )
        return scaled, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _factor(path: tuple, x: Array, factors: Mapping[str, float]) -> Float[Array, "..."] | float:
    """The factor of a parameter, or one per row of its modality axis, RGB's first."""
    names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    backbone = factors.get("backbone", 1.0)
    in_tables = names[:2] == ["blocks", "modulation"]
    group = "tables" if in_tables else _GROUP_OF.get(names[0], "backbone")
    factor = factors.get(group, 1.0)
    if group in ("switch", "backbone"):
        return factor
    axis = 1 if in_tables else 0
    rows = jnp.full((x.shape[axis],), factor).at[0].set(backbone)
    return rows.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
