"""The reason for which a Python program that another one started has failed, in one line."""

import re
import signal

# A traceback: frames are indented, the line after them names the exception. What follows, such as
# JAX's note that it removed frames, does not belong to it.
_TRACEBACK = re.compile(
    r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)", re.MULTILINE
)
# Headings of tracebacks that did not end the program.
_BESIDE = ("Exception ignored in", "Exception in thread")
LENGTH = 200


def cause_of(returncode: int, stderr: str) -> str:
    """The exception that ended a program, its own last line of error, or the signal.

    Args:
      returncode: as `subprocess` gives it: negative is a signal's number.
      stderr: all that the program wrote to standard error.

    Returns:
      One line of at most `LENGTH` characters.
    """
    if returncode < 0:
        name = signal.Signals(-returncode).name
        return f"killed by {name}" + ", perhaps for memory" * (name == "SIGKILL")
    raised = [
        match.group(1)
        for match in _TRACEBACK.finditer(stderr)
        if not stderr[: match.start()].rstrip().rpartition("\n")[2].startswith(_BESIDE)
    ]
    lines = raised or stderr.split("\n")
    written = [line.strip() for line in lines if line.strip()]
    return (written or [f"no message, status {returncode}"])[-1][:LENGTH]
