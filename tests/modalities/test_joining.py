"""Windows of the truth join to the truth, whatever each window leaves open."""

import math

import numpy as np
import pytest

from unityvideo_jax import modalities
from unityvideo_jax.modalities import joining
from unityvideo_jax.units import RELATIVE

OVERLAP, WINDOW = 5, 13
RNG = np.random.default_rng(0)


def joined(name, whole, change, frames=45, keys=0):
    """The truth in windows, each changed by what its modality leaves open, and joined again."""
    entry = modalities.get(name)
    joiner = (entry.joiner or joining.Joiner)(entry.codec, OVERLAP, keys)
    parts, seams = [], []
    for number, begin in enumerate(range(0, frames - OVERLAP, WINDOW - OVERLAP)):
        key = joining.frames(whole, slice(keys if begin else 0))
        own = joining.frames(whole, slice(begin + keys if begin else 0, begin + WINDOW))
        window = joining.concatenated([key, own])
        ready, seam = joiner.add(change(window, number))
        parts.append(ready)
        seams.append(seam)
    shared = {len(next(iter(s[1].values()))) for s in seams[1:]}
    assert seams[0] is None and shared == {OVERLAP - keys}
    return [*parts, joiner.end()]


def test_depth_of_any_scale_and_shift_becomes_that_of_the_first_window():
    disparity = RNG.uniform(0.1, 1.0, (45, 6, 8))
    sky = RNG.random((45, 6, 8)) < 0.1
    depth = np.where(sky, np.inf, 1.0 / disparity).astype(np.float32)

    def change(window, number):
        scale, shift = (1.0, 0.0) if number == 0 else RNG.uniform((0.3, 0.05), (3.0, 0.4))
        surface = np.isfinite(window["depth"])
        changed = 1.0 / (scale / np.where(surface, window["depth"], 1.0) + shift)
        changed = np.where(surface, changed, np.inf).astype(np.float32)
        return {"depth": changed, "unit": np.asarray(RELATIVE)}

    out = joining.concatenated(joined("depth", {"depth": depth}, change))
    np.testing.assert_allclose(out["depth"], depth, rtol=2e-4)
    assert str(out["unit"]) == RELATIVE


def test_depth_in_metres_is_not_scaled():
    depth = RNG.uniform(1.0, 9.0, (45, 4, 4)).astype(np.float32)

    def change(window, number):
        return {"depth": window["depth"] * np.float32(1.0 + 0.1 * number)}

    parts = joined("depth", {"depth": depth}, change)
    np.testing.assert_allclose(parts[-1]["depth"], 1.4 * depth[-OVERLAP:], rtol=1e-6)


def test_noise_in_every_window_does_not_shrink_depth():
    """A least-squares slope would lose a fifth of the deviation in each of these windows."""
    truth = RNG.uniform(1.0, 2.0, (1, 32, 32)).repeat(405, axis=0)

    def change(window, number):
        del number
        noisy = 1.0 / window["depth"] + RNG.normal(0, 0.07, window["depth"].shape)
        depth = (1.0 / np.maximum(noisy, 0.1)).astype(np.float32)
        return {"depth": depth, "unit": np.asarray(RELATIVE)}

    parts = joined("depth", {"depth": truth}, change, frames=405)
    deviation = [np.std(1.0 / part["depth"].mean(0)) for part in (parts[0], parts[-2])]
    assert len(parts) == 51
    assert deviation[1] == pytest.approx(deviation[0], rel=0.25)


@pytest.mark.parametrize("keys", [0, 1])
def test_errors_of_windows_multiply_unless_they_share_a_key_frame(keys):
    """5,000 noisy frames in windows of any scale and shift, whose last ones deviate 1.4 % more.

    With a key frame that counts half, scales approach the fixed point of s² = (1 + b² s²) / 2.
    """
    bias, count, window = 1.014, 5000, 17
    scene = RNG.uniform(0.5, 1.0, (8, 8))
    change = 0.1 * np.sin(np.arange(count) / 7.0)[:, None, None] * RNG.normal(size=(8, 8))
    truth = scene + change
    joiner = modalities.get("depth").joiner(modalities.get("depth").codec, OVERLAP, keys)
    out, done = [], 0
    while done < count:
        shared = OVERLAP - keys if done else 0
        places = np.arange(done - shared, min(done + window - (OVERLAP if done else 0), count))
        places = np.concatenate([np.zeros(keys if done else 0, int), places])
        # The deviation grows along the window; its mean stays.
        grown = 1.0 + (bias - 1.0) * (np.arange(len(places)) >= OVERLAP)
        mean = truth[places].mean(axis=(1, 2), keepdims=True)
        seen = mean + grown[:, None, None] * (truth[places] - mean)
        seen += RNG.normal(0, 0.01, seen.shape)
        if done:
            scale, shift = RNG.uniform((0.3, 0.1), (3.0, 0.5))
            seen = scale * seen + shift
        ready, _ = joiner.add({"depth": 1.0 / seen, "unit": np.asarray(RELATIVE)})
        out.append(1.0 / ready["depth"])
        done = int(places[-1]) + 1
    assert len(out) == 417
    found = np.concatenate([*out, 1.0 / joiner.end()["depth"]])
    ratio = found.std(axis=(1, 2)) / truth.std(axis=(1, 2))
    assert len(found) == count
    if keys:
        fixed_point = 1.0 / math.sqrt(2.0 - bias**2)
        for part in np.split(ratio[200:], 12):
            assert part.mean() == pytest.approx(bias * fixed_point, rel=0.02)
    else:
        assert ratio[-30:].mean() > 4  # what falls below 0 is cut


