"""Reactions to SIGTERM and Ctrl-C, even while the program compiles or waits within a library.

Python calls a signal's handler between two of its own instructions, so not before a compilation of
minutes has ended. Here a thread of its own hears the signal at once.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

HEARD = (signal.SIGTERM, signal.SIGINT)
# Seconds in which further signals are the same one: a terminal sends Ctrl-C to a script and to the
# program that it started, to which the script passes it on.
ECHO = 0.25


@contextlib.contextmanager
def heard(react: Callable[[int], None]) -> Iterator[None]:
    """Calls `react` with the number of every signal of `HEARD`, in a thread; main thread only."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    outer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Python writes to the pipe only for signals that it handles.
    before = {number: signal.signal(number, lambda *_: None) for number in HEARD}

    def listen() -> None:
        while number := os.read(reader, 1):
            if number[0] in HEARD:
                react(number[0])
        os.close(reader)

    threading.Thread(target=listen, name="signals", daemon=True).start()
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: a handler that was not installed from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(outer)
        os.close(writer)


def end(number: int) -> None:
    """Ends this process and its workers now, with one line and the exit status 128 + number."""
    name = signal.Signals(number).name
    print(f"error: {name} heard, ended at once; files are whole", file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)


@contextlib.contextmanager
def asks_to_stop(what: str) -> Iterator[list[int]]:
    """A list that takes the first signal, so that the block can end in order; a second ends all.

    Args:
      what: says what happens next, as in "SIGTERM heard: WHAT; a second signal ends it at once".
    """
    received: list[int] = []
    first = 0.0

    def react(number: int) -> None:
        nonlocal first
        if received:
            if time.monotonic() - first > ECHO:
                end(number)
            return
        first = time.monotonic()
        received.append(number)
        name = signal.Signals(number).name
        print(f"{name} heard: {what}; a second signal ends it at once", file=sys.stderr, flush=True)

    with heard(react):
        yield received


def leave_with_parent() -> None:
    """Makes a worker process end with its parent, to which it also leaves Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
