"""The published layout of OpenUni, made here: tars of videos, and metadata."""

import csv
import io
import json
import pickle
import subprocess
import sys
import tarfile

import grain
import numpy as np
import pytest
import stand_ins

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.files.faults import SET_ASIDE
from unityvideo_jax.inputs import clip_shards, openuni_tars, packing
from unityvideo_jax.inputs.clip_shards import ClipSeries, ClipShardsSource, DecodedClips
from unityvideo_jax.inputs.pipeline import make_iterator
from unityvideo_jax.inputs.preparing import prepare

KINDS = {"RGB": "rgb", "depth": "depth", "raft": "flow"}
SIZE = dict(num_frames=5, height=16, width=32)


def _video(tmp_path, seed, frames=6):
    path = tmp_path / "video.mp4"
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 255, (frames, 1, 1, 3), np.uint8)
    media.write_video(path, np.broadcast_to(colour, (frames, 32, 64, 3)).copy(), 8.0)
    return path.read_bytes()


def _tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Eight whole clips, and three that lack something; returns root and files by kind and clip."""
    root = tmp_path_factory.mktemp("published")
    folder = root / "train" / "Koala36M"
    files = {kind: {} for kind in KINDS}
    for n in range(11):
        for k, kind in enumerate(KINDS):
            # Flow from each frame to the next has one frame fewer.
            files[kind][f"clip {n:02d}"] = _video(root, 10 * n + k, 5 if kind == "raft" else 6)
    del files["raft"]["clip 08"]
    files["depth"]["clip 09"] = b"not a video at all"
    for kind, clips in files.items():
        # The parts of two kinds do not correspond, nor do their members' folders and names.
        names = sorted(clips, reverse=kind == "depth")
        cut = {"RGB": 4, "depth": 7, "raft": 2}[kind]
        suffix = "" if kind == "RGB" else f"_{kind}"
        for part, chosen in enumerate([names[:cut], names[cut:]], 1):
            members = {f"data/{kind}/{name}{suffix}.mp4": clips[name] for name in chosen}
            ending = "tar" if kind == "raft" else "tar.gz"
            _tar(folder / kind / f"Koala36M_{kind}_part{part:03d}.{ending}", members)
    table = folder / "metadata" / "koala.csv"
    table.parent.mkdir()
    with open(table, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["videoID", "path", "caption", "aesthetic"])
        for n in range(10):  # clip 10 has no row
            writer.writerow([n, f"/nas/koala/clip {n:02d}.mp4", f"Clip, “{n}”\nof all", 0.5 + n])
    return root, files


@pytest.fixture(scope="module")
def packed(published, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("packed")
    card = packing.pack_openuni(published[0], workdir, subset="Koala36M")
    return workdir, card


def test_nothing_is_lost(published, packed):
    """Every record holds the tar's bytes, its caption and its whole row of metadata."""
    workdir, card = packed
    assert card.counts == {"train": 8}
    assert card.modalities == ("rgb", "depth", "flow")
    for kind, modality in KINDS.items():
        series = ClipSeries(workdir, "openuni", modality, "train")
        assert len(series) == 8
        for n in range(8):
            record = series[n]
            assert record.key == f"clip {n:02d}"
            assert record.data == published[1][kind][record.key]
            assert (record.fps, record.height, record.width) == (8.0, 32, 64)
            assert record.num_frames == (5 if kind == "raft" else 6)
    first = ClipSeries(workdir, "openuni", "rgb", "train")[3]
    assert first.text == "Clip, “3”\nof all"
    assert json.loads(first.metadata) == {
        "videoID": "3",
        "path": "/nas/koala/clip 03.mp4",
        "caption": "Clip, “3”\nof all",
        "aesthetic": "3.5",
    }
    assert not (workdir / "openuni" / packing.UNPACKED).exists()


def test_clips_set_aside_have_their_reasons(packed):
    workdir, _ = packed
    faults = json.loads((workdir / "openuni" / SET_ASIDE).read_text())["set_aside"]
    reasons = {fault["what"]: fault["reason"] for fault in faults}
    assert set(reasons) == {"clip 08", "clip 09", "clip 10"}
    assert reasons["clip 08"] == "no file of flow in the tars"
    assert "depth" in reasons["clip 09"] and "does not decode as video" in reasons["clip 09"]
    assert reasons["clip 10"] == "no row in the metadata"


def test_tfds_reads_it_without_our_code_and_without_tensorflow(published, packed):
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"source = tfds.data_source('openuni/depth', split='train', data_dir={str(packed[0])!r})\n"
        "print(len(source), source[2]['key'].decode(), len(source[2]['data']))\n"
        "builder = tfds.builder('openuni/rgb', data_dir=sys.argv[1])\n"
        "print('arXiv:2512.07831' in builder.info.citation, dict(builder.info.splits).keys())\n"
        "assert not {'tensorflow', 'torch', 'unityvideo_jax'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(packed[0])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    size = len(published[1]["depth"]["clip 02"])
    assert done.stdout.splitlines()[-2:] == [f"8 clip 02 {size}", "True dict_keys(['train'])"]


