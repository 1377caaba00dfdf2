"""Each batch several times in a row."""

from collections.abc import Iterator, Mapping
from typing import Any


class Repeated:
    """Yields every batch of an iterator `times` times, so that costly batches last longer.

    Flow matching draws noise, timestep and task anew at every step, so a repeated batch is not a
    repeated example; rendering a batch of worlds costs several steps of a small model.

    Args:
      batches: an iterator with get_state() and set_state().
      times: at least 1.
    """

    def __init__(self, batches: Any, times: int):
        self._batches, self._times = batches, times
        self.shares = getattr(batches, "shares", ())
        self._before: Any = batches.get_state()
        self._batch: Mapping[str, Any] | None = None
        self._used = 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return self

    def __next__(self) -> Mapping[str, Any]:
        if self._batch is None or self._used == self._times:
            self._before = self._batches.get_state()
            self._batch, self._used = next(self._batches), 0
        self._used += 1
        return self._batch

    def get_state(self) -> dict[str, Any]:
        """Where the present batch begins, and how often it was used."""
        return {"batches": self._before, "used": self._used}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where `get_state` was asked; draws a half-used batch once more."""
        self._batches.set_state(state["batches"])
        self._before, self._batch, self._used = state["batches"], None, 0
        if state["used"]:
            next(self)
            self._used = state["used"]

    def describe(self, index: int) -> str:
        """Describes a record as the iterator does."""
        return self._batches.describe(index)
