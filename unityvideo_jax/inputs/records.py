"""Random access to ArrayRecord files that TFDS wrote, by features that this program knows.

Of a folder's own metadata only the lengths of its files are read. TFDS would build its reader from
`features.json`, which names Python classes to import, and find files by a template in
`dataset_info.json`; whoever writes the data would choose what runs and what is opened.
"""

import os
import pathlib
from typing import Any

import numpy as np

from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import strict_json

INFO_NAME = "dataset_info.json"


class Records:
    """Random access to one split of one TFDS config; picklable and safe to share among threads.

    Args:
      path: the folder with the files and `dataset_info.json`.
      dataset: the TFDS name, which the files' names start with.
      split: the TFDS split.
      features: a `tfds.features.FeaturesDict` of what a record holds.
      fix: what to do about a broken file, for messages.

    Raises:
      UserError: on opening, a file that is missing, truncated or of another length than recorded;
        on reading, a record whose checksum fails or that does not hold the features. Both name the
        file.
    """

    def __init__(self, path: str | os.PathLike, dataset: str, split: str, features: Any, fix: str):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.path, self._features, self._fix = pathlib.Path(path), features, fix
        lengths = self._lengths(split)
        stem, count = f"{dataset}-{split}.array_record", len(lengths)
        self._files = [
            os.fspath(self.path / f"{stem}-{n:05d}-of-{count:05d}") for n in range(count)
        ]
        self._ends = np.cumsum(lengths)
        for file, length in zip(self._files, lengths, strict=True):
            self._check_file(file, length)
        # The ranges spare the library from opening every file again to count its records.
        spans = [f"{file}[0:{n}]" for file, n in zip(self._files, lengths, strict=True)]
        self._source = ArrayRecordDataSource(spans) if spans else ()

    def _lengths(self, split: str) -> list[int]:
        """Records in each file of the split."""
        file = self.path / INFO_NAME
        info = strict_json.read_object(file, self._fix)
        try:
            found = {one["name"]: one.get("shardLengths", []) for one in info["splits"]}
            lengths = [int(length) for length in found[split]]
            if min(lengths, default=0) < 0 or sum(lengths) > np.iinfo(np.int64).max:
                raise ValueError(f"shardLengths {lengths}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{file}: no file lengths of the split {split!r} in it ({error!r}); {self._fix}"
            ) from error
        return lengths

    def _check_file(self, file: str, length: int) -> None:
        from array_record.python.array_record_module import ArrayRecordReader

        try:
            reader = ArrayRecordReader(file)
            found = reader.num_records()
            reader.close()
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{file}: corrupt or truncated ({reason(error)}); {self._fix}"
            ) from error
        if found != length:
            raise UserError(
                f"{file}: holds {found} records where {INFO_NAME} says {length}; {self._fix}"
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int | np.integer) -> dict[str, Any]:
        """Record `index` as TFDS gives it: text as bytes."""
        try:
            return self._features.deserialize_example_np(self._source[index])
        # The parser raises errors of many kinds for bytes that are not such a record.
        except Exception as error:
            raise UserError(
                f"{self.file_of(index)}: record {index} is corrupt ({reason(error)}); {self._fix}"
            ) from error

    def file_of(self, index: int | np.integer) -> str:
        """The file that holds record `index`."""
        return self._files[int(np.searchsorted(self._ends, index, side="right"))]
