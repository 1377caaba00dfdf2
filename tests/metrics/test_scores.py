import json

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from unityvideo_jax.metrics import frechet, scores
from unityvideo_jax.metrics.average_precision import Detections
from unityvideo_jax.metrics.scores import ClipScore

RNG = np.random.default_rng(0)


def clip(value, weight=1.0, **more):
    return ClipScore(means={"k": (value, weight)}, **more)


def test_weighted_averages_counts_and_holes():
    clips = [clip(1.0, 3.0, counts={"n": 2}), clip(5.0, 1.0), ClipScore(counts={"n": 1})]
    clips[0].means["empty"] = (7.0, 0.0)
    assert scores.aggregate(clips) == {"k": 2.0, "empty": None, "n": 3}
    assert clips[0].scored and not clips[2].scored


def test_json_round_trip_keeps_every_number():
    whole = ClipScore(
        means={"a": (0.1, 2.0)},
        counts={"n": 3},
        detections={"d": Detections(scores=[1.0, 0.5], matched=[3, 0], truths=2)},
        features={"f": ([1.0, 2.0], [3.0, 4.0])},
    )
    again = ClipScore.from_json(json.loads(json.dumps(whole.to_json())))
    assert again == whole
    renamed = whole.renamed("x/")
    assert set(renamed.means) == {"x/a"} and set(renamed.features) == {"x/f"}
    assert scores.merge([whole, renamed]).means == {"a": (0.1, 2.0), "x/a": (0.1, 2.0)}
    with pytest.raises(ValueError, match="scored twice"):
        scores.merge([whole, whole])


def test_bootstrap_interval_of_a_mean_agrees_with_scipy(parity):
    values = RNG.normal(3, 1, 60)
    low, high = scores.bootstrap([clip(v) for v in values], samples=4000)["k"]
    expected = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    name = "intervals, 4000 draws, other random numbers"
    parity(name, "scipy bootstrap", (low, high), expected, bound=0.02, relative=False)


def test_bootstrap_covers_and_repeats():
    """Of 200 samples of 30 normal values, about 95 % of intervals hold the true mean."""
    hits = 0
    for _ in range(200):
        clips = [clip(v) for v in RNG.normal(0, 1, 30)]
        low, high = scores.bootstrap(clips, samples=300)["k"]
        hits += low <= 0.0 <= high
    assert 175 <= hits <= 199
    assert scores.bootstrap(clips) == scores.bootstrap(clips)
    assert scores.bootstrap(clips, seed=1) != scores.bootstrap(clips)
    assert scores.bootstrap(clips[:1]) == {}


def test_bootstrap_of_ap_holds_the_value():
    clips = [
        ClipScore(detections={"d": Detections(scores=[1.0], matched=[m], truths=1)})
        for m in [1023, 0, 1023, 31, 1023, 0]
    ]
    low, high = scores.bootstrap(clips, samples=100)["d/ap"]
    assert low < scores.aggregate(clips)["d/ap"] < high


def test_frechet_distance_equals_scipys_matrix_root(parity):
    first, second = RNG.normal(size=(40, 6)), RNG.normal(1, 2, size=(50, 6)) @ np.diag(range(1, 7))
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    gap = first.mean(0) - second.mean(0)
    expected = gap @ gap + np.trace(s1 + s2 - 2 * root)
    found = frechet.frechet_distance(first, second)
    parity("FVD, Fréchet distance", "scipy sqrtm", found, expected, bound=1e-9)


def test_frechet_closed_forms():
    """One dimension: (mu1 - mu2)^2 + (s1 - s2)^2; a shift adds its square; fewer than d videos."""
    x, y = RNG.normal(0, 1, (30, 1)), RNG.normal(2, 3, (40, 1))
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert frechet.frechet_distance(x, y) == pytest.approx(expected)
    few = RNG.normal(size=(5, 50))
    assert frechet.frechet_distance(few, few) == pytest.approx(0.0, abs=1e-9)
    assert frechet.frechet_distance(few, few + 2.0) == pytest.approx(200.0)
    turn = scipy.stats.ortho_group.rvs(50, random_state=0)
    other = RNG.normal(size=(7, 50))
    assert frechet.frechet_distance(few @ turn, other @ turn) == pytest.approx(
        frechet.frechet_distance(few, other)
    )
    assert frechet.frechet_distance(few[:1], few) is None
