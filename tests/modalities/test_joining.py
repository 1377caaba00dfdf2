"""Windows of the truth join to the truth, whatever each window leaves open."""

import numpy as np
import pytest

from unityvideo_jax import modalities
from unityvideo_jax.modalities import joining
from unityvideo_jax.units import RELATIVE

OVERLAP, WINDOW = 5, 13
RNG = np.random.default_rng(0)


def joined(name, whole, change, frames=45):
    """The truth in windows, each changed by what its modality leaves open, and joined again."""
    entry = modalities.get(name)
    joiner = (entry.joiner or joining.Joiner)(entry.codec, OVERLAP)
    parts, seams = [], []
    for number, begin in enumerate(range(0, frames - OVERLAP, WINDOW - OVERLAP)):
        window = joining.frames(whole, slice(begin, begin + WINDOW))
        ready, seam = joiner.add(change(window, number))
        parts.append(ready)
        seams.append(seam)
    assert seams[0] is None and all(len(next(iter(s[1].values()))) == OVERLAP for s in seams[1:])
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


def test_instances_keep_their_numbers():
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

    out = joining.concatenated(joined("segmentation", {"segments": segments}, change))["segments"]
    pairs = {(int(a), int(b)) for a, b in zip(segments.ravel(), out.ravel(), strict=True)}
    assert len(pairs) == 4 and len({b for _, b in pairs}) == 4 and (0, 0) in pairs


def test_people_keep_their_places():
    start = RNG.uniform(0, 20, (2, 17, 2)) + np.array([[[10, 10]], [[80, 40]]])
    keypoints = (start + np.arange(45)[:, None, None, None] * 0.5).astype(np.float32)
    visibility = np.full((45, 2, 17), 2, np.int32)
    visibility[:20, 1] = 0  # the second one comes later

    def change(window, number):
        seen = np.flatnonzero((window["visibility"] > 0).any(axis=(0, 2)))
        order = RNG.permutation(seen) if number else seen
        return {key: value[:, order] for key, value in window.items()}

    whole = {"keypoints": keypoints, "visibility": visibility}
    parts = joined("skeleton", whole, change)
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
