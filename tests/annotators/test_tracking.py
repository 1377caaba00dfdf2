import numpy as np
import pycocotools.mask
import pytest

from unityvideo_jax.annotators.tracking import Tracks, box_iou, mask_iou

RNG = np.random.default_rng(0)


def test_overlaps_are_those_of_coco():
    low = RNG.integers(0, 20, (9, 2))
    boxes = np.concatenate([low, low + RNG.integers(1, 20, (9, 2))], axis=1).astype(np.float32)
    # COCO has (left, top, width, height).
    coco = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    expected = pycocotools.mask.iou(coco[:4], coco[4:], [0] * 5)
    np.testing.assert_allclose(box_iou(boxes[:4], boxes[4:]), expected, atol=1e-6)
    masks = RNG.random((9, 16, 16)) < 0.4
    runs = [pycocotools.mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks]
    expected = pycocotools.mask.iou(runs[:4], runs[4:], [0] * 5)
    np.testing.assert_allclose(mask_iou(masks[:4], masks[4:]), expected, atol=1e-6)


def box(x, y=0.0, size=10.0):
    return np.asarray([x, y, x + size, y + size], np.float32)


def test_things_keep_their_number_whatever_the_order():
    tracks = Tracks(box_iou)
    for t in range(12):
        # One to the right, one down, at overlap 8/12 and above from frame to frame.
        things = [box(2.0 * t), box(100.0, t)]
        order = RNG.permutation(2)
        numbers = tracks.update([things[i] for i in order])
        if t == 0:
            names = dict(zip(order.tolist(), numbers, strict=True))
        assert dict(zip(order.tolist(), numbers, strict=True)) == names


@pytest.mark.parametrize("gap,same", [(3, True), (9, False)])
def test_what_is_hidden_is_looked_for_for_a_while(gap, same):
    tracks = Tracks(box_iou, patience=8)
    assert tracks.update([box(0)]) == [0]
    for _ in range(gap):
        assert tracks.update([]) == []
    assert tracks.update([box(1)]) == [0 if same else 1]


def test_boxes_that_do_not_overlap_are_new():
    tracks = Tracks(box_iou)
    assert tracks.update([box(0), box(50)]) == [0, 1]
    assert tracks.update([box(50), box(30), box(0)]) == [1, 2, 0]
    assert tracks.count == 3
