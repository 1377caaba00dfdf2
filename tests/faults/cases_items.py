"""One bad item among others: its fault is listed, the others finish, and nothing is done twice."""

import io
import json
import os
import pathlib
import shutil
import tarfile
from collections.abc import Callable

import numpy as np

from tests.evaluation import folder_clips
from tests.faults.cases_text import TARGET, write_clip
from tests.faults.harness import Case, run_program
from tests.inputs import stand_ins
from unityvideo_jax.curation import cutting
from unityvideo_jax.curation.journal import Journal
from unityvideo_jax.curation.stage import Clip, Outcome
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import score_folder
from unityvideo_jax.evaluation.benchmarks.folder import FolderClips
from unityvideo_jax.evaluation.score_folder import HarnessConfig
from unityvideo_jax.inputs import openuni_tars, packing
from unityvideo_jax.inputs.folder import FolderSource
from unityvideo_jax.inputs.preparing import prepare

STREAMS = ("rgb", "depth")


def _six(folder: pathlib.Path) -> pathlib.Path:
    """Clips c0 to c5 of five frames with depth."""
    clips = folder / "clips"
    clips.mkdir()
    for n in range(6):
        write_clip(clips / f"c{n}.mp4", level=30 * n)
        (clips / f"c{n}.txt").write_text(f"clip {n}")
        np.savez_compressed(clips / f"c{n}.depth.npz", depth=_depth(n))
    return clips


def _depth(n: int) -> np.ndarray:
    return np.linspace(1, 2 + n, 5 * 32 * 32, dtype=np.float32).reshape(5, 32, 32)


def _prepare(clips: pathlib.Path, loaded: list[str] | None = None, streams=STREAMS, **options):
    """Prepares a folder with stand-ins; `loaded` gets the keys of the clips that are encoded."""
    source = FolderSource(clips, streams, **TARGET, **options)
    if loaded is not None:
        load = source.load

        def noted(indices, modalities):
            batch = load(indices, modalities)
            loaded.extend(source.keys[n] for n in dict.fromkeys(indices))
            return batch

        source.load = noted
    return prepare(
        source,
        stand_ins.encoder(),
        stand_ins.HashTexts(),
        workdir=clips.parent / "out",
        modalities=streams,
        chunk_size=2,
        batch_size=2,
        **TARGET,
        **options,
    )


