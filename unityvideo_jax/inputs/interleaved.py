"""Steps of several kinds of batches in turn, each kind by its weight."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unityvideo_jax.inputs.buckets import RECORDS
from unityvideo_jax.inputs.mixing import Mixture
from unityvideo_jax.inputs.shares import Share


class Interleaved:
    """Yields the batches of several iterators, one per step.

    Which iterator a step's batch comes from depends on the weights and the step's number alone, so
    that all processes agree.

    Attributes:
      shares: asked and drawn, of the iterators and of what each one draws.
      shapes: of the latents of their batches.

    Args:
      parts: by name, such as "2 streams": a weight, and an iterator with get_state(), set_state()
        and describe(). Records of iterator n have numbers from n * RECORDS on.
    """

    def __init__(self, parts: Mapping[str, tuple[float, Any]]):
        self._names = tuple(parts)
        self._parts = {name: iterator for name, (_, iterator) in parts.items()}
        weights = [weight for weight, _ in parts.values()]
        self._mixture, self._step, self._begun = Mixture(weights), 0, False
        own = [
            Share(streams=0, what=name, asked=weight / sum(weights), drawn=n / self._mixture.period)
            for name, weight, n in zip(self._names, weights, self._mixture.proportions, strict=True)
        ]
        of_parts = [
            dataclasses.replace(share, bucket=name)
            for name, part in self._parts.items()
            for share in part.shares
        ]
        self.shares = tuple(own + of_parts)
        self.shapes = tuple(shape for part in self._parts.values() for shape in part.shapes)

    def __iter__(self) -> "Interleaved":
        return self

    def __next__(self) -> dict[str, Any]:
        if not self._begun:
            # Side by side, as their programs take long to compile.
            for part in self._parts.values():
                if hasattr(part, "begin"):
                    part.begin()
            self._begun = True
        place, _ = self._mixture[self._step]
        self._step += 1
        return next(self._parts[self._names[place]])

    def get_state(self) -> dict[str, Any]:
        """Steps so far, and the state of every part."""
        states = {name: part.get_state() for name, part in self._parts.items()}
        return {"step": self._step, "parts": states}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores a state that `get_state` gave; continues with the next batch.

        Raises:
          LookupError, ValueError: not such a state.
        """
        if type(state["step"]) is not int or state["step"] < 0:
            raise ValueError(f"step={state['step']!r}")
        for name, part in self._parts.items():
            part.set_state(state["parts"][name])
        self._step = state["step"]

    def describe(self, index: int) -> str:
        """Describes a record as the iterator that it came from does."""
        return self._parts[self._names[index // RECORDS]].describe(index)
