import itertools

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics import segmentation

RNG = np.random.default_rng(0)


def compute(*pairs):
    metric = segmentation.SegmentationMetric()
    for i, (prediction, truth) in enumerate(pairs):
        metric.update({"segments": prediction}, {"segments": truth}, f"clip {i}")
    return metric.compute()


def clip(*frames):
    return np.array(frames, np.int32)[:, None]


def test_equals_sklearn_under_the_best_of_all_permutations(parity):
    """Brute force over assignments, with sklearn's Jaccard index of each pair of masks."""
    truth = RNG.integers(0, 4, (3, 8, 8)).astype(np.int32)
    prediction = np.where(RNG.random(truth.shape) < 0.6, (truth * 2) % 7, 1).astype(np.int32)
    ids = [i for i in np.unique(prediction) if i]
    best, frames_j = -1.0, None
    for order in itertools.permutations(ids, 3):
        ious = [
            jaccard_score((truth == n).ravel(), (prediction == m).ravel())
            for n, m in zip((1, 2, 3), order, strict=True)
        ]
        if np.mean(ious) > best:
            best = np.mean(ious)
            frames_j = [
                np.mean(
                    [
                        jaccard_score((t == n).ravel(), (p == m).ravel())
                        for t, p in zip(truth, prediction, strict=True)
                    ]
                )
                for n, m in zip((1, 2, 3), order, strict=True)
            ]
    results = compute((prediction, truth))
    for name, expected in (("mean_iou", best), ("j_mean", np.mean(frames_j))):
        found = results[f"segmentation/hungarian_clip/{name}"]
        reference = "scikit-learn jaccard_score, all permutations"
        parity(f"segmentation, {name}", reference, found, expected, bound=1e-9)


def test_numbers_of_the_instances_do_not_matter():
    truth = RNG.integers(0, 5, (2, 6, 6)).astype(np.int32)
    renamed = np.array([0, 17, 3, 250, 1], np.int32)[truth]
    results = compute((renamed, truth))
    assert results["segmentation/hungarian_clip/mean_iou"] == 1.0
    assert results["segmentation/hungarian_clip/j_mean"] == 1.0
    assert results["segmentation/unmatched_predictions"] == 0


def test_one_identity_serves_the_whole_clip():
    """The two instances swap numbers in frame 1: each frame is right, the clip is not."""
    truth = clip([1, 2, 0, 0], [1, 2, 0, 0], [1, 2, 0, 0])
    swapped = clip([1, 2, 0, 0], [2, 1, 0, 0], [1, 2, 0, 0])
    results = compute((swapped, truth))
    assert results["segmentation/hungarian_clip/mean_iou"] == pytest.approx(2 / 4)
    assert results["segmentation/hungarian_clip/j_mean"] == pytest.approx(2 / 3)


def test_empty_masks():
    """Object 1 leaves in frame 1 and so does its prediction: J is 1 there, IoU ignores it."""
    truth = clip([1, 1, 0, 0], [0, 0, 0, 0])
    results = compute((clip([1, 0, 0, 0], [0, 0, 0, 0]), truth))
    assert results["segmentation/hungarian_clip/j_mean"] == pytest.approx((0.5 + 1.0) / 2)
    assert results["segmentation/hungarian_clip/mean_iou"] == pytest.approx(0.5)
    # Nothing predicted: 0 where the object is, 1 where it is not.
    results = compute((np.zeros_like(truth), truth))
    assert results["segmentation/hungarian_clip/j_mean"] == pytest.approx(0.5)
    assert results["segmentation/hungarian_clip/mean_iou"] == 0.0


def test_missing_and_superfluous_instances():
    truth = clip([1, 1, 2, 2])
    results = compute((clip([1, 1, 0, 0]), truth))
    assert results["segmentation/hungarian_clip/mean_iou"] == pytest.approx(0.5)
    results = compute((clip([1, 1, 2, 3]), truth))
    assert results["segmentation/hungarian_clip/mean_iou"] == pytest.approx((1 + 0.5) / 2)
    assert results["segmentation/unmatched_predictions"] == 1


def test_clips_without_objects_are_counted_not_scored():
    empty = np.zeros((2, 3, 3), np.int32)
    with pytest.raises(UserError, match="no clip has anything to score"):
        compute((empty, empty))
    truth = empty.copy()
    truth[:, 0] = 1
    results = compute((empty, empty), (truth, truth))
    assert results["segmentation/hungarian_clip/mean_iou"] == 1.0
    assert results["segmentation/clips"] == 1
    assert results["segmentation/clips_without_objects"] == 1


def test_objects_and_clips_are_averaged_as_named():
    """Clip 0 has three objects found, clip 1 one object missed."""
    first = clip([1, 2, 3])
    second = clip([1, 1, 0])
    results = compute((first, first), (np.zeros_like(second), second))
    assert results["segmentation/hungarian_clip/mean_iou"] == pytest.approx(1 / 2)
    assert results["segmentation/hungarian_clip/j_mean"] == pytest.approx(3 / 4)
    assert results["segmentation/objects"] == 4


def test_other_shape_is_named():
    with pytest.raises(UserError, match="clip 0: segments is predicted as"):
        compute((np.zeros((2, 3, 3), np.int32), np.zeros((2, 3, 4), np.int32)))


def test_numbers_must_be_integers_of_any_width():
    truth = clip([1, 1, 2, 0])
    results = compute((truth.astype(np.uint8), truth))
    assert results["segmentation/hungarian_clip/mean_iou"] == 1.0
    with pytest.raises(UserError, match="predicted segments has dtype float32; give integers"):
        compute((truth.astype(np.float32), truth))


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3, 1), (2, 3, 3, 4), (2, 0, 3)])
def test_other_axes_are_named(shape):
    one = np.ones(shape, np.int32)
    with pytest.raises(UserError, match=r"segments has shape .*; give \[T, H, W\]"):
        compute((one, one))