def _flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    for n in range(len(data) // 2, len(data) // 2 + 8):
        data[n] ^= 0xFF
    path.write_bytes(data)


def _bytes(content: bytes, name: str) -> Callable[[pathlib.Path], object]:
    return lambda clips: (clips / name).write_bytes(content)


def _duplicate(clips: pathlib.Path) -> None:
    shutil.copy(clips / "c4.mp4", clips / "c4.mov")


def _nameless(clips: pathlib.Path) -> None:
    for suffix in (b".mp4", b".txt", b".depth.npz"):
        os.rename(os.fsencode(clips) + b"/c4" + suffix, os.fsencode(clips) + b"/c4\xff" + suffix)


def _broken_line(clips: pathlib.Path) -> None:
    for suffix in (".mp4", ".txt", ".depth.npz"):
        (clips / f"c4{suffix}").rename(clips / f"c4\n{suffix}")


def _link(clips: pathlib.Path) -> None:
    (clips / "c4.mp4").unlink()
    (clips / "c4.mp4").symlink_to("gone.mp4")


def _not_finite(clips: pathlib.Path) -> None:
    np.savez(clips / "c4.depth.npz", depth=np.full((5, 32, 32), np.nan, np.float32))


DAMAGE: dict[str, Callable[[pathlib.Path], object]] = {
    "too few frames": lambda clips: write_clip(clips / "c4.mp4", frames=3),
    "no video": _bytes(b"nothing", "c4.mp4"),
    "an empty video": _bytes(b"", "c4.mp4"),
    "npz cut off": lambda c: (c / "c4.depth.npz").write_bytes(
        (c / "c4.depth.npz").read_bytes()[:99]
    ),
    "npz with flipped bits": lambda clips: _flip(clips / "c4.depth.npz"),
    "npz that is a pickle": _bytes(b"\x80\x04N.", "c4.depth.npz"),
    "depth that is not finite": _not_finite,
    "no depth": lambda clips: (clips / "c4.depth.npz").unlink(),
    "no caption": lambda clips: (clips / "c4.txt").unlink(),
    "a caption in latin-1": _bytes("é".encode("latin-1"), "c4.txt"),
    "two videos": _duplicate,
    "a name that is not UTF-8": _nameless,
    "a name with a line break": _broken_line,
    "a link to nothing": _link,
}


def _alone(damage: Callable[[pathlib.Path], object]):
    """With --allow_faults the other five clips are written and the bad one is listed."""

    def act(folder: pathlib.Path) -> None:
        clips = _six(folder)
        damage(clips)
        card = _prepare(clips, allow_faults=True)
        assert card.count == 5, card.count
        faults = json.loads((folder / "out" / "set_aside.json").read_text())["set_aside"]
        assert faults and all("c4" in fault["what"] + fault["reason"] for fault in faults), faults
        # The same command finds that all is done.
        assert _prepare(clips, allow_faults=True) == card

    return act


def _error_then(repair: Callable[[pathlib.Path], object], left: int, again: set[str]):
    """The error names c4; after `repair` the same command does no finished clip again."""

    def act(folder: pathlib.Path) -> None:
        clips = _six(folder)
        write_clip(clips / "c4.mp4", frames=3)
        loaded: list[str] = []
        try:
            _prepare(clips, loaded)
            raise AssertionError("c4 was taken")
        except UserError as error:
            assert "c4" in str(error) and "--allow_faults" in str(error), error
        assert {*loaded} == {"c0", "c1", "c2", "c3", "c5"}, loaded
        repair(clips)
        loaded.clear()
        assert _prepare(clips, loaded).count == left
        assert {*loaded} == again, loaded

    return act


def _away(clips: pathlib.Path) -> None:
    for path in clips.glob("c4.*"):
        path.unlink()


def _mixed(folder: pathlib.Path) -> None:
    """Videos in subfolders are clips; what is no clip is not called one."""
    (folder / "train" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "train" / "loop").symlink_to(folder)
    for name in ("a", "train/b", "train/deep/b"):
        write_clip(folder / f"{name}.mp4")
        (folder / f"{name}.txt").write_text(name)
    for name in ("notes.md", "train/list.xlsx", "train/alone.txt"):
        (folder / name).write_text("x")
    source = FolderSource(folder, ("rgb",), **TARGET)
    assert source.keys == ["a", "train/b", "train/deep/b"], source.keys
    assert source.load([2], ("rgb",)).texts["rgb"] == ["train/deep/b"]


def _ignored(folder: pathlib.Path) -> None:
    """What is ignored is listed, with how many there are."""
    clips = folder / "clips"
    clips.mkdir()
    write_clip(clips / "a.mp4")
    for name in ("a.txt", "b.txt", "notes.md", "c.mpq"):
        (clips / name).write_text("x")
    vae = stand_ins.save_tiny_vae(folder / "vae")
    printed = run_program(
        "prepare", f"--source={clips}", f"--workdir={folder / 'out'}", f"--vae={vae}",
        "--modalities=rgb", "--num_frames=5", "--height=16", "--width=16",
    )  # fmt: skip
    assert "ignored 3 files: b.txt, c.mpq, notes.md" in printed, printed


def _score(damage: Callable[[pathlib.Path], object], word: str):
    """A damaged prediction or truth is a fault of its row, and the other clip is scored."""

    def act(folder: pathlib.Path) -> None:
        truth = {name: folder_clips.truth(0)[name] for name in ("depth",)}
        for side in ("truth", "theirs"):
            for clip in ("a", "b"):
                folder_clips.write(folder / side / clip, truth)
        damage(folder)
        config = HarnessConfig(
            benchmark=folder / "truth", predictions=folder / "theirs", output=folder / "out"
        )
        outcome = score_folder.run(config)
        assert outcome.counts["clips_scored"] == 1, outcome.counts
        assert len(outcome.faults) == 1 and word in outcome.faults[0], outcome.faults
        assert outcome.faults[0].isprintable()

    return act


def _write(name: str, content: bytes) -> Callable[[pathlib.Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _rename(folder: pathlib.Path, name: bytes) -> None:
    for side in (b"truth", b"theirs"):
        place = os.fsencode(folder) + b"/" + side
        os.rename(place + b"/b", place + b"/" + name)


def _compressed(folder: pathlib.Path) -> None:
    path = folder / "theirs" / "b" / "depth.npz"
    np.savez_compressed(path, depth=np.random.default_rng(0).random((3, 32, 48)))
    _flip(path)


SCORED = {
    "npz with flipped bits": (_compressed, "depth.npz"),
    "npz cut off": (_write("theirs/b/depth.npz", b"PK\x03\x04 no"), "depth.npz"),
    "npz of text": (
        lambda folder: np.savez(folder / "theirs/b/depth.npz", depth=np.full((3, 32, 48), "far")),
        "depth",
    ),
    "clip.json that is no JSON": (_write("truth/b/clip.json", b"{"), "clip.json"),
    "clip.json in latin-1": (_write("truth/b/clip.json", b'{"caption": "\xe9"}'), "clip.json"),
    "clip.json with another type": (_write("truth/b/clip.json", b'{"fps": "fast"}'), "fps"),
    "sample.json that is no object": (_write("theirs/b/sample.json", b"[]"), "sample.json"),
    "a name that is not UTF-8": (lambda folder: _rename(folder, b"b\xff"), "name"),
    "a name with a line break": (lambda folder: _rename(folder, b"b\nc"), "name"),
}


def _scored_by_a_run(folder: pathlib.Path) -> None:
    """Damaged clips of a folder are left out of a run's batches, and named."""
    benchmark = folder_clips.benchmark(folder / "bench", clips=5)
    os.truncate(benchmark / "clip0" / "depth.npz", 99)
    (benchmark / "clip2" / "clip.json").write_text('{"fps": "fast"}')
    (benchmark / "clip3" / "rgb.mp4").write_bytes(b"nothing")
    clips = FolderClips(benchmark, num_frames=1, height=32, width=48)
    batches = list(clips.batches(range(5), 2))
    assert [batch.index.tolist() for batch in batches] == [[1, 4]], batches
    assert sorted(clips.faults) == [0, 2, 3] and "clip.json" in clips.faults[2]


def _journal(line: bytes):
    """A damaged line of a journal costs its clip alone."""

    def act(folder: pathlib.Path) -> None:
        path = folder / "clips.jsonl"
        journal = Journal(path, {"n": 1})
        for key in "abc":
            journal.add(key, Outcome(clips=[Clip(key=key, video=f"{key}.mp4")]))
        lines = path.read_bytes().splitlines()
        lines[2] = line
        path.write_bytes(b"\n".join(lines) + b"\n")
        again = Journal(path, {"n": 1})
        assert [found["key"] for found in again.lines()] == ["a", "c"]

    return act


def _curation_names(folder: pathlib.Path) -> None:
    """Videos whose names are no text are rejected with the reason; the others are found."""
    write_clip(folder / "good.mp4")
    for name in (b"bad\xff.mp4", b"bad\nline.mp4"):
        shutil.copy(os.fsencode(folder / "good.mp4"), os.fsencode(folder) + b"/" + name)
    found = cutting.find(str(folder))
    assert [clip.video for clip in found if not clip.rejected_by] == ["good.mp4"]
    bad = [clip for clip in found if clip.rejected_by]
    assert len(bad) == 2 and all("rename" in clip.reason for clip in bad)
    json.dumps([clip.row() for clip in found], ensure_ascii=False).encode()


def _tar_names(folder: pathlib.Path) -> None:
    """Members with odd names are set aside, and the others are unpacked."""
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name in ("one.mp4", "b\nc.mp4", "x" * 300 + ".mp4", "d\udcff.mp4", "two.mp4"):
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"data"))
    files, faults = openuni_tars.unpack(folder / "a.tar", "rgb", folder / "out")
    assert sorted(files) == ["one", "two"] and len(faults) == 3, (files, faults)
    assert all(f"{fault.what} {fault.reason}".isprintable() for fault in faults)


def _packed(folder: pathlib.Path) -> pathlib.Path:
    benchmark = folder_clips.benchmark(folder / "bench", clips=4)
    (benchmark / "clip0" / "clip.json").write_text('{"caption": 7}')
    (benchmark / "clip1" / "flow.npz").unlink()
    return benchmark


def _pack(folder: pathlib.Path) -> None:
    packing.pack_benchmark(_packed(folder), folder / "out")


def _pack_without(folder: pathlib.Path) -> None:
    card = packing.pack_benchmark(_packed(folder), folder / "out", allow_faults=True)
    assert card.counts == {"test": 2}
    aside = json.loads((folder / "out" / "unibench" / "set_aside.json").read_text())["set_aside"]
    assert [fault["what"] for fault in aside] == ["clip0", "clip1"]


FAST = ("too few frames", "a caption in latin-1", "a name that is not UTF-8")
LINES = {
    "cut": b'{"key":"b","cl',
    "not UTF-8": b'{"key":"\xff"}',
    "another object": b'{"key": "b"}',
    "a number": b"17",
}
CASES = [
    *(
        Case(kind="one bad clip", name=name, act=_alone(damage), slow=name not in FAST)
        for name, damage in DAMAGE.items()
    ),
    Case(kind="one bad clip", name="moved away", act=_error_then(_away, 5, set())),
    Case(
        kind="one bad clip",
        name="replaced",
        act=_error_then(lambda clips: write_clip(clips / "c4.mp4"), 6, {"c4"}),
        slow=True,
    ),
    Case(kind="folders", name="subfolders", act=_mixed),
    Case(kind="folders", name="ignored files", act=_ignored, slow=True),
    *(
        Case(kind="one bad row", name=name, act=_score(damage, word), slow=n > 0)
        for n, (name, (damage, word)) in enumerate(SCORED.items())
    ),
    Case(kind="one bad row", name="scored by a run", act=_scored_by_a_run),
    *(Case(kind="journal", name=name, act=_journal(line)) for name, line in LINES.items()),
    Case(kind="names", name="videos to curate", act=_curation_names),
    Case(kind="names", name="members of a tar", act=_tar_names),
    Case(
        kind="packing", name="faults are named", act=_pack, says=("clip0", "2 faults in 4", "--al")
    ),
    Case(kind="packing", name="faults are left out", act=_pack_without, slow=True),
]
