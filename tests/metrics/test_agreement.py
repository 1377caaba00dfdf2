"""Agreement of two streams against scikit-learn and closed forms."""

import numpy as np
import pytest
from sklearn.metrics import jaccard_score, roc_auc_score

from unityvideo_jax import modalities
from unityvideo_jax.metrics import agreement

T, H, W = 3, 32, 40


def squares(*corners, side=8, step=2):
    """Instances 1, 2, ... as squares that move right by `step` pixels per frame."""
    segments = np.zeros((T, H, W), np.int32)
    for number, (y, x) in enumerate(corners, 1):
        for t in range(T):
            segments[t, y : y + side, x + step * t : x + step * t + side] = number
    return segments


def joints(*places):
    """People whose joints all lie at one place each, all visible in all frames."""
    keypoints = np.zeros((T, len(places), 17, 2), np.float32)
    for person, (x, y) in enumerate(places):
        keypoints[:, person] = x, y
    return keypoints, np.full((T, len(places), 17), 2, np.int32)


def test_joints_lie_in_the_mask_of_their_person():
    segments = squares((2, 2), (20, 20), step=0)
    keypoints, visibility = joints((6, 6), (24, 24))
    inside = agreement.keypoints_in_masks
    assert inside(keypoints, visibility, segments) == 1.0
    # Hidden joints do not count, and one outside by three pixels does; the tolerance is one.
    keypoints[0, 0, :5], visibility[0, 1, :3] = (13.5, 6.0), 0
    total = 2 * 17 * T - 3
    assert inside(keypoints, visibility, segments) == pytest.approx((total - 5) / total)
    keypoints[0, 0, :5] = (10.9, 6.0)
    assert inside(keypoints, visibility, segments) == 1.0
    # Two people share no mask, and one stream alone agrees with nothing.
    both = joints((6, 6), (7, 7))
    assert inside(*both, segments) == 0.5
    assert inside(*both, 0 * segments) == 0.0 and inside(*joints(), segments) == 0.0
    assert inside(*joints(), 0 * segments) is None


def test_bodies_match_the_best_of_all_choices_of_masks(parity):
    rng = np.random.default_rng(0)
    segments = rng.integers(0, 5, (T, H, W)).astype(np.int32)
    part = np.where((segments == 2) | (segments == 4), 3, 0)
    part = np.where(rng.random(part.shape) < 0.3, 7 - part, part)
    choices = [[n for n in range(1, 5) if bits >> (n - 1) & 1] for bits in range(1, 16)]
    best = max(
        jaccard_score((part > 0).ravel(), np.isin(segments, chosen).ravel()) for chosen in choices
    )
    ours = agreement.body_mask_iou(part, segments)
    parity("agreement: bodies and masks", "scikit-learn jaccard_score", ours, best, bound=1e-12)
    assert agreement.body_mask_iou(0 * part, segments) == 0.0
    assert agreement.body_mask_iou(0 * part, 0 * segments) is None


def test_depth_edges_rank_borders_as_scikit_learn_does(parity):
    segments = squares((4, 4), (14, 20))
    depth = np.where(segments > 0, 2.0, 5.0).astype(np.float32)
    assert agreement.depth_edge_auc(depth, segments) > 0.9
    # Neither scale nor an offset of disparity matters; noise on its own is chance.
    moved = 1 / (3 / depth + 0.2)
    exact = agreement.depth_edge_auc(depth, segments)
    assert agreement.depth_edge_auc(moved, segments) == pytest.approx(exact, abs=1e-3)
    noise = np.random.default_rng(0).uniform(1, 2, segments.shape)
    assert abs(agreement.depth_edge_auc(noise, segments) - 0.5) < 0.05
    assert agreement.depth_edge_auc(np.full(depth.shape, np.inf), segments) == 0.5
    assert agreement.depth_edge_auc(depth, 0 * segments) is None
    border = np.zeros(segments.shape, bool)
    for t in range(T):
        for number in (1, 2):
            border[t] |= agreement.outline(segments[t] == number)
    change = np.zeros(depth.shape)
    for t, y, x in np.ndindex(depth.shape):
        window = 1 / depth[t, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        change[t, y, x] = window.max() - window.min()
    expected = roc_auc_score(border.ravel(), change.ravel())
    parity("agreement: depth edges", "scikit-learn roc_auc_score", exact, expected, bound=1e-9)


def test_masks_move_with_their_flow():
    segments = squares((4, 4), (16, 12), step=2)
    flow = np.zeros((T, H, W, 2), np.float32)
    moved = agreement.moved_mask_iou
    # Without motion 8x8 squares overlap in 6 of 10 columns.
    assert moved(flow, segments) == pytest.approx(0.6)
    flow[..., 0] = 2.0
    assert moved(flow, segments) == 1.0
    flow[..., 0] = 1.5  # covers seven columns whole and one on either side by half
    assert moved(flow, segments) == pytest.approx(8 / 9)
    how = agreement.MOVED_MASK_IOU
    assert how.unaided({"flow": flow, "segments": segments}) == pytest.approx(0.6)
    assert moved(flow, 0 * segments) is None
    assert moved(np.full_like(flow, 1e6), segments) is None


def test_pairs_are_declared_where_modalities_are_registered():
    pairs = modalities.agreements()
    assert {first for first, _ in pairs} == {"depth", "flow", "skeleton", "densepose"}
    for pair, how in pairs.items():
        keys = {key for name in pair for key in modalities.get(name).codec.keys}
        assert set(how.keys) <= keys | {"rgb"}, how.name
