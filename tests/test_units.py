import pytest

from unityvideo_jax import units
from unityvideo_jax.errors import UserError


def test_lengths_have_metres_and_others_are_refused():
    assert [units.metres(u, "--unit") for u in ("m", "cm", "mm")] == [1.0, 0.01, 0.001]
    assert units.parse("relative", "--unit") == "relative"
    with pytest.raises(UserError, match="--unit: relative depth has no length"):
        units.metres("relative", "--unit")
    for unknown in ("inch", "MM", None, 3):
        with pytest.raises(UserError, match=r"depth.json: unit: .* use one of m, cm, mm"):
            units.parse(unknown, "depth.json: unit")
