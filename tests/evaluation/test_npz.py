import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.npz import read_npz

ARRAYS = {
    "depth": np.random.default_rng(0).uniform(1, 9, (3, 5, 7)).astype(np.float32),
    "columns": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "nobody": np.zeros((3, 0, 17, 2), np.float32),
    "occluded": np.array([True, False]),
    "number": np.float64(2.5),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_what_numpy_loads(save, tmp_path):
    path = tmp_path / "clip.npz"
    save(path, **ARRAYS)
    found = read_npz(path, ("depth",))
    with np.load(path) as expected:
        assert found.keys() == set(expected.files)
        for key, array in found.items():
            np.testing.assert_array_equal(array, expected[key], strict=True)


def test_arrays_that_are_not_compressed_stay_in_the_file(tmp_path):
    path = tmp_path / "clip.npz"
    np.savez(path, **ARRAYS)
    assert not read_npz(path, ())["depth"].flags.owndata


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_value_is_named(save, tmp_path):
    path = tmp_path / "clip.npz"
    save(path, depth=ARRAYS["depth"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"clip\.npz: not a readable npz"):
        read_npz(path, ("depth",))


def test_objects_are_refused(tmp_path):
    path = tmp_path / "clip.npz"
    np.savez(path, depth=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="not a readable npz"):
        read_npz(path, ("depth",))
