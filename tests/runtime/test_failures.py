"""The cause of a program's failure, of what JAX and Python really write."""

import subprocess
import sys

import pytest

from unityvideo_jax.runtime.failures import cause_of

FAILING_JIT = """
import jax
@jax.jit
def f(x):
    raise FloatingPointError("the cause\\nand a second line of it")
f(1.0)
"""
CHAINED = """
try:
    1 / 0
except ZeroDivisionError as error:
    raise KeyError("key") from error
"""
SAID = "import sys; print('error: no such file', file=sys.stderr); sys.exit(2)"
AT_EXIT = """
import sys, threading
class Late:
    def __del__(self): raise RuntimeError("ignored")
late = Late()
thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()
sys.modules["late"] = late
raise OSError("the disk is full")
"""


@pytest.mark.parametrize(
    ("program", "cause"),
    [
        (FAILING_JIT, "FloatingPointError: the cause"),
        (CHAINED, "KeyError: 'key'"),
        (AT_EXIT, "OSError: the disk is full"),
        (SAID, "error: no such file"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL, perhaps for memory"),
        ("raise SystemExit(3)", "no message, status 3"),
    ],
)
def test_the_cause_is_named(program, cause):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    found = cause_of(done.returncode, done.stderr)
    assert found.startswith(cause) and "removed its internal frames" not in found, done.stderr
