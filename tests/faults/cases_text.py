"""Text in other encodings, tables and lists with mistakes, names that are no file's, long texts."""

import contextlib
import io
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np

from tests.faults.harness import Case
from unityvideo_jax import media
from unityvideo_jax.curation.captions import Captions
from unityvideo_jax.inputs import openuni_tars
from unityvideo_jax.inputs.folder import FolderSource
from unityvideo_jax.inputs.manifest import ManifestSource
from unityvideo_jax.pretrained.text import load_text_encoder
from unityvideo_jax.sampling import requests

TARGET = dict(num_frames=5, height=16, width=16)
TEXT = "A café, naïve — 猫."
JOINT = {"mode": "joint", "modality": "depth"}


def write_clip(path: pathlib.Path, frames: int = 5, level: int = 90) -> None:
    """A grey video of 32 x 32."""
    media.write_video(path, np.full((frames, 32, 32, 3), level, np.uint8), 8.0)


def _caption(content: bytes, reads: str | None = None, name: str = "a.txt"):
    """Reads a clip's caption; it must be `reads` if that is given."""

    def act(folder: pathlib.Path) -> None:
        write_clip(folder / "a.mp4")
        (folder / name).write_bytes(content)
        source = FolderSource(folder, ("rgb",), **TARGET)
        text = source.load([0], ("rgb",)).texts["rgb"][0]
        assert reads is None or text == reads, text

    return act


def _no_file(make: Callable[[pathlib.Path], object]):
    def act(folder: pathlib.Path) -> None:
        write_clip(folder / "a.mp4")
        make(folder / "a.txt")
        FolderSource(folder, ("rgb",), **TARGET).load([0], ("rgb",))

    return act


def _table(content: str | bytes, texts: list[str] | None = None):
    """Opens a CSV of clips; it must have these prompts if they are given."""

    def act(folder: pathlib.Path) -> None:
        for name in "abc":
            write_clip(folder / f"{name}.mp4")
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "clips.csv").write_bytes(data)
        source = ManifestSource(folder / "clips.csv", ("rgb",), **TARGET)
        found = source.load(range(len(source.keys)), ("rgb",)).texts["rgb"]
        assert texts is None or found == texts, found

    return act


def _requests(content: str | bytes, prompts: list[str] | None = None):
    """Reads a batch file; it must have these prompts if they are given."""

    def act(folder: pathlib.Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "requests.jsonl").write_bytes(data)
        found = requests.read_batch_file(folder / "requests.jsonl", 0)
        assert prompts is None or [r.prompt for r in found] == prompts, found

    return act


def _names(*names: object):
    lines = [json.dumps(JOINT | {"name": name}) for name in names]
    return _requests("\n".join(lines))


def _given_captions(content: str | bytes):
    def act(folder: pathlib.Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "captions.csv").write_bytes(data)
        Captions(file=str(folder / "captions.csv")).setup()

    return act


def _metadata(folder: pathlib.Path) -> None:
    """A bad row of published metadata costs its clip, and is listed."""
    table = folder / "all.csv"
    table.write_text("path,caption\na.mp4,One.\nb.mp4,Two, or so.\nc.mp4,Three.\n")
    found, faults = openuni_tars.describe([table], ["a", "b", "c"])
    assert {key: one.caption for key, one in found.items()} == {"a": "One.", "c": "Three."}
    assert len(faults) == 1 and "line 3" in faults[0].what and "3 fields" in faults[0].reason


def _cut_captions(folder: pathlib.Path) -> None:
    """Two captions that differ past the limit: one warning with count and limit."""
    from tests.inputs import stand_ins
    from unityvideo_jax.inputs.preparing import prepare

    words = " ".join(f"word{n}" for n in range(20))
    for name, end in (("a", "is red"), ("b", "explodes"), ("c", "")):
        write_clip(folder / f"{name}.mp4")
        (folder / f"{name}.txt").write_text(f"{words} {end}" if end else "Short.")
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        prepare(
            FolderSource(folder, ("rgb",), **TARGET),
            stand_ins.encoder(),
            load_text_encoder("words", 16),
            workdir=folder / "out",
            modalities=("rgb",),
            **TARGET,
        )
    lines = [line for line in printed.getvalue().splitlines() if "warning" in line]
    assert len(lines) == 1 and "2 of 3 texts" in lines[0] and "=16" in lines[0], lines


def _line(prompt: str) -> str:
    return json.dumps(JOINT | {"prompt": prompt}, ensure_ascii=False)


