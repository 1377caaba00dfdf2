"""Seeds: whole numbers below 2^32, which the generators of JAX, NumPy and Grain all take."""

from typing import Any

from unityvideo_jax.errors import UserError

COUNT = 2**32


def check(seed: Any, where: str) -> None:
    """Raises UserError unless `seed` is one; `where` names its flag or key, such as "--seed"."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < COUNT:
        raise UserError(f"{where}={seed}: must be a whole number from 0 to {COUNT - 1}")


def after(seed: int, number: int) -> int:
    """Returns the seed that is `number` places after another; 0 follows the largest."""
    return (seed + number) % COUNT
