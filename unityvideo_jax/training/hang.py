"""Steps that hang: found by their time, named with what every process was doing, and ended.

A job hangs when *every* one of its processes has stayed in one and the same phase for longer than
that phase's limit (`limit`). As long as one of them compiles, or goes from one phase to the next,
however slowly, the others wait for it and nothing hangs.
"""

import contextlib
import faulthandler
import json
import multiprocessing
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import jax

from unityvideo_jax.errors import UserError
from unityvideo_jax.files.paths import atomic_path
from unityvideo_jax.parallel import hosts
from unityvideo_jax.training.goodput import STEP, Goodput

FOLDER = "hangs"
# A phase's limit is at least so many times the longest that it has taken.
FACTOR = 10.0
# Of `config.train.hang_seconds`: the least limit of a first step, and of what may take long.
ROOM = 6.0
ROOMY = ("checkpoint", "sampling", "other")
DID = {
    STEP: "waited for the devices",
    "input": "waited for a batch",
    "transfer": "put a batch on the devices",
    "start": "compiled",
    "checkpoint": "saved",
    "sampling": "sampled",
    "other": "checked the devices or wrote a trace",
}
# Seconds in which this process looks at least once, and of what may take no longer on the way out.
PERIOD, LEAVING = 5.0, 20.0


def limit(phase: str, seconds: float, longest: Mapping[str, float]) -> float:
    """Seconds after which a phase hangs; infinite while nobody can know how long it takes.

    | phase | the first time | later |
    | --- | --- | --- |
    | a step, a batch, its way to the devices | `ROOM` x `seconds` | `seconds` |
    | saving, sampling, checking the devices | none | `ROOM` x `seconds` |
    | compiling, at the start or for a new shape | none | none |

    Later it is also at least `FACTOR` times the longest so far.

    Args:
      phase: that the process is in.
      seconds: `config.train.hang_seconds`.
      longest: seconds that each phase took at most so far, in this process.
    """
    if phase == "start" or (phase in ROOMY and phase not in longest):
        return float("inf")
    least = ROOM * seconds if phase in ROOMY or phase not in longest else seconds
    return max(least, FACTOR * longest.get(phase, 0.0))


