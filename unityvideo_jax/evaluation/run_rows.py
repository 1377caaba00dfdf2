"""What is kept of each clip that a run sampled, so that an evaluation goes on where it stopped."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from unityvideo_jax.files import provenance, strict_json
from unityvideo_jax.files.names import safe_path
from unityvideo_jax.metrics.scores import ClipScore

SYSTEMS = ("model", "round_trip", "trivial")


@dataclasses.dataclass(kw_only=True)
class RunRow:
    """Attributes:
    scores: by modality, of the model and of its two references, in the order of `SYSTEMS`.
    heldout: errors [task][timestep][stream] by the names of the streams, joined by "+"; empty
      without a held-out loss.
    """

    scores: dict[str, tuple[ClipScore, ...]] = dataclasses.field(default_factory=dict)
    heldout: dict[str, list[list[list[float]]]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRows:
    """Rows as `FOLDER/<clip>.json`.

    Attributes:
      folder: made if missing.
      settings: all that the rows depend on, as JSON values; rows of other settings do not count.
    """

    folder: pathlib.Path
    settings: Mapping[str, Any]

    def _path(self, clip: int) -> pathlib.Path:
        return safe_path(self.folder, f"{clip:04d}.json", where="row")

    def _fingerprint(self, checksums: Mapping[str, str]) -> str:
        return provenance.config_hash({"settings": self.settings, "inputs": checksums})

    def read(self, clip: int, checksums: Mapping[str, str]) -> RunRow | None:
        """The row of an earlier run with these settings and inputs, if there is one."""
        try:
            record = strict_json.read_object(self._path(clip))
            if record["fingerprint"] != self._fingerprint(checksums):
                return None
            scores = {
                modality: tuple(ClipScore.from_json(parts[name]) for name in SYSTEMS)
                for modality, parts in record["scores"].items()
            }
            return RunRow(scores=scores, heldout=record["heldout"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, clip: int, checksums: Mapping[str, str], row: RunRow) -> None:
        """Keeps a row; its file appears only when it is whole."""
        scores = {
            modality: {name: part.to_json() for name, part in zip(SYSTEMS, parts, strict=True)}
            for modality, parts in row.scores.items()
        }
        record = {
            "clip": clip,
            "scores": scores,
            "heldout": row.heldout,
            "fingerprint": self._fingerprint(checksums),
        }
        provenance.write_json(self._path(clip), record)
