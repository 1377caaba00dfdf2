"""Data that tries to run code, to write outside its folder, or to pass for our own words."""

import functools
import gzip
import io
import json
import pathlib
import re
import sys
import tarfile
import types

import numpy as np

from tests.faults.harness import Case
from unityvideo_jax import modalities as registry
from unityvideo_jax.curation import manifest, page
from unityvideo_jax.curation.captions import Captions
from unityvideo_jax.curation.stage import Clip, Job
from unityvideo_jax.evaluation import score_folder
from unityvideo_jax.evaluation.report import document
from unityvideo_jax.evaluation.report.page import ClipEntry
from unityvideo_jax.inputs import clip_shards, openuni_tars, shards
from unityvideo_jax.metrics.scores import ClipScore

LATENT, TEXT = (1, 2, 2, 4), (3, 5)


def _shards(folder: pathlib.Path) -> pathlib.Path:
    """A finished dataset of three tiny clips with one series."""
    side = {
        name: np.zeros(shape, np.float32)
        for name, shape in shards.side_shapes(registry.get("rgb").codec).items()
    }

    def records():
        for n in range(3):
            record = {
                "key": f"clip-{n}",
                "latents": np.full(LATENT, n, np.float16),
                "text": f"clip {n}",
                "embedding": np.zeros(TEXT, np.float16),
            }
            yield record | ({"side": side} if side else {})

    series = shards.write_series(
        folder,
        "rgb",
        records,
        count=3,
        latent_shape=LATENT,
        embedding_shape=TEXT,
        side_shapes=shards.side_shapes(registry.get("rgb").codec),
    )
    card = shards.Card(
        count=3,
        num_frames=1,
        height=16,
        width=16,
        fps=8.0,
        latent_shape=LATENT,
        vae="none",
        text_encoder="none",
        text_length=TEXT[0],
        text_dim=TEXT[1],
        modalities=("rgb",),
        codecs={"rgb": registry.get("rgb").codec.version},
        settings={},
    )
    shards.write_card(folder, card)
    return series


def _runs_code(features: dict):
    """Opens and reads shards whose features.json is replaced; nothing that it names may run."""

    def act(folder: pathlib.Path) -> None:
        series = _shards(folder / "data")
        marker = folder / "marker"
        (folder / "evil_features.py").write_text(
            f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Evil: pass\n"
        )
        (series / "features.json").write_text(json.dumps(features))
        sys.path.insert(0, str(folder))
        try:
            read = shards.Series(folder / "data", "rgb")[2]
        finally:
            sys.path.remove(str(folder))
            sys.modules.pop("evil_features", None)
            assert not marker.exists(), "code named by the data ran"
        assert read["key"] == "clip-2" and read["latents"].shape == LATENT

    return act


FEATURES = [
    Case(kind="runs code", name=f"features.json {name}", act=_runs_code(features))
    for name, features in {
        "class": {"pythonClassName": "evil_features.Evil", "featuresDict": {"features": {}}},
        "inner class": {
            "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "featuresDict": {"features": {"key": {"pythonClassName": "evil_features.Evil"}}},
        },
        "legacy type": {"type": "evil_features.Evil", "content": {}},
        "legacy proto": {
            "type": "tensorflow_datasets.core.features.text_feature.Text",
            "proto_cls": "evil_features.Evil",
            "content": "{}",
        },
    }.items()
]


# --- Names ------------------------------------------------------------------------------------


def _tar(path: pathlib.Path, *members: tuple[str, dict, bytes]) -> pathlib.Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, fields, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def _stays(folder: pathlib.Path) -> None:
    """Nothing lies beside `in` and `out`, which a case reads and writes."""
    found = {p.name for p in folder.iterdir()} - {"in", "out"}
    assert not found, f"written outside: {found}"


def _unpacks(*members: tuple[str, dict, bytes], unpacked: int = 0, faults: int = 0):
    """Unpacks a tar: members that cannot be taken are set aside, and nothing leaves the folder."""

    def act(folder: pathlib.Path) -> None:
        (folder / "in").mkdir()
        tar = _tar(folder / "in" / "a.tar", *members)
        files, wrong = openuni_tars.unpack(tar, "rgb", folder / "out" / "deep")
        _stays(folder)
        assert len(files) == unpacked and len(wrong) == faults, (files, wrong)
        assert all(path.parent == folder / "out" / "deep" for path in files.values())
        again = openuni_tars.unpack(tar, "rgb", folder / "out" / "deep")
        assert again == (files, wrong)

    return act


