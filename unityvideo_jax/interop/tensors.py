"""A checkpoint as one mapping from names to arrays, each read when asked for."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Int8, Shaped

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import checksums, stores
from unityvideo_jax.interop import identify, pickles, shards
from unityvideo_jax.runtime import threads

Key = TypeVar("Key")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """A tensor as a model holds it.

    Attributes:
      name: in the files.
      dtype: of the model's parameter.
      turn: makes its axes, on the device, of those in the files; None keeps them.
    """

    name: str
    dtype: Any
    turn: Callable[[Array], Array] | None = None


class TensorFiles(Mapping[str, np.ndarray]):
    """The tensors of a safetensors or .pth file, or of the one checkpoint in a folder.

    Attributes:
      path: of the file or folder, for messages.

    Args:
      path: of the file or folder.
      checked: whether to `check_sums` first; else the caller does, such as while it reads.

    Raises:
      UserError: no such file, a shard of its index is missing, or a file is damaged. Reading a
        tensor raises it for weights that are not finite.
    """

    def __init__(self, path: str | os.PathLike, *, checked: bool = True) -> None:
        self.path = stores.local(path)
        pickle = _only_pickle(self.path)
        self._files = [pickle] if pickle else shards.find_files(self.path)
        if checked:
            self.check_sums()
        self._tensors = pickles.read_pickle(pickle) if pickle else shards.read_headers(self._files)

    def check_sums(self) -> None:
        """Compares the files with the `SHA256SUMS` beside them: a second per gigabyte.

        Raises:
          UserError: a file is not what the list says.
        """
        for file in self._files:
            checksums.check(file)

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "..."]:
        return self._tensors[name].read()

    def load(self, wanted: Mapping[Key, Wanted]) -> dict[Key, Array]:
        """Reads tensors onto the first device, several at a time, the largest first.

        Raises:
          UserError: one of them is not finite, or its file is damaged.
        """

        def load_one(key: Key) -> Array:
            one = wanted[key]
            value = self[one.name].astype(one.dtype, copy=False)
            array = jax.device_put(value, may_alias=False)  # a mapped file may change later
            array = array if one.turn is None else one.turn(array)
            return array.block_until_ready()  # else host memory would fill up

        order = sorted(wanted, key=lambda key: -math.prod(self.shape(wanted[key].name)))
        arrays = dict(zip(order, threads.map_all(load_one, order), strict=True))
        return {key: arrays[key] for key in wanted}

    def read_int8(self, name: str) -> Int8[np.ndarray, "..."]:
        """Reads a tensor of kind "I8", which `[]` refuses: it is no weight without its scales."""
        return self._tensors[name].read_int8()

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from its file's header alone."""
        return self._tensors[name].shape

    def kind(self, name: str) -> str:
        """Stored type of a tensor as safetensors names it ("F32"), from its file's header alone."""
        return self._tensors[name].kind

    def check(
        self,
        expected: Mapping[str, tuple[int, ...]],
        what: str,
        ignored: tuple[str, ...] = (),
    ) -> None:
        """Raises UserError unless exactly these tensors are there, as floats of these shapes.

        Args:
          expected: shapes by name.
          what: description of these weights, as `identify` has it.
          ignored: starts of names that may be there besides.
        """
        unknown = {name for name in set(self) - set(expected) if not name.startswith(ignored)}
        faults = [f"lacks {name}" for name in sorted(set(expected) - set(self))]
        faults += [f"has unknown {name}" for name in sorted(unknown)]
        faults += [
            f"{name} is {self.shape(name)}, not {shape}"
            for name, shape in expected.items()
            if name in self and self.shape(name) != shape
        ]
        there = [self._tensors[name] for name in expected if name in self]
        faults += [shards.not_float(tensor) for tensor in there if tensor.kind not in shards.TYPES]
        if faults:
            self.refuse_others(what)
            more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise UserError(
                f"{self.path}: does not fit its configuration: {'; '.join(faults[:3])}{more}; "
                "keep the config.json that came with these weights beside them"
            )

    def refuse_others(self, what: str) -> None:
        """Raises UserError, with what they are, if these are known to be other weights.

        Args:
          what: description of the weights that they should be.
        """
        found = identify.describe(self._tensors)
        if found not in (None, what):
            raise UserError(f"{self.path}: is {found}; give the weights of {what}")


def _only_pickle(path: pathlib.Path) -> pathlib.Path | None:
    """The .pth file that this is, or the only checkpoint of this folder."""
    if path.is_file():
        return path if path.suffix in pickles.SUFFIXES else None
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    found = [file for file in path.iterdir() if file.suffix in pickles.SUFFIXES]
    return found[0] if len(found) == 1 else None
