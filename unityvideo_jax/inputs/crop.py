"""Scaling and cropping of a clip's arrays together, from a source size to the requested one."""

import dataclasses

import numpy as np
from jaxtyping import Shaped

# Arrays that hold positions or displacements in pixels; every other array is a map of pixels.
POINTS, VECTORS = ("keypoints",), ("flow",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """Scale to cover, then centre crop, from a source size to the requested size.

    Attributes:
      source, target: (height, width) in pixels.
    """

    source: tuple[int, int]
    target: tuple[int, int]

    @property
    def scaled(self) -> tuple[int, int]:
        """(height, width) after scaling and before cropping; as `media.fit` rounds them."""
        scale = max(t / s for t, s in zip(self.target, self.source, strict=True))
        return tuple(
            max(t, round(s * scale)) for t, s in zip(self.target, self.source, strict=True)
        )

    @property
    def factors(self) -> tuple[float, float]:
        """Pixels of the result per pixel of the source, (y, x)."""
        return tuple(a / s for a, s in zip(self.scaled, self.source, strict=True))

    @property
    def offset(self) -> tuple[int, int]:
        """Pixels cut off at (top, left)."""
        return tuple((a - t) // 2 for a, t in zip(self.scaled, self.target, strict=True))

    def nearest(self, array: Shaped[np.ndarray, "t h w *c"]) -> Shaped[np.ndarray, "t oh ow *c"]:
        """Maps frames by the source pixel under each pixel centre of the result.

        Args:
          array: time, height and width first.
        """
        rows, columns = (
            np.clip(((np.arange(n) + o + 0.5) / f).astype(int), 0, s - 1)
            for n, o, f, s in zip(self.target, self.offset, self.factors, self.source, strict=True)
        )
        return array[:, rows[:, None], columns]

    def points(self, points: Shaped[np.ndarray, "*s 2"]) -> Shaped[np.ndarray, "*s 2"]:
        """Maps (x, y) positions in pixels of the source to those of the result."""
        factors, offset = np.asarray(self.factors[::-1]), np.asarray(self.offset[::-1])
        return (points * factors - offset).astype(np.float32)

    def vectors(self, vectors: Shaped[np.ndarray, "t h w 2"]) -> Shaped[np.ndarray, "t oh ow 2"]:
        """Scales and crops (dx, dy) displacements in pixels."""
        return (self.nearest(vectors) * np.asarray(self.factors[::-1])).astype(np.float32)


def is_sparse(key: str) -> bool:
    """Whether an array belongs to keypoints, not to pixels."""
    return key in (*POINTS, "visibility")


def resize(key: str, array: np.ndarray, crop: Crop) -> np.ndarray:
    """Scales and crops one of a clip's arrays by its kind; a single value is unchanged.

    Args:
      key: name of the array.
      array: time first; positions and displacements in pixels.
      crop: of the clip.
    """
    if array.ndim == 0:
        return array
    if key in POINTS:
        return crop.points(array)
    if key in VECTORS:
        return crop.vectors(array)
    return array if is_sparse(key) else crop.nearest(array)


def hide_outside(arrays: dict[str, np.ndarray], size: tuple[int, int]) -> None:
    """Marks keypoints that the crop cut away as absent (COCO visibility 0), in place.

    Args:
      arrays: of a clip, after `resize`; without keypoints nothing changes.
      size: height and width of the frame.
    """
    if "keypoints" not in arrays or "visibility" not in arrays:
        return
    x, y = arrays["keypoints"][..., 0], arrays["keypoints"][..., 1]
    inside = (x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0])
    arrays["visibility"] = np.where(inside, arrays["visibility"], 0)
