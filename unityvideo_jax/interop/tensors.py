"""Safetensors files of a folder as one mapping from names to arrays, each read when asked for."""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping

import ml_dtypes  # noqa: F401  (teaches numpy the type bfloat16)
import numpy as np
import safetensors
from jaxtyping import Shaped

from unityvideo_jax.errors import UserError

PICKLES = ("*.pth", "*.pt", "*.bin", "*.ckpt")


class TensorFiles(Mapping[str, np.ndarray]):
    """The tensors of one safetensors file, or of all those in a folder.

    Attributes:
      path: of the file or folder, for messages.

    Raises:
      UserError: no such file, a shard of its index is missing, or a file is truncated.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)
        self._source: dict[str, pathlib.Path] = {}
        for file in _files(self.path):
            for name in _open(file).keys():  # noqa: SIM118  (a safetensors handle is no mapping)
                if name in self._source:
                    raise UserError(
                        f"{self.path}: tensor {name} is in {self._source[name].name} and in "
                        f"{file.name}; keep the files of one checkpoint in the folder."
                    )
                self._source[name] = file

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "..."]:
        return _open(self._source[name]).get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from its file's header alone."""
        return tuple(_open(self._source[name]).get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Stored type of a tensor as safetensors spells it: "F32", "BF16", ..."""
        return _open(self._source[name]).get_slice(name).get_dtype()

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


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder.")
    for index in sorted(path.glob("*.safetensors.index.json")):
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [shard for shard in shards if not (path / shard).is_file()]
        if missing:
            raise UserError(
                f"{path}: {index.name} names {missing[0]}, which is missing; copy all {len(shards)}"
                " files."
            )
        return [path / shard for shard in shards]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        pickles = sorted(found.name for pattern in PICKLES for found in path.glob(pattern))
        mend = (
            f"convert {pickles[0]} with safetensors.torch.save_file"
            if pickles
            else "put the weights there"
        )
        raise UserError(f"{path}: no *.safetensors file; {mend}.")
    return files


def _open(path: pathlib.Path) -> safetensors.safe_open:
    try:
        return safetensors.safe_open(path, "np")
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: truncated, or not a safetensors file ({error}); copy it again."
        ) from error
