"""A checkpoint as one mapping from names to arrays, each read when asked for."""

import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Shaped

from unityvideo_jax.errors import UserError
from unityvideo_jax.interop import pickles, shards


class TensorFiles(Mapping[str, np.ndarray]):
    """The tensors of a safetensors or .pth file, or of the one checkpoint in a folder.

    Attributes:
      path: of the file or folder, for messages.

    Raises:
      UserError: no such file, a shard of its index is missing, or a file is truncated.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)
        if pickle := _only_pickle(self.path):
            self._tensors = pickles.read_pickle(pickle)
        else:
            self._tensors = shards.read_headers(shards.find_files(self.path))

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "..."]:
        return self._tensors[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from its file's header alone."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        """Stored type of a tensor, from its file's header alone."""
        return self._tensors[name].dtype

    def check(self, expected: Mapping[str, tuple[int, ...]], ignored: tuple[str, ...] = ()) -> None:
        """Raises UserError unless exactly these tensors are there, in these shapes.

        Args:
          expected: shapes by name.
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
        if faults:
            more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise UserError(
                f"{self.path}: does not fit the configuration: {'; '.join(faults[:3])}{more}; "
                "keep the config.json that came with these weights beside them."
            )


def _only_pickle(path: pathlib.Path) -> pathlib.Path | None:
    """The .pth file that this is, or the only checkpoint of this folder."""
    if path.is_file():
        return path if path.suffix in pickles.SUFFIXES else None
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    found = [file for file in path.iterdir() if file.suffix in pickles.SUFFIXES]
    return found[0] if len(found) == 1 else None
