"""Average precision against pycocotools, on random boxes of people and masks."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from unityvideo_jax.metrics import average_precision, skeleton
from unityvideo_jax.metrics.segmentation import SegmentationMetric
from unityvideo_jax.metrics.skeleton import SkeletonMetric

RNG = np.random.default_rng(0)


def coco_ap(kind, truths, found, frames):
    """AP, AP50, AP75 by pycocotools; annotations carry image_id, category_id and the rest."""
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = {
            "images": [{"id": i, "height": 24, "width": 24} for i in range(frames)],
            "categories": [{"id": 1}],
            "annotations": [t | {"id": i + 1, "iscrowd": 0} for i, t in enumerate(truths)],
        }
        dataset.createIndex()
        result = COCO()
        result.dataset = dataset.dataset | {
            "annotations": [d | {"id": i + 1, "iscrowd": 0} for i, d in enumerate(found)]
        }
        result.createIndex()
        evaluation = COCOeval(dataset, result, kind)
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, -1]
    return precision.mean(), precision[0].mean(), precision[5].mean()


def mask_annotations(segments, first_image, scored):
    found = []
    for t, frame in enumerate(segments):
        for i in np.unique(frame[frame > 0]):
            mask = coco_mask.encode(np.asfortranarray((frame == i).astype(np.uint8)))
            one = dict(image_id=first_image + t, category_id=1, segmentation=mask)
            one |= dict(area=float(coco_mask.area(mask)), bbox=coco_mask.toBbox(mask).tolist())
            found.append(one | ({"score": 1.0} if scored else {}))
    return found


def test_mask_ap_equals_pycocotools(parity):
    """Noisy copies of rectangles in several clips, with lost, split and invented instances."""
    metric, truths, found = SegmentationMetric(), [], []
    for clip in range(4):
        truth = np.zeros((3, 24, 24), np.int32)
        prediction = np.zeros_like(truth)
        for i in range(1, 6):
            y, x, h, w = RNG.integers(0, 16, 2).tolist() + RNG.integers(4, 10, 2).tolist()
            truth[:, y : y + h, x : x + w] = i
            dy, dx = RNG.integers(-2, 3, 2)
            if i != 3:
                prediction[:, max(y + dy, 0) : y + h, max(x + dx, 0) : x + w] = 7 - i
        prediction[1, :4, :4] = 9
        metric.update({"segments": prediction}, {"segments": truth}, f"clip {clip}")
        truths += mask_annotations(truth, 3 * clip, False)
        found += mask_annotations(prediction, 3 * clip, True)
    expected = coco_ap("segm", truths, found, 12)
    results = metric.compute()
    assert 0.05 < expected[0] < 0.95
    for name, value in zip(("ap", "ap50", "ap75"), expected, strict=True):
        found = results[f"segmentation/coco_frames/{name}"]
        parity(f"segmentation, mask {name}", "pycocotools", found, value, bound=1e-12)


def person_annotations(keypoints, visibility, first_image, scores):
    absent = np.where(visibility[..., None] > 0, keypoints, 0.0 if scores is None else -1e6)
    areas = skeleton.box_area(keypoints, visibility > 0)
    found = []
    for t, p in np.argwhere((visibility > 0).any(axis=-1)):
        flat = np.concatenate([absent[t, p], visibility[t, p, :, None]], axis=-1).ravel()
        one = dict(image_id=first_image + int(t), category_id=1, keypoints=flat.tolist())
        one |= dict(area=float(areas[t, p]), bbox=[0.0, 0.0, 1.0, 1.0])
        if scores is None:
            one["num_keypoints"] = int((visibility[t, p] > 0).sum())
        else:
            one["score"] = float(scores[t, p])
        found.append(one)
    return found


def test_oks_ap_equals_pycocotools(parity):
    metric, truths, found = SkeletonMetric(), [], []
    for clip in range(3):
        true = RNG.uniform(0, 60, (4, 3, 17, 2))
        visibility = RNG.integers(0, 3, (4, 3, 17))
        visibility[2, 1] = 0  # gone for a frame
        order = RNG.permutation(3)
        noise = RNG.normal(0, [[[[0.3]], [[1.5]], [[4.0]]]], true.shape)
        predicted = np.concatenate([(true + noise)[:, order], true[:, :1] + 30], axis=1)
        missing = RNG.random(predicted.shape[:3]) < 0.1
        predicted_visibility = np.where(missing, 0, 2)
        scores = RNG.random(predicted.shape[:2]).round(1)  # ties, too
        metric.update(
            {"keypoints": predicted, "visibility": predicted_visibility, "scores": scores},
            {"keypoints": true, "visibility": visibility},
            f"clip {clip}",
        )
        truths += person_annotations(true, visibility, 4 * clip, None)
        found += person_annotations(predicted, predicted_visibility, 4 * clip, scores)
    expected = coco_ap("keypoints", truths, found, 12)
    results = metric.compute()
    assert 0.05 < expected[0] < 0.95
    for name, value in zip(("ap", "ap50", "ap75"), expected, strict=True):
        found = results[f"skeleton/coco_oks_box53/{name}"]
        parity(f"skeleton, OKS {name}", "pycocotools", found, value, bound=1e-12)


def test_sigmas_are_cocos():
    evaluation = COCOeval(iouType="keypoints")
    np.testing.assert_allclose(skeleton.SIGMAS, evaluation.params.kpt_oks_sigmas)


def test_weights_repeat_clips():
    clips = [
        average_precision.match_image(RNG.random((5, 4)), RNG.random(5), 100) for _ in range(3)
    ]
    repeated = [clips[0], clips[0], clips[2]]
    once = average_precision.average_precision(repeated, np.ones((1, 3)))
    weighted = average_precision.average_precision(clips, np.array([[2, 0, 1]]))
    for name in once:
        assert weighted[name][0] == pytest.approx(once[name][0], abs=1e-12)


def test_nothing_true_and_nothing_found():
    found = average_precision.match_image(np.zeros((2, 0)), np.ones(2), 100)
    assert found.truths == 0 and found.matched == [0, 0]
    assert np.isnan(average_precision.average_precision([found], np.ones((1, 1)))["ap"][0])
    missed = average_precision.match_image(np.zeros((0, 2)), np.ones(0), 100)
    assert average_precision.average_precision([missed], np.ones((1, 1)))["ap"][0] == 0.0
