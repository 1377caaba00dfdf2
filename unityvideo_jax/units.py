"""Units that depth may be given in, by name."""

from unityvideo_jax.errors import UserError

# Metres per unit.
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
# Depth known up to one factor per clip, and its inverse known up to a factor and an offset.
RELATIVE, DISPARITY = "relative", "disparity"
NAMES = (*METRES, RELATIVE, DISPARITY)


def parse(name: object, where: str) -> str:
    """Returns `name` if it is a unit of depth.

    Args:
      name: of a flag or a file; anything but one of `NAMES` is refused.
      where: the flag, or the file and its key, for the error.

    Raises:
      UserError: no such unit.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise UserError(f"{where}: {name!r} is no unit of depth; use one of {', '.join(NAMES)}")
    return name


def metres(name: object, where: str) -> float:
    """The length of one of this unit in metres.

    Raises:
      UserError: no such unit, or one that has no length: `relative` and `disparity`.
    """
    unit = parse(name, where)
    if unit not in METRES:
        raise UserError(
            f"{where}: {unit} depth has no length in metres; give depth in {', '.join(METRES)}"
        )
    return METRES[unit]
