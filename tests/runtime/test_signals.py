"""Signals are heard while C code runs, where Python calls no handler."""

import signal
import subprocess
import sys
import time

import pytest

from unityvideo_jax.runtime import signals

BUSY = """
import hashlib
from unityvideo_jax.runtime import signals

def work():
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes, without the interpreter's lock
"""
AT_ONCE = f"{BUSY}\nwith signals.heard(signals.end):\n    work()\n"
ASKED = (
    f"{BUSY}\nwith signals.heard(signals.end), signals.asks_to_stop('it ends soon'):\n    work()\n"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("code", "says"), [(AT_ONCE, ()), (ASKED, ("heard: it ends soon",))])
def test_a_signal_is_heard_at_once_and_obeyed(number, code, says):
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.2)
    for part in says:
        process.send_signal(number)
        process.send_signal(number)  # the same one, passed on by a script
        assert part in process.stderr.readline()
        time.sleep(2 * signals.ECHO)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert errors.splitlines() == [f"error: {number.name} heard, ended at once; files are whole"]
    assert process.returncode == 128 + number


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in signals.HEARD]
    with signals.asks_to_stop("nothing happens") as asked:
        signal.raise_signal(signal.SIGTERM)
        for _ in range(100):
            if asked:
                break
            time.sleep(0.05)
        assert asked == [signal.SIGTERM]
    assert [signal.getsignal(number) for number in signals.HEARD] == before
