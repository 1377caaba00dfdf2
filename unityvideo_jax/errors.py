"""The one error that a user's input can cause."""


class UserError(ValueError):
    """Input that cannot be used: names the file, key or flag, and how to fix it.

    The absl programs print its message alone and exit with status 2; every other exception is a
    defect of ours and keeps its traceback.
    """


def reason(error: Exception) -> str:
    """The message of a library's error, as part of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
