"""Adapters as `sample` is given them."""

import math
import os

from unityvideo_jax.errors import UserError


def parse(text: str) -> tuple[str, float]:
    """Splits a `--lora` into file and weight at the colon; the weight is 1 by default.

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
