"""Adapters as `sample` is given them."""

import math
import os

from unityvideo_jax.errors import UserError


def parse(text: str) -> tuple[str, float]:
    """File and weight of a `--lora`, which are joined by a colon; without a weight it is 1.

    Raises:
      UserError: a weight that is not a finite number.
    """
    if os.path.exists(text):
        return text, 1.0
    path, colon, weight = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"--lora={text}: {weight!r} is no weight; give FILE or FILE:NUMBER")
    return path, value