class Watchdog:
    """Watches, as a context, from a thread of its own, and ends the process when the job hangs.

    One line says which step hangs, the limit, and what every process was doing and for how long;
    the stacks of all threads go to a file of `workdir/hangs`. The exit status is
    `hosts.LOST_PEER`: the same command, run again everywhere, resumes.

    What other processes do is read from the coordination service, which works while the devices
    hang. One that has posted nothing new for longer than the limit counts as hanging too: its
    threads stand still.

    Time is counted in looks, so that a pause of the whole process is no hang.

    Args:
      seconds: `config.train.hang_seconds`; 0 watches nothing.
      workdir: of the run.
      goodput: which knows what this process does.
      step: gives the number of the first step that has not finished.
      advice: gives what the line ends with, such as which checkpoint is there.
      clock: seconds that never go back.
      leave: ends the process.
    """

    def __init__(
        self,
        seconds: float,
        workdir: pathlib.Path,
        goodput: Goodput,
        step: Callable[[], int],
        advice: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
        leave: Callable[[int], None] = os._exit,
    ):
        self._limit, self._folder, self._goodput = seconds, workdir / FOLDER, goodput
        self._step, self._advice, self._clock, self._leave = step, advice, clock, leave
        self._board, self._host = hosts.Board(FOLDER), socket.gethostname()
        self._period = min(PERIOD, seconds / 20)
        self._looked, self._doing, self._seconds = clock(), goodput.doing, 0.0
        # The last line of each process, and seconds for which it has been the same.
        self._heard: dict[int, tuple[str, float]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._limit:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self._period):
            self.look()

    def look(self) -> None:
        """Says on the board what this process does, and ends it if the whole job hangs."""
        now = self._clock()
        passed, self._looked = min(now - self._looked, 2 * self._period), now
        doing = self._goodput.doing
        self._seconds = self._seconds + passed if doing == self._doing else 0.0
        self._doing = doing
        most = limit(doing[0], self._limit, self._goodput.longest)
        hangs = self._seconds > most
        own = {
            "host": self._host,
            "step": self._step(),
            "phase": doing[0],
            "seconds": self._seconds,
            "hangs": hangs,
        }
        self._board.post(json.dumps(own))
        if not hangs:
            self._heard = {}
            return
        lines = self._board.read()
        for number in range(jax.process_count()):
            line, same = lines.get(number, ""), 0.0
            if number in self._heard and self._heard[number][0] == line:
                same = self._heard[number][1] + passed
            self._heard[number] = (line, same)
        everyone = {n: json.loads(line or "{}") for n, (line, _) in self._heard.items()}
        silent = {n: same for n, (_, same) in self._heard.items() if same > most}
        if all(one.get("hangs") or n in silent for n, one in everyone.items()):
            self._end(own, everyone, silent, most)

    def _end(self, own: dict, everyone: dict, silent: Mapping[int, float], most: float) -> None:
        """Writes stacks and the line, waits until the other processes have too, and leaves."""
        # The processes may know of it up to two steps apart.
        step = max(one.get("step", 0) for one in everyone.values())
        file = self._folder / f"step_{step:07d}_process_{jax.process_index()}.txt"
        # By another thread: what hangs may be the disk.
        advice: list[str] = []

        def write() -> None:
            with contextlib.suppress(OSError, UserError):
                with atomic_path(file) as temporary, temporary.open("w") as handle:
                    faulthandler.dump_traceback(handle, all_threads=True)
                advice.append(self._advice())

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        writer.join(LEAVING)
        stacks = f"stacks of all threads are in {file}" if advice else f"{file} cannot be written"
        print(
            f"error: step {step} hangs: no process got further for {most:.4g} s, {self._source()}; "
            f"{describe(everyone, silent)}; {stacks}; "
            f"{''.join(f'{line}; ' for line in advice)}start all processes again to continue",
            file=sys.stderr,
            flush=True,
        )
        # The first process ends the service, and with it all others, before they have written.
        self._board.post(json.dumps(own | {"left": True}))
        until = time.monotonic() + LEAVING
        while time.monotonic() < until:
            lines = self._board.read()
            if all('"left"' in lines.get(n, "") for n in everyone if n not in silent):
                break
            time.sleep(min(self._period, 0.2))
        for child in multiprocessing.active_children():
            with contextlib.suppress(OSError):
                child.kill()
        self._leave(hosts.LOST_PEER)

    def _source(self) -> str:
        """Where the limit of the present phase comes from."""
        phase, longest = self._doing[0], self._goodput.longest.get(self._doing[0])
        key = f"config.train.hang_seconds={self._limit:g}"
        least = limit(phase, self._limit, {phase: 0.0} if longest else {})
        if longest and FACTOR * longest > least:
            return f"{FACTOR:g} times the longest before it (more than {key})"
        return f"which is {key}" if least == self._limit else f"which is {ROOM:g} times {key}"


def describe(everyone: Mapping[int, Mapping], silent: Mapping[int, float]) -> str:
    """What every process was doing and for how long, in words; the rarest thing first.

    Args:
      everyone: what each process has posted, {host, phase, seconds}, by its number.
      silent: seconds for which some of them have posted nothing new.
    """
    groups: dict[str, list[int]] = {}
    for number, one in everyone.items():
        said = DID.get(one.get("phase", ""), "began")
        said = f"said nothing more since it {said}" if number in silent else said
        groups.setdefault(said, []).append(number)
    texts = []
    for said, numbers in sorted(groups.items(), key=lambda group: len(group[1])):
        times = [silent.get(n, everyone[n].get("seconds", 0.0)) for n in numbers]
        least, most = f"{min(times):.0f}", f"{max(times):.0f}"
        span = most if least == most else f"{least} to {most}"
        texts.append(f"{_names(numbers, everyone)} {said} for {span} s")
    return ", ".join(texts)


def _names(numbers: Sequence[int], everyone: Mapping[int, Mapping]) -> str:
    """Numbers and hosts of processes; of many, the first eight."""
    named = [f"{n} ({everyone[n].get('host', 'unknown host')})" for n in numbers[:8]]
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"process{'es' if len(numbers) > 1 else ''} {', '.join(named)}{more}"
