"""JSON that others wrote: a text that readers may understand differently is refused."""

import json
import math
import os
from collections.abc import Sequence
from typing import Any

from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import stores

# A file of ours holds some MB at most; JSON takes about ten times its size in memory.
MAX_BYTES = 256 << 20
# Larger ones overflow a float; Python's own limit guards the time that digits take.
MAX_DIGITS = 300
FIX = "fix or restore it"


def parse(text: str | bytes, where: str, fix: str = FIX) -> Any:
    """The value of a JSON text, in which every number is finite and every key is there once.

    Args:
      text: str, or UTF-8 with or without a byte order mark.
      where: start of the message: a file, perhaps with a line.
      fix: end of the message.

    Raises:
      UserError: no UTF-8, no JSON, a key twice in an object, NaN or infinity, an integer of more
        than `MAX_DIGITS` digits, or nesting that the parser cannot follow.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except json.JSONDecodeError as error:
        fault = f"not JSON ({error.msg} at character {error.pos})"
    except UnicodeDecodeError as error:
        fault = f"not UTF-8 (byte {error.start})"
    except RecursionError:
        fault = "nested too deeply"
    except ValueError as error:
        fault = str(error)
    raise UserError(f"{where}: {fault}; {fix}")


def read(path: str | os.PathLike, fix: str = FIX) -> Any:
    """Returns the value of a JSON file, as `parse` reads it.

    Raises:
      UserError: as `parse`; or no such file, none that can be read, or one over `MAX_BYTES`.
    """
    path = stores.local(path)
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file; {fix}")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{path}: {size} bytes of JSON, over {MAX_BYTES}; {fix}")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: does not read ({reason(error)}); {fix}") from error
    return parse(content, str(path), fix)


def read_object(path: str | os.PathLike, fix: str = FIX) -> dict[str, Any]:
    """Returns the object of a JSON file.

    Raises:
      UserError: as `read`, or a file that holds another value than an object.
    """
    return as_object(read(path, fix), str(path), fix)


def as_object(value: Any, where: str, fix: str = FIX) -> dict[str, Any]:
    """Returns a value that must be a JSON object; UserError otherwise."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: holds no JSON object, {{...}}; {fix}")
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!r} is there twice in one object")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _short(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits is too large")
    return int(text)