def test_a_key_frame_that_windows_do_not_agree_on_is_left_out():
    """Black at the begin of a film: what a window says of it is noise."""
    truth = RNG.uniform(0.5, 1.0, (45, 8, 8))
    joiner = modalities.get("depth").joiner(modalities.get("depth").codec, OVERLAP, 1)
    parts = []
    for begin in range(0, 40, WINDOW - OVERLAP):
        seen = truth[begin : begin + WINDOW].copy()
        if begin:
            seen = 2.0 * seen + 0.3
        seen[0] = RNG.uniform(0.5, 5.0, (8, 8))
        ready, _ = joiner.add({"depth": 1.0 / seen, "unit": np.asarray(RELATIVE)})
        parts.append(1.0 / ready["depth"])
    np.testing.assert_allclose(parts[-1], truth[33:41], rtol=1e-5)


@pytest.mark.parametrize("keys", [0, 1])
def test_instances_keep_their_numbers(keys):
    """Three squares, of which one leaves and another comes; windows number them at random."""
    segments = np.zeros((45, 24, 24), np.int32)
    for t in range(45):
        segments[t, 2:8, 2:8] = 1
        if t < 20:
            segments[t, 10:16, 10:16] = 2
        if t >= 28:
            segments[t, 10:16, 2:8] = 3

    def change(window, number):
        del number
        order = np.concatenate([[0], 1 + RNG.permutation(20)]).astype(np.int32)
        return {"segments": order[window["segments"]]}

    parts = joined("segmentation", {"segments": segments}, change, keys=keys)
    out = joining.concatenated(parts)["segments"]
    pairs = {(int(a), int(b)) for a, b in zip(segments.ravel(), out.ravel(), strict=True)}
    assert len(pairs) == 4 and len({b for _, b in pairs}) == 4 and (0, 0) in pairs


@pytest.mark.parametrize("keys", [0, 1])
def test_people_keep_their_places(keys):
    start = RNG.uniform(0, 20, (2, 17, 2)) + np.array([[[10, 10]], [[80, 40]]])
    keypoints = (start + np.arange(45)[:, None, None, None] * 0.5).astype(np.float32)
    visibility = np.full((45, 2, 17), 2, np.int32)
    visibility[:20, 1] = 0  # the second one comes later

    def change(window, number):
        seen = np.flatnonzero((window["visibility"] > 0).any(axis=(0, 2)))
        order = RNG.permutation(seen) if number else seen
        return {key: value[:, order] for key, value in window.items()}

    whole = {"keypoints": keypoints, "visibility": visibility}
    parts = joined("skeleton", whole, change, keys=keys)
    assert [part["keypoints"].shape[1] for part in parts] == [1, 2, 2, 2, 2, 2]
    t = 0
    for part in parts:
        count = len(part["visibility"])
        for p in range(part["visibility"].shape[1]):
            np.testing.assert_array_equal(part["visibility"][:, p], visibility[t : t + count, p])
            shown = visibility[t : t + count, p] > 0
            true = keypoints[t : t + count, p]
            np.testing.assert_allclose(part["keypoints"][:, p][shown], true[shown], atol=1e-4)
        t += count
    assert t == 45


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("flow", {"flow": RNG.normal(size=(45, 4, 4, 2)).astype(np.float32)}),
        (
            "densepose",
            {
                "part": RNG.integers(0, 25, (45, 4, 4)).astype(np.int32),
                "uv": RNG.random((45, 4, 4, 2)).astype(np.float32),
            },
        ),
    ],
)
def test_what_leaves_nothing_open_is_blended(name, whole):
    out = joining.concatenated(joined(name, whole, lambda window, number: window))
    for key, value in whole.items():
        np.testing.assert_allclose(out[key], value, atol=1e-6)


def test_a_blend_is_linear_in_numbers_and_switches_labels_in_the_middle():
    ones = np.ones((3, 1), np.float32)
    np.testing.assert_allclose(joining.blended(0 * ones, ones)[:, 0], [0.25, 0.5, 0.75])
    assert joining.blended(np.zeros(4, np.int32), np.ones(4, np.int32)).tolist() == [0, 0, 1, 1]


def test_joined_pictures_read_back():
    """Depth is drawn with fixed bounds and ids by their number, so that parts fit together."""
    disparity = RNG.uniform(0.1, 1.0, (2, 4, 4)).astype(np.float32)
    entry = modalities.get("depth")
    drawn = entry.joiner(entry.codec, 1).draw(
        {"depth": 1.0 / disparity, "unit": np.asarray(RELATIVE)}, (4, 4)
    )
    read = entry.codec.decode(drawn / 127.5 - 1.0, entry.codec.default_side)["depth"]
    np.testing.assert_allclose(1.0 / read, disparity, atol=0.004)
    entry = modalities.get("segmentation")
    ids = np.zeros((1, 32, 32), np.int32)
    ids[:, :16], ids[:, 16:, 16:] = 3, 27
    read = entry.codec.decode(
        entry.joiner(entry.codec, 1).draw({"segments": ids}, (32, 32)) / 127.5 - 1.0,
        entry.codec.default_side,
    )["segments"]
    assert read[0, 0, 0] == 3 and read[0, 31, 31] == 1 and read[0, 31, 0] == 0
