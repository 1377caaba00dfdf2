"""Adapters as `sample` is given them, and the sampler settings that some were made for."""

import math
import os

from unityvideo_jax.errors import UserError

# Settings that adapters were made for, by the name of `sample --preset`. Adapters distilled to four
# steps (lightx2v's for Wan) take Euler's steps at shift 5, and no guidance, which is in them.
PRESETS = {
    "four_steps": dict(
        steps=4, solver="euler", grid="linear", shift=5.0, text_guidance=1.0, condition_guidance=1.0
    )
}


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
