"""Facts that a result file records so that the result can be repeated."""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

import unityvideo_jax
from unityvideo_jax.files import stores
from unityvideo_jax.files.paths import atomic_path

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "orbax-checkpoint")
# Read and hashed in one go. After each block a thread waits for those that run Python, such as one
# that imports: with small ones it hardly gets on beside them.
HASHED_BYTES = 1 << 28


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of libraries, and the device that computed."""
    found = {"unityvideo_jax": unityvideo_jax.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        found[name] = importlib.metadata.version(name)
    device = jax.devices()[0]
    return found | {"platform": device.platform, "device": device.device_kind}


def plain(value: Any) -> Any:
    """The value as JSON has it: configs and dataclasses' dicts as dicts, tuples as lists.

    Paths in an object store become URLs.
    """
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str | os.PathLike):
        return stores.named(os.fspath(value))
    return value


def config_hash(config: Any) -> str:
    """Returns the SHA-256 of a configuration's canonical JSON: equal configs, equal hash."""
    text = json.dumps(plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file, or of all files of a folder in the order of their names."""
    path = stores.local(path)
    files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    largest = max((file.stat().st_size for file in files), default=0)
    block = memoryview(bytearray(min(largest + 1, HASHED_BYTES)))
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while count := stream.readinto(block):
                digest.update(block[:count])
    return digest.hexdigest()


# Of each file: evenly spaced blocks, and the end, where ArrayRecord lists where its records begin.
_BLOCKS, _BLOCK_BYTES, _END_BYTES = 16, 1 << 16, 1 << 20


def sampled_hash(files: Iterable[str | os.PathLike]) -> str:
    """The SHA-256 of the files' names, sizes and a sample of their bytes, at most 2 MiB of each.

    Cheap enough for terabytes; files of at most 2 MiB are read whole. It does not depend on where
    the files lie.
    """
    digest = hashlib.sha256()
    for file in map(pathlib.Path, files):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            if size > _BLOCKS * _BLOCK_BYTES + _END_BYTES:
                for block in range(_BLOCKS):
                    stream.seek(block * (size - _END_BYTES) // _BLOCKS)
                    digest.update(stream.read(_BLOCK_BYTES))
                stream.seek(size - _END_BYTES)
            digest.update(stream.read())
    return digest.hexdigest()


def write_json(path: str | os.PathLike, record: Any) -> None:
    """Writes a record as indented JSON; the file appears only when it is whole.

    NaN and infinity are refused: JSON has neither.
    """
    with atomic_path(pathlib.Path(path)) as temporary:
        temporary.write_text(json.dumps(plain(record), indent=2, allow_nan=False) + "\n")
