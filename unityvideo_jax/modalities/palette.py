"""Fixed colours for instances: well spaced, in a stable order."""

import functools
import itertools

import numpy as np
from jaxtyping import Float, Int

BACKGROUND = (-1.0, -1.0, -1.0)


@functools.cache
def instance_palette() -> Float[np.ndarray, "27 3"]:
    """The background (black), then 26 instance colours in [-1, 1], the best separated first.

    They are the points of the 3x3x3 lattice over the colour cube, by their number of middle values:
    the 7 other corners (least distance 2 among them and the background, in RGB, as a VAE's error is
    measured), the 6 face centres (least distance 1.41 up to there), the centre and the 12 edge
    midpoints (1). So few instances get the safest colours.
    """
    order = {0: 0, 2: 1, 3: 2, 1: 3}  # middle values: corners, face centres, centre, edges
    lattice = [c for c in itertools.product((1.0, 0.0, -1.0), repeat=3) if c != BACKGROUND]
    # Pure hues before their mixtures, white last.
    lattice.sort(key=lambda c: (order[c.count(0.0)], c.count(1.0), [-v for v in c]))
    palette = np.asarray([BACKGROUND, *lattice], np.float32)
    palette.setflags(write=False)
    return palette


def nearest_colour(
    frame: Float[np.ndarray, "h w 3"], palette: Float[np.ndarray, "n 3"]
) -> tuple[Int[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Returns the index of each pixel's nearest colour, and the RGB distance to it.

    Args:
      frame: pixels in [-1, 1].
      palette: colours in [-1, 1].
    """
    # |a-b|^2 expanded, so that no [h, w, n, 3] array is made.
    squared = (frame**2).sum(-1)[..., None] - 2 * frame @ palette.T + (palette**2).sum(-1)
    index = squared.argmin(-1)
    distance = np.take_along_axis(squared, index[..., None], axis=-1)[..., 0]
    return index, np.sqrt(np.maximum(distance, 0.0))
