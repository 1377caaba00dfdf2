import math

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.densepose import DensePoseMetric

RNG = np.random.default_rng(0)
MIOU, L1 = "densepose/clip_mean/part_miou", "densepose/clip_mean/uv_l1"
GPS = "densepose/gps_chart_proxy/gps"


def maps(shape=(2, 6, 6)):
    part = RNG.integers(0, 25, shape).astype(np.int32)
    uv = RNG.uniform(0, 0.5, (*shape, 2)).astype(np.float32)
    return {"part": part, "uv": np.where(part[..., None] > 0, uv, 0.0).astype(np.float32)}


def compute(*pairs):
    metric = DensePoseMetric()
    for i, (prediction, truth) in enumerate(pairs):
        metric.update(prediction, truth, f"clip {i}")
    return metric.compute()


def test_part_iou_equals_sklearn(parity):
    truth = maps()
    truth["part"][truth["part"] > 20] = 3  # some parts are in neither
    prediction = maps()
    prediction["part"] = np.where(RNG.random(truth["part"].shape) < 0.7, truth["part"], 5)
    p, t = prediction["part"].ravel(), truth["part"].ravel()
    labels = sorted((set(p) | set(t)) - {0})
    expected = jaccard_score(t, p, labels=labels, average="macro")
    assert len(labels) < 24 and 0.1 < expected < 0.95
    found = compute((prediction, truth))[MIOU]
    parity("densepose, part mIoU", "scikit-learn jaccard_score", found, expected, bound=1e-9)


def test_uv_error_counts_where_the_part_is_right():
    truth = maps()
    prediction = {"part": truth["part"].copy(), "uv": truth["uv"] + np.float32(0.25)}
    prediction["uv"][..., 1] = truth["uv"][..., 1]
    results = compute((prediction, truth))
    assert results[L1] == pytest.approx(0.125, abs=1e-6) and results[MIOU] == 1.0
    wrong = truth["part"] == 7
    prediction["part"][wrong] = 8
    prediction["uv"][wrong] = 0.9
    assert compute((prediction, truth))[L1] == pytest.approx(0.125, abs=1e-6)


def test_gps_is_half_at_half_a_chart(parity):
    """kappa was chosen so that 0.3 m, half a segment, scores 0.5."""
    truth = maps()
    near = {"part": truth["part"], "uv": truth["uv"] + np.array([0.5, 0.0])}
    expected = math.exp(-(0.3**2) / (2 * 0.255**2))
    assert expected == pytest.approx(0.5, abs=1e-3)
    found = compute((near, truth))[GPS]
    parity("densepose, GPS proxy", "closed form at 0.3 m", found, expected, bound=1e-12)
    assert compute((truth, truth))[GPS] == 1.0
    nowhere = {"part": np.zeros_like(truth["part"]), "uv": truth["uv"]}
    assert compute((nowhere, truth))[GPS] == 0.0


def test_clip_without_body():
    empty = {"part": np.zeros((1, 2, 2), np.int32), "uv": np.zeros((1, 2, 2, 2), np.float32)}
    with pytest.raises(UserError, match="no clip has anything to score"):
        compute((empty, empty))
    truth = maps()
    results = compute((empty, empty), (truth, truth))
    assert results[MIOU] == results[GPS] == 1.0 and results[L1] == 0.0
    assert results["densepose/clips"] == results["densepose/clips_without_body"] == 1
    invented = {"part": np.ones((1, 2, 2), np.int32), "uv": empty["uv"]}
    results = compute((invented, empty), (truth, truth))
    assert results[MIOU] == 0.5 and results["densepose/clips"] == 2
    assert results[GPS] == 1.0 and results["densepose/clips_without_body"] == 1
    other = {"part": truth["part"] % 24 + 1, "uv": truth["uv"]}
    assert compute((other, truth))["densepose/clips_without_right_part"] == 1


def test_faults_are_named():
    truth = maps()
    with pytest.raises(UserError, match=r"predicted part spans \[0, 25\]"):
        bad = truth["part"].copy()
        bad[0, 0, :2] = [0, 25]
        compute(({"part": bad, "uv": truth["uv"]}, truth))
    with pytest.raises(UserError, match="predicted uv holds NaN"):
        compute(({"part": truth["part"], "uv": truth["uv"] * np.nan}, truth))
    with pytest.raises(UserError, match="one size and length"):
        compute((maps((1, 6, 6)), truth))
    part, uv = truth["part"], truth["uv"]
    for bad, says in (
        (uv * 255, r"predicted uv spans .*, 12.*; give \[0, 1\], bytes divided by 255"),
        (uv - 0.1, "predicted uv spans"),
    ):
        with pytest.raises(UserError, match=says):
            compute(({"part": part, "uv": bad}, truth))
    for shaped, says in (
        ({"part": part, "uv": uv[..., :1]}, r"uv has shape \(2, 6, 6, 1\); give \[T, H, W, 2\]"),
        ({"part": part, "uv": uv[:, :4]}, r"uv has shape .* but part .*; bring them to one size"),
        ({"part": part[0], "uv": uv[0]}, r"part has shape \(6, 6\); give \[T, H, W\]"),
    ):
        with pytest.raises(UserError, match=says):
            compute((shaped, shaped))
