"""Arrays of npz files of others: their sizes are checked before any memory is taken.

Arrays that are not compressed stay in the file: `np.load` would copy a video's arrays through small
buffers into new memory, which takes several times as long as to score some of them.
"""

import io
import math
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import stores
from unityvideo_jax.runtime import capacity

HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# NumPy's own limit of a header is 10,000 characters.
HEADER_BYTES = 1 << 16
# Bytes that compressed arrays of one file may take: an hour of small video, and no bomb.
MAX_BYTES = 8 << 30
BLOCK = 1 << 20


def is_npz(path: str | os.PathLike) -> bool:
    """Whether a file is an npz by its suffix, in capitals too."""
    return pathlib.PurePath(path).suffix.lower() == ".npz"


def read_npz(
    path: str | os.PathLike,
    keys: Sequence[str],
    *,
    others: bool = True,
    limit: int = MAX_BYTES,
    fix: str = "write it with np.savez",
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Reads arrays of an npz; those that are not compressed stay in the file and are read-only.

    Arrays of the other byte order are copied into this machine's, and floats of over 64 bits into
    float64: JAX takes no others.

    Args:
      path: the file; nothing in it is unpickled.
      keys: names of arrays that it must hold.
      others: whether to read its other arrays too.
      limit: bytes that its compressed or copied arrays may take together; a quarter of this
        machine's memory bounds them too.
      fix: end of the message of a file that does not load.

    Raises:
      UserError: the file does not load, is damaged, lacks one of `keys`, or takes too much.
    """
    path = stores.local(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            if len(members) < len(archive.infolist()):
                raise ValueError("two arrays of one name")
            if lost := [key for key in keys if key not in members]:
                raise UserError(
                    f"{path}: lacks {', '.join(lost)}; it holds {', '.join(members) or 'nothing'}"
                )
            chosen = {k: m for k, m in members.items() if others or k in keys}
            arrays = {key: _Array(archive, member) for key, member in chosen.items()}
            taken = sum(a.size for a in arrays.values() if a.takes_memory)
            if taken > (most := min(limit, capacity.host_bytes() // 4)):
                raise UserError(
                    f"{path}: its arrays take {capacity.show(taken)}, more than the "
                    f"{capacity.show(most)} that are read; leave out what is not needed, or split "
                    "the clip"
                )
            return {key: array.read() for key, array in arrays.items()}
    except UserError:
        raise
    except (
        *(OSError, ValueError, EOFError, MemoryError, RuntimeError, NotImplementedError),
        *(zipfile.BadZipFile, struct.error, zlib.error),
    ) as error:
        raise UserError(f"{path}: not a readable npz ({reason(error)}); {fix}") from error


def read_npy(path: str | os.PathLike, shape: tuple[int, ...]) -> Shaped[np.ndarray, "..."]:
    """Reads the array of an npy file, which must have this shape.

    Raises:
      UserError: the file does not load, or holds something else.
    """
    try:
        # Mapped, so that a header that claims more than the file holds takes no memory.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable npy ({reason(error)})") from error
    if not isinstance(array, np.ndarray) or array.shape != shape:
        found = array.shape if isinstance(array, np.ndarray) else "an npz"
        raise UserError(f"{path}: holds {found}, not an array of shape {shape}")
    return np.array(array, _native(array.dtype))


def _native(dtype: np.dtype) -> np.dtype:
    """The type that an array is given in: of this machine's byte order, no float over 64 bits."""
    if dtype.kind == "f" and dtype.itemsize > 8:
        return np.dtype(np.float64)
    return dtype.newbyteorder("=")


class _Array:
    """A member of an archive whose header was read; ValueError if the header does not fit it."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo):
        self._archive, self._member = archive, member
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename} is compressed by another method than np.savez's")
        with archive.open(member) as stream:
            start = io.BytesIO(stream.read(HEADER_BYTES))
        header = HEADERS.get(np.lib.format.read_magic(start))
        if header is None:
            raise ValueError(f"{member.filename} is of another version than NumPy writes")
        self._shape, self._fortran_order, self._dtype = header(start)
        if self._dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects")
        self._offset = start.tell()
        self.size = math.prod(self._shape) * self._dtype.itemsize
        if min(self._shape, default=0) < 0 or self._offset + self.size != member.file_size:
            raise ValueError(
                f"{member.filename} is {self._dtype.name}{list(self._shape)} by its header, but "
                f"holds {member.file_size - self._offset} bytes"
            )
        self.is_compressed = member.compress_type != zipfile.ZIP_STORED
        self.takes_memory = self.is_compressed or self._dtype != _native(self._dtype)

    def read(self) -> np.ndarray:
        """The array; raises if the member is damaged."""
        buffer = self._unpacked() if self.is_compressed or not self.size else self._mapped()
        order = "F" if self._fortran_order else "C"
        array = np.ndarray(self._shape, self._dtype, buffer, self._offset, order=order)
        return array.astype(_native(self._dtype), copy=False)

    def _unpacked(self) -> bytearray:
        buffer = bytearray(self._member.file_size)
        view, filled = memoryview(buffer), 0
        with self._archive.open(self._member) as stream:
            while count := stream.readinto(view[filled : filled + BLOCK]):
                filled += count
        if filled < len(buffer):
            raise EOFError(f"{self._member.filename} ends after {filled} bytes")
        return buffer

    def _mapped(self) -> np.ndarray:
        """The bytes of a member that is not compressed, in place."""
        with open(self._archive.filename, "rb") as file:
            # Its local header: 30 bytes, of which the last four are two lengths (APPNOTE 4.3.7).
            file.seek(self._member.header_offset + 26)
            lengths = struct.unpack("<HH", file.read(4))
        start = self._member.header_offset + 30 + sum(lengths)
        member = np.memmap(
            self._archive.filename, np.uint8, "r", offset=start, shape=(self._member.file_size,)
        )
        if zlib.crc32(member) != self._member.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self._member.filename!r}")
        return member
