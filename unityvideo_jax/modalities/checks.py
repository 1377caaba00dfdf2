"""Host-side validation of clips, before anything is encoded or written."""

import math
from collections.abc import Sequence

import numpy as np

from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities.base import Clip, Codec


def check_clip(codec: Codec, clip: Clip, source: str = "clip") -> None:
    """Raises UserError unless `codec` can encode the clip.

    Looks for missing keys, arrays whose frames or sizes disagree, NaN, and values out of range.

    Args:
      codec: the codec that is to encode the clip.
      clip: unbatched arrays.
      source: the file or key that the message names.
    """
    missing = [key for key in codec.keys if key not in clip]
    if missing:
        raise UserError(
            f"{source}: lacks {', '.join(missing)}; the codec needs {', '.join(codec.keys)}"
        )
    codec.check(clip, source)


def array(
    clip: Clip, key: str, source: str, tail: Sequence[int] = (), *, integers: bool = False
) -> np.ndarray:
    """Returns `clip[key]` on the host as [T, H, W, *tail], of the right kind and not empty.

    Raises:
      UserError: another shape or type, or no element; starts with `source`.
    """
    value = np.asarray(clip[key])
    where = f"{source}: {key}"
    if value.ndim != 3 + len(tail) or value.shape[3:] != tuple(tail):
        wanted = ", ".join(["T", "H", "W", *map(str, tail)])
        raise UserError(f"{where} has shape {value.shape}; give [{wanted}]")
    return _of_kind(value, where, integers)


def _of_kind(value: np.ndarray, where: str, integers: bool) -> np.ndarray:
    if 0 in value.shape[:3]:
        raise UserError(f"{where} is empty, shape {value.shape}; give at least one frame")
    kind = np.integer if integers else np.floating
    if not np.issubdtype(value.dtype, kind):
        wanted = "integers" if integers else "float32"
        raise UserError(f"{where} has dtype {value.dtype}; convert it to {wanted}")
    return value


def same_size(clip: Clip, keys: Sequence[str], source: str) -> None:
    """Raises UserError unless all arrays share their first three axes (T, H, W)."""
    sizes = {key: np.shape(clip[key])[:3] for key in keys}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{key} {size}" for key, size in sizes.items())
        raise UserError(f"{source}: (T, H, W) differ: {listed}; bring them to one size")


def finite(value: np.ndarray, where: str, *, allow_inf: bool = False) -> None:
    """Raises UserError at the first NaN, or infinity unless allowed, and says where it is."""
    bad = np.isnan(value) if allow_inf else ~np.isfinite(value)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        what = "NaN" if np.isnan(value[first]) else "an infinity"
        raise UserError(
            f"{where} holds {what} at {first} ({int(bad.sum())} in all); fill it or drop the clip"
        )


def within(value: np.ndarray, low: float, high: float, where: str) -> None:
    """Raises UserError unless all values are in [low, high], up to float rounding."""
    slack = 0.0 if np.issubdtype(value.dtype, np.integer) else 1e-5 * max(1.0, abs(high))
    least, most = value.min(initial=math.inf), value.max(initial=-math.inf)
    if least < low - slack or most > high + slack:
        raise UserError(f"{where} spans [{least:g}, {most:g}]; bring it to [{low:g}, {high:g}]")
