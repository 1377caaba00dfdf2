"""The store of an evaluation's rows, one per clip, so that a second run resumes from it."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from unityvideo_jax.files import checksums, provenance, strict_json
from unityvideo_jax.files.names import safe_path

FINGERPRINT = "fingerprint"
PACKAGE = pathlib.Path(__file__).parents[1]


@functools.cache
def code(package: pathlib.Path = PACKAGE) -> str:
    """Names the program's code: another version of it may give other rows for the same inputs."""
    files = package.rglob("*.py")
    return provenance.config_hash(
        {path.relative_to(package).as_posix(): provenance.file_hash(path) for path in files}
    )


@runtime_checkable
class Row(Protocol):
    """The saved scores of a clip."""

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        ...

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Row":
        """The inverse of `to_json`; LookupError, TypeError or ValueError for another record."""
        ...


R = TypeVar("R", bound=Row)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowStore(Generic[R]):
    """Rows as `FOLDER/<name>.json`, each with the hash of its content and of what it depends on.

    It depends on the program's code too.

    Attributes:
      folder: made if missing.
      kind: the class of the rows.
      settings: all that the rows depend on beside their inputs, as JSON values; rows of other
        settings are not read.
    """

    folder: pathlib.Path
    kind: type[R]
    settings: Mapping[str, Any]

    def path(self, name: str) -> pathlib.Path:
        """The file of a row; UserError for a name that leads elsewhere."""
        return safe_path(self.folder, f"{name}.json", where="row")

    def _fingerprint(self, inputs: Mapping[str, str]) -> str:
        settings = {"code": code(), **self.settings}
        return provenance.config_hash({"settings": settings, "inputs": inputs})

    def read(self, name: str, inputs: Mapping[str, str]) -> R | None:
        """The row that an earlier run saved with these settings and inputs, if there is one.

        Args:
          name: of the clip.
          inputs: SHA-256 of its files.

        Returns:
          None also for a damaged row, which is named in a line.
        """
        path = self.path(name)
        if not path.exists():
            return None
        again = "the clip is scored again"
        try:
            record = strict_json.read_object(path, again)
            if record.pop(FINGERPRINT) != self._fingerprint(inputs):
                return None
            return self.kind.from_json(checksums.unsealed(path, record, again))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            text = str(error) if isinstance(error, ValueError) else f"{path}: no row; {again}"
            print(text, flush=True)
            return None

    def write(self, name: str, inputs: Mapping[str, str], row: R, *, reusable: bool = True) -> None:
        """Saves a row; its file appears only when it is whole.

        Args:
          name, inputs: as for `read`.
          row: what to save.
          reusable: whether `read` may return it; if not, it is there to be looked at.
        """
        fingerprint = self._fingerprint(inputs) if reusable else ""
        record = checksums.sealed(provenance.plain(row.to_json()))
        provenance.write_json(self.path(name), {**record, FINGERPRINT: fingerprint})
