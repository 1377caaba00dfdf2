"""How windows of a long video are joined where they overlap.

Estimates of two windows differ by what the modality leaves open: the scale of depth, the numbers of
instances, the order of people. A modality's joiner brings a window into the terms of the frames
before it (`align`) and then goes over from one to the other (`blend`). The default only blends,
which serves flow and all else that has the same meaning in every window.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.modalities.base import Codec
from unityvideo_jax.modalities.drawing import draw


class Joiner:
    """Joins decoded arrays window by window, and holds no more than one overlap of them.

    Arrays without axes, such as `unit`, stay unchanged; the others have time as first axis.
    """

    def __init__(self, codec: Codec, overlap: int, keys: int = 0) -> None:
        """Takes what it needs to know of the stream.

        Args:
          codec: of the stream.
          overlap: frames at the begin of a window that earlier windows show too, at least 1.
          keys: how many of them are key frames, the first ones of the whole video; the others are
            the last ones of the window before.
        """
        self.codec, self.overlap, self.keys = codec, overlap, keys
        self._key: dict[str, np.ndarray] = {}
        self._tail: dict[str, np.ndarray] | None = None

    @classmethod
    def needs_keys(cls, codec: Codec) -> bool:
        """Whether errors of `align` add up over windows, so that it needs key frames."""
        del codec
        return False

    def add(self, window: Arrays) -> tuple[dict[str, np.ndarray], tuple[Arrays, Arrays] | None]:
        """Takes the next window, of more than `overlap` frames.

        Returns:
          The frames that are final now, and what two windows said of the frames they share: the
          end of what was joined so far and the aligned begin of this window, without key frames;
          None for the first.
        """
        seam = None
        if self._tail is None:
            self._key = frames(window, slice(self.keys))
        else:
            shared, window = self.align(concatenated([self._key, self._tail]), window)
            self._key = frames(shared, slice(self.keys))
            seam = tuple(frames(a, slice(self.keys, self.overlap)) for a in (shared, window))
            window = concatenated([self.blend(*seam), frames(window, slice(self.overlap, None))])
        kept = self.overlap - self.keys
        self._tail = frames(window, slice(-kept, None))
        return frames(window, slice(-kept)), seam

    def end(self) -> dict[str, np.ndarray]:
        """Returns the last frames, once there are no more windows."""
        return dict(self._tail or {})

    def align(self, tail: Arrays, window: Arrays) -> tuple[Arrays, Arrays]:
        """Both in the same terms, those of what was joined so far.

        Args:
          tail: `overlap` frames of that: its key frames, and its last ones.
          window: its first `overlap` frames show the same.
        """
        return tail, window

    def blend(self, tail: Arrays, head: Arrays) -> dict[str, np.ndarray]:
        """Goes over from one window to the next: numbers linearly, labels in the middle."""
        return {key: blended(tail[key], head[key]) for key in head}

    def draw(self, arrays: Arrays, size: tuple[int, int]) -> UInt8[np.ndarray, "t h w 3"]:
        """Draws joined arrays as their codec does, with height and width `size`."""
        count = len(next(a for a in arrays.values() if np.ndim(a)))
        return draw(self.codec, {"rgb": np.zeros((count, *size, 3), np.float32), **arrays})


def blended(tail: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Goes over from one array to the other: floats linearly, labels in the middle.

    Args:
      tail, head: of one shape, time first; arrays without axes give `head`.
    """
    if np.ndim(head) == 0:
        return head
    if not np.issubdtype(head.dtype, np.floating):
        return nearer(tail, head)
    share = ramp(len(head)).reshape(-1, *(1,) * (head.ndim - 1))
    return ((1.0 - share) * tail + share * head).astype(head.dtype)


def ramp(count: int) -> Float[np.ndarray, " t"]:
    """Returns the later window's weight in each frame of an overlap; neither 0 nor 1."""
    return (np.arange(count) + 1.0) / (count + 1.0)


def nearer(tail: Shaped[np.ndarray, "t *s"], head: Shaped[np.ndarray, "t *s"]) -> np.ndarray:
    """Returns the earlier window in the first half of the overlap, the later one in the second."""
    return np.concatenate([tail[: len(tail) // 2], head[len(tail) // 2 :]])


def frames(arrays: Arrays, chosen: slice) -> dict[str, np.ndarray]:
    """Returns these frames of every array."""
    return {k: np.asarray(a)[chosen] if np.ndim(a) else np.asarray(a) for k, a in arrays.items()}


def concatenated(parts: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Returns the frames of several parts in a row."""
    return {
        key: np.concatenate([p[key] for p in parts]) if np.ndim(a) else a
        for key, a in parts[0].items()
    }
