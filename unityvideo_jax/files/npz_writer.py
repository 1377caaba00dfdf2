"""An npz that is written part by part, of a length that is not known before its end."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from unityvideo_jax.files.paths import atomic_path


class NpzWriter:
    """Appends arrays along their first axis; a context that makes the file whole.

    Parts lie in temporary files beside it until then, so that memory is that of one part. Other
    axes may grow, as that of people does: earlier parts are filled up with zeros. Arrays without
    axes are those of the last part. Nothing is at `path` before the context ends, nor after an
    error within it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self._path = pathlib.Path(path)
        self._stack = contextlib.ExitStack()
        self._parts: dict[str, list[tuple[int, ...]]] = {}
        self._files: dict[str, Any] = {}
        self._last: dict[str, np.ndarray] = {}

    def __enter__(self) -> "NpzWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        """Appends one part of every array.

        Args:
          arrays: time first, or without axes; the same names in every part.
        """
        for key, value in arrays.items():
            array = np.asarray(value)
            if key in self._files:
                array = array.astype(self._last[key].dtype, copy=False)
            self._last[key] = array if array.ndim == 0 else array[:0]
            if array.ndim:
                if key not in self._files:
                    file = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115, the stack closes it
                    self._files[key] = self._stack.enter_context(file)
                self._parts.setdefault(key, []).append(array.shape)
                self._files[key].write(np.ascontiguousarray(array).data)

    def __exit__(self, *error: Any) -> None:
        with self._stack:
            if error[0] is None:
                self._write()

    def _write(self) -> None:
        with (
            atomic_path(self._path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive,
        ):
            for key, last in self._last.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                    if key in self._files:
                        self._copy(key, last.dtype, member)
                    else:
                        np.lib.format.write_array(member, last, allow_pickle=False)

    def _copy(self, key: str, dtype: np.dtype, member: Any) -> None:
        shapes, file = self._parts[key], self._files[key]
        tail = tuple(np.max([shape[1:] for shape in shapes], axis=0, initial=0).tolist())
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (sum(shape[0] for shape in shapes), *tail),
        }
        np.lib.format.write_array_header_1_0(member, header)
        file.seek(0)
        if all(shape[1:] == tail for shape in shapes):
            shutil.copyfileobj(file, member, 1 << 20)
            return
        for shape in shapes:
            count = int(np.prod(shape)) * dtype.itemsize
            part = np.frombuffer(file.read(count), dtype).reshape(shape)
            room = [(0, most - n) for n, most in zip(shape, (shape[0], *tail), strict=True)]
            member.write(np.pad(part, room).tobytes())
