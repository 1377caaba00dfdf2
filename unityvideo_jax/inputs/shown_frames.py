"""Arrays with one entry per stored frame, at the frames of the video that were read."""

import os

import numpy as np
from jaxtyping import Int, Shaped

from unityvideo_jax.errors import UserError

# Arrays that are true only between a frame and the one right after it.
TO_NEXT_FRAME = ("flow", "occluded")


def at_frames(
    name: str,
    array: Shaped[np.ndarray, "stored ..."],
    numbers: Int[np.ndarray, " t"],
    file: str | os.PathLike,
) -> Shaped[np.ndarray, "t ..."]:
    """Returns the entries of the frames that `media.Video.numbers` counts.

    Args:
      name: of the array, such as "depth".
      array: one entry per stored frame.
      numbers: which stored frames were read, ascending.
      file: of the array, for messages.

    Raises:
      UserError: too few entries, or an array that leads to the next frame where frames of the
        video were skipped or repeated.
    """
    if len(array) <= numbers.max():
        raise UserError(
            f"{file}: {name} has {len(array)} entries, and frame {numbers.max() + 1} of the video "
            "is read; give one entry per frame"
        )
    if name in TO_NEXT_FRAME and not np.all(np.diff(numbers) == 1):
        raise UserError(
            f"{file}: {name} leads to the next frame, but frames are skipped or repeated, by a "
            "variable rate or by --fps; resample the video before computing it"
        )
    return array[numbers]
