"""Names from data cannot leave their folder; JSON from data means one thing or is refused."""

import json
import os

import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import names, strict_json

BAD_NAMES = (
    *("", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "..\\b", "C:x", "nul", "COM1.txt"),
    *("a\0b", "a\nb", "\x1b[31m", "a\u202eb", "a\u2028b", ".hidden", "end.", " a", "x" * 201),
    *("\udcff", None, 7, ["a"], "é" * 101),
)


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_bad_names_are_refused_in_one_printable_line(name):
    with pytest.raises(UserError, match=r"^list: name ") as caught:
        names.safe_name(name, "list: name")
    assert str(caught.value).isprintable() and str(caught.value).isascii()


@pytest.mark.parametrize(
    "name", ["0001", "a.b-c_d", "Zoë (2)", "猫", "nullable", "[1]", "a|b", "why?", "a" * 200]
)
def test_good_names_stay_as_they_are(name):
    assert names.safe_name(name, "x") == name


def test_paths_stay_below_their_folder(tmp_path):
    inside, outside = tmp_path / "out", tmp_path / "elsewhere"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "near").symlink_to(inside / "real")
    os.symlink(inside, tmp_path / "alias")
    assert names.safe_path(inside, "a", "b.txt", where="x") == inside / "a" / "b.txt"
    assert names.safe_path(tmp_path / "alias", "a", where="x") == tmp_path / "alias" / "a"
    assert names.safe_path(inside, "near", where="x") == inside / "near"
    for parts in (("link",), ("link", "a"), ("..", "elsewhere")):
        with pytest.raises(UserError):
            names.safe_path(inside, *parts, where="x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\xff{}", "not UTF-8 (byte 0)"),
        ('{"a": 1,}', "not JSON"),
        ('{"a": NaN}', "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is too large"),
        ("9" * 5000, "5000 digits"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
    ids=range(9),
)
def test_json_that_is_refused(text, says):
    with pytest.raises(UserError) as caught:
        strict_json.parse(text, "a.json")
    assert str(caught.value).startswith("a.json: ") and says in str(caught.value)


def test_json_that_is_read(tmp_path):
    value = {"seed": 2**80, "x": [1.5, None, "é"], "nested": {"a": {"a": 1}}}
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(value).encode())
    assert strict_json.read_object(tmp_path / "a.json") == value
    for name, says in (("none.json", "no such file"), (".", "no such file")):
        with pytest.raises(UserError, match=says):
            strict_json.read(tmp_path / name)
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(UserError, match="no JSON object"):
        strict_json.read_object(tmp_path / "b.json")
