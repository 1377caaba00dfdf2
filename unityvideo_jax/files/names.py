"""Names that come from data, as names of files: nothing is written outside the folder meant for it.

Clip keys, ids of batch files, names inside tars, journals and records are text that others wrote.
Whatever writes a file or folder named by such text takes its path from here.
"""

import pathlib
import re
import unicodedata
from typing import Any

from unityvideo_jax.errors import UserError

# Bytes; file systems take 255, and suffixes and prefixes of ours are added to a name.
MAX_BYTES = 200
# Separators of folders and, on some systems, of drives.
RESERVED = frozenset("/\\:")
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Unicode categories of characters that are invisible, or change the order or lines of the others.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Characters of these that join others in some scripts and in emoji.
JOINERS = "\u200c\u200d"


# The fault of a name that `has_unprinted`, as the end of a sentence.
UNPRINTED = "has bytes that are not UTF-8, or characters that are not printed"


def has_unprinted(name: str) -> bool:
    """Whether a name of a file holds control characters, line breaks or bytes that are not UTF-8.

    It can be opened, but neither printed on one line nor written to a record.
    """
    return any(unicodedata.category(c) in UNSEEN and c not in JOINERS for c in name)


def safe_name(name: Any, where: str) -> str:
    """Returns `name` as it is, if it can name one file or folder on any system.

    Args:
      name: of a file or folder, from data.
      where: what the message starts with, such as "requests.jsonl line 3: name".

    Raises:
      UserError: no text, an empty one or one longer than `MAX_BYTES`, "." or "..", a separator, a
        character that is not printed, a dot or blank at either end, or the
        name of a device.
    """
    if fault := name_fault(name):
        shown = ascii(name if not isinstance(name, str) else name[:60])
        raise UserError(f"{where} {shown} names a file or folder, but {fault}; rename it")
    return name


def name_fault(name: Any) -> str | None:
    """Returns why `safe_name` refuses a name; None if it does not."""
    if not isinstance(name, str):
        return "is no text"
    if not name.strip(". "):
        return "has no letter in it"
    if reserved := sorted(RESERVED & set(name)):
        return f"has the character {reserved[0]}"
    if hidden := [c for c in name if unicodedata.category(c) in UNSEEN]:
        return f"has a character that is not printed, {hidden[0]!a}"
    if name != name.strip(" ") or name.endswith(".") or name.startswith("."):
        return "starts or ends with a dot or a blank"
    if len(name.encode()) > MAX_BYTES:
        return f"is longer than {MAX_BYTES} bytes"
    if DEVICES.fullmatch(name):
        return "is the name of a device on some systems"
    return None


def safe_path(folder: pathlib.Path, *names: Any, where: str) -> pathlib.Path:
    """Returns the path `folder/name/...`, of which no link leads out of `folder`.

    Args:
      folder: that everything must stay in; it may itself be a link.
      names: of folders and, last, of a file or folder; from data.
      where: as `safe_name` takes it.

    Raises:
      UserError: as `safe_name`, or a link on the way leads elsewhere.
    """
    path = folder.joinpath(*(safe_name(name, where) for name in names))
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: a link there leads out of {folder}; delete the link")
    return path
