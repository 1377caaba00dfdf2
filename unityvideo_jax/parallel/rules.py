"""Logical axes of parameters and batches, and the mesh axes that they are split over."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from unityvideo_jax.errors import UserError

MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxisRules:
    """Mesh axes of each logical axis; None is not split.

    Attributes:
      batch: samples.
      tokens: the token sequence of activations.
      layers: the stacked blocks.
      embed: width of the residual stream.
      heads: width of queries, keys and values, all heads together.
      mlp: hidden width of the feed-forward layers.
      text, patch, modality: the small axes at the model's edges.
    """

    batch: MeshAxes = ("slice", "data", "fsdp")
    tokens: MeshAxes = "context"
    layers: MeshAxes = None
    embed: MeshAxes = "fsdp"
    heads: MeshAxes = "tensor"
    mlp: MeshAxes = "tensor"
    text: MeshAxes = None
    patch: MeshAxes = None
    modality: MeshAxes = None

    def spec(self, logical_axes: tuple[str | None, ...]) -> PartitionSpec:
        """Returns the mesh axes of an array with these logical axes.

        Raises:
          UserError: an unknown logical axis, or two dimensions split over one mesh axis.
        """
        known = {field.name for field in dataclasses.fields(self)}
        parts: list[MeshAxes] = []
        used: set[str] = set()
        for name in logical_axes:
            if name is not None and name not in known:
                raise UserError(
                    f"logical axis {name!r} is unknown; rules exist for {sorted(known)}"
                )
            axes = None if name is None else getattr(self, name)
            flat = (axes,) if isinstance(axes, str) else (axes or ())
            if clash := used & set(flat):
                raise UserError(
                    f"axis rules: {logical_axes} splits two dimensions over mesh axis "
                    f"{sorted(clash)[0]!r}; give one of them another axis"
                )
            used |= set(flat)
            parts.append(axes)
        return PartitionSpec(*parts)


def split_axes(axes: MeshAxes, mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """Selects the `axes` that the mesh has with more than one device."""
    flat = (axes,) if isinstance(axes, str) else (axes or ())
    return tuple(axis for axis in flat if mesh.shape.get(axis, 1) > 1)


def num_parts(axes: tuple[str, ...], mesh: Mesh | AbstractMesh) -> int:
    """Returns the number of parts that a dimension is cut into by these mesh axes."""
    return math.prod(mesh.shape[axis] for axis in axes)


def divisible_spec(
    shape: tuple[int, ...], logical_axes: tuple[str | None, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """Returns the mesh axes of an activation.

    A dimension that its mesh axes do not divide, such as a small batch of samples, is not split.
    """
    parts = []
    for size, axes in zip(shape, AxisRules().spec(logical_axes), strict=True):
        axes = split_axes(axes, mesh)
        parts.append(axes if axes and size % num_parts(axes, mesh) == 0 else None)
    return PartitionSpec(*parts)


def ambient_mesh() -> AbstractMesh | None:
    """Returns the mesh of `jax.set_mesh`, if there is one and it has more than one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def constrain(x: Array, logical_axes: tuple[str | None, ...]) -> Array:
    """Lays out an activation over the ambient mesh, if any, by `divisible_spec`."""
    mesh = ambient_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, divisible_spec(x.shape, logical_axes, mesh))


def sharding(
    shape: tuple[int, ...],
    logical_axes: tuple[str | None, ...],
    rules: AxisRules,
    mesh: Mesh,
    name: str = "array",
) -> NamedSharding:
    """Returns the sharding of one array.

    Raises:
      UserError: a dimension that its mesh axes do not divide, or a wrong number of axes.
    """
    if len(logical_axes) != len(shape):
        raise UserError(f"{name}: {len(shape)} dimensions but logical axes {logical_axes}")
    spec = rules.spec(logical_axes)
    for size, logical, axes in zip(shape, logical_axes, spec, strict=True):
        flat = (axes,) if isinstance(axes, str) else (axes or ())
        parts = num_parts(flat, mesh)
        if size % parts:
            raise UserError(
                f"{name}: logical axis {logical!r} of size {size} does not divide over mesh axes "
                f"{flat} of size {parts}; change config.mesh or the model's size"
            )
    return NamedSharding(mesh, spec)


def shardings(state: Any, rules: AxisRules, mesh: Mesh) -> Any:
    """The shardings of a model's state, by the `logical_axes` metadata of its parameters."""

    def of(path, variable):
        name = "/".join(str(getattr(p, "key", p)) for p in path)
        axes = variable.get_metadata("logical_axes")
        return variable.replace(sharding(variable.shape, axes, rules, mesh, name))

    return jax.tree_util.tree_map_with_path(
        of, state, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )


def like_parameters(tree: Any, params: Any, param_shardings: Any, mesh: Mesh) -> Any:
    """Returns the shardings of an optimiser state: what mirrors a parameter is laid out like it.

    An array mirrors a parameter if its path ends with that of the parameter and the shapes agree,
    so that states of only some of the parameters are found too.
    """
    layouts = {
        path: (x.shape, layout)
        for (path, x), layout in zip(
            jax.tree_util.tree_leaves_with_path(params),
            jax.tree.leaves(param_shardings),
            strict=True,
        )
    }
    replicated = NamedSharding(mesh, PartitionSpec())

    def of(path: tuple, x: Any) -> NamedSharding:
        for start in range(len(path)):
            shape, layout = layouts.get(path[start:], (None, replicated))
            if shape == x.shape:
                return layout
        return replicated

    return jax.tree_util.tree_map_with_path(of, tree)


def put_batch(batch: Mapping[str, Any], rules: AxisRules, mesh: Mesh) -> dict[str, jax.Array]:
    """Makes one global batch of every process's rows, split over the batch axes."""
    layout = NamedSharding(mesh, rules.spec(("batch",)))
    return {
        name: jax.device_put(rows, layout)
        if isinstance(rows, jax.Array) and jax.process_count() == 1
        else jax.make_array_from_process_local_data(layout, np.asarray(rows))
        for name, rows in batch.items()
    }
