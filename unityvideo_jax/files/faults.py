"""Faults of single items: one bad file among a thousand is set aside, counted and listed.

A program that meets one continues with the other items. At its end it lists the faults and stops
with status 2, or, with --allow_faults, finishes without the items and with status 0.
"""

import dataclasses
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import disk, escape, provenance

# Faults, or names of ignored files, that are printed; the others are counted.
SHOWN = 20
# File of what was set aside.
SET_ASIDE = "set_aside.json"
# How the reason of an error that no reader foresaw begins.
FAILED = "failed: "


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """An item that was set aside.

    Attributes:
      what: the item, such as a clip, a file or a row.
      reason: in words.
    """

    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


def reason_of(error: Exception) -> str:
    """Returns one line for an error: a user's in its own words, ours with its place in the code.

    Raises:
      UserError: the disk refused, which is no fault of any item.
    """
    disk.raise_if_refused(error)
    first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    if isinstance(error, UserError):
        return first
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{pathlib.Path(frame.filename).name}:{frame.lineno}"
    return f"{FAILED}{type(error).__name__}: {first} ({where})"


def shown(name: str | os.PathLike) -> str:
    """Returns a name or reason from data on one line, with unprintable characters written out."""
    return escape.terminal(os.fspath(name)).replace("\n", "\\n")


def show(faults: Sequence[Fault | str]) -> None:
    """Prints the first `SHOWN` faults, one per line, and how many more there are."""
    for fault in faults[:SHOWN]:
        print(f"fault: {shown(str(fault))}", file=sys.stderr)
    if len(faults) > SHOWN:
        print(f"... and {len(faults) - SHOWN} more faults", file=sys.stderr, flush=True)


def refuse(faults: Sequence[Fault], of: int, advice: str) -> None:
    """Lists the faults and raises UserError with their count, the first one and what to do.

    Args:
      faults: at least one.
      of: how many items there are in all.
      advice: how to continue, as the end of a sentence.
    """
    if len(faults) > 1:
        show(faults)
    more = f" ({len(faults)} faults in {of} items)" if len(faults) > 1 else ""
    raise UserError(f"{shown(str(faults[0]))}{more}; {advice}")


def list_ignored(
    folder: str | os.PathLike, names: Sequence[str | os.PathLike], what: str = "files"
) -> None:
    """Prints how many files of a folder, or rows of a file, were not read, and the first names."""
    if names:
        first = ", ".join(shown(name) for name in names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        print(f"{shown(folder)}: ignored {len(names)} {what}: {first}{more}", flush=True)


def write_faults(folder: pathlib.Path, faults: Sequence[Fault]) -> pathlib.Path:
    """Writes what was set aside as {"set_aside": [{what, reason}, ...]}; returns the file."""
    path = folder / SET_ASIDE
    provenance.write_json(path, {"set_aside": [dataclasses.asdict(fault) for fault in faults]})
    return path
