import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.flow import FlowMetric

RNG = np.random.default_rng(0)


def compute(*clips):
    metric = FlowMetric()
    for i, (prediction, truth, extra) in enumerate(clips):
        metric.update({"flow": prediction}, {"flow": truth, **extra}, f"clip {i}")
    return metric.compute()


def constant(dx, dy, shape=(1, 2, 2)):
    return np.tile(np.array([dx, dy], np.float32), (*shape, 1))


def test_error_by_hand():
    """3-4-5 triangles: EPE 5; an outlier against rest, none against a motion of 200."""
    results = compute((constant(3, 4), constant(0, 0), {}))
    assert results["flow/pooled_all/epe"] == pytest.approx(5.0)
    assert results["flow/pooled_all/fl_all"] == 100.0
    results = compute((constant(203, 4), constant(200, 0), {}))
    assert results["flow/pooled_all/epe"] == pytest.approx(5.0)
    assert results["flow/pooled_all/fl_all"] == 0.0  # 5 px is 2.5 % of the motion
    results = compute((constant(2.9, 0), constant(0, 0), {}))
    assert results["flow/pooled_all/fl_all"] == 0.0  # below 3 px


def test_sets_of_pixels():
    truth = np.zeros((1, 1, 4, 2), np.float32)
    prediction = truth.copy()
    prediction[0, 0, :, 0] = [1, 2, 4, 8]
    extra = {
        "occluded": np.array([[[False, True, False, True]]]),
        "instances": np.array([[[0, 1, 2, 0]]]),
        "valid": np.array([[[True, True, True, False]]]),
    }
    results = compute((prediction, truth, extra))
    assert results["flow/pooled_all/epe"] == pytest.approx(7 / 3)
    assert results["flow/pooled_visible/epe"] == pytest.approx(5 / 2)
    assert results["flow/pooled_foreground/epe"] == pytest.approx(3.0)
    assert results["flow/pooled_foreground/fl_all"] == pytest.approx(50.0)


def test_pixels_of_all_clips_are_pooled(parity):
    small, large = RNG.normal(size=(1, 2, 2, 2)), RNG.normal(size=(3, 5, 5, 2))
    results = compute((small, 0 * small, {}), (large, 0 * large, {}))
    errors = np.concatenate([np.hypot(*np.moveaxis(f, -1, 0)).ravel() for f in (small, large)])
    parity("flow, EPE", "numpy hypot", results["flow/pooled_all/epe"], errors.mean(), bound=1e-12)


def test_rotating_prediction_and_truth_changes_nothing():
    truth, prediction = RNG.normal(0, 9, (2, 2, 4, 4, 2))
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = compute((prediction @ turn.T, truth @ turn.T, {}))
    assert turned == pytest.approx(compute((prediction, truth, {})))


def test_what_cannot_be_scored_is_counted():
    results = compute((constant(1, 0), constant(0, 0), {}))
    assert results["flow/videos_without_visibility"] == 1
    assert results["flow/videos_without_instances"] == 1
    assert "flow/pooled_visible/epe" not in results
    nothing = {"valid": np.zeros((1, 2, 2), bool)}
    with pytest.raises(UserError, match="no clip has anything to score"):
        compute((constant(1, 0), constant(0, 0), nothing))


def test_faults_are_named():
    bad = constant(0, 0)
    bad[0, 1, 0, 1] = np.nan
    with pytest.raises(UserError, match=r"clip 0: predicted flow holds NaN, first at \(0, 1, 0, 1"):
        compute((bad, constant(0, 0), {}))
    bad[0, 1, 0, 1] = np.inf
    with pytest.raises(UserError, match="predicted flow holds an infinity"):
        compute((bad, constant(0, 0), {}))
    with pytest.raises(UserError, match=r"true occluded has shape \(1, 3, 3\)"):
        compute((constant(0, 0), constant(0, 0), {"occluded": np.zeros((1, 3, 3), bool)}))
    with pytest.raises(UserError, match="one size and length"):
        compute((constant(0, 0, (2, 2, 2)), constant(0, 0), {}))
    for shape in ((1, 2, 4, 4), (1, 4, 4, 3), (4, 4, 2)):
        with pytest.raises(UserError, match=r"flow has shape .*; give \[T, H, W, 2\]"):
            compute((np.zeros(shape), np.zeros(shape), {}))
