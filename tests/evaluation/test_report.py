import json

import pytest

from unityvideo_jax.evaluation import report

RECORD = {
    "benchmark": "worlds_validation",
    "num_clips": 3,
    "checkpoint_step": 40,
    "ema": True,
    "config_sha256": "0123456789abcdef",
    "sampler": {"solver": "unipc", "steps": 8},
    "seed": 0,
    "size": (17, 64, 96),
    "metrics": {"depth/depth_scale_video/abs_rel": 0.12345, "depth/videos": 3},
    "trivial": {"depth/depth_scale_video/abs_rel": 0.5},
    "protocols": {"depth_scale_video": "one scale"},
    "versions": {"jax": "x"},
}


def test_files_hold_the_record(tmp_path):
    report.write_report(tmp_path / "new", RECORD)
    written = json.loads((tmp_path / "new" / "results.json").read_text())
    assert written["metrics"] == RECORD["metrics"] and written["versions"] == {"jax": "x"}
    assert written["size"] == [17, 64, 96]
    table = (tmp_path / "new" / "results.md").read_text()
    assert "| metric | model | trivial prediction |" in table
    assert "| `depth/depth_scale_video/abs_rel` | 0.1235 | 0.5000 |" in table
    assert "| `depth/videos` | 3 |  |" in table
    assert "step 40 (averaged weights), config 0123456789ab" in table
    assert "17 frames of 64x96" in table
    assert not [p for p in (tmp_path / "new").iterdir() if p.name.endswith(".part")]


def test_nan_never_reaches_the_file(tmp_path):
    report.write_report(tmp_path, RECORD)
    before = (tmp_path / "results.json").read_text()
    with pytest.raises(ValueError):
        report.write_report(tmp_path, RECORD | {"metrics": {"a": float("nan")}})
    assert (tmp_path / "results.json").read_text() == before
