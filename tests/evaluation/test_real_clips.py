import hashlib
import json
import shutil

import numpy as np
import pytest

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import score_folder
from unityvideo_jax.evaluation.benchmarks import frozen, real_clips
from unityvideo_jax.evaluation.benchmarks.real_clips import Target
from unityvideo_jax.inputs.clip_folders import Clip

TARGET = Target(num_frames=4, height=16, width=16)


@pytest.fixture
def source(tmp_path):
    """Six videos of 5 frames of 32 x 64: one twice, one too short, one with a bad annotation."""
    folder = tmp_path / "videos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(6):
        frames = np.broadcast_to(rng.integers(0, 255, (5, 1, 1, 3), np.uint8), (5, 32, 64, 3))
        media.write_video(folder / f"v{n}.mp4", frames[: 3 if n == 4 else 5].copy(), 12.0)
        depth = (1 + np.arange(5 * 32 * 64).reshape(5, 32, 64) % 97).astype(np.float32)
        np.savez(folder / f"v{n}.depth.npz", depth=depth[:, : 30 if n == 5 else 32])
        flow = np.full((5, 32, 64, 2), (2.0, -4.0), np.float32)
        np.savez(folder / f"v{n}.flow.npz", flow=flow)
    shutil.copy(folder / "v3.mp4", folder / "v3copy.mp4")
    (folder / "v0.txt").write_text("Something grey.\n")
    return folder


def test_the_smallest_hashes_are_chosen_and_cut(source, tmp_path):
    bench = tmp_path / "bench"
    usable = {n: hashlib.sha256((source / f"v{n}.mp4").read_bytes()).hexdigest() for n in range(4)}
    expected = sorted(sorted(usable, key=usable.get)[:3])
    chosen = real_clips.build(source, bench, num_clips=3, target=TARGET)
    assert chosen == [f"v{n}" for n in expected]
    for name in chosen:
        clip = Clip(path=bench / name)
        rgb, fps = clip.video()
        original, _ = media.read_video(source / f"{name}.mp4", 4)
        np.testing.assert_array_equal(rgb, media.fit(original, height=16, width=16))
        assert fps == 12.0
        # Half size, then the middle 16 of 32 columns.
        with np.load(source / f"{name}.depth.npz") as stored:
            depth = stored["depth"][:4, 1::2, 17:49:2]
        np.testing.assert_array_equal(clip.truth("depth")["depth"], depth)
        np.testing.assert_array_equal(
            clip.truth("flow")["flow"], np.full((4, 16, 16, 2), (1.0, -2.0), np.float32)
        )
        assert clip.caption == ("Something grey." if name == "v0" else "")


def test_what_cannot_be_used_has_its_reason_and_a_second_run_changes_nothing(source, tmp_path):
    bench = tmp_path / "bench"
    chosen = real_clips.build(source, bench, num_clips=200, target=TARGET)
    assert len(chosen) == 4
    card = real_clips.read_card(bench)
    assert card["set_aside"].keys() == {"v4.mp4", "v5.mp4", "v3copy.mp4"}
    assert card["set_aside"]["v4.mp4"] == "3 frames, fewer than 4"
    assert "v5.depth.npz: depth is (4, 30, 64)" in card["set_aside"]["v5.mp4"]
    assert card["set_aside"]["v3copy.mp4"] == "the same file as v3.mp4"
    text = (bench / real_clips.CARD_NAME).read_text()
    assert real_clips.build(source, bench, num_clips=200, target=TARGET) == chosen
    assert (bench / real_clips.CARD_NAME).read_text() == text
    with pytest.raises(UserError, match="freezes other clips than"):
        real_clips.build(source, bench, num_clips=2, target=TARGET)
    with pytest.raises(UserError, match="no such folder"):
        real_clips.build(tmp_path / "nowhere", bench, num_clips=2)
    with pytest.raises(UserError, match="no usable video"):
        (tmp_path / "empty").mkdir()
        real_clips.build(tmp_path / "empty", tmp_path / "other", num_clips=2)


def test_evaluation_notices_a_changed_file(source, tmp_path):
    bench, theirs = tmp_path / "bench", tmp_path / "theirs"
    chosen = real_clips.build(source, bench, num_clips=2, target=TARGET)
    for name in chosen:
        (theirs / name).mkdir(parents=True)
        shutil.copy(bench / name / "flow.npz", theirs / name)
    config = score_folder.HarnessConfig(
        benchmark=bench, predictions=theirs, output=tmp_path / "out"
    )
    assert score_folder.run(config).faults == []
    record = json.loads((bench / chosen[0] / "clip.json").read_text())
    (bench / chosen[0] / "clip.json").write_text(json.dumps(record | {"caption": "Another."}))
    (fault,) = score_folder.run(config).faults
    assert f"{chosen[0]}/clip.json: not the file that real.json freezes" in fault
    shutil.copytree(bench / chosen[1], bench / "stranger")
    with pytest.raises(UserError, match="not one of the frozen clips"):
        frozen.verifier(bench)(Clip(path=bench / "stranger"))
