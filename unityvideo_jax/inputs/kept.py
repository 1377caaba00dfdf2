"""The clips of a source that are left when those with faults are set aside."""

import hashlib
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from unityvideo_jax.files import strict_json
from unityvideo_jax.files.faults import SET_ASIDE, Fault, refuse, show, write_faults
from unityvideo_jax.inputs.sources import Source


class KeptClips:
    """The clips of a source, less those that turn out to have faults.

    Args:
      source: where they come from.
      modalities: that are read of them.

    Attributes:
      source: the same.
      numbers: of the clips that are left, by key, in order.
      faults: of the others, and of what the source left out.
    """

    def __init__(self, source: Source, modalities: Sequence[str]):
        self.source, self._modalities = source, tuple(modalities)
        self.numbers = {key: number for number, key in enumerate(source.keys)}
        self.faults = list(source.faults)
        self._identities: dict[tuple[str, str], str] = {}

    @property
    def keys(self) -> list[str]:
        """Those that are left, in order."""
        return list(self.numbers)

    def leave_out(self, workdir: pathlib.Path) -> None:
        """Drops the clips that an earlier run set aside, and their faults."""
        file = workdir / SET_ASIDE
        if not file.exists():
            return
        names = {fault["what"] for fault in strict_json.read_object(file)["set_aside"]}
        self.numbers = {key: n for key, n in self.numbers.items() if key not in names}
        self.faults = [fault for fault in self.faults if fault.what not in names]

    def set_aside(self, key: str, reason: str) -> None:
        """Leaves a clip out from now on."""
        del self.numbers[key]
        self.faults.append(Fault(what=key, reason=reason))

    def check_faults(self, workdir: pathlib.Path, allowed: bool) -> None:
        """Writes what was set aside if that is allowed; otherwise raises UserError."""
        if not self.faults:
            return
        total = len(self.keys) + len(self.faults)
        if not allowed or not self.keys:
            refuse(
                self.faults,
                total,
                "fix or move away what is faulty and give the same command again, which keeps the "
                "finished clips, or pass --allow_faults to finish without",
            )
        show(self.faults)
        file = write_faults(workdir, self.faults)
        print(f"set aside {len(self.faults)} of {total}, see {file}", flush=True)

    def identities(self, modalities: Sequence[str]) -> list[str]:
        """What a staged row is known by: one per clip."""
        return [_digest(self._identity(key, m) for m in modalities) for key in self.keys]

    def settings(self) -> dict[str, Any]:
        """How many clips there are, and a digest of them per modality."""
        files = {
            f"clips of {m}": _digest(self._identity(key, m) for key in self.keys)
            for m in self._modalities
        }
        return {"num_clips": len(self.keys), **files}

    def _identity(self, key: str, modality: str) -> str:
        entry = (key, modality)
        if entry not in self._identities:
            self._identities[entry] = self.source.identity(key, modality)
        return self._identities[entry]


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
