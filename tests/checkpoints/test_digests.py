"""Digests: the same on every mesh, device and division, and another after any flipped bit."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unityvideo_jax.checkpoints import digests

ARRAYS = {
    "matrix": (6, 8, 16),
    "vector": (16,),
    "scalar": (),
    "empty": (0, 4),
}


def made(shape, dtype="float32"):
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


def test_every_mesh_and_the_disk_agree():
    arrays = {name: made(shape) for name, shape in ARRAYS.items()}
    expected = {
        name: digests.as_text(digests.of_part(x, (0,) * x.ndim, x.shape))
        for name, x in arrays.items()
    }
    assert len(set(expected.values())) == len(expected)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    for spec in ((), ("a", "b"), (None, "b", "a"), (None, None, ("a", "b"))):
        placed = {
            name: jax.device_put(
                x, NamedSharding(mesh, PartitionSpec(*(spec if x.ndim == 3 else ())))
            )
            for name, x in arrays.items()
        }
        assert digests.of_arrays(placed) == expected, spec


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_an_accelerator_computes_what_numpy_does(dtype):
    x = made((5, 7, 12), getattr(ml_dtypes, dtype, dtype))
    part, origin = x[1:4, :, 2:9], (1, 0, 2)
    on_device = digests._on_device([jnp.asarray(p) for p in (part, part[::-1])], origin, x.shape)
    expected = [digests.of_part(p, origin, x.shape) for p in (part, part[::-1])]
    np.testing.assert_array_equal(on_device, expected)


def test_parts_add_up_whatever_their_size(monkeypatch):
    x = made((5, 300))
    whole = digests.of_part(x, (0, 0), x.shape)
    monkeypatch.setattr(digests, "BLOCK", 700)
    total = np.zeros(2, np.uint32)
    for i, j in itertools.product((0, 2, 4), (0, 130)):
        total += digests.of_part(x[i : i + 2, j : j + 130 if j == 0 else None], (i, j), x.shape)
    np.testing.assert_array_equal(total, whole)


def test_damage_changes_it():
    x = made((4, 8))
    seen = {digests.as_text(digests.of_part(x, (0, 0), x.shape))}
    for bit in range(x.nbytes * 8):
        flipped = np.frombuffer(x.tobytes(), np.uint8).copy()
        flipped[bit // 8] ^= 1 << bit % 8
        damaged = flipped.view(np.float32).reshape(x.shape)
        seen.add(digests.as_text(digests.of_part(damaged, (0, 0), x.shape)))
    for damaged in (x[::-1], x[:, ::-1], x.T.reshape(x.shape), -x, 0 * x):
        seen.add(digests.as_text(digests.of_part(damaged, (0, 0), x.shape)))
    assert len(seen) == 1 + x.nbytes * 8 + 5
