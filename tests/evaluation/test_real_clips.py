import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import score_folder
from unityvideo_jax.evaluation.benchmarks import frozen, real_clips
from unityvideo_jax.evaluation.benchmarks.folder import FolderClips
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
        video = clip.video()
        original, _ = media.read_video(source / f"{name}.mp4", 4)
        np.testing.assert_array_equal(video.frames, media.fit(original, height=16, width=16))
        assert video.fps == 12.0
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
    assert "v5.depth.npz: depth is (5, 30, 64)" in card["set_aside"]["v5.mp4"]
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


def test_truth_follows_the_frames_that_a_variable_rate_shows(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    grey = [np.full((16, 16, 3), 20 * n, np.uint8) for n in range(9)]
    pictures = [Image.fromarray(frame) for frame in grey]
    stays = [100] * 4 + [300] + [100] * 4
    pictures[0].save(folder / "v.gif", save_all=True, append_images=pictures[1:], duration=stays)
    depth = np.broadcast_to(np.arange(1.0, 10.0, dtype=np.float32)[:, None, None], (9, 16, 16))
    np.savez(folder / "v.depth.npz", depth=depth)
    bench, target = tmp_path / "bench", Target(num_frames=8, height=16, width=16)
    assert real_clips.build(folder, bench, num_clips=1, target=target) == ["v"]
    shown = [0, 1, 2, 3, 4, 4, 4, 5]
    clip = Clip(path=bench / "v")
    assert clip.video().frames[:, 0, 0, 0].tolist() == [20 * n for n in shown]
    assert clip.truth("depth")["depth"][:, 0, 0].tolist() == [n + 1 for n in shown]
    # The same by a benchmark's folder, whose files are the user's own.
    (tmp_path / "own" / "v").mkdir(parents=True)
    shutil.copy(folder / "v.gif", tmp_path / "own" / "v" / "rgb.gif")
    shutil.copy(folder / "v.depth.npz", tmp_path / "own" / "v" / "depth.npz")
    own = FolderClips(tmp_path / "own", num_frames=8, height=16, width=16)
    (batch,) = own.batches([0], 1)
    assert np.round(255 * batch.clip["rgb"][0, :, 0, 0, 0]).tolist() == [20 * n for n in shown]
    assert batch.clip["depth"][0, :, 0, 0].tolist() == [n + 1 for n in shown]
    # Flow leads to a frame that is not the next one that is shown.
    np.savez(tmp_path / "own" / "v" / "flow.npz", flow=np.zeros((9, 16, 16, 2), np.float32))
    moving = FolderClips(tmp_path / "own", num_frames=8, height=16, width=16)
    assert list(moving.batches([0], 1)) == [] and "skipped or repeated" in moving.faults[0]


@pytest.mark.parametrize("as_pictures", [False, True])
def test_depth_keeps_its_unit_and_pictures_of_numbers_are_frozen_too(tmp_path, as_pictures):
    folder = tmp_path / "videos"
    (folder / "v.depth").mkdir(parents=True)
    media.write_video(folder / "v.mp4", np.full((4, 16, 16, 3), 90, np.uint8), 8.0)
    (folder / "v.TXT").write_text("Grey.")
    (folder / "v.depth.json").write_text('{"unit": "mm"}')
    millimetres = np.full((4, 16, 16), 7000, np.uint16)
    for n, frame in enumerate(millimetres):
        Image.fromarray(frame).save(folder / "v.depth" / f"{n}.png")
    if not as_pictures:
        shutil.rmtree(folder / "v.depth")
        np.savez(folder / "v.depth.npz", depth=millimetres.astype(np.float32))
    assert real_clips.build(folder, tmp_path / "bench", num_clips=1, target=TARGET) == ["v"]
    clip = Clip(path=tmp_path / "bench" / "v")
    truth = clip.truth("depth")
    assert truth["unit"] == "m" and clip.caption == "Grey."
    np.testing.assert_allclose(truth["depth"], 7.0, rtol=1e-6)
