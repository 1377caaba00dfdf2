"""The journal of a conversion, so that a killed one resumes where it was."""

import pathlib
from typing import Any

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance, strict_json


class Journal:
    """Names of finished files, stored on disk beside the converted weights.

    Attributes:
      done: the names.
      is_fresh: nothing of the same conversion was found.
    """

    def __init__(self, path: pathlib.Path, identity: Any) -> None:
        """Reads the journal if it is of the same conversion, else starts one.

        Args:
          path: of the journal.
          identity: JSON-able; all that the result depends on.
        """
        self._path, self._identity = path, provenance.plain(identity)
        try:
            saved = strict_json.read_object(path)
        except UserError:  # none yet, or a damaged one: all is done again
            saved = {}
        done = saved.get("done")
        self.is_fresh = saved.get("identity") != self._identity or not isinstance(done, list)
        self.done: list[str] = [] if self.is_fresh else done

    def add(self, file: pathlib.Path) -> None:
        """Records that a file is finished."""
        self.done.append(file.name)
        self.save()

    def save(self) -> None:
        """Writes the journal; needed once before the first `add`."""
        provenance.write_json(self._path, {"identity": self._identity, "done": self.done})


def fingerprint(files: list[pathlib.Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file: cheap to read and enough to notice others."""
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
