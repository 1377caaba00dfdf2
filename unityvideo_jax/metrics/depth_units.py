"""Depth arrays in metres, whatever unit a file or a flag says they are in."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

from unityvideo_jax import units
from unityvideo_jax.errors import UserError

# The key beside `depth` that says its unit: one of `units.NAMES`, a text without axes.
UNIT = "unit"


def in_metres(
    arrays: Mapping[str, Shaped[np.ndarray, "..."]], where: str, unit: str = ""
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Returns the arrays with `depth` in metres where its unit is known.

    Args:
      arrays: `depth` of any shape, floats or integers, and optionally `unit`, as a file holds them.
      where: the file, for messages.
      unit: what a flag or a side file says; "" says nothing.

    Returns:
      The same arrays. Where a unit is known, `depth` is floating point and `unit` is "m" or
      "relative"; disparity becomes relative depth, +inf where it is 0. Where none is known, `depth`
      is as it was and there is no `unit`.

    Raises:
      UserError: no such unit, or two that contradict each other.
    """
    if UNIT in arrays:
        text = np.asarray(arrays[UNIT])
        said = units.parse(text.item() if text.ndim == 0 else text, f"{where}: {UNIT}")
        if unit and unit != said:
            raise UserError(
                f"{where}: says that its depth is in {said}, and the flag or the file beside it "
                f"says {unit}; remove the one that is wrong"
            )
        unit = said
    depth = np.asarray(arrays["depth"])
    if not unit or depth.dtype.kind not in "fiu":
        return dict(arrays)
    depth = depth.astype(np.result_type(depth.dtype, np.float32), copy=False)
    if unit == units.DISPARITY:
        with np.errstate(divide="ignore"):
            depth = 1.0 / np.where(depth == 0.0, 0.0, depth)  # -0.0 would become -inf
    elif unit in units.METRES and units.METRES[unit] != 1.0:
        depth = depth * np.asarray(units.METRES[unit], depth.dtype)
    known = "m" if unit in units.METRES else units.RELATIVE
    return {**arrays, "depth": depth, UNIT: np.asarray(known)}


def unit_of(arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> str:
    """Returns the unit that `in_metres` found: "m", "relative", or "" where nothing says it."""
    return str(arrays.get(UNIT, ""))
