"""The one error that a user's input can cause."""

import pathlib
import re
import traceback

# What TensorStore appends to a message: the specification of an array, places in its own code.
ANNOTATIONS = re.compile(r" \[(source locations|tensorstore_spec)='.*")
# Folders in the paths of code that is not a user's own.
LIBRARIES = {"site-packages", "importlib", "unityvideo_jax", "<frozen runpy>"}
# Characters that `reason` keeps of either end of a long message.
ENDS = 100


class UserError(ValueError):
    """Input that cannot be used: names the file, key or flag, and how to fix it.

    The absl programs print its message alone and exit with status 2; every other exception is a
    defect of ours and keeps its traceback.
    """


def raised_by(error: Exception) -> str:
    """What a user's own code raised, and in which line, as part of one line."""
    what = f"{type(error).__name__}: {reason(error)}"
    if isinstance(error, SyntaxError):  # which names its file and line
        return what
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if not set(pathlib.Path(one.filename).parts) & LIBRARIES]
    place = (own or frames)[-1]
    return f"{what} (line {place.lineno} of {place.filename})"


def reason(error: Exception) -> str:
    """The message of a library's error, as part of one line.

    A long one loses its middle: what was done is said first, and why it failed last.
    """
    words = ANNOTATIONS.sub("", " ".join(str(error).split()))
    if len(words) > 2 * ENDS + 5:
        words = f"{words[:ENDS]} ... {words[-ENDS:]}"
    return words or type(error).__name__
