"""One bad input as a case: what is damaged, what meets it, and what its error must say.

A module `cases_*.py` beside this lists `CASES`; `test_faults.py` runs the fast ones and
`python -m tests.faults.campaign` all of them.
"""

import dataclasses
import enum
import importlib
import os
import pathlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable

from unityvideo_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Outcome(enum.StrEnum):
    """What became of a case; only HANDLED is right."""

    HANDLED = "handled"
    MISLEADING = "misleading line"
    TRACEBACK = "traceback"
    SILENT = "silent"
    HANG = "hang"


class Hang(Exception):
    """A program that did not end in its time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One bad input.

    Attributes:
      kind: row of the campaign's table, such as "weights".
      name: unique within its kind.
      act: makes the damage in an empty folder and runs what meets it. It raises UserError where
        the program gives one line, and returns where the program continues.
      says: parts that the error's line must have. Empty: `act` must return, having asserted
        itself that the outcome is right.
      slow: only in the campaign.
    """

    kind: str
    name: str
    act: Callable[[pathlib.Path], object]
    says: tuple[str, ...] = ()
    slow: bool = False


def judge(case: Case, folder: pathlib.Path) -> tuple[Outcome, str]:
    """Runs a case in an empty folder; returns what became of it and the line that was printed."""
    try:
        case.act(folder)
    except UserError as error:
        line = str(error)
        if not case.says or "\n" in line.strip():
            return Outcome.MISLEADING, line
        missing = [part for part in case.says if part not in line]
        return (Outcome.MISLEADING if missing else Outcome.HANDLED), line
    except Hang as error:
        return Outcome.HANG, str(error)
    except Exception as error:
        return Outcome.TRACEBACK, f"{type(error).__name__}: {error}"
    return (Outcome.SILENT if case.says else Outcome.HANDLED), ""


def run_program(
    module: str,
    *arguments: str,
    seconds: float = 120.0,
    package: str = "unityvideo_jax",
    folder: pathlib.Path | None = None,
) -> str:
    """Runs `python -m PACKAGE.MODULE`, in `folder` if given; returns its standard output.

    Raises:
      UserError: it ended with status 2 and one line of error; the message is that line.
      Hang: it did not end within `seconds`.
      RuntimeError: any other end, such as a traceback.
    """
    command = [sys.executable, "-m", f"{package}.{module}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
            cwd=folder,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Hang(f"{module} ran longer than {seconds:.0f} s") from error
    if done.returncode == 0:
        return done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr:
        raise UserError(errors[0].removeprefix("error: "))
    raise RuntimeError(f"status {done.returncode}: {done.stderr[-2000:]}")


def all_cases() -> list[Case]:
    """The cases of every module `cases_*.py` in this folder."""
    found: list[Case] = []
    for info in pkgutil.iter_modules([str(pathlib.Path(__file__).parent)]):
        if info.name.startswith("cases_"):
            found += importlib.import_module(f"tests.faults.{info.name}").CASES
    return found
