"""Text that users bring: captions, tables and lists of requests, whatever editor saved them.

UTF-8 is read with or without a byte order mark, UTF-16 with one. Anything else is an error that
names the file and the encoding to use; a guess is offered and never applied.
"""

import codecs
import csv
import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import stores, strict_json

# Most bytes of a text that is read whole, such as a caption.
MAX_BYTES = 1 << 20
# Characters of one line, which bounds the memory of files that are read line by line.
MAX_LINE = 1 << 24
# The longer marks first: UTF-32's begins as UTF-16's does.
MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Above this share of bytes outside ASCII a text is hardly of a Western language.
WESTERN = 0.3


def lines(path: str | os.PathLike) -> Iterator[str]:
    """Yields the lines of a text file one at a time, with their ends as they are.

    Raises:
      UserError: no such file, one that cannot be opened, or text in another encoding.
    """
    path = stores.local(path)
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        with open(path, "rb") as handle:
            start = handle.read(4)
        encoding = next((name for mark, name in MARKS if start.startswith(mark)), "utf-8")
        if encoding == "UTF-32":
            raise UserError(f"{path}: UTF-32; save it as UTF-8")
        with open(path, encoding=encoding, newline="") as handle:
            while line := handle.readline(MAX_LINE):
                if len(line) == MAX_LINE:
                    raise UserError(f"{path}: a line of over {MAX_LINE} characters; is it text?")
                if "\0" in line:
                    raise UserError(
                        f"{path}: holds NUL characters, as UTF-16 without a byte order mark does; "
                        "save it as UTF-8"
                    )
                yield line
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise UserError(f"{path}: damaged UTF-16 ({error.reason}); save it as UTF-8") from error
        raise UserError(f"{path}{_not_utf8(path)}") from error
    except OSError as error:
        raise UserError(f"{path}: does not open ({error.strerror}); check the file") from error


def _not_utf8(path: pathlib.Path) -> str:
    """Where a file stops being UTF-8, and what it may be instead."""
    number, raw = 0, b""
    with open(path, "rb") as handle:
        while raw := handle.readline(MAX_LINE):
            number += 1
            try:
                raw.decode()
            except UnicodeDecodeError:
                break
    guess = _guess(raw)
    likely = f", perhaps {guess}" if guess else ""
    how = f" (iconv -f {guess} -t UTF-8)" if guess else ""
    return f": line {number} is not UTF-8{likely}; save it as UTF-8{how}"


def _guess(raw: bytes) -> str:
    if b"\0" in raw:
        return "UTF-16LE" if raw.find(b"\0") % 2 else "UTF-16BE"
    if sum(byte >= 0x80 for byte in raw) > WESTERN * len(raw):
        return ""
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return ""
    return "WINDOWS-1252"


def read_text(path: str | os.PathLike) -> str:
    r"""Returns a short text as a whole; lines end in "\n".

    Raises:
      UserError: as `lines`, or a file of over `MAX_BYTES`.
    """
    path = stores.local(path)
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise UserError(
            f"{path}: {path.stat().st_size} bytes, and a text has at most {MAX_BYTES}; is it one?"
        )
    return "".join(lines(path)).replace("\r\n", "\n").replace("\r", "\n")


def check_text(text: str, where: str) -> None:
    """Raises UserError if a text of a flag or of JSON cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: character {error.start} is half of one, or a byte that is not UTF-8; write "
            "the text in UTF-8"
        ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table.

    Attributes:
      line: number of its last line in the file, from 1.
      columns: names of the header.
      cells: text by column; empty if there is a fault.
      fault: why the row cannot be read; '' if it can.
    """

    line: int
    columns: tuple[str, ...]
    cells: dict[str, str] = dataclasses.field(default_factory=dict)
    fault: str = ""


def read_table(
    path: str | os.PathLike, *, required: Collection[str] = (), known: Collection[str] = ()
) -> Iterator[Row]:
    """Yields the rows of a CSV with a header; blank lines are skipped, quoted fields span lines.

    Args:
      path: separated by commas, quoted by ".
      required: columns that the header must name.
      known: columns that it may name; empty allows any.

    Raises:
      UserError: as `lines`; a header that is missing, separated by something else, that lacks a
        column, or names one twice or an unknown one; or a quote that is never closed.
    """
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(lines(path), strict=True)
    columns: tuple[str, ...] = ()
    while True:
        first, cells, fault = reader.line_num + 1, [], ""
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            fault = f"not CSV ({error}); double a quote that is inside a quoted text"
            if "end of data" in str(error) or not columns:
                raise UserError(f"{path}, line {first}: {fault}, and close every quote") from error
        if not (cells or fault):
            continue
        if not columns:
            columns = tuple(cell.strip() for cell in cells)
            _check_header(path, columns, required, known)
            continue
        if not fault and len(cells) != len(columns):
            advice = "quote a text that has a comma" if len(cells) > len(columns) else "add commas"
            fault = f"{len(cells)} fields where the header has {len(columns)}; {advice}"
        by_column = {} if fault else dict(zip(columns, cells, strict=True))
        yield Row(line=reader.line_num, columns=columns, cells=by_column, fault=fault)
    if not columns:
        raise UserError(f"{path}: an empty table; its first line names the columns")


def _check_header(
    path: str | os.PathLike,
    columns: tuple[str, ...],
    required: Collection[str],
    known: Collection[str],
) -> None:
    separators = {";": "semicolons", "\t": "tabs", "|": "bars"}
    for separator, name in separators.items():
        if len(columns) == 1 and separator in columns[0]:
            raise UserError(f"{path}: separated by {name}; save it separated by commas")
    if twice := sorted({c for c in columns if columns.count(c) > 1}):
        raise UserError(f"{path}: two columns are named {twice[0]!r}; give each its own name")
    if known and "" in columns:
        number = columns.index("") + 1
        raise UserError(f"{path}: column {number} has no name; the first line names the columns")
    if unknown := [c for c in columns if known and c not in known]:
        raise UserError(
            f"{path}: unknown column {unknown[0]!r}; known: {', '.join(known)}. Rename or delete it"
        )
    if missing := [c for c in required if c not in columns]:
        raise UserError(
            f"{path}: lacks the column {', '.join(missing)} (it has {', '.join(columns)}); add it"
        )


def read_json_lines(path: str | os.PathLike) -> Iterator[tuple[str, Any]]:
    """Yields the values of a file of one JSON value per line, each after its place for messages.

    Raises:
      UserError: as `lines`; a line that is not JSON, or a JSON array or object over several lines.
    """
    begun = False
    for number, line in enumerate(lines(path), start=1):
        text, where = line.strip(), f"{path} line {number}"
        if not text:
            continue
        if not begun and (text.startswith("[") or text == "{"):
            raise UserError(
                f"{where}: begins JSON that spans the file; write one object per line (JSONL)"
            )
        begun = True
        yield where, strict_json.parse(text, where)
