"""Kernels that take seconds to write, kept on disk between processes in JAX's form for exports.

A program that calls a kept kernel is lowered at once, and without the packages that write it. They
lie beside JAX's compiled programs, which cannot spare that work: a program is looked up there by
what it was lowered to.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import export

from unityvideo_jax.files.paths import atomic_path

FOLDER = "kernels"
HASH_BYTES = hashlib.sha256().digest_size

# Makes JAX know the custom calls of kernels; returns the checks of exports that name them.
Register = Callable[[], Sequence[export.DisabledSafetyCheck]]


def folder() -> pathlib.Path | None:
    """Where kernels are kept; None if JAX stores no compiled programs on a disk of this machine.

    JAX writes exports with the package flatbuffers; without it there is no such place either.
    """
    place = jax.config.jax_compilation_cache_dir
    if not place or "://" in place or importlib.util.find_spec("flatbuffers") is None:
        return None
    return pathlib.Path(place) / FOLDER


def call(
    function: Callable[..., Any],
    *inputs: jax.Array,
    platform: str,
    version: str,
    register: Register,
) -> Any:
    """Returns `function(*inputs)` inside a program, its kernels from the disk if they are there.

    Programs of several devices write theirs anew: an export is of a number of devices.

    Args:
      function: depends on nothing else than the shapes and types of its inputs.
      inputs: its arguments, each an array.
      platform: that its kernels are for, as JAX's exports name it.
      version: names all that they depend on besides.
      register: see `Register`; called where a kernel is read or written.
    """
    place, mesh = folder(), jax.sharding.get_abstract_mesh()
    if place is None or mesh.size > 1:
        return function(*inputs)
    shapes = tuple((x.shape, x.dtype.name) for x in inputs)
    return _kernel(function, place, shapes, platform, version, register).call(*inputs)


@functools.cache
def _kernel(
    function: Callable[..., Any],
    place: pathlib.Path,
    shapes: tuple[tuple[tuple[int, ...], str], ...],
    platform: str,
    version: str,
    register: Register,
) -> export.Exported:
    what = repr((function.__name__, shapes, platform, version, jax.__version__))
    file = place / hashlib.sha256(what.encode()).hexdigest()
    checks = register()
    if found := _read(file):
        return found
    kinds = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    made = export.export(jax.jit(function), platforms=[platform], disabled_checks=checks)(*kinds)
    content = made.serialize()
    # A place that takes nothing costs time and no run.
    with contextlib.suppress(OSError), atomic_path(file, shared=True) as temporary:
        temporary.write_bytes(hashlib.sha256(content).digest() + content)
    return made


def _read(file: pathlib.Path) -> export.Exported | None:
    """What was kept; None if nothing was, or if it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, content = content[:HASH_BYTES], content[HASH_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    return export.deserialize(bytearray(content))


def are_any() -> bool:
    """Returns whether a kernel is kept."""
    place = folder()
    return place is not None and place.is_dir() and any(os.scandir(place))
