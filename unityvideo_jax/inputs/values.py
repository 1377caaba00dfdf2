"""Ranges of the numbers of a record, checked as they are read."""

import numpy as np
from jaxtyping import Float16

# Latents have unit variance, so that 100 is a hundred standard deviations; 255 is a pixel's.
LARGEST_LATENT = 100.0
# Embeddings are normalised by their encoder's last layer.
LARGEST_EMBEDDING = 1e4


def fault(values: Float16[np.ndarray, "..."], largest: float) -> str:
    """The fault of numbers of which none should exceed `largest`; "" if there is none.

    Costs one pass over integers: without its sign, a float16's bits are in the order of its size,
    those of infinity and NaN above all others.

    Args:
      values: latents or embeddings.
      largest: bound of their magnitude.
    """
    bits = np.ascontiguousarray(values).view(np.uint16) & 0x7FFF
    worst = bits.max(initial=0)
    if worst <= np.float16(largest).view(np.uint16):
        return ""
    number = float(worst.view(np.float16))
    shown = f"{number:g}" if np.isfinite(number) else "NaN" if np.isnan(number) else "infinity"
    return f"{shown} where the largest is {largest:g}"
