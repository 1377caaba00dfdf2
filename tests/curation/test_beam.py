"""The curation on Apache Beam against the local runner. Skipped where apache-beam is missing."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from unityvideo_jax import media
from unityvideo_jax.curation import cutting
from unityvideo_jax.curation import stage as stage_module
from unityvideo_jax.curation.beam import Beam, map_part, run_apart
from unityvideo_jax.curation.phases import Phase
from unityvideo_jax.curation.stage import Job
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import shards

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from poison_stages import Poison, Unready  # noqa: E402

THREADS = ("--runner=DirectRunner", "--direct_running_mode=in_memory")
PROCESSES = (
    "--runner=DirectRunner",
    "--direct_running_mode=multi_processing",
    "--direct_num_workers=3",
)
needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="apache-beam is not installed"
)


def write_videos(folder, names, frames=20):
    folder.mkdir(exist_ok=True)
    for n, name in enumerate(names):
        ramp = (np.arange(64) * 3 + 17 * n).astype(np.uint8)
        video = np.broadcast_to(ramp[None, None, :, None], (frames, 48, 64, 3)).copy()
        media.write_video(folder / f"{name}.mp4", video, 8.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Good videos, and one of each poison: broken files, and what the stages do to a worker."""
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder, ["good0", "good1", "good2", "crash", "hang", "raise"])
    whole = (folder / "good0.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    (folder / "empty.mp4").write_bytes(b"")
    Image.new("RGB", (32, 32)).save(folder / "picture.png")
    (folder / "picture.png").rename(folder / "picture.mp4")
    return folder


def run(source, workdir, *options, check=True, start=False):
    command = [sys.executable, str(HERE / "run_beam.py"), str(source), str(workdir), *options]
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
    # Every run encodes by the same programs: compiled once.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(source.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = {**os.environ, **cache, "PYTHONPATH": path}
    workdir.parent.mkdir(exist_ok=True)
    if start:
        return subprocess.Popen(command, env=environment, start_new_session=True)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 or not check, done.stderr[-3000:]
    return done


def contents(workdir):
    """The manifest, every clip's files, and every record, byte for byte."""
    found = {"manifest": (workdir / "manifest.jsonl").read_text()}
    for path in sorted((workdir / "clips").iterdir()):
        found[path.name] = path.read_bytes()
    series = shards.Series(workdir, "rgb")
    for n in range(len(series)):
        record = series[n]
        found["record", n] = (record["key"], record["text"], record["latents"].tobytes())
    return found


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("local") / "work"
    # The local runner knows no time limit: it gets every video but the endless one.
    others = tmp_path_factory.mktemp("others")
    for path in source.iterdir():
        if path.stem != "hang":
            (others / path.name).write_bytes(path.read_bytes())
    run(others, workdir)
    return contents(workdir)


@needs_beam
@pytest.mark.slow
@pytest.mark.parametrize("options", [THREADS, PROCESSES])
def test_the_same_shards_whatever_the_runner_and_poison_is_set_aside(
    source, local, tmp_path, options
):
    workdir = tmp_path / "work"
    run(source, workdir, *options)
    found = contents(workdir)
    rows = [json.loads(row) for row in found["manifest"].splitlines()]
    reasons = {row["video"]: row["reason"] for row in rows if row["rejected_by"]}
    assert "took longer than 8 s" in reasons.pop("hang.mp4")
    assert "its process died" in reasons["crash.mp4"]
    assert "poisoned" in reasons["raise.mp4"]
    assert reasons.keys() == {"crash.mp4", "raise.mp4", "truncated.mp4", "empty.mp4", "picture.mp4"}
    # All but the endless video's row is what the local runner gives.
    passed = [row for row in rows if row["video"] != "hang.mp4"]
    assert passed == [json.loads(row) for row in local["manifest"].splitlines()]
    ours = {k: v for k, v in found.items() if k != "manifest" and "hang" not in str(k)}
    assert ours == {k: v for k, v in local.items() if k != "manifest"}
    assert sum(isinstance(key, tuple) for key in ours) == 9
    assert not list((workdir / "curation").glob("*.parts"))


@needs_beam
@pytest.mark.slow
def test_a_killed_job_resumes_with_what_is_missing(tmp_path):
    source, workdir = tmp_path / "videos", tmp_path / "work"
    write_videos(source, [f"good{n}" for n in range(5)] + ["hang"])
    process = run(source, workdir, *THREADS, start=True)
    deadline = time.monotonic() + 600
    while not list(workdir.glob("curation/*.parts/*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    parts = list(workdir.glob("curation/*.parts/*.jsonl"))
    finished = {json.loads(x)["key"] for part in parts for x in part.read_text().splitlines()}
    assert 0 < len(finished) < 6
    run(source, workdir, *THREADS)
    counts = {p.name: len(p.read_text().splitlines()) for p in (tmp_path / "counts").iterdir()}
    done_before = {name: n for name, n in counts.items() if name.rpartition("-")[0] in finished}
    # Three clips of each good video; what was finished ran once.
    assert done_before and set(done_before.values()) == {1}
    whole = tmp_path / "other" / "work"
    run(source, whole, *THREADS)
    assert contents(whole) == contents(workdir)


@needs_beam
def test_stages_that_cannot_be_set_up_stop_the_job_in_their_words(tmp_path):
    write_videos(tmp_path / "videos", ["good"], frames=5)
    clips = cutting.find(str(tmp_path / "videos"))
    job = Job(source=str(tmp_path / "videos"), workdir=str(tmp_path))
    phase = Phase(stages=(Unready(),), settings={})
    with pytest.raises(UserError, match=r"config.unready.weights: no such folder"):
        list(Beam(options=THREADS)(phase, clips, job))


def test_without_beam_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    clip = stage_module.Clip(key="a", video="a.mp4")
    job = Job(source=str(tmp_path), workdir=str(tmp_path))
    with pytest.raises(UserError, match=r"pip install 'unityvideo_jax\[beam\]'"):
        list(Beam()(Phase(stages=(Poison(),)), [clip], job))


def test_a_worker_outlives_its_clips_and_repeats_no_part(tmp_path):
    """What a worker does, without a runner: poison costs a child, a part is written once."""
    chain = (Poison(count_in=str(tmp_path / "counts")),)
    (tmp_path / "counts").mkdir()
    parts = tmp_path / "parts"
    parts.mkdir()
    job = Job(source=str(tmp_path), workdir=str(tmp_path))
    rows = [
        stage_module.Clip(key=key, video=f"{key}.mp4").row()
        for key in ("one", "crash", "two", "hang", "three")
    ]
    for _ in range(2):
        assert map_part(rows, chain=chain, job=job, parts=str(parts), seconds=2.0) == 5
    (file,) = parts.iterdir()
    found = [json.loads(text) for text in file.read_text().splitlines()]
    assert [line["key"] for line in found] == ["one", "crash", "two", "hang", "three"]
    reasons = [line["clips"][0]["reason"] for line in found]
    assert reasons[0] == reasons[2] == reasons[4] == ""
    assert "its process died" in reasons[1] and reasons[3] == "took longer than 2 s"
    assert {p.read_text() for p in (tmp_path / "counts").iterdir()} == {"seen\n"}
    with pytest.raises(UserError, match="no such folder; download"):
        run_apart((Unready(),), stage_module.Clip(key="a", video="a.mp4"), job, 5.0)
