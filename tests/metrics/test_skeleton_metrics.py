import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.skeleton import SkeletonMetric

RNG = np.random.default_rng(0)
PCK = "skeleton/torso_hungarian/pck_0.2"


def person(frames=2, people=1):
    """Joints at random, but shoulders and hips on a 30 x 40 rectangle: torso 50, reach 10."""
    keypoints = RNG.uniform(0, 100, (frames, people, 17, 2))
    keypoints[:, :, [5, 6, 11, 12]] = [[40, 20], [10, 20], [40, 60], [10, 60]]
    return keypoints, np.full((frames, people, 17), 2)


def compute(prediction, truth, **more):
    metric = SkeletonMetric()
    keys = ("keypoints", "visibility")
    given = dict(zip(keys, prediction, strict=True)) | more
    metric.update(given, dict(zip(keys, truth, strict=True)), "clip 0")
    return metric.compute()


def test_reach_is_a_fifth_of_the_torso(parity):
    truth, seen = person()
    for distance, expected in ((9.9, 1.0), (10.1, 0.0)):
        results = compute((truth + np.array([0, distance]), seen), (truth, seen))
        assert results[PCK] == expected
    moved = truth.copy()
    moved[:, :, :5] += 50
    found = compute((moved, seen), (truth, seen))[PCK]
    parity("skeleton, PCK@0.2", "by hand: 12 of 17 joints", found, 12 / 17, bound=1e-9)


def test_scale_and_place_do_not_matter():
    truth, seen = person()
    prediction = truth + RNG.normal(0, 8, truth.shape)
    once = compute((prediction, seen), (truth, seen))
    assert 0.1 < once[PCK] < 0.95
    again = compute((3 * prediction + 7, seen), (3 * truth + 7, seen))
    assert again == pytest.approx(once)


def test_order_of_people_does_not_matter_but_identity_does():
    truth, seen = person(frames=4, people=3)
    truth += np.array([0, 300, 600])[None, :, None, None]
    assert compute((truth[:, [2, 0, 1]], seen), (truth, seen))[PCK] == 1.0
    swapped = truth.copy()
    swapped[3, [0, 1]] = truth[3, [1, 0]]  # two people change places in one frame of four
    results = compute((swapped, seen), (truth, seen))
    assert results[PCK] == pytest.approx(1 - 2 / 12)
    assert results["skeleton/coco_oks_box53/ap"] == pytest.approx(1.0)  # frames know no identity


def test_visible_joints_apart():
    truth, seen = person()
    occluded = seen.copy()
    occluded[:, :, :8] = 1
    prediction = truth.copy()
    prediction[:, :, :8] += 500
    results = compute((prediction, seen), (truth, occluded))
    assert results[f"{PCK}_visible"] == 1.0
    assert results[PCK] == pytest.approx(9 / 17)


def test_missing_people_joints_and_torsos():
    truth, seen = person(people=2)
    truth[:, 1] += 400
    results = compute((truth[:, :1], seen[:, :1]), (truth, seen))
    assert results[PCK] == pytest.approx(0.5) and results["skeleton/people"] == 2
    nobody = (np.zeros((2, 0, 17, 2)), np.zeros((2, 0, 17), int))
    results = compute(nobody, (truth, seen))
    assert results[PCK] == 0.0 and results["skeleton/coco_oks_box53/ap"] == 0.0
    absent = seen.copy()
    absent[:, :, 0] = 0
    holes = np.where(absent[..., None] > 0, truth, np.nan)  # NaN where absent is no fault
    assert compute((holes, absent), (truth, seen))[PCK] == pytest.approx(16 / 17)
    no_hips = seen.copy()
    no_hips[0, 0, 11:13] = 0
    results = compute((truth, seen), (truth, no_hips))
    assert results["skeleton/joints_without_torso"] == 15 and results[PCK] == 1.0
    ghosts = (np.concatenate([truth, truth + 900], 1), np.concatenate([seen, seen], 1))
    assert compute(ghosts, (truth, seen))["skeleton/unmatched_predictions"] == 2


def test_clip_without_people_is_counted_and_its_inventions_lower_ap():
    truth, seen = person()
    metric = SkeletonMetric()
    sound = {"keypoints": truth, "visibility": seen}
    empty = {"keypoints": truth, "visibility": np.zeros_like(seen)}
    metric.update(empty, empty, "clip 0")
    with pytest.raises(UserError, match="no clip has anything to score"):
        metric.compute()
    metric.update(sound, empty, "clip 1")
    metric.update(sound, sound, "clip 2")
    results = metric.compute()
    assert results["skeleton/clips_without_people"] == 2 and results["skeleton/clips"] == 1
    assert results[PCK] == 1.0
    assert results["skeleton/coco_oks_box53/ap"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda k, v: (k[:1], v[:1]), "predicted for 1 frames but the truth has 2"),
        (lambda k, v: (k[:, :, :5], v[:, :, :5]), r"give \[T, P, 17, 2\]"),
        (lambda k, v: (k * np.nan, v), "joints that are there holds NaN"),
    ],
)
def test_faults_are_named(damage, message):
    truth, seen = person()
    with pytest.raises(UserError, match=message):
        compute(damage(truth, seen), (truth, seen))
