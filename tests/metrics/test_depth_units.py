import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.depth_units import in_metres, unit_of

METRES = np.array([[[0.5, 2.0, 8.0]]], np.float32)


def unit(name):
    return {"unit": np.asarray(name)}


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float16, np.float32])
def test_depth_becomes_metres(dtype):
    arrays = {"depth": (1000 * METRES).astype(dtype)}
    for found in (in_metres(arrays, "a.npz", "mm"), in_metres(arrays | unit("mm"), "a.npz")):
        np.testing.assert_allclose(found["depth"], METRES, rtol=1e-6)
        assert unit_of(found) == "m" and found["depth"].dtype.kind == "f"


def test_known_units_stay():
    for arrays in ({"depth": METRES}, {"depth": METRES} | unit("m")):
        found = in_metres(arrays, "a.npz", "")
        assert found["depth"] is METRES and unit_of(found) == str(arrays.get("unit", ""))
    again = in_metres(in_metres({"depth": 1000 * METRES}, "a.npz", "mm"), "a.npz")
    np.testing.assert_allclose(again["depth"], METRES)


def test_disparity_becomes_relative_depth():
    found = in_metres({"depth": np.array([0.5, 0.0, -0.0, 4.0])} | unit("disparity"), "a.npz")
    np.testing.assert_array_equal(found["depth"], [2.0, np.inf, np.inf, 0.25])
    assert unit_of(found) == "relative"


@pytest.mark.parametrize(
    ("arrays", "stated", "message"),
    [
        (unit("mm"), "m", "a.npz: says that its depth is in mm, and .* says m; remove the one"),
        (unit("relative"), "mm", "is in relative, and .* says mm"),
        (unit("feet"), "", "a.npz: unit: 'feet' is no unit of depth; use one of m, cm, mm"),
        (unit(["mm", "mm"]), "", "a.npz: unit: .* is no unit of depth"),
        (unit(b"mm"), "", "a.npz: unit: b'mm' is no unit"),
        (unit(0.001), "", "a.npz: unit: 0.001 is no unit"),
    ],
)
def test_units_that_cannot_be_are_named(arrays, stated, message):
    with pytest.raises(UserError, match=message):
        in_metres({"depth": METRES} | arrays, "a.npz", stated)
