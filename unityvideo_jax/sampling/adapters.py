"""Adapters as `sample` and `Pipeline.add_adapters` are given them."""

import math
import numbers
import os
from collections.abc import Iterable
from typing import Any

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


def check(adapters: Iterable[Any]) -> None:
    """Raises UserError unless all are pairs of a path and a finite number."""
    for adapter in adapters:
        match adapter:
            case (str() | os.PathLike(), numbers.Real() as weight) if math.isfinite(
                weight
            ) and not isinstance(weight, bool):
                continue
        raise UserError(f"add_adapters: {adapter!r}: give (FILE, NUMBER), such as ('a', 1.0)")
