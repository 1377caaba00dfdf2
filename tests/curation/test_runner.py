import json
import os
import pathlib
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time

import made_stages
import made_videos
import pytest

from unityvideo_jax.curation import cutting, duplicates, filters, phases, runner, stage
from unityvideo_jax.curation.journal import Journal
from unityvideo_jax.curation.stage import Clip, Job, Outcome
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import lock

HERE = pathlib.Path(__file__).resolve().parent
CHAIN = (
    cutting.Probe(),
    cutting.Scenes(),
    cutting.Cut(num_frames=5, fps=8),
    filters.Motion(pairs=2),
    duplicates.Fingerprint(),
)
ALL = (*CHAIN, duplicates.Duplicates(max_bits=4), made_stages.Mark(value=1))
NAMES = [f"{n}.mp4" for n in range(6)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Six sound videos, of which two are alike, and a broken one."""
    folder = tmp_path_factory.mktemp("videos")
    for n, name in enumerate(NAMES):
        frames = made_videos.moving(16, seed=min(n, 4))
        made_videos.write(folder / "some" / name, frames)
    (folder / "broken.mp4").write_bytes(b"nothing of use")
    return folder


def outcome(source, workdir, stages=ALL, num_workers=0):
    """The rows, and every clip's file byte for byte."""
    job = Job(source=str(source), workdir=str(workdir))
    clips = runner.run_job(stages, job, num_workers=num_workers)
    return [c.row() for c in clips.values()], {p.name: p.read_bytes() for p in job.clips.iterdir()}


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    return outcome(source, tmp_path_factory.mktemp("expected"))


def test_every_clip_has_one_row_and_its_reason(expected):
    rows, files = expected
    keys = [row["key"] for row in rows]
    assert keys == sorted(set(keys))
    lost = {row["key"].split("-")[0]: row["rejected_by"] for row in rows if row["rejected_by"]}
    assert lost["broken"] == "probe" and set(lost) <= {"broken", "4", "5"}
    # 2 s hold three clips of 5 frames at 8 fps; the two videos alike give three between them.
    passed = [row for row in rows if not row["rejected_by"]]
    assert len(passed) == 5 * 3 and len(rows) == 6 * 3 + 1 and len(files) == 18
    assert all(row["scores"]["mark"] == 1 and row["modalities"] == ("flow",) for row in passed)
    for row in rows:
        assert Clip.from_row(json.loads(json.dumps(row))).row() == row


def test_workers_make_no_difference(source, expected, tmp_path):
    assert outcome(source, tmp_path, num_workers=2) == expected


def test_a_second_run_does_nothing_and_says_the_same(source, expected, tmp_path, monkeypatch):
    assert outcome(source, tmp_path) == expected
    monkeypatch.setattr(stage, "run", None)
    assert outcome(source, tmp_path) == expected


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import made_stages, test_runner
slow = made_stages.Slow(seconds=0.15)
chain = (*test_runner.CHAIN, slow, *test_runner.ALL[-2:])
test_runner.outcome({source!r}, {workdir!r}, chain)
"""


def test_a_killed_run_resumes_without_duplicates_or_gaps(source, tmp_path):
    slow = made_stages.Slow(seconds=0.0)
    whole = outcome(source, tmp_path / "whole", (*CHAIN, slow, *ALL[-2:]))
    paths = [str(HERE.parents[1]), str(HERE)]
    script = SCRIPT.format(paths=paths, source=str(source), workdir=str(tmp_path / "killed"))
    # The pause changes no result: the run without a pause continues the journal.
    script = script.replace("seconds=0.15", "seconds=0.0").replace(
        "chain = ", "made_stages.Slow.__call__ = lambda s, c, j: (__import__('time').sleep(0.15), "
        "[c.score(slow=True)])[1]\nchain = ",
    )  # fmt: skip
    journal = tmp_path / "killed" / runner.FOLDER / "clips.jsonl"
    generator = random.Random(os.urandom(8))
    lines = 0
    for kill in range(2):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
        while process.poll() is None and lines < 2 + kill:
            time.sleep(0.005)
            lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
        time.sleep(generator.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 2 <= lines <= 8
    # A kill may also tear the line that was being written.
    with open(journal, "a") as handle:
        handle.write('{"key": "3-')
    rows, files = outcome(source, tmp_path / "killed", (*CHAIN, slow, *ALL[-2:]))
    left = {name for name in files if name.endswith(".part")}
    assert rows == whole[0]
    assert {n: b for n, b in files.items() if n not in left} == whole[1]


def test_a_video_that_kills_its_process_is_set_aside(source, tmp_path):
    for name in ("3.mp4", "4.mp4"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(source / "some" / name, tmp_path / "in")
    stages = (made_stages.Kills(video="4.mp4"), *CHAIN[:3])
    rows, _ = outcome(tmp_path / "in", tmp_path, stages, num_workers=1)
    lost = {row["key"].split("-")[0]: row["reason"] for row in rows if row["rejected_by"]}
    assert set(lost) == {"4"} and "its process died" in lost["4"]
    assert sum(not row["rejected_by"] for row in rows) == 3


def test_a_stage_that_fails_rejects_the_clip_and_says_where(source, tmp_path):
    stages = (cutting.Probe(), made_stages.Fails(video="some/2.mp4"))
    rows, _ = outcome(source, tmp_path, stages)
    (lost,) = [row for row in rows if row["rejected_by"] == "fails"]
    assert lost["reason"].startswith("failed: KeyError: 'oops' (made_stages.py:")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_cannot_be_set_up_stops_the_job(source, tmp_path, num_workers):
    with pytest.raises(UserError, match="no weights"):
        outcome(source, tmp_path, (*CHAIN[:1], made_stages.Unready()), num_workers)


def test_a_lone_stage_is_added_without_redoing_the_others(source, tmp_path, monkeypatch):
    first = (*ALL[:-1], made_stages.Mark(off=True), made_stages.Later(value=5))
    rows, _ = outcome(source, tmp_path, first)
    passed = [row for row in rows if not row["rejected_by"]]
    assert all(row["notes"]["mark"] == "skipped: it is off" for row in passed)
    ran = []
    original = stage.run

    def run(chain, clip, job):
        ran.append(chain[0].name)
        return original(chain, clip, job)

    monkeypatch.setattr(stage, "run", run)
    second = (*ALL[:-1], made_stages.Mark(value=3), made_stages.Later(value=5))
    rows, _ = outcome(source, tmp_path, second)
    passed = [row for row in rows if not row["rejected_by"]]
    assert ran == ["mark"] * len(passed)
    assert all(row["scores"]["mark"] == 3 and row["scores"]["later"] == 5 for row in passed)
    assert all(row["modalities"] == ("flow", "depth") for row in passed)


def test_other_settings_are_refused_and_named(source, tmp_path):
    outcome(source, tmp_path, CHAIN[:3])
    other = (*CHAIN[:2], cutting.Cut(num_frames=9, fps=8))
    with pytest.raises(UserError, match=r"config\.cut\.num_frames=5, now .*num_frames=9"):
        outcome(source, tmp_path, other)


def test_one_run_at_a_time(source, tmp_path):
    file, says = tmp_path / runner.FOLDER / ".lock", f"in use by process {os.getpid()};"
    with lock.locked(file, "test"), pytest.raises(UserError, match=says):
        outcome(source, tmp_path, CHAIN[:1])


def test_stages_pickle_and_phases_know_what_they_depend_on():
    assert pickle.loads(pickle.dumps(ALL)) == ALL
    plan = phases.split(ALL)
    assert [p.name for p in plan] == ["clips", "duplicates", "mark"]
    assert "config.duplicates.max_bits" not in plan[0].settings
    assert plan[2].settings["config.duplicates.max_bits"] == 4
    # A lone stage concerns no other, unless a decision follows.
    marks = phases.split((*CHAIN, made_stages.Mark(value=1), made_stages.Later()))
    assert "config.mark.value" not in marks[-1].settings
    decided = phases.split((*CHAIN, made_stages.Mark(), ALL[5], made_stages.Later()))
    assert "config.mark.value" in decided[-1].settings
    with pytest.raises(UserError, match="'clips' twice"):
        runner.check_names(phases.split((*ALL[:6], filters.Motion())))


def test_a_journal_keeps_the_first_of_two_lines(tmp_path):
    journal = Journal(tmp_path / "a.jsonl", {"n": 1})
    for value in (1, 2):
        journal.add("a", Outcome(clips=[Clip(key="a", video="v").score(x=value)]))
    (line,) = Journal(tmp_path / "a.jsonl", {"n": 1}).lines()
    assert line["clips"][0]["scores"] == {"x": 1}
