"""The order of images by the numbers in their names."""

import itertools
import pathlib
import re
import unicodedata
from collections.abc import Sequence

from unityvideo_jax.errors import UserError

# A minus sign rather than a hyphen: nothing, a space, `_` or `=` stands before it.
SIGNED = re.compile(r"(?:^|[\s_=])-\d")
DECIMAL = re.compile(r"\d[.,]\d")


def in_order(files: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Sorts files by the numbers in their names: 2 before 10.

    Capital and small letters are alike, and so are digits of every script.

    Raises:
      UserError: two files of one number, or an order that is not clear: negative numbers, decimals
        among whole numbers, or numbers of unequal width that are in several places of the name,
        behind a decimal point, or have different texts around them.
    """
    names = {path: unicodedata.normalize("NFKC", path.stem).casefold() for path in files}
    by_name = sorted(files, key=lambda path: (names[path], path.name))
    texts, numbers = {}, {}
    for path, name in names.items():
        pieces = re.split(r"(\d+)", name)
        texts[path], numbers[path] = tuple(pieces[::2]), pieces[1::2]
    keys = {path: (texts[path], tuple(map(int, numbers[path]))) for path in files}
    seen: dict[tuple, pathlib.Path] = {}
    for path in by_name:
        if (other := seen.setdefault(keys[path], path)) != path:
            raise UserError(
                f"{path.parent}: {other.name} and {path.name} have the same number; keep one"
            )
    columns = itertools.zip_longest(*numbers.values())
    uneven = [n for n, column in enumerate(columns) if len({len(c) for c in column if c}) > 1]
    decimals = [bool(DECIMAL.search(name)) for name in names.values()]
    unclear = any(SIGNED.search(name) for name in names.values())
    unclear |= any(decimals) and not all(decimals)
    if uneven:
        between = {text[n] for text in texts.values() for n in uneven if n < len(text)}
        unclear |= len(uneven) > 1 or len(set(texts.values())) > 1 or bool(between & {".", ","})
    if unclear:
        raise UserError(
            f"{by_name[0].parent}: the order of images such as {by_name[0].name} and "
            f"{by_name[-1].name} is not clear; number them with leading zeros (0001, 0002, ...)"
        )
    return sorted(files, key=keys.__getitem__) if uneven else by_name