VIDEO = b"no video, but bytes"
LINK = {"type": tarfile.SYMTYPE, "linkname": "../../elsewhere"}
TARS = {
    "leads up": _unpacks(("../../../up.mp4", {}, VIDEO), unpacked=1),
    "is absolute": _unpacks(("/tmp/absolute.mp4", {}, VIDEO), unpacked=1),
    "has backslashes": _unpacks(("up\\..\\..\\up.mp4", {}, VIDEO), faults=1),
    "has a NUL": _unpacks(("x.mp4", {"pax_headers": {"path": "a\0b.mp4"}}, VIDEO), faults=1),
    "has an escape": _unpacks(("\x1b[2Ja.mp4", {}, VIDEO), faults=1),
    "is long": _unpacks(("x" * 400 + ".mp4", {}, VIDEO), faults=1),
    "is a device": _unpacks(("nul.mp4", {}, VIDEO), faults=1),
    "symbolic link, then a file through it": _unpacks(
        ("a.mp4", LINK, b""), ("a.mp4/b.mp4", {}, VIDEO), unpacked=1, faults=1
    ),
    "hard link": _unpacks(
        ("a.mp4", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, b""), faults=1
    ),
    "device": _unpacks(("a.mp4", {"type": tarfile.CHRTYPE}, b""), faults=1),
    "sparse": _unpacks(
        ("a.mp4", {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                                   "GNU.sparse.realsize": str(1 << 50)}}, b"0\n".ljust(512, b"\0")),
        faults=1,
    ),
}  # fmt: skip


def _claims(folder: pathlib.Path, kind: bytes) -> None:
    """A tar whose first member claims more bytes than any disk has."""
    info = tarfile.TarInfo("a.mp4")
    info.type, info.size = kind, 1 << 60
    (folder / "in").mkdir()
    (folder / "in" / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    files, wrong = openuni_tars.unpack(folder / "in" / "a.tar", "rgb", folder / "out")
    assert not files and wrong and "bytes" in wrong[0].reason, (files, wrong)


def _long_header(folder: pathlib.Path) -> None:
    """A tar with a header for a long name that unpacks to gigabytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 34
    (folder / "in").mkdir()
    with gzip.open(folder / "in" / "a.tar.gz", "wb") as out:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        out.write(bytes(1 << 22))
    files, wrong = openuni_tars.unpack(folder / "in" / "a.tar.gz", "rgb", folder / "out")
    assert not files and "a header of 17179869184 bytes" in wrong[0].reason, wrong


def _receipt(names: object):
    """A receipt of an unpacked tar that names files elsewhere."""

    def act(folder: pathlib.Path) -> None:
        (folder / "out").mkdir()
        (folder / "secret.mp4").write_bytes(VIDEO)
        tar = _tar(folder / "a.tar", ("a.mp4", {}, VIDEO))
        state = [tar.stat().st_size, int(tar.stat().st_mtime)]
        record = {"state": state, "files": names, "faults": []}
        (folder / "out" / "a.tar.json").write_text(json.dumps(record))
        openuni_tars.unpack(tar, "rgb", folder / "out")

    return act


def _packed(name: str):
    """A packed clip whose record names a file to write."""

    def act(folder: pathlib.Path) -> None:
        def records():
            yield clip_shards.ClipFile(key="../../up", text="", name=name, data=VIDEO, fps=8.0)

        clip_shards.write_series(folder / "in", "unibench", "rgb", {"test": records}, num_bytes=9)
        card = clip_shards.ClipCard(
            dataset="unibench", subset="x", counts={"test": 1}, modalities=("rgb",), settings={}
        )
        clip_shards.write_card(folder / "in", card)
        source = clip_shards.ClipShardsSource(
            folder / "in", ["rgb"], split="test", num_frames=1, height=16, width=16
        )
        try:
            source.load([0], ["rgb"])
        finally:
            _stays(folder)

    return act


def _key(key: str):
    """A curation's journal brings a clip whose key names files elsewhere."""

    def act(folder: pathlib.Path) -> None:
        (folder / "in").mkdir()
        job = Job(source=str(folder / "in"), workdir=str(folder / "out"))
        job.clips.mkdir(parents=True)
        clip = Clip(key=key, video="a.mp4", caption="words", frame_count=1, fps=8.0)
        try:
            Captions()(clip, job)
        finally:
            _stays(folder)

    return act


def _linked(folder: pathlib.Path) -> None:
    """A clip's file in the output folder is a link that leads elsewhere."""
    (folder / "in").mkdir()
    job = Job(source=str(folder / "in"), workdir=str(folder / "out"))
    job.clips.mkdir(parents=True)
    (job.clips / "a.txt").symlink_to(folder / "elsewhere.txt")
    Captions()(Clip(key="a", video="a.mp4"), job)


def _row_pictures(folder: pathlib.Path) -> None:
    """An earlier row of an evaluation names a picture elsewhere: it is scored again."""
    (folder / "secret.png").write_bytes(b"x")
    row = score_folder.Row(clip="a", score=ClipScore(), pictures={"depth": "../secret.png"})
    scorer = types.SimpleNamespace(config=types.SimpleNamespace(output=folder / "out"))
    assert not score_folder._Scorer._is_drawn(scorer, row)


NAMES = [
    *(Case(kind="names", name=f"member of a tar {what}", act=act) for what, act in TARS.items()),
    *(
        Case(
            kind="memory",
            name=f"member of a tar, type {kind.decode()}, claims an exbibyte",
            act=functools.partial(_claims, kind=kind),
        )
        for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"?")
    ),
    Case(kind="memory", name="long name in a tar is a bomb", act=_long_header),
    *(
        Case(kind="names", name=f"receipt of a tar {names}", act=_receipt(names), says=says)
        for names, says in (
            ({"a": "../secret.mp4"}, ("a.tar.json",)),
            ({"a": "/etc/passwd"}, ("a.tar.json",)),
            ({"a": None}, ("a.tar.json",)),
            ([1], ("a.tar.json", "delete")),
        )
    ),
    *(
        Case(kind="names", name=f"record {name!a}", act=_packed(name), says=says)
        for name, says in (
            ("../../up.mp4", ("does not",)),
            ("a.\0mp4", ("../../up",)),
            ("a.py", ("pack it as a video",)),
            ("x." + "y" * 400, ("pack it as a video",)),
        )
    ),
    *(
        Case(kind="names", name=f"clip key {key!a}", act=_key(key), says=("clip key",))
        for key in ("../../up", "/tmp/up", "..", "a\0b", "a\\b", "con", "x" * 300, "a\nb")
    ),
    Case(kind="names", name="link out of the folder of clips", act=_linked, says=("link",)),
    Case(kind="names", name="picture of an earlier row", act=_row_pictures),
]

