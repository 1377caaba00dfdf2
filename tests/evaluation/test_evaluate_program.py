import json
import pathlib
import subprocess
import sys
from unittest import mock

import folder_clips
import in_process
import jax
import pytest
from tiny_pipeline import quick_compile, tiny_parts  # noqa: F401

from unityvideo_jax.sampling.pipeline import Pipeline

ROOT = pathlib.Path(__file__).parents[2]


def run(*flags):
    """Evaluates the tiny pipeline, on one device: eight would render eight clips at once."""
    pipeline, device = Pipeline(**tiny_parts()), jax.devices()[0]
    with (
        mock.patch.object(Pipeline, "from_workdir", lambda *_, **__: pipeline),
        mock.patch.object(jax, "local_device_count", lambda: 1),
        mock.patch.object(jax, "local_devices", lambda: [device]),
    ):
        return in_process.run("evaluate", "--workdir=w", *flags)


@pytest.mark.slow
def test_evaluate_writes_everything_needed_to_repeat(tmp_path):
    done = run(
        "--benchmark=worlds_validation",
        "--num_clips=1",
        "--batch_size=1",
        "--steps=1",
        "--heldout_timesteps=0",
        "--condition_gap_clips=2",
        "--nocontrol",
        "--joint_streams=3",
        f"--output={tmp_path / 'out'}",
    )
    assert done.returncode == 0, done.stderr
    assert "joint samples: left out, agreement compares at least 2 clips" in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "pictures",
        "results.html",
        "results.json",
        "results.md",
        "rows",
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
    # One more clip: the first is taken up from its row.
    row = tmp_path / "out" / "rows" / "0000.json"
    written = row.stat().st_mtime_ns
    done = run(
        "--benchmark=worlds_validation",
        "--num_clips=2",
        "--batch_size=1",
        "--steps=1",
        "--heldout_timesteps=0",
        "--condition_gap_clips=0",
        "--nocontrol",
        "--joint_streams=3",
        f"--output={tmp_path / 'out'}",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    sheets = {p.stem for p in (tmp_path / "out" / "joint").iterdir()}
    assert sheets == set(record["joint"]) == {"0000", "0001"} and all(record["joint"].values())
    assert record["vae_round_trip"].keys() & {"agreement/depth_edge_auc/joint_3"}
    page = (tmp_path / "out" / "results.html").read_text()
    assert "Joint samples" in page and "depth_edge_auc" in page
    assert "2/2 clips" in done.stdout and row.stat().st_mtime_ns == written
    assert (tmp_path / "out" / "rows" / "0001.json").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--heldout_timesteps=6", "error: timesteps=6: the held-out loss needs a multiple of 4"),
        ("--shift=-1", "error: shift=-1.0: the timestep shift must be a positive number"),
    ],
)
def test_a_bad_flag_is_one_line_and_writes_nothing(tmp_path, flag, message):
    done = run(flag, f"--output={tmp_path / 'out'}")
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def score_folder(*flags):
    return in_process.run("evaluate", *flags)


def score_folder_as_users_do(*flags):
    command = [sys.executable, "-m", "unityvideo_jax.evaluate", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_a_folder_of_predictions_is_scored_faults_and_all(tmp_path):
    benchmark = folder_clips.benchmark(tmp_path / "truth")
    predictions = folder_clips.perfect(tmp_path / "theirs")
    output = tmp_path / "out"
    (predictions / "clip1" / "depth.npz").unlink()
    flags = (f"--benchmark={benchmark}", f"--predictions={predictions}", f"--output={output}")
    done = score_folder(*flags, "--system=theirs")
    assert done.returncode == 2
    assert "1 faults in 1 of 3 clips" in done.stderr and "depth.npz" in done.stderr
    assert not (output / "results.json").exists()
    done = score_folder(*flags, "--system=theirs", "--allow_faults")
    assert done.returncode == 0, done.stderr
    record = json.loads((output / "results.json").read_text())
    assert record["system"] == "theirs" and record["rows_reused"] == 3
    assert record["counts"]["clips_with_faults"] == 1 and len(record["faults"]) == 1
    assert record["metrics"]["depth/videos"] == 2 and record["metrics"]["flow/videos"] == 3
    assert {"pooled_all", "disparity_scale_shift_video"} <= record["protocols"].keys()
    assert record["intervals"]["flow/pooled_all/epe"] == [0.0, 0.0]
    assert len(record["checksums"]["clips"]["clip0"]["predictions/flow.npz"]) == 64
    assert "i3d_torchscript.pt" in record["skipped"]["fvd"]
    assert record["bootstrap"] == {"samples": 1000, "seed": 0, "level": 0.95}
    for name in ("results.md", "results.html"):
        text = (output / name).read_text()
        assert "depth.npz" in text and "reported, not measured here" in text
    # Two processes give the same, from the start.
    again = tmp_path / "again"
    flags = (*flags[:2], f"--output={again}", "--system=theirs", "--allow_faults", "--processes=2")
    done = score_folder_as_users_do(*flags)
    assert done.returncode == 0, done.stderr
    other = json.loads((again / "results.json").read_text())
    for key in ("command", "seconds", "rows_reused"):
        assert record.pop(key) != other.pop(key)
    assert other == record
    for name in sorted(p.relative_to(output) for p in output.glob("pictures/*.png")):
        assert (again / name).read_bytes() == (output / name).read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give --workdir to score a run, or --predictions to score a folder"),
        (("--predictions=p", "--workdir=w"), "give --workdir to score a run, or --predictions"),
        (("--predictions=p",), "--system is missing"),
        (("--predictions=p", "--lora=a"), "--lora: is for a model"),
        (("--workdir=w", "--system=s"), "--system: is for --predictions"),
        (("--workdir=w", "--physics_pairs=2"), "--physics_pairs: is for --benchmark="),
        (("--workdir=w", "--truth_unit=cm"), "--truth_unit: worlds are in metres"),
        (("--workdir=w", "--benchmark=clips", "--worlds_seed=2"), "--worlds_seed: is for worlds"),
        (("--workdir=w", "--benchmark=worlds_physics", "--captions"), "--captions: is not for"),
        (("--predictions=p", "--system=s"), "--benchmark=worlds_validation: no such folder"),
    ],
)
def test_flags_that_name_no_mode_or_two_are_refused(tmp_path, flags, message):
    done = score_folder(*flags, f"--output={tmp_path / 'out'}")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
