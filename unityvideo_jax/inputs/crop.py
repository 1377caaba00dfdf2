"""One source size becomes the requested one: the arrays of a clip scaled and cropped together."""

import dataclasses

import numpy as np

# Arrays that hold positions or displacements in pixels; every other array is a map of pixels.
POINTS, VECTORS = ("keypoints",), ("flow",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """Scale to cover, then centre crop: how one source size becomes the requested size."""

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

    def nearest(self, array: np.ndarray) -> np.ndarray:
        """Maps [t, h, w, ...] to [t, H, W, ...] by the source pixel under each pixel centre."""
        rows, columns = (
            np.clip(((np.arange(n) + o + 0.5) / f).astype(int), 0, s - 1)
            for n, o, f, s in zip(self.target, self.offset, self.factors, self.source, strict=True)
        )
        return array[:, rows[:, None], columns]

    def points(self, points: np.ndarray) -> np.ndarray:
        """Maps (x, y) positions of the source to those of the result."""
        factors, offset = np.asarray(self.factors[::-1]), np.asarray(self.offset[::-1])
        return (points * factors - offset).astype(np.float32)

    def vectors(self, vectors: np.ndarray) -> np.ndarray:
        """Scales and crops (dx, dy) displacements."""
        return (self.nearest(vectors) * np.asarray(self.factors[::-1])).astype(np.float32)


def is_sparse(key: str) -> bool:
    """Whether an array belongs to keypoints, not to pixels."""
    return key in (*POINTS, "visibility")


def resize(key: str, array: np.ndarray, crop: Crop) -> np.ndarray:
    """One of a clip's arrays [t, ...], scaled and cropped by its kind; a single value as it is."""
    if array.ndim == 0:
        return array
    if key in POINTS:
        return crop.points(array)
    if key in VECTORS:
        return crop.vectors(array)
    return array if is_sparse(key) else crop.nearest(array)


def hide_outside(arrays: dict[str, np.ndarray], size: tuple[int, int]) -> None:
    """Keypoints that the crop cut away become absent (COCO visibility 0)."""
    if "keypoints" not in arrays or "visibility" not in arrays:
        return
    x, y = arrays["keypoints"][..., 0], arrays["keypoints"][..., 1]
    inside = (x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0])
    arrays["visibility"] = np.where(inside, arrays["visibility"], 0)
