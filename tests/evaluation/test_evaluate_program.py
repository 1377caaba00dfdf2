import json
import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parents[1]


def run(*flags):
    return subprocess.run(
        [sys.executable, str(TESTS / "run_program.py"), "evaluate", "--workdir=w", *flags],
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
    )


@pytest.mark.slow
def test_it_writes_everything_needed_to_repeat(tmp_path):
    done = run(
        "--benchmark=worlds_validation",
        "--num_clips=1",
        "--steps=1",
        "--heldout_timesteps=0",
        f"--output={tmp_path / 'out'}",
    )
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "pictures",
        "results.html",
        "results.json",
        "results.md",
        "sheet.png",
    }
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    headline = "depth/disparity_scale_shift_video/abs_rel"
    assert record["metrics"][headline] > 0 and record["trivial"][headline] > 0
    assert record["checkpoint_step"] == 7 and record["seed"] == 0
    assert record["sampler"]["steps"] == 1 and record["settings"]["num_clips"] == 1
    assert {"jax", "unityvideo_jax"} <= set(record["versions"])
    assert record["codecs"].keys() == {"depth", "flow", "segmentation", "skeleton", "densepose"}
    assert "disparity_scale_shift_video" in record["protocols"]
    assert f"| `{headline}` |" in (tmp_path / "out" / "results.md").read_text()
    assert headline in done.stdout


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--heldout_timesteps=6", "error: timesteps=6: give the held-out loss a multiple of 4"),
        ("--shift=-1", "error: shift=-1.0: the timestep shift must be a positive number"),
    ],
)
def test_a_bad_flag_is_one_line_and_writes_nothing(tmp_path, flag, message):
    done = run(flag, f"--output={tmp_path / 'out'}")
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
