"""How every program starts: one place turns a user's error into one line."""

import importlib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from unityvideo_jax.errors import UserError
from unityvideo_jax.escape import Terminal

CACHE = pathlib.Path("~/.cache/unityvideo_jax/compiled")


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs an absl program; a `UserError` prints as `error: ...` and exits with status 2.

    Modules named by `--plugins` are imported first, so that what they register is known.
    What JAX compiles is kept in `CACHE`, or where JAX_COMPILATION_CACHE_DIR says, so that the next
    program starts faster.
    """

    def guarded(argv: Sequence[str]) -> None:
        # Names and captions from data are printed; none may steer the terminal.
        sys.stdout, sys.stderr = Terminal(sys.stdout), Terminal(sys.stderr)
        if len(argv) > 1:
            _leave(f"unexpected argument {argv[1]!r}; give options as --name=value")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            jax.config.update("jax_compilation_cache_dir", str(CACHE.expanduser()))
        try:
            for name in flags.FLAGS.plugins:
                _import(name)
            main(argv)
        except UserError as error:
            _leave(str(error))

    flags.DEFINE_list("plugins", [], "Modules of your own to import, which register modalities.")
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["plugins"])
    app.run(guarded, flags_parser=_parse)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--plugins={name}: no module {error.name!r}; start in its folder or set PYTHONPATH"
        ) from error


def check_folder(flag: str, path: str | os.PathLike) -> None:
    """Raises UserError if a program's folder to write cannot be one."""
    for part in (pathlib.Path(path), *pathlib.Path(path).parents):
        if part.exists() and not part.is_dir():
            raise UserError(f"--{flag}={path}: {part} is a file; name a folder")


def _leave(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """Parses flags; one that does not exist, also inside --config, is one line with its nearest."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        missing = re.findall(r"Flag (--\w+) must have a value other than None", str(error))
        _leave(f"give {' and '.join(missing)}; see --help" if missing else str(error))
    except (AttributeError, KeyError) as error:
        # What ml_collections raises for an override of a key that the config lacks.
        key = str(error.args[0]).replace("\\n", ". ").replace("\\", "").replace("'", "")
        _leave(f"--config: no such key {key}")
