"""How every program starts: one place turns a user's error into one line."""

import sys
from collections.abc import Callable, Sequence

from absl import app

from unityvideo_jax.errors import UserError


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs an absl program; a `UserError` prints as `error: ...` and exits with status 2."""

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            print(
                f"error: unexpected argument {argv[1]!r}; give options as --name=value",
                file=sys.stderr,
            )
            sys.exit(2)
        try:
            main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    app.run(guarded)
