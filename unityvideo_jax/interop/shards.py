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
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Int8, Shaped

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance, stores, strict_json
from unityvideo_jax.files.paths import atomic_path

TYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
WRITTEN = TYPES | {"I8": np.dtype(np.int8)}
# 8-bit floats, which are read with or without a scale beside them.
FLOAT8 = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
# Bits of every type that the format has; only those in `TYPES` are weights that are read.
SIZES = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16},
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I32": 32, "U32": 32, "F32": 32},
    **{"C64": 64, "I64": 64, "U64": 64, "F64": 64},
}
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
# Elements looked at in one go. After each, a thread waits for those that run Python, such as one
# that imports: with fewer it hardly gets on beside them.
FINITE_BLOCK = 2**26
# First bytes of other files that users give as weights.
MARKS = {
    b"GGUF": "a GGUF file (quantised)",
    b"PK\x03\x04": "a zip archive such as PyTorch's .pth",
    b"\x80\x02": "a pickle such as PyTorch's older .pth",
    b"version ": "a pointer of Git LFS to the weights (run `git lfs pull`)",
    b"<": "a web page",
}
STORAGE = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
INDEX_SUFFIX = ".safetensors.index.json"
# Suffixes of pickled checkpoints, which are not read: a pickle can run any code.
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
# Where a download of a whole pipeline keeps its transformer.
SUBFOLDER = "transformer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor's place in a file; `start` counts bytes from the file's beginning.

    Attributes:
      file: that holds it.
      name: in the file.
      shape: sizes of the tensor.
      kind: its type as the file names it, a key of `SIZES`.
    """

    file: pathlib.Path
    name: str
    shape: tuple[int, ...]
    kind: str
    start: int

    def read(self) -> Shaped[np.ndarray, "..."]:
        """Reads the tensor in its stored type.

        Raises:
          UserError: it is no 16- or 32-bit float, or not finite.
        """
        if self.kind not in TYPES:
            raise UserError(f"{self.file}: {not_float(self)}")
        values = self._read(TYPES[self.kind])
        check_finite(self.file, self.name, values)
        return values

    def read_int8(self) -> Int8[np.ndarray, "..."]:
        """Reads a tensor of kind "I8"."""
        return self._read(WRITTEN["I8"])

    def _read(self, dtype: np.dtype) -> Shaped[np.ndarray, "..."]:
        count = math.prod(self.shape)
        flat = np.fromfile(self.file, dtype, count, offset=self.start)
        if flat.size != count:
            raise UserError(f"{self.file}: {self.name} ends early: truncated; copy it again")
        return flat.reshape(self.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledTensor:
    """A tensor of 8-bit floats that is read as float32, times the scale stored beside it.

    Attributes:
      codes: the stored tensor.
      scale: one number, or one per output (first axis); None is 1.
      kind: of the values that `read` gives.
    """

    codes: StoredTensor
    scale: StoredTensor | None
    kind: str = "F32"

    @property
    def file(self) -> pathlib.Path:
        """File that holds the codes."""
        return self.codes.file

    @property
    def name(self) -> str:
        """Name of the codes in the file."""
        return self.codes.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the weight."""
        return self.codes.shape

    def read(self) -> Shaped[np.ndarray, "..."]:
        """Reads the weight as float32: codes times scale.

        Raises:
          UserError: it is not finite, or the scale's shape does not fit.
        """
        count = math.prod(self.shape)
        stored = np.fromfile(self.file, FLOAT8[self.codes.kind], count, offset=self.codes.start)
        if stored.size != count:
            raise UserError(f"{self.file}: {self.name} ends early: truncated; copy it again")
        value = stored.astype(np.float32).reshape(self.shape)
        if self.scale is not None:
            scale = self.scale.read().astype(np.float32)
            if scale.size not in (1, self.shape[0]):
                raise UserError(
                    f"{self.file}: {self.scale.name} has {scale.size} scales for {self.name} "
                    f"{self.shape}: one, or one per output, is read; get other weights"
                )
            value *= scale.reshape(-1, *(1 for _ in self.shape[1:]))
        check_finite(self.file, self.name, value)
        return value


def not_float(tensor: Any) -> str:
    """Describes the fault of a tensor (of this module or of `pickles`) of another type."""
    return (
        f"{tensor.name} is of type {tensor.kind}, and {', '.join(TYPES)} are read: get the "
        "checkpoint that is not quantised"
    )


def check_finite(file: pathlib.Path, name: str, values: Shaped[np.ndarray, "..."]) -> None:
    """Raises UserError if a weight is NaN or infinite; takes little memory beside it.

    Args:
      file, name: of the weight, for the message.
      values: of any float type of 16 or 32 bits.
    """
    flat = values.reshape(-1)
    for start in range(0, flat.size, FINITE_BLOCK):
        block = flat[start : start + FINITE_BLOCK]
        if not _all_finite(block):
            place = start + int((~np.isfinite(block)).argmax())
            raise UserError(
                f"{file}: {name} is {flat[place]} at element {place} of {flat.size}: the weights "
                "are damaged, or their training diverged; copy them again"
            )


