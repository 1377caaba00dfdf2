import folder_clips
import numpy as np
import pytest

from unityvideo_jax.evaluation.score_run import trivial_prediction
from unityvideo_jax.metrics.table import METRICS


@pytest.mark.parametrize("modality", METRICS)
def test_trivial_predictions_are_valid_and_worse_than_the_truth(modality):
    metric, truth = METRICS[modality](), folder_clips.truth(0)[modality]
    metric.update(trivial_prediction(modality, truth), truth, "clip")
    trivial = metric.compute()
    assert np.isfinite(list(trivial.values())).all()
    perfect = METRICS[modality]()
    perfect.update(truth, truth, "clip")
    gap = perfect.compute()[metric.headline] - trivial[metric.headline]
    assert (gap < 0) if metric.lower_is_better else (gap > 0)


def test_trivial_flow_scores_the_mean_speed():
    """Predicting rest, the end-point error is the motion itself."""
    truth = folder_clips.truth(0)["flow"]
    metric = METRICS["flow"]()
    metric.update(trivial_prediction("flow", truth), truth, "clip")
    speed = np.linalg.norm(truth["flow"].astype(np.float64), axis=-1)
    results = metric.compute()
    assert results["flow/pooled_all/epe"] == pytest.approx(speed.mean())
    assert results["flow/pooled_foreground/epe"] == pytest.approx(
        speed[truth["instances"] > 0].mean()
    )
