"""Safetensors files, one or many with an index, read and written one tensor at a time.

The files are read by their offsets rather than mapped, so that memory holds one tensor and not
whatever pages the system keeps.
"""

import dataclasses
import json
import math
import os
import pathlib
import struct
from collections.abc import Callable, Iterable, Mapping

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from unityvideo_jax.errors import UserError
from unityvideo_jax.paths import atomic_path

TYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
STORAGE = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
INDEX_SUFFIX = ".safetensors.index.json"
# Suffixes of pickled checkpoints, which are not read: a pickle can run any code.
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
# Where a download of a whole pipeline keeps its transformer.
SUBFOLDER = "transformer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor's place in a file; `start` counts bytes from the file's beginning."""

    file: pathlib.Path
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    def read(self) -> Shaped[np.ndarray, "..."]:
        """The tensor in its stored type."""
        flat = np.fromfile(self.file, self.dtype, math.prod(self.shape), offset=self.start)
        return flat.reshape(self.shape)


def find_files(path: str | os.PathLike) -> list[pathlib.Path]:
    """The safetensors files of a checkpoint given as a file, an index or a folder.

    Raises:
      UserError: none there, several that no index joins, or one that the index names is missing.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return _indexed(path) if path.name.endswith(INDEX_SUFFIX) else [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; name a .safetensors file or a folder")
    for folder in (path, path / SUBFOLDER):
        indices = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
        files = sorted(folder.glob("*.safetensors"))
        if len(indices) > 1 or (not indices and len(files) > 1):
            names = ", ".join(f.name for f in (indices or files)[:3])
            raise UserError(
                f"{folder}: holds several checkpoints ({names}) and no one index that joins them; "
                "name one file, or put the *.safetensors.index.json beside its shards"
            )
        if indices:
            return _indexed(indices[0])
        if files:
            return files
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    mend = f"convert {pickles[0]} with safetensors.torch.save_file" if pickles else "put it there"
    raise UserError(f"{path}: holds no *.safetensors file; {mend}")


def _indexed(index: pathlib.Path) -> list[pathlib.Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index}: not an index of shards ({error!r}); copy it again") from error
    files = [index.with_name(name) for name in names]
    if missing := [f.name for f in files if not f.is_file()]:
        raise UserError(
            f"{index.parent}: {missing[0]} is missing, one of {len(files)} shards of {index.name}; "
            "copy all of them"
        )
    return files


def read_headers(files: Iterable[pathlib.Path]) -> dict[str, StoredTensor]:
    """All tensors of some files by name, in the order in which they lie.

    Raises:
      UserError: a truncated or damaged file, a type that is no 16- or 32-bit float, a name twice.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in _header(file):
            if name in tensors:
                raise UserError(f"{name} is in both {tensors[name].file} and {file}; remove one")
            tensors[name] = tensor
    return tensors


def _header(file: pathlib.Path) -> list[tuple[str, StoredTensor]]:
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        found = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        ends = [8 + length + info["data_offsets"][1] for _, info in found]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: truncated, or no safetensors file ({error}); copy it") from error
    if max(ends, default=size) != size:
        raise UserError(f"{file}: {size} bytes long, not {max(ends)}: truncated; copy it again")
    tensors = []
    for name, info in found:
        if info["dtype"] not in TYPES:
            raise UserError(
                f"{file}: {name} is of type {info['dtype']}; {', '.join(TYPES)} are read: get the "
                "checkpoint that is not quantised"
            )
        tensor = StoredTensor(
            file=file,
            shape=tuple(info["shape"]),
            dtype=TYPES[info["dtype"]],
            start=8 + length + info["data_offsets"][0],
        )
        tensors.append((name, tensor))
    return tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of a checkpoint to be written: its name and its tensors' shapes."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]


def plan_shards(
    shapes: Mapping[str, tuple[int, ...]], stem: str, itemsize: int, max_bytes: int
) -> list[Shard]:
    """Divides tensors, in their order, into files of at most `max_bytes` (or of one tensor).

    Names are those of diffusers: `stem.safetensors`, or `stem-00001-of-00003.safetensors`.
    """
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    room = max_bytes
    for name, shape in shapes.items():
        size = math.prod(shape) * itemsize
        if groups[-1] and size > room:
            groups.append({})
            room = max_bytes
        groups[-1][name] = shape
        room -= size
    if len(groups) == 1:
        return [Shard(name=f"{stem}.safetensors", shapes=groups[0])]
    return [
        Shard(name=f"{stem}-{i:05d}-of-{len(groups):05d}.safetensors", shapes=group)
        for i, group in enumerate(groups, start=1)
    ]


def write_shard(
    folder: pathlib.Path, shard: Shard, storage: str, read: Callable[[str], np.ndarray]
) -> None:
    """Writes one file, one tensor in memory at a time; it appears only when it is whole.

    Args:
      folder: where to.
      shard: its name and tensors.
      storage: "float32", "float16" or "bfloat16".
      read: makes a tensor from its name.

    Raises:
      UserError: a weight that is not finite in that type.
    """
    dtype = TYPES[STORAGE[storage]]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shard.shapes.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": STORAGE[storage],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    with atomic_path(folder / shard.name) as temporary, temporary.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in shard.shapes:
            with np.errstate(over="ignore"):  # what overflows is caught by name below
                tensor = np.ascontiguousarray(read(name)).astype(dtype, copy=False)
            if not np.isfinite(tensor).all():
                raise UserError(f"{name} is not finite as {storage}: keep it in float32")
            stream.write(tensor.view(np.uint8).data)


def write_index(folder: pathlib.Path, stem: str, shards: list[Shard], itemsize: int) -> None:
    """Writes the index of several shards; one file needs none."""
    if len(shards) == 1:
        return
    size = sum(math.prod(shape) for shard in shards for shape in shard.shapes.values())
    index = {
        "metadata": {"total_size": size * itemsize},
        "weight_map": {name: shard.name for shard in shards for name in shard.shapes},
    }
    with atomic_path(folder / f"{stem}{INDEX_SUFFIX}") as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n")
