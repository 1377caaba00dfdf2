"""Each sample several times, among other samples every time."""

import collections
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt64


class Reused:
    """Yields every sample of an iterator `times` times, so that costly ones last longer.

    Rendering a batch of worlds costs several steps of a small model, and flow matching draws noise,
    timestep and task anew at every step. But the same batch several times in a row would pull the
    weights towards its few samples. So the newest `times` batches are held, and dealt again in
    rounds: a round uses each held sample once and ends with a new batch, which replaces the oldest.
    Within a round, each row of a batch comes from a held batch by the draws of its samples, which
    depend on the seed, the round and the sample's index alone.

    Args:
      batches: an iterator with begin(), get_state(), set_state() and describe(); its arrays have
        one row per sample, and `latents` lie on devices. There they stay, and the texts beside
        them.
      times: at least 1.
      seed: of the order.
    """

    def __init__(self, batches: Any, times: int, seed: int):
        self._batches, self._times, self._seed = batches, times, seed
        self.shares = getattr(batches, "shares", ())
        self.shapes = getattr(batches, "shapes", ())
        self._forget()

    def _forget(self) -> None:
        self._drawn = self._used = 0
        self._before = collections.deque(maxlen=self._times)  # the state before each held batch
        self._rows: dict[str, np.ndarray] = {}
        self._on_devices: dict[str, jax.Array] = {}
        self._order = np.zeros((0, 0), np.int64)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return self

    def begin(self) -> None:
        """Begins the next batch in the background."""
        self._batches.begin()

    def __next__(self) -> dict[str, Any]:
        if self._used == len(self._before):
            self._draw()
            self._shuffle()
        slots = self._order[:, self._used]
        self._used += 1
        places = np.arange(len(slots))
        batch = {name: rows[slots, places] for name, rows in self._rows.items()}
        slots = slots.astype(np.int32)
        return {name: _pick(x, slots) for name, x in self._on_devices.items()} | batch

    def _draw(self) -> None:
        """Holds one more batch, in the place of the oldest if there are enough."""
        self._before.append(self._batches.get_state())
        batch = dict(next(self._batches))
        large = {"latents": batch.pop("latents")}
        # Copying the texts of a batch on the host at every step takes longer than a small step.
        large["context"] = jax.device_put(batch.pop("context"), large["latents"].sharding)
        slot = self._drawn % self._times
        if not self._on_devices:
            self._on_devices = {name: _room(x, self._times) for name, x in large.items()}
            self._rows = {name: np.stack([x] * self._times) for name, x in batch.items()}
        for name, x in large.items():
            self._on_devices[name] = _hold(self._on_devices[name], x, slot)
        for name, rows in batch.items():
            self._rows[name][slot] = rows
        self._drawn += 1
        self._used = 0

    def _shuffle(self) -> None:
        index = self._rows["index"][: len(self._before)].T
        self._order = np.argsort(_draws(self._seed, self._drawn, index), axis=1)

    def get_state(self) -> dict[str, Any]:
        """State of the oldest held batch, number of batches drawn, and place in the round."""
        before = self._before[0] if self._before else self._batches.get_state()
        return {"batches": before, "drawn": self._drawn, "used": self._used}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores a state that `get_state` gave; draws the held batches again.

        Raises:
          LookupError, TypeError, ValueError: not such a state.
        """
        drawn, used = state["drawn"], state["used"]
        held = min(drawn, self._times)
        if not 0 <= used <= held:
            raise ValueError(f"drawn={drawn!r}, used={used!r}")
        self._batches.set_state(state["batches"])
        self._forget()
        self._drawn = drawn - held
        for _ in range(held):
            self._draw()
        if held:
            self._shuffle()
        self._used = used

    def describe(self, index: int) -> str:
        """Describes a record as the iterator does."""
        return self._batches.describe(index)


def _draws(seed: int, drawn: int, index: Int[np.ndarray, "rows n"]) -> UInt64[np.ndarray, "rows n"]:
    """A pseudo-random number for every sample of a round (the finaliser of SplitMix64)."""
    keys = np.random.SeedSequence((seed, drawn)).generate_state(1, np.uint64)
    x = keys + index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@jax.jit(static_argnums=1)
def _room(latents: Float[Array, "b *x"], times: int) -> Float[Array, "n b *x"]:
    return jnp.zeros((times, *latents.shape), latents.dtype) * latents[None]


@jax.jit(donate_argnums=0)
def _hold(
    held: Float[Array, "n b *x"], latents: Float[Array, "b *x"], slot: Int[Array, ""]
) -> Float[Array, "n b *x"]:
    return jax.lax.dynamic_update_index_in_dim(held, latents, slot, 0)


@jax.jit
def _pick(held: Float[Array, "n b *x"], slots: Int[Array, "b"]) -> Float[Array, "b *x"]:
    # One gather per row, which stays on the row's device.
    return jax.vmap(lambda row, slot: row[slot], in_axes=(1, 0))(held, slots)