def test_prepare_and_the_grain_pipeline_read_it(packed, tmp_path):
    source = ClipShardsSource(packed[0], ("rgb", "depth", "flow"), split="train", **SIZE)
    prepare(
        source,
        stand_ins.encoder(),
        stand_ins.HashTexts(),
        workdir=tmp_path,
        modalities=("rgb", "depth", "flow"),
        **SIZE,
    )
    data = stand_ins.config(tmp_path, height=16, width=32)
    batch = next(make_iterator(data, ("rgb", "depth", "flow"), batch_size=4, seed=0))
    assert batch["latents"].shape == (4, 2, 2, 2, 4, 4)
    # The stand-in encoder takes means, and every frame has one colour, which the latents repeat.
    video = source.load([int(batch["index"][0])], ("rgb",)).videos["rgb"][0]
    np.testing.assert_allclose(
        batch["latents"][0, 0, :, 0, 0, :3], video[::4].mean((1, 2)), atol=0.01
    )


def test_grain_reads_decoded_clips_in_threads(packed):
    source = ClipShardsSource(packed[0], ("rgb", "flow"), split="train", **SIZE)
    again = pickle.loads(pickle.dumps(source))
    assert list(again.keys) == list(source.keys)
    dataset = grain.MapDataset.source(DecodedClips(again, ("rgb", "flow")))
    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
    for n, element in enumerate(dataset.to_iter_dataset(options)):
        expected = source.load([n], ("rgb", "flow"))
        assert element["key"] == source.keys[n]
        for modality in ("rgb", "flow"):
            np.testing.assert_array_equal(element["video"][modality], expected.videos[modality][0])


def test_a_broken_tar_is_named_or_left_out(published, tmp_path):
    root, files = published
    broken = tmp_path / "root"
    for tar in root.rglob("*.tar*"):
        copy = broken / tar.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = tar.read_bytes()
        copy.write_bytes(data[: len(data) // 2] if "RGB_part002" in tar.name else data)
    table = next(root.rglob("*.csv"))
    (broken / table.relative_to(root)).parent.mkdir(parents=True)
    (broken / table.relative_to(root)).write_bytes(table.read_bytes())
    with pytest.raises(UserError, match=r"RGB_part002.tar.gz: breaks off after \d+ files .*again"):
        packing.pack_openuni(broken, tmp_path / "out", subset="Koala36M")
    card = packing.pack_openuni(broken, tmp_path / "out", subset="Koala36M", allow_faults=True)
    assert 4 <= card.counts["train"] < 8
    series = ClipSeries(tmp_path / "out", "openuni", "rgb", "train")
    for n in range(len(series)):
        assert series[n].data == files["RGB"][series[n].key]


def test_a_killed_run_goes_on(published, packed, tmp_path, monkeypatch):
    """Killed while packing the third series: no tar is unpacked again, and nothing differs."""

    def killed(*args, **kwargs):
        if args[2] == "flow":
            raise KeyboardInterrupt
        return written(*args, **kwargs)

    written = clip_shards.write_series
    monkeypatch.setattr(clip_shards, "write_series", killed)
    with pytest.raises(KeyboardInterrupt):
        packing.pack_openuni(published[0], tmp_path, subset="Koala36M")
    assert clip_shards.find_card(tmp_path) is None
    monkeypatch.setattr(clip_shards, "write_series", written)

    def refuse(*args, **kwargs):
        raise AssertionError("a finished tar was opened again")

    monkeypatch.setattr(openuni_tars.tarfile, "open", refuse)
    card = packing.pack_openuni(published[0], tmp_path, subset="Koala36M")
    assert card == packed[1]
    for modality in card.modalities:
        ours, theirs = (ClipSeries(d, "openuni", modality, "train") for d in (tmp_path, packed[0]))
        assert [ours[n] for n in range(8)] == [theirs[n] for n in range(8)]
    assert packing.pack_openuni(published[0], tmp_path, subset="Koala36M") == card
    with pytest.raises(UserError, match="give another --workdir"):
        packing.pack_openuni(published[0], tmp_path, subset="Koala36M", modalities=("rgb",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "OpenS2V"}, "no subset 'OpenS2V'.*Koala36M"),
        ({"modalities": ("rgb", "skeleton")}, "no tars of skeleton"),
        ({"caption_column": "story"}, "no caption column among videoID, path, caption"),
    ],
)
def test_bad_requests_name_the_fix(published, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        packing.pack_openuni(published[0], tmp_path, **{"subset": "Koala36M"} | options)


def test_metadata_of_other_clips_is_refused(published, tmp_path):
    table = tmp_path / "other.csv"
    table.write_text("path,caption\nsomething.mp4,hello\n")
    with pytest.raises(UserError, match="no column names any of the 1 clips"):
        openuni_tars.describe([table], ["clip 01"])


@pytest.mark.parametrize(
    ("name", "modality", "key"),
    [
        ("a/b/x1.mp4", "rgb", "x1"),
        ("x1_depth.mp4", "depth", "x1"),
        ("x1_raft.npz", "flow", "x1"),
        ("x1.flow.mp4", "flow", "x1"),
        ("x1_depth.mp4", "rgb", "x1_depth"),
    ],
)
def test_clip_key(name, modality, key):
    assert openuni_tars.clip_key(name, modality) == key
