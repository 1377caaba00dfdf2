"""The program's faults, each one line before anything is written."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIG = "--config=configs/worlds_tiny.py"


def _train(*args):
    return subprocess.run(
        [sys.executable, "-m", "unityvideo_jax.train", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([CONFIG, "--config.train.stepz=3"], 'no such key stepz. Did you mean "steps"'),
        ([CONFIG, "--config.train.steps=many"], "--config.train.steps=many"),
        (["--config=configs/nothing.py"], "configs/nothing.py"),
        ([CONFIG, "stray"], "unexpected argument 'stray'"),
        ([], "give both --config"),
    ],
)
def test_faulty_command_lines_are_one_error_and_write_nothing(tmp_path, args, says):
    done = _train(f"--workdir={tmp_path / 'run'}", *args)
    assert done.returncode == 2
    assert says in done.stderr
    assert "error: " in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_start_that_failed_does_not_pin_its_config(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    for name in ("first", "second"):
        done = _train(CONFIG, workdir, f"--config.data.dirs=('{tmp_path / name}',)")
        assert done.returncode == 2
        assert f"{tmp_path / name}: no such folder" in done.stderr
