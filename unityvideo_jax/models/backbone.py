"""Starting a model from one of other modalities: an RGB-only backbone, or one modality fewer."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from unityvideo_jax.errors import UserError
from unityvideo_jax.models import build
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.models.dit import DiT

# Modules that the switchers add to the backbone. Fresh ones change nothing: zeros and an identity.
_SWITCHES = ("modality_embedding", "additive_switch")
# Fields whose change would go unseen, because no weight changes its shape.
_NOT_IN_SHAPES = ("num_heads", "patch_size")

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rows:
    """The source of a weight with a modality axis.

    Attributes:
      axis: the weight's axis of modalities.
      rows: indices in the source, one for each row of the target.
    """

    axis: int
    rows: tuple[int, ...]


def map_weights(target: DiTConfig, source: DiTConfig) -> dict[Path, Rows | None]:
    """Maps the weights of a model to those of another, by the names of the modalities.

    Tables, heads and input layers go row by row to the modality of the same name; a row that stands
    for several modalities (shared by all but RGB, or by all) gives each of them what it has. A
    modality that the source lacks starts as a copy of RGB, so that its streams are treated as RGB's
    are; where all but RGB share a row, it takes that.

    Args:
      target, source: configurations of the two models.

    Returns:
      By path of the target's weights: None takes the source's as it is. Paths that are left out
      keep their fresh value.

    Raises:
      UserError: sizes that differ, weights that would be lost, or rows that cannot be merged.
    """
    for name in _NOT_IN_SHAPES:
        if getattr(target, name) != getattr(source, name):
            raise UserError(
                f"model.{name} is {getattr(source, name)} there; set config.model.{name} to it"
            )
    ours, theirs = (
        dict(nnx.to_flat_state(build.abstract_transformer(c)[1])) for c in (target, source)
    )
    for path in sorted({*theirs} - {*ours}):
        raise UserError(
            f"{'.'.join(path)} has no place in config.model (switcher={target.switcher!r}); set "
            f"config.model.switcher={source.switcher!r}, which it was made with"
        )
    found: dict[Path, Rows | None] = {}
    for path, weight in ours.items():
        if path not in theirs:
            if path[0] in _SWITCHES:
                continue
            raise UserError(f"{'.'.join(path)} is missing; use the config that it was made with")
        axes, shapes = weight.get_metadata("logical_axes"), (weight.shape, theirs[path].shape)
        axis = axes.index("modality") if "modality" in axes else None
        rest = [tuple(n for i, n in enumerate(shape) if i != axis) for shape in shapes]
        if rest[0] != rest[1]:
            raise UserError(
                f"{'.'.join(path)} is {shapes[1]} there and {shapes[0]} in config.model; use the "
                "config that it was made with"
            )
        found[path] = None
        if axis is not None:
            rows = _rows(target, source, path, weight.shape[axis], theirs[path].shape[axis])
            if rows != tuple(range(theirs[path].shape[axis])):
                found[path] = Rows(axis, rows)
    return found


def _rows(
    target: DiTConfig, source: DiTConfig, path: Path, count: int, source_count: int
) -> tuple[int, ...]:
    """The row of the source that each row of the target takes."""
    ours = _names(target.modalities, count, _is_grouped(target, path))
    theirs = _names(source.modalities, source_count, _is_grouped(source, path))
    row_of = {name: row for row, names in enumerate(theirs) for name in names}
    shared = 1 if _is_grouped(source, path) and source_count == 2 else 0
    rows = []
    for names in ours:
        known = {row_of[name] for name in names if name in row_of}
        if len(known) > 1:
            raise UserError(
                f"{'.'.join(path)} has a row for each of {', '.join(names)} there and one for all "
                "of them in config.model; set config.model.heads, inputs and switcher as it was "
                "made with"
            )
        default = 0 if names == ("rgb",) else shared
        rows.append(known.pop() if known else default)
    return tuple(rows)


def _is_grouped(config: DiTConfig, path: Path) -> bool:
    """Whether a weight with a modality axis has one row for all modalities but RGB."""
    if path[0] == "heads":
        return config.heads == "shared"
    return path[0] == "patch_embedding" and config.inputs != "per_modality"


def _names(modalities: Sequence[str], count: int, grouped: bool) -> list[tuple[str, ...]]:
    """The modalities that each row stands for."""
    if count == 1:
        return [tuple(modalities)]
    if grouped:
        return [modalities[:1], modalities[1:]]
    return [(name,) for name in modalities]


def take_rows(weight: jax.Array, rows: Rows | None) -> jax.Array:
    """Returns a weight of the source as the target's; `rows` None takes it as it is."""
    if rows is None:
        return weight
    return jnp.take(weight, jnp.asarray(rows.rows), axis=rows.axis)


def adopt(model: DiT, source: DiT) -> None:
    """Copies the weights of `source` into a fresh `model`, in place, as `map_weights` says.

    Raises:
      UserError: as `map_weights`; nothing has been copied then.
    """
    mapped = map_weights(model.config, source.config)
    weights = dict(nnx.to_flat_state(nnx.state(source, nnx.Param)))
    target = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    for path, rows in mapped.items():
        target[path] = target[path].replace(take_rows(weights[path][...], rows))
    nnx.update(model, nnx.from_flat_state(target))


def differences(target: DiTConfig, source: DiTConfig, of: object) -> list[str]:
    """Returns lines on the modalities that one of two models lacks; `of` names the source."""
    left = [name for name in source.modalities if name not in target.modalities]
    new = [name for name in target.modalities if name not in source.modalities]
    lines = []
    if left:
        lines.append(f"{of} also has {', '.join(left)}, which config.model.modalities leaves out")
    if new:
        lines.append(f"new in this run, as RGB starts: {', '.join(new)}")
    return lines
