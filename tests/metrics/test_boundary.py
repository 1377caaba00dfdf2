import math

import numpy as np
import pytest
import scipy.ndimage

from unityvideo_jax.metrics.boundary import boundary_f, outline
from unityvideo_jax.metrics.segmentation import SegmentationMetric

RNG = np.random.default_rng(0)


def blob(shape, seed):
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    return noise > 0


@pytest.mark.parametrize("shape", [(40, 60), (200, 150)])
def test_equals_dilation_by_a_disc(shape, parity):
    """The definition: dilate each outline by a disc and intersect (radius 1 and 2 here)."""
    first, second = blob(shape, 1), blob(shape, 2)
    radius = math.ceil(0.008 * math.hypot(*shape))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = x**2 + y**2 <= radius**2
    a, b = outline(first), outline(second)
    precision = (a & scipy.ndimage.binary_dilation(b, disc)).sum() / a.sum()
    recall = (b & scipy.ndimage.binary_dilation(a, disc)).sum() / b.sum()
    expected = 2 * precision * recall / (precision + recall)
    assert 0.1 < expected < 0.9
    found = boundary_f(first, second)
    parity("segmentation, boundary F", "scipy binary_dilation", found, expected, bound=1e-9)


def test_outline_by_hand():
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    expected = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(outline(mask), expected)
    assert not outline(np.ones((3, 3), bool)).any()


def test_small_shifts_are_forgiven_and_large_ones_are_not():
    mask = np.zeros((100, 100), bool)  # radius ceil(1.13) = 2
    mask[30:60, 30:60] = True
    assert boundary_f(np.roll(mask, 2, 1), mask) == 1.0
    assert boundary_f(np.roll(mask, 35, 1), mask) < 0.2
    assert boundary_f(mask, np.roll(mask, 5, 0)) == boundary_f(np.roll(mask, 5, 0), mask)


def test_empty_masks():
    mask, empty = blob((30, 30), 3), np.zeros((30, 30), bool)
    assert boundary_f(empty, empty) == 1.0
    assert boundary_f(mask, empty) == boundary_f(empty, mask) == 0.0


def test_clip_scores_average_frames_then_objects():
    truth = np.stack([np.where(blob((50, 50), 4), 1, 2)] * 2).astype(np.int32)
    prediction = truth.copy()
    prediction[1][prediction[1] == 2] = 0
    metric = SegmentationMetric()
    metric.update({"segments": prediction}, {"segments": truth}, "clip")
    results = metric.compute()
    # Object 2 is lost in the second of two frames.
    for name in ("j_mean", "f_mean", "j_and_f"):
        assert results[f"segmentation/hungarian_clip/{name}"] == pytest.approx((1 + 0.5) / 2)
