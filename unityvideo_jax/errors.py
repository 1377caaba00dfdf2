"""The one error that a user's input can cause."""

import re

# What TensorStore appends to a message: the specification of an array, places in its own code.
ANNOTATIONS = re.compile(r" \[(source locations|tensorstore_spec)='.*")
# Characters that `reason` keeps of either end of a long message.
ENDS = 100


class UserError(ValueError):
    """Input that cannot be used: names the file, key or flag, and how to fix it.

    The absl programs print its message alone and exit with status 2; every other exception is a
    defect of ours and keeps its traceback.
    """


def reason(error: Exception) -> str:
    """The message of a library's error, as part of one line.

    A long one loses its middle: what was done is said first, and why it failed last.
    """
    words = ANNOTATIONS.sub("", " ".join(str(error).split()))
    if len(words) > 2 * ENDS + 5:
        words = f"{words[:ENDS]} ... {words[-ENDS:]}"
    return words or type(error).__name__
