import folder_clips
import numpy as np
import pytest

from unityvideo_jax import modalities
from unityvideo_jax.metrics.flow import FlowMetric


@pytest.mark.parametrize("modality", modalities.metrics())
def test_trivial_predictions_are_valid_and_worse_than_the_truth(modality):
    known, truth = modalities.get(modality), folder_clips.truth(0)[modality]
    metric = known.metric()
    metric.update(known.trivial(truth), truth, "clip")
    trivial = metric.compute()
    assert np.isfinite(list(trivial.values())).all()
    perfect = known.metric()
    perfect.update(truth, truth, "clip")
    gap = perfect.compute()[metric.headline] - trivial[metric.headline]
    assert (gap < 0) if metric.lower_is_better else (gap > 0)


def test_trivial_flow_scores_the_mean_speed():
    """Predicting rest, the end-point error is the motion itself."""
    truth = folder_clips.truth(0)["flow"]
    metric = FlowMetric()
    metric.update(modalities.get("flow").trivial(truth), truth, "clip")
    speed = np.linalg.norm(truth["flow"].astype(np.float64), axis=-1)
    results = metric.compute()
    assert results["flow/pooled_all/epe"] == pytest.approx(speed.mean())
    assert results["flow/pooled_foreground/epe"] == pytest.approx(
        speed[truth["instances"] > 0].mean()
    )
