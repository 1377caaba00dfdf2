"""The sections of an experiment's configuration as the dataclasses that check them."""

import dataclasses
import difflib
import math
import numbers
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from unityvideo_jax.errors import UserError

T = TypeVar("T")


def check_keys(
    keys: Iterable[str],
    known: Collection[str],
    where: str,
    needed: Collection[str] = (),
) -> None:
    """Raises UserError for a key that nothing reads, naming its nearest, or for a missing one.

    Args:
      keys: of a part of a configuration.
      known: keys that it may have.
      where: what the message puts before the key, such as "config.model.".
      needed: keys that it must have.
    """
    keys = tuple(keys)
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            fix = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"{where}{key}: no such key; {fix}known: {', '.join(sorted(known))}")
    for key in needed:
        if key not in keys:
            raise UserError(f"{where}{key}: missing; set it")


def check_values(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Raises UserError for a value that is not of its field's type, as `check_value` looks at it.

    What the values mean, and so their range, the dataclass checks itself.

    Args:
      cls: a dataclass.
      values: by name of field.
      where: what the message puts before the key.
    """
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        check_value(hints[key], value, f"{where}{key}")


def check_value(hint: Any, value: Any, name: str) -> None:
    """Raises UserError for a value of another type, or a number that is not finite.

    Args:
      hint: a number, text or switch, a tuple or `Sequence` of one of them, `Mapping[str, ...]`, or
        these of each other; with another one the value is not looked at.
      value: a list may stand for a tuple, and a ConfigDict for a mapping.
      name: of the value, which the message begins with.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    wanted = set(arguments if isinstance(hint, types.UnionType) else (hint,))
    inner: Iterable[tuple[Any, Any]] = ()
    if wanted == {bool}:
        good, kind = isinstance(value, bool), "True or False"
    elif wanted == {str}:
        good, kind = isinstance(value, str), "a text in quotes"
    elif wanted == {int}:
        good, kind = isinstance(value, numbers.Integral), "a whole number"
    elif float in wanted and wanted <= {int, float}:
        good, kind = isinstance(value, numbers.Real) and math.isfinite(value), "a finite number"
    elif origin in (tuple, Sequence):
        good = isinstance(value, tuple | list)
        kind, inner = "a tuple, (VALUE,)", enumerate(value) if good else ()
    elif origin is Mapping:
        good = hasattr(value, "items")
        kind, inner = "a dict", value.items() if good else ()
    else:
        return
    if not good or (isinstance(value, bool) and wanted != {bool}):
        raise UserError(f"{name}={' '.join(repr(value).split())}: give {kind}")
    for key, one in inner:
        check_value(arguments[origin is Mapping], one, f"{name}[{key!r}]")


def check_instance(kind: Any, value: Any, name: str, give: str) -> None:
    """Raises UserError for an argument that is no instance of a class.

    Args:
      kind: the class, or a union of classes.
      value: the argument.
      name: of the argument, which the message begins with.
      give: what to pass instead.
    """
    if not isinstance(value, kind):
        raise UserError(f"{name}: of type {type(value).__name__}; give {give}")


def section(cls: type[T], config: Any, name: str) -> T:
    """Returns `config.<name>` as an instance of the dataclass `cls`, which checks the values.

    Args:
      cls: its fields are the keys; those without a default must be set.
      config: the experiment, a ConfigDict or dict.
      name: of the section.

    Raises:
      UserError: no such section, a key that `cls` lacks or needs, or a value of another type.
    """
    check_keys(config, list(config), "config.", needed=(name,))
    if not hasattr(config[name], "items"):
        raise UserError(f"config.{name}={config[name]!r}: give its keys, as configs/*.py do")
    # A dict inside a section is a ConfigDict where the section is.
    values = {
        key: dict(value.items()) if hasattr(value, "items") else value
        for key, value in config[name].items()
    }
    fields = [field for field in dataclasses.fields(cls) if field.init]
    needed = [
        field.name
        for field in fields
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    check_keys(values, [field.name for field in fields], f"config.{name}.", needed)
    check_values(cls, values, f"config.{name}.")
    return cls(**values)