def _all_finite(values: Shaped[np.ndarray, " n"]) -> bool:
    """Whether no value is NaN or infinite; several times as fast as `np.isfinite`.

    Of one sign, floats are in the order of their bits, and NaNs lie beyond infinity. As signed
    numbers the largest bits are those of a positive float, as unsigned ones those of a negative.
    """
    size = values.dtype.itemsize
    largest, lowest = np.array([np.inf, -np.inf], values.dtype).view(f"u{size}")
    positive = values.view(f"i{size}").max(initial=0) < largest
    return bool(positive and values.view(f"u{size}").max(initial=0) < lowest)


def find_files(path: str | os.PathLike) -> list[pathlib.Path]:
    """The safetensors files of a checkpoint given as a file, an index or a folder.

    Raises:
      UserError: none there, several that no index joins, or one that the index names is missing.
    """
    path = stores.local(path)
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
    fix = f"convert {pickles[0]} with safetensors.torch.save_file" if pickles else "put it there"
    raise UserError(f"{path}: holds no *.safetensors file; {fix}")


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
      UserError: a file that is truncated, damaged or of another format, or a name twice.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in _header(file):
            if tensor.name in tensors:
                other = tensors[tensor.name].file
                raise UserError(f"{tensor.name} is in both {other} and {file}; remove one")
            tensors[tensor.name] = tensor
    return tensors


def _header(file: pathlib.Path) -> list[StoredTensor]:
    """The tensors of one file, which must fill it without gaps, as the format demands."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        begin = stream.read(8)
        length = int.from_bytes(begin, "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            for mark, what in MARKS.items():
                if begin.startswith(mark):
                    raise UserError(f"{file}: is {what}; give a safetensors file")
            raise UserError(
                f"{file}: truncated, or no safetensors file: it is {size:,} bytes long and its "
                f"header claims {length:,}; copy it again"
            )
        text = stream.read(length)
    where, fix = f"{file}: truncated, or no safetensors file: its header", "copy it again"
    header = strict_json.as_object(strict_json.parse(text, where, fix), where, fix)
    header.pop("__metadata__", None)
    places = {name: _place(file, name, info) for name, info in header.items()}
    tensors, end = [], 0
    for name in sorted(header, key=places.get):
        info, (start, after) = header[name], places[name]
        if start != end:
            what = "overlaps the tensor before it" if start < end else "leaves a gap before it"
            raise UserError(f"{file}: {name} {what} (starts at {start}, not {end}); copy it again")
        if 8 + length + after > size:
            raise UserError(
                f"{file}: {name} ends at byte {8 + length + after:,}, and the file at {size:,}: "
                "truncated; copy it again"
            )
        tensors.append(
            StoredTensor(
                file=file,
                name=name,
                shape=tuple(info["shape"]),
                kind=info["dtype"],
                start=8 + length + start,
            )
        )
        end = after
    if 8 + length + end != size:
        raise UserError(
            f"{file}: {size - 8 - length - end:,} bytes after the last tensor belong to none; copy "
            "it again"
        )
    return tensors


def _place(file: pathlib.Path, name: str, info: Any) -> tuple[int, int]:
    """First byte and end of a tensor, as its header has them, if shape and type agree."""

    def whole(values: Any, count: int | None = None) -> bool:
        right = isinstance(values, list) and (count is None or len(values) == count)
        return right and all(type(value) is int and value >= 0 for value in values)

    info = info if isinstance(info, dict) else {}
    shape, offsets, kind = (info.get(key) for key in ("shape", "data_offsets", "dtype"))
    faults = {
        "dtype": not isinstance(kind, str),
        "shape": not whole(shape),
        "data_offsets": not whole(offsets, 2),
    }
    if wrong := [key for key, fault in faults.items() if fault]:
        raise UserError(
            f"{file}: the header of {name} has no right {' and '.join(wrong)}; copy it again"
        )
    if kind not in SIZES:
        raise UserError(f"{file}: {name} is of type {kind}, which is unknown; copy it again")
    bits = math.prod(shape) * SIZES[kind]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise UserError(
            f"{file}: {name} is {kind}{shape}, {bits / 8:,.0f} bytes, and its offsets hold "
            f"{offsets[1] - offsets[0]:,}; copy it again"
        )
    return offsets[0], offsets[1]


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
      folder: of the file.
      shard: its name and tensors.
      storage: "float32", "float16" or "bfloat16".
      read: makes a tensor from its name.

    Raises:
      UserError: a weight that is not finite in that type.
    """
    kind = STORAGE[storage]
    kinds = {name: (kind, shape) for name, shape in shard.shapes.items()}
    write_tensors(folder / shard.name, kinds, read)


def write_tensors(
    path: pathlib.Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    read: Callable[[str], np.ndarray],
) -> None:
    """Writes one safetensors file, one tensor in memory at a time; it appears only when whole.

    Args:
      path: of the file.
      tensors: type (a key of `WRITTEN`) and shape by name, in their order.
      read: makes a tensor from its name; floats are cast to the type.

    Raises:
      UserError: a weight that is not finite in its type.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (kind, shape) in tensors.items():
        end = offset + math.prod(shape) * WRITTEN[kind].itemsize
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name, (kind, _) in tensors.items():
            with np.errstate(over="ignore"):  # what overflows is caught by name below
                tensor = np.ascontiguousarray(read(name)).astype(WRITTEN[kind], copy=False)
            if not np.isfinite(tensor).all():
                raise UserError(f"{name} is not finite as {WRITTEN[kind]}: keep it in float32")
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
    provenance.write_json(folder / f"{stem}{INDEX_SUFFIX}", index)
