import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from unityvideo_jax.inputs import reused
from unityvideo_jax.inputs.reused import Reused


class Count:
    """Batches of two samples whose index is in every array."""

    def __init__(self):
        self.n = 0

    def __next__(self):
        index = np.arange(self.n, self.n + 2)
        self.n += 2
        latents = jnp.asarray(index, jnp.float32)[:, None]
        return {"latents": latents, "context": -np.asarray(latents), "index": index}

    def get_state(self):
        return {"next_index": self.n}

    def set_state(self, state):
        self.n = state["next_index"]


def _take(batches, count):
    taken = []
    for batch in itertools.islice(batches, count):
        np.testing.assert_array_equal(np.asarray(batch["latents"])[:, 0], batch["index"])
        np.testing.assert_array_equal(np.asarray(batch["context"])[:, 0], -batch["index"])
        taken.append(batch["index"].tolist())
    return taken


def test_every_sample_comes_equally_often_and_never_twice_per_round():
    times = 3
    rounds = 12
    # The first rounds hold one batch and two, all others three.
    taken = _take(Reused(Count(), times, 0), 1 + 2 + times * (rounds - 2))
    whole = np.bincount(np.ravel(taken))[: 2 * (rounds - times)]
    np.testing.assert_array_equal(whole, times)
    for start in range(3, len(taken), times):
        assert len(set(np.ravel(taken[start : start + times]))) == 2 * times
    # Batches are mixed, and not simply dealt again.
    assert sum(b - a != 1 for a, b in taken) > len(taken) / 3
    assert _take(Reused(Count(), 1, 0), 3) == [[0, 1], [2, 3], [4, 5]]
    assert taken != _take(Reused(Count(), times, 1), len(taken))


def test_resumes_exactly_from_anywhere():
    whole = _take(Reused(Count(), 3, 0), 14)
    for stop in range(12):
        first = Reused(Count(), 3, 0)
        begun = _take(first, stop)
        second = Reused(Count(), 3, 0)
        second.set_state(first.get_state())
        assert begun + _take(second, 14 - stop) == whole
        assert _take(first, 14 - stop) == whole[stop:]  # asking changed nothing
    with pytest.raises(ValueError, match="used=4"):
        Reused(Count(), 3, 0).set_state({"batches": {"next_index": 0}, "drawn": 5, "used": 4})


def test_samples_stay_on_their_devices():
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
    layout = NamedSharding(mesh, PartitionSpec("rows"))
    latents = jax.device_put(jnp.arange(48.0).reshape(16, 3), layout)
    held = reused._room(latents, 2)
    held = reused._hold(held, latents, 0)
    held = reused._hold(held, -latents, 1)
    slots = np.arange(16, dtype=np.int32) % 2
    picked = reused._pick.lower(held, slots).compile()
    assert "all-" not in picked.as_text() and "collective" not in picked.as_text()
    sign = np.where(slots, -1, 1)[:, None]
    np.testing.assert_array_equal(picked(held, slots), sign * np.asarray(latents))
    assert reused._pick(held, slots).sharding.is_equivalent_to(layout, 2)
