"""Numbers that pictures hold: depth in 16-bit PNG, ids in masks and palettes.

    <key>.depth/0000.png        one channel of 16 bits, or a TIFF of 32: numbers, not a drawing
    <key>.depth.json            optional: {"unit": "mm", "scale": 1.0}
    <key>.segmentation/0.png    one channel, or a palette: its values are instance ids

A stored value times `scale` is depth in `unit`, one of `unityvideo_jax.units.NAMES`. The file
beside the pictures (or beside an .npz) comes first, then the flag `--depth_unit`, then the default:
integers are millimetres and floats metres, as RGB-D cameras and renderers write them. Zero is no
surface. One channel of 8 bits is a drawing of depth, bright is near, unless a unit is stated.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from unityvideo_jax import media, units
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import strict_json
from unityvideo_jax.files.npz import is_npz, read_npz
from unityvideo_jax.media.source import note
from unityvideo_jax.metrics.depth_units import UNIT, in_metres


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """The unit of stored depth.

    Attributes:
      unit: one of `unityvideo_jax.units.NAMES`.
      scale: a stored value times this is in `unit`.
    """

    unit: str
    scale: float = 1.0

    @property
    def known(self) -> str:
        """The unit of what `depth` returns: "m" or "relative"."""
        return "m" if self.unit in units.METRES else units.RELATIVE

    def depth(self, stored: Shaped[np.ndarray, "*s"], where: str) -> Float[np.ndarray, "*s"]:
        """Converts stored depth to float32 metres, or up to a factor if the unit has no length.

        Args:
          stored: values of a file; 0 becomes +inf.
          where: the file, for messages.
        """
        values = np.asarray(stored, np.float64) * self.scale
        has_surface = values != 0
        if self.unit == units.DISPARITY:
            values = 1.0 / np.where(has_surface, values, 1.0)
        elif self.unit != units.RELATIVE:
            values = values * units.metres(self.unit, where)
        return np.where(has_surface, values, np.inf).astype(np.float32)


def side_file(path: pathlib.Path) -> pathlib.Path:
    """The file that states the unit of a file or of a folder of pictures."""
    return path.parent / f"{path.name if path.is_dir() else path.stem}.json"


def stated(path: pathlib.Path, flag: str = "") -> Measure | None:
    """Reads the unit that the file beside `path`, or else the flag, states; else None.

    Raises:
      UserError: a file that `strict_json` refuses or of other keys, no such unit, or a scale that
        is not positive.
    """
    file = side_file(path)
    if not file.exists():
        return Measure(unit=units.parse(flag, "--depth_unit")) if flag else None
    fix = 'write {"unit": "mm"}, or {"unit": "m", "scale": 0.001}'
    record = strict_json.read_object(file, fix)
    if not {"unit"} <= set(record) <= {"unit", "scale"}:
        raise UserError(f"{file}: its keys are {', '.join(record) or 'missing'}; {fix}")
    scale = record.get("scale", 1.0)
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not is_number or not 0 < scale < float("inf"):
        raise UserError(f"{file}: scale is {scale!r}; give a positive number")
    return Measure(unit=units.parse(record["unit"], f"{file}: unit"), scale=float(scale))


def holds_numbers(modality: str, path: pathlib.Path, *, depth_unit: str = "") -> bool:
    """Whether pictures of a modality hold its numbers, rather than a drawing of them.

    Args:
      modality: any but rgb.
      path: a video, an image, or a folder of images.
      depth_unit: what the flag states; "" if it states nothing.

    Raises:
      UserError: the pictures hold numbers whose meaning is not known, or a drawing where a unit is
        stated.
    """
    mode, bits = media.stored_kind(path)
    is_single = mode in media.NUMBERS
    if modality == "segmentation" and is_single:
        return True
    if modality == "depth":
        if is_single and (bits > 8 or stated(path, depth_unit)):
            return True
        if not is_single and stated(path, depth_unit):
            raise UserError(
                f"{path}: colours, which hold no depth in a unit; give 16-bit PNG files or "
                ".npz, or state no unit"
            )
        is_single = False
    if bits > 8 or (is_single and mode != "P"):
        raise UserError(
            f"{path}: pictures of mode {mode} with {bits} bits, whose numbers have no meaning for "
            f"{modality} that is known here; give its arrays as .npz"
        )
    return False


def read_arrays(
    modality: str,
    path: pathlib.Path,
    numbers: Sequence[int] | Int[np.ndarray, " t"] | None = None,
    *,
    depth_unit: str = "",
) -> dict[str, Shaped[np.ndarray, "t h w"]]:
    """Reads the arrays of a modality whose pictures hold numbers: see `holds_numbers`.

    Args:
      modality: depth or segmentation.
      path: an image, or a folder of images.
      numbers: only these of them; None reads all.
      depth_unit: what the flag states; "" if it states nothing.

    Returns:
      {"depth": f32, "unit": "m" or "relative"} or {"segments": i32}.

    Raises:
      UserError: pictures that are not alike, ids that are no integers, or an unknown unit.
    """
    values = media.read_numbers(path, numbers)
    is_float = np.issubdtype(values.dtype, np.floating)
    if modality == "segmentation":
        if is_float:
            raise UserError(f"{path}: ids in {values.dtype}; write them as integers")
        if values.size and values.max() > (most := np.iinfo(np.int32).max):
            raise UserError(f"{path}: ids to {values.max()}; number them to {most} at most")
        return {"segments": values.astype(np.int32)}
    measure = stated(path, depth_unit)
    if measure is None:
        measure = Measure(unit="m" if is_float else "mm")
        note(
            "unit of depth",
            f"{path}: no unit is stated, so its {values.dtype} are taken as {measure.unit}, 0 as "
            f"no surface; state it in {side_file(path).name}, or by --depth_unit (evaluate: "
            "--truth_unit, --prediction_unit)",
        )
    return {"depth": measure.depth(values, str(path)), UNIT: np.asarray(measure.known)}


def read_truth(
    modality: str, path: pathlib.Path, keys: Sequence[str], *, depth_unit: str = ""
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Reads the arrays of a modality from an npz, or from pictures that hold its numbers.

    Args:
      modality: any that has a metric.
      path: of the npz, or the pictures, of which `holds_numbers` is true.
      keys: of the arrays that an npz must hold.
      depth_unit: what the flag states; "" if it states nothing.

    Raises:
      UserError: as `read_npz`, `scaled_depth` and `read_arrays` do.
    """
    if not is_npz(path):
        return read_arrays(modality, path, depth_unit=depth_unit)
    arrays = read_npz(path, keys)
    scaled_depth(arrays, path, depth_unit=depth_unit)
    return arrays


def scaled_depth(
    arrays: dict[str, Shaped[np.ndarray, "..."]], path: pathlib.Path, *, depth_unit: str = ""
) -> None:
    """Converts depth of an .npz to metres in place, if a unit is stated for it.

    The .npz may state it itself, as `unit` beside `depth`; see `depth_units.in_metres`.

    Args:
      arrays: of the .npz.
      path: of the .npz, for the file beside it and for messages.
      depth_unit: that the flag states; "" if it states nothing.

    Raises:
      UserError: as `stated` and `in_metres` do.
    """
    if "depth" not in arrays:
        return
    measure = stated(path, depth_unit)
    if measure is not None and measure.scale != 1.0:
        arrays["depth"] = np.asarray(arrays["depth"], np.float64) * measure.scale
    arrays |= in_metres(arrays, str(path), measure.unit if measure else "")
