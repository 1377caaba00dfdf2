import numpy as np
import pytest

from unityvideo_jax.files.npz import read_npz
from unityvideo_jax.files.npz_writer import NpzWriter


def test_parts_come_back_as_one_array(tmp_path):
    path = tmp_path / "below" / "a.npz"
    people = [np.full((2, 1, 3), 1.0, np.float32), np.full((3, 2, 3), 2.0, np.float32)]
    with NpzWriter(path) as writer:
        for part in people:
            writer.add({"people": part, "unit": np.asarray("m"), "ids": np.arange(len(part))})
            assert not path.exists()
    arrays = read_npz(path, ("people", "unit", "ids"))
    assert arrays["people"].shape == (5, 2, 3) and arrays["people"].dtype == np.float32
    np.testing.assert_array_equal(arrays["people"][:2, :1], people[0])
    np.testing.assert_array_equal(arrays["people"][:2, 1:], 0)
    np.testing.assert_array_equal(arrays["people"][2:], people[1])
    assert str(np.load(path)["unit"]) == "m" and arrays["ids"].tolist() == [0, 1, 0, 1, 2]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), NpzWriter(tmp_path / "a.npz") as writer:
        writer.add({"x": np.ones(3)})
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