WINDOWS = ("line 1 is not UTF-8", "WINDOWS-1252", "save it as UTF-8")
CAPTIONS = {
    "latin-1": (_caption("A café at night.".encode("latin-1")), ("a.txt", *WINDOWS)),
    "quotes of windows": (_caption("“So”".encode("cp1252")), ("a.txt", "save it as UTF-8")),
    "shift-jis": (_caption("猫が走る。".encode("shift-jis")), ("a.txt", "not UTF-8")),
    "utf-16 without mark": (_caption(TEXT.encode("utf-16-le")), ("a.txt", "UTF-16")),
    "utf-16 cut off": (_caption(TEXT.encode("utf-16")[:-1]), ("a.txt", "UTF-16")),
    "utf-32": (_caption(TEXT.encode("utf-32")), ("a.txt", "UTF-32", "save it as UTF-8")),
    "utf-16 with mark": (_caption(TEXT.encode("utf-16"), TEXT), ()),
    "utf-16 big end first": (_caption(b"\xfe\xff" + TEXT.encode("utf-16-be"), TEXT), ()),
    "utf-8 with mark": (_caption(TEXT.encode("utf-8-sig"), TEXT), ()),
    "lines of windows": (_caption(b"One.\r\nTwo.\r\n", "One.\nTwo."), ()),
    "suffix in capitals": (_caption(b"One.", "One.", "a.TXT"), ()),
    "two megabytes": (_caption(b"word " * (1 << 19)), ("a.txt", "2621440 bytes")),
    "a folder": (_no_file(pathlib.Path.mkdir), ("a", "no caption")),
    "a pipe": (_no_file(os.mkfifo), ("a.txt", "no such file")),
    "a link to nothing": (_no_file(lambda path: path.symlink_to("gone.txt")), ("a.txt",)),
}
HEADER = "video,prompt\n"
TABLES = {
    "one field too many": (
        _table(HEADER + "a.mp4,A man walks, then he sits.\n"),
        ("line 2", "3 fields", "quote"),
    ),
    "one field too few": (_table(HEADER + "a.mp4,One.\nb.mp4\n"), ("line 3", "1 fields")),
    "no prompt": (_table(HEADER + "a.mp4,\n"), ("line 2", "no prompt")),
    "a column twice": (_table("video,prompt,prompt\na.mp4,x,y\n"), ("two columns", "'prompt'")),
    "a misspelt column": (_table("video,promt\na.mp4,x\n"), ("unknown column 'promt'", "prompt")),
    "semicolons": (_table("video;prompt\na.mp4;x\n"), ("clips.csv", "semicolons", "commas")),
    "tabs": (_table("video\tprompt\na.mp4\tx\n"), ("clips.csv", "tabs", "commas")),
    "a separator line": (_table("sep=;\nvideo;prompt\na.mp4;x\n"), ("clips.csv", "semicolons")),
    "an open quote": (_table(HEADER + 'a.mp4,"One.\nb.mp4,Two.\n'), ("line 2", "close every")),
    "a quote inside": (_table(HEADER + 'a.mp4,"A "red" ball."\n'), ("line 2", "double a quote")),
    "windows": (_table((HEADER + "a.mp4,A café.\n").encode("cp1252")), ("clips.csv", "line 2")),
    "utf-16 without mark": (_table((HEADER + "a.mp4,x\n").encode("utf-16-le")), ("UTF-16",)),
    "a long path": (_table(HEADER + "x" * 300 + ".mp4,One.\n"), ("line 2", "name too long")),
    "nothing": (_table(""), ("clips.csv", "empty")),
    "a header alone": (_table(HEADER), ("clips.csv", "no row")),
    "utf-16 of a spreadsheet": (_table((HEADER + "a.mp4,é\n").encode("utf-16"), ["é"]), ()),
    "a quoted line break": (_table(HEADER + 'a.mp4,"One,\ntwo."\n', ["One,\ntwo."]), ()),
    "lines of an old mac": (_table("video,prompt\ra.mp4,x\rb.mp4,y\r", ["x", "y"]), ()),
    "blanks around names": (_table("video, prompt\n a.mp4 ,x \n", ["x"]), ()),
}
BATCHES = {
    "not JSON": (_requests(_line("a") + "\n{'mode': 'joint'}\n"), ("line 2", "not JSON")),
    "an array": (_requests(f"[{_line('a')},\n{_line('b')}]"), ("line 1", "one object per line")),
    "one object over lines": (_requests('{\n"mode": "joint"\n}'), ("line 1", "one object per")),
    "a key twice": (_requests('{"mode": "joint", "mode": "control"}'), ("line 1", "twice")),
    "half a character": (
        _requests(json.dumps(JOINT | {"prompt": "a \ud83d"})),
        ("line 1", "UTF-8"),
    ),
    "windows": (_requests(_line("café").encode("cp1252")), ("requests.jsonl", "not UTF-8")),
    "utf-16": (_requests(_line("é").encode("utf-16"), ["é"]), ()),
    "utf-8 with mark": (_requests(_line("é").encode("utf-8-sig"), ["é"]), ()),
    "a line separator inside": (_requests(_line("one\u2028two"), ["one\u2028two"]), ()),
}
NAMES = {
    "up": (_names("../x"), ("line 1", "../x")),
    "two dots": (_names(".."), ("line 1", "..")),
    "a folder": (_names("a/b"), ("line 1", "a/b")),
    "a device": (_names("ok", "NUL"), ("line 2", "NUL")),
    "too long": (_names("x" * 300), ("line 1", "longer than")),
    "NUL inside": (_names("a\0b"), ("line 1", "not printed")),
    "a number": (_names(7), ("line 1", "name")),
    "in another case": (_names("Clip", "clip"), ("line 2", "line 1")),
    "composed otherwise": (_names("caf\u00e9", "cafe\u0301"), ("line 2", "line 1")),
}
GIVEN = {
    "one field too many": (_given_captions("video,caption\na.mp4,x, y\n"), ("line 2", "3 fields")),
    "a video twice": (_given_captions("video,caption\na,x\na,y\n"), ("line 3", "second caption")),
    "a misspelt column": (_given_captions("video,captoin\na,x\n"), ("captoin", "caption")),
    "windows": (_given_captions("video,caption\na,é\n".encode("cp1252")), ("captions.csv",)),
    "utf-8 with mark": (_given_captions("\ufeffvideo,caption\na,x\n"), ()),
}
CASES = [
    Case(kind=kind, name=name, act=act, says=says)
    for kind, cases in {
        "captions": CAPTIONS,
        "CSV of clips": TABLES,
        "batch file": BATCHES,
        "names in a batch file": NAMES,
        "captions in a CSV": GIVEN,
    }.items()
    for name, (act, says) in cases.items()
] + [
    Case(kind="captions in a CSV", name="published metadata", act=_metadata),
    Case(kind="captions", name="longer than the limit", act=_cut_captions),
]
