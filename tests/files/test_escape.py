"""Text from data does nothing in Markdown or on a terminal but show itself."""

import html
import io
import re

import pytest
from markdown_it import MarkdownIt

from unityvideo_jax.files import escape

HOSTILE = (
    *("a | b", "`code`", "``a`|b", "[x](http://evil)", "![x](y)", "<script>alert(1)</script>"),
    *("# head", "- item", "1. item", "===", "---", "> quote", "&lt;b&gt;", "**b** _i_ ~~s~~"),
    *(
        "a_b_c __x__",
        "C:\\dir\\",
        "line\n\n# head",
        "\x1b[31mred\x07",
        "\u202eabc",
        "\udcff",
        "$x$",
    ),
    *("-0.5", "3.5 m", "https://a_b.c", "```\nfence", "\\", "|", "猫 café"),
)


def shown(text: str) -> str:
    """What a reader sees: on one line, control characters written out."""
    return escape.terminal(" ".join(text.split()))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("escaped", [escape.markdown, escape.code])
def test_markdown_shows_the_text_and_nothing_else(text, escaped):
    made = escaped(text)
    assert "\n" not in made and made.replace("\u3000", "").isprintable()
    table = f"| a | b |\n| --- | --- |\n| {made} | end |\n"
    page = MarkdownIt("js-default", {"html": True}).enable("table").render(table)
    cells = re.findall(r"<td>(.*?)</td>", page, re.S)
    assert len(cells) == 2 and cells[1] == "end"
    inner = cells[0].removeprefix("<code>").removesuffix("</code>")
    assert html.unescape(inner) == shown(text) and "<" not in inner
    if escaped is escape.markdown:
        for mark in ("", "- "):
            page = MarkdownIt("js-default", {"html": True}).render(mark + made)
            inner = re.sub(r"^<(p|ul>\n<li)>|</(p|li>\n</ul)>\n$", "", page)
            assert html.unescape(inner) == shown(text) and "<" not in inner


def test_a_terminal_is_not_steered():
    stream = io.StringIO()
    print("\x1b]0;title\x07 a\rb\tc\n\x9b31m é 猫\u3000\u202e \udcff", file=escape.Terminal(stream))
    expected = "\\x1b]0;title\\x07 a\\rb\tc\n\\x9b31m é 猫\u3000\\u202e \\udcff\n"
    assert stream.getvalue() == expected