# --- Text -------------------------------------------------------------------------------------

SPELL = "x | y\n\n# big <script>alert(1)</script> [a](http://b) `c` \x1b[2J"


def _report(folder: pathlib.Path) -> None:
    """A report of a system, clips and faults whose names are Markdown, HTML and escapes."""
    record = {
        "benchmark": SPELL,
        "system": SPELL,
        "num_clips": 1,
        "seed": 0,
        "metrics": {"depth/abs_rel": 0.5},
        "counts": {SPELL: 1},
        "notes": [SPELL],
        "faults": [SPELL],
        "skipped": {"a": SPELL},
        "unknown_clips": [SPELL],
        "protocols": {"abs_rel": SPELL},
    }
    clip = ClipEntry(name=SPELL, score=ClipScore(), pictures={}, faults=[SPELL])
    document.write_report(folder, record, [clip])
    text = (folder / "results.md").read_text()
    assert "<script" not in text and "\x1b" not in text and "\n# big" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}, rows
    assert "<script" not in (folder / "results.html").read_text()


def _page(folder: pathlib.Path) -> None:
    """A page of a curation whose clips carry such text."""
    job = Job(source=str(folder), workdir=str(folder))
    clip = Clip(key="a'onerror='x", video=SPELL, source=SPELL, caption=SPELL, group=SPELL)
    clip = clip.note(SPELL, SPELL).score(**{SPELL: SPELL}).reject(SPELL, SPELL)
    record = manifest.statistics([clip], [], {})
    made = page.write(job, [clip], record, 5).read_text()
    assert "<script" not in made and "'onerror" not in made


TEXT_CASES = [
    Case(kind="text", name="report", act=_report),
    Case(kind="text", name="page of a curation", act=_page),
]

CASES = [*FEATURES, *NAMES, *TEXT_CASES]
