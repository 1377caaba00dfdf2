import io
import sys
import zipfile

import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import npz
from unityvideo_jax.files.npz import read_npy, read_npz

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


def test_only_what_is_asked_for_is_read(tmp_path):
    path = tmp_path / "clip.npz"
    np.savez(path, **ARRAYS)
    assert [*read_npz(path, ("depth",), others=False)] == ["depth"]


def npy(shape, data=b"", dtype="<f4", version=1):
    """The bytes of an npy file whose header says what one likes."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    width = 2 if version == 1 else 4
    lengths = len(header).to_bytes(width, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + lengths + header + data


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", ["(10**15,)", "(1000000000000000,)", "(-4,)", "(3, 2**70)"])
def test_headers_that_claim_more_than_there_is_are_refused(method, shape, tmp_path):
    path = tmp_path / "clip.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("depth.npy", npy(shape, bytes(64)))
    with pytest.raises(UserError, match=r"clip\.npz: not a readable npz"):
        read_npz(path, ("depth",))
    (tmp_path / "a.npy").write_bytes(npy(shape, bytes(64)))
    with pytest.raises(UserError, match=r"a\.npy: not a readable npy"):
        read_npy(tmp_path / "a.npy", (4,))


def test_a_bomb_takes_no_memory(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("depth.npy", "w") as stream,
    ):
        stream.write(npy("(67108864,)"))
        for _ in range(256):
            stream.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(npz._Array, "read", lambda self: pytest.fail("memory was taken"))
    with pytest.raises(UserError, match=r"take 256\.0 MiB, more than the 1\.0 MiB"):
        read_npz(path, ("depth",), limit=1 << 20)


def test_a_header_that_is_a_bomb_is_refused(tmp_path):
    path = tmp_path / "clip.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", b"\x93NUMPY\x02\0" + b"\xff\xff\xff\x7f" + bytes(1 << 24))
    with pytest.raises(UserError, match="not a readable npz"):
        read_npz(path, ("depth",))


def test_other_methods_and_repeated_names_are_refused(tmp_path):
    content = io.BytesIO()
    np.save(content, ARRAYS["depth"])
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("depth.npy", content.getvalue())
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("depth.npy", content.getvalue())
        archive.writestr("depth", content.getvalue())
    for name, says in (("a", "another method"), ("b", "two arrays of one name")):
        with pytest.raises(UserError, match=says):
            read_npz(tmp_path / f"{name}.npz", ("depth",))


def test_an_npy_of_another_shape_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4.0))
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy", (4,)), np.arange(4.0))
    with pytest.raises(UserError, match=r"a\.npy: holds \(4,\), not an array of shape \(2, 2\)"):
        read_npy(tmp_path / "a.npy", (2, 2))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_in_types_that_jax_takes(save, tmp_path):
    order = "<" if sys.byteorder == "big" else ">"
    values = np.asfortranarray(np.arange(6).reshape(2, 3))
    foreign = {kind: values.astype(f"{order}{kind}") for kind in ("f4", "f8", "i4", "u2")}
    path = tmp_path / "clip.npz"
    save(path, **foreign, wide=values.astype(np.longdouble), unit=np.array("mm", f"{order}U2"))
    found = read_npz(path, ())
    assert str(found.pop("unit")) == "mm"
    for kind, array in found.items():
        assert array.dtype == np.dtype("f8" if kind == "wide" else kind)
        np.testing.assert_array_equal(array, values)


def test_arrays_that_are_swapped_count_as_memory(tmp_path):
    path = tmp_path / "clip.npz"
    np.savez(path, depth=np.ones(1 << 18, np.dtype("f4").newbyteorder("S")))
    with pytest.raises(UserError, match=r"take 1\.0 MiB"):
        read_npz(path, ("depth",), limit=1 << 10)
