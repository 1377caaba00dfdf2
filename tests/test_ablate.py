"""The program of the grid: what is finished is not repeated, and what changed is refused.

Training and scoring are stand-ins here; tests/ablations/test_measure.py scores a model.
"""

import json
import os
import types

import in_process
import pytest

from unityvideo_jax import ablate
from unityvideo_jax.ablations import log, page, scoring
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import lock
from unityvideo_jax.training.loop import Ended

ARMS = ("--arms=rgb,all", "--seeds=0,1")


class _Evaluator:
    def __init__(self, arm, settings, estimator):
        pass

    def reference(self, arm):
        return {"metrics": {}, "pairs": {}, "evaluation_seconds": {}}

    def run(self, workdir, arm, draw):
        found = {"rgb_loss/alone": 0.25 + 0.1 * (arm.name == "rgb")}
        return {"metrics": found, "pairs": {"rgb": "01"}, "evaluation_seconds": {"losses": 1.0}}


@pytest.fixture
def trained(monkeypatch):
    """`names` of runs in the order in which they are trained; `ends` says how, by name."""
    names, ends = [], {}

    def train(run, workdir):
        names.append(run.name)
        end = ends.pop(run.name, Ended(step=run.arm.config.train.steps, stopped=False))
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(ablate, "_train", train)
    monkeypatch.setattr(scoring, "Evaluator", _Evaluator)
    monkeypatch.setattr(scoring, "curve", lambda workdir: [])
    return types.SimpleNamespace(names=names, ends=ends)


def _run(folder, *args, **flags):
    flags = {"steps": 10} | flags
    given = (f"--{name}={value}" for name, value in flags.items())
    return in_process.run("ablate", f"--output={folder}", *ARMS, *given, *args)


@pytest.mark.slow
def test_a_resumed_grid_repeats_no_finished_run(trained, tmp_path):
    grid = tmp_path / "grid"
    assert _run(grid, "--dry_run").returncode == 0 and not grid.exists()
    trained.ends["all_0"] = Ended(step=4, stopped=True)
    first = _run(grid)
    assert first.returncode == 0 and trained.names == ["rgb_0", "all_0"]
    assert "1 of 5 finished" in first.stdout and "again to continue" in first.stdout
    trained.names.clear()
    # One that diverges does not cost the others.
    trained.ends["rgb_1"] = UserError("step 3: the loss is not finite")
    second = _run(grid)
    assert second.returncode == 2 and trained.names == ["all_0", "rgb_1", "all_1"]
    assert "failed, as listed above: rgb_1" in second.stderr
    trained.names.clear()
    third = _run(grid)
    assert third.returncode == 0 and trained.names == ["rgb_1"]
    trained.names.clear()
    assert "5 of 5 finished" in _run(grid).stdout and trained.names == []
    assert set(log.read(grid / log.FILE)) == {"rgb_0", "all_0", "all_1", "reference", "rgb_1"}
    page = (grid / "results.md").read_text()
    assert "0.3500 ± 0.0000" in page
    again = tmp_path / "page.md"
    done = in_process.run("ablate", f"--log={grid / log.FILE}", f"--page={again}")
    assert done.returncode == 0 and again.read_text() == page.replace("results/", "page/")

    # What may not change within a grid.
    for args, says in (
        ({"steps": 20}, "rgb_0: the log has it with another configuration"),
        ({"measure": "clips=64"}, "evaluation was"),
        ({"change": "data.fps=4.0"}, "size was [17, 64, 64, 8.0]"),
    ):
        done = _run(grid, **args)
        assert done.returncode == 2 and says in done.stderr, done.stderr
    lines = (grid / log.FILE).read_text().splitlines()
    changed = json.loads(lines[0])
    changed["metrics"]["rgb_loss/alone"] = 0.1
    (grid / log.FILE).write_text("\n".join([json.dumps(changed), *lines[1:]]))
    done = _run(grid)
    assert done.returncode == 2 and "runs.jsonl line 1: damaged or changed" in done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--log=none.jsonl"], "give --output=FOLDER to run the grid, or --log=FILE"),
        (["--output=g", "--arms=rgbb"], "rgbb: no such file or preset"),
        (["--output=g", "--seeds=a"], "--seeds=a: give whole numbers"),
        (["--output=g", "--measure=clip=3"], "clip: no such key; did you mean 'clips'"),
        (["--output=g", "--change=model.dim"], "--change=model.dim: give NAME=VALUE"),
        (["--output=g", "--estimator=nobody"], "nobody"),
    ],
)
def test_slips_are_named_before_anything_is_written(args, says, tmp_path):
    done = in_process.run("ablate", *args, folder=tmp_path)
    assert done.returncode == 2 and says in done.stderr, done.stderr
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize("parallel", [["--parallel=2"], ["--parallel", "2"]])
def test_workers_take_the_command_and_one_run_at_a_time(parallel, trained, tmp_path, monkeypatch):
    commands = []

    def start(command, **_):
        commands.append(command[3:])
        return types.SimpleNamespace(poll=lambda: 0, returncode=0)

    monkeypatch.setattr(ablate.subprocess, "Popen", start)
    monkeypatch.setattr(log, "devices", lambda count: [{}] * count)
    assert "0 of 5 finished" in _run(tmp_path / "grid", *parallel).stdout
    first, second = commands
    assert first == second
    assert "5 of 5 finished" in in_process.run("ablate", *first).stdout


def test_workers_that_end_together_write_one_page_after_the_other(trained, tmp_path, monkeypatch):
    writing, held = page.write, []

    def write(path, records):
        with lock.attempt(tmp_path / "grid" / ".lock") as holder:
            held.append(holder)
        writing(path, records)

    monkeypatch.setattr(page, "write", write)
    _run(tmp_path / "grid")
    assert held == [str(os.getpid())]


def test_two_workers_take_different_runs(tmp_path, monkeypatch):
    file = tmp_path / "rgb_0.lock"
    with lock.attempt(file) as mine, lock.attempt(file) as other:
        assert (mine, other) == ("", str(os.getpid()))
    with lock.attempt(file) as mine:
        assert mine == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in log.devices(2)] == ["2", "5"]
    with pytest.raises(UserError, match="--parallel=4: CUDA_VISIBLE_DEVICES=2,5,7 names 3"):
        log.devices(4)
