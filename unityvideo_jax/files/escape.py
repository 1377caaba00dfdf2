"""Text that others wrote, made harmless where it is shown: in Markdown and on a terminal.

HTML has `html.escape`; captions, prompts, names of files and error messages go through these.
"""

import io
import re
import unicodedata
from typing import TextIO

from unityvideo_jax.files import stores

# Line feed, tab, and the joiners of some scripts and of emoji.
KEPT = "\n\t\u200c\u200d"
# What begins a block only at the start of a line.
BLOCK = re.compile(r"^(#|[-+=](?=[\s=-]|$)|\d{1,9}(?=[.)](\s|$)))")


def markdown(text: str) -> str:
    """One line of Markdown, also for a table's cell, that shows `text` and does nothing else."""
    line = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~$])", r"\\\1", line)
    # Between two letters or digits an underscore is never emphasis.
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    return BLOCK.sub(lambda m: f"{m[0]}\\" if m[0].isdigit() else f"\\{m[0]}", line)


def code(text: str) -> str:
    """Returns `text` as a code span of one line, also for a table's cell."""
    line = one_line(text)
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence, pad = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|")


def terminal(text: str) -> str:
    r"""`text` with characters that steer a terminal or are hidden written out, such as \x1b.

    Line feeds and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in KEPT or _is_space(c) else _written(c) for c in text)


def one_line(text: str) -> str:
    """Returns `terminal` of a text on one line."""
    return terminal(" ".join(text.split()))


def _is_space(character: str) -> bool:
    """Whether it is a space of any script; Python calls only the ASCII one printable."""
    return unicodedata.category(character) == "Zs"


def _written(character: str) -> str:
    return ascii(character)[1:-1]


class Terminal:
    """A text stream that writes through `terminal`, whatever is printed to it.

    What lies in an object store is printed by its URL.

    A carriage return at the start of a text passes: progress bars begin with it, and it could hide
    nothing before it.

    Args:
      stream: a text stream.
    """

    def __init__(self, stream: TextIO | io.TextIOBase):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes text made harmless; returns its length as it was given."""
        bar = text[:1] == "\r"
        self._stream.write("\r" * bar + terminal(stores.named(text[bar:])))
        return len(text)

    def writelines(self, texts: list[str]) -> None:
        """Writes each."""
        for text in texts:
            self.write(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
