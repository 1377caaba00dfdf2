"""The configurations that come with the package: the files of `configs/`, by name."""

import difflib
import os
import pathlib
import runpy

import ml_collections

from unityvideo_jax.errors import UserError

# Beside the package, in a checkout as in an installation.
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "configs"


def names() -> tuple[str, ...]:
    """The names of all presets, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.py")))


def load(name: str) -> ml_collections.ConfigDict:
    """The values of a preset, to be changed at will: another preset states its difference so.

    It is always the package's, wherever the program was started.

    Raises:
      UserError: no preset of that name.
    """
    return runpy.run_path(str(_path(name)))["get_config"]()


def find(given: str) -> str:
    """The file that `--config=given` means.

    Args:
      given: a file with or without `.py`, which comes first, or the name of a preset. What follows
        a colon is for the file's `get_config` and stays.

    Raises:
      UserError: neither.
    """
    name, colon, rest = given.partition(":")
    local = next((path for path in (name, f"{name}.py") if os.path.isfile(path)), None)
    return f"{local or _path(name)}{colon}{rest}"


def _path(name: str) -> pathlib.Path:
    if name not in names():
        near = difflib.get_close_matches(pathlib.Path(name).stem, names(), n=1)
        fix = f"did you mean {near[0]!r}?" if near else f"presets: {', '.join(names())}"
        raise UserError(f"{name}: no such file or preset; {fix}")
    return FOLDER / f"{name}.py"
