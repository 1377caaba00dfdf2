"""The configurations that come with the package: the files of `configs/`, by path below it."""

import difflib
import os
import pathlib
import runpy

import ml_collections

from unityvideo_jax.errors import UserError, raised_by
from unityvideo_jax.files import assets, paths, stores

FOLDER = assets.folder("configs")
# Files that are being loaded, the innermost last.
_LOADING: list[pathlib.Path] = []


def names() -> tuple[str, ...]:
    """The names of all presets, sorted, those in folders such as `ablations/all` last."""
    found = [path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.py")]
    return tuple(path.as_posix() for path in sorted(found, key=lambda p: (len(p.parts), p)))


def load(name: str) -> ml_collections.ConfigDict:
    """The values of a preset, which may be changed: another preset states its difference so.

    It is always the package's, wherever the program was started.

    Raises:
      UserError: no preset of that name.
    """
    return runpy.run_path(str(_path(name)))["get_config"]()


def load_config(given: str | os.PathLike) -> ml_collections.ConfigDict:
    """Returns the values of a configuration, which may be changed.

    A file of your own that is called like a preset may load that preset: the file that is being
    loaded is passed over.

    Args:
      given: as `find` takes it.

    Raises:
      UserError: no such file or preset, a file that does not load or lacks `get_config`, or no
        text.
    """
    name, _, argument = find(paths.argument("load_config: given", given, empty=True)).partition(":")
    path = pathlib.Path(name).resolve()
    if path in _LOADING:
        path = _path(path.stem)
    _LOADING.append(path)
    try:
        get_config = runpy.run_path(str(path)).get("get_config", lambda: None)
        config = get_config(*[argument] * bool(argument))
    except OSError as error:
        raise UserError(f"{name}: does not load ({error})") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}: does not load, {raised_by(error)}") from error
    finally:
        _LOADING.pop()
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"{name}: lacks a function get_config() that returns a ConfigDict")
    return config


def find(given: str) -> str:
    """Returns the file that `--config=given` means.

    Args:
      given: a file with or without `.py`, which comes first, or the name of a preset. What follows
        a colon is for the file's `get_config` and stays.

    Raises:
      UserError: neither.
    """
    if stores.url(given):
        return str(stores.local(given))
    name, colon, rest = given.partition(":")
    local = next((path for path in (name, f"{name}.py") if os.path.isfile(path)), None)
    return f"{local or _path(name)}{colon}{rest}"


def _path(name: str) -> pathlib.Path:
    if name not in names():
        near = difflib.get_close_matches(pathlib.Path(name).stem, names(), n=1)
        fix = f"did you mean {near[0]!r}?" if near else f"presets: {', '.join(names())}"
        raise UserError(f"{name}: no such file or preset; {fix}")
    return FOLDER / f"{name}.py"
