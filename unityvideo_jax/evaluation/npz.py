"""Arrays of an npz, without a copy where the file holds them as they are."""

import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from unityvideo_jax.errors import UserError

HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: str | os.PathLike, keys: Sequence[str]) -> dict[str, Shaped[np.ndarray, "..."]]:
    """All arrays of an npz, read-only where they are not compressed: those stay in the file.

    Raises:
      UserError: the file does not load, is damaged, or lacks one of `keys`.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            stored = {info.filename: info for info in archive.zip.infolist()}
            arrays = {}
            for key in archive.files:
                array = _mapped(pathlib.Path(path), stored.get(f"{key}.npy"))
                arrays[key] = archive[key] if array is None else array
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, struct.error) as error:
        raise UserError(f"{path}: not a readable npz ({error}); write it with np.savez") from error
    lost = [key for key in keys if key not in arrays]
    if lost:
        raise UserError(
            f"{path}: lacks {', '.join(lost)}; it holds {', '.join(arrays) or 'nothing'}"
        )
    return arrays


def _mapped(path: pathlib.Path, info: zipfile.ZipInfo | None) -> np.ndarray | None:
    """The array of a member that is not compressed, in place; None for any other member.

    `np.load` copies a video's arrays through small buffers into new memory, which takes several
    times as long as to score some of them.
    """
    if info is None or info.compress_type != zipfile.ZIP_STORED or not info.file_size:
        return None
    with open(path, "rb") as file:
        # A member's local header: 30 bytes, of which the last four are two lengths (APPNOTE 4.3.7).
        file.seek(info.header_offset + 26)
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        start = file.tell()
        header = HEADERS.get(np.lib.format.read_magic(file))
        if header is None:
            return None
        shape, fortran_order, dtype = header(file)
        offset = file.tell() - start
    if dtype.hasobject or 0 in shape:
        return None
    member = np.memmap(path, np.uint8, "r", offset=start, shape=(info.file_size,))
    if zlib.crc32(member) != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")
    order = "F" if fortran_order else "C"
    return np.ndarray(shape, dtype, buffer=member, offset=offset, order=order)
