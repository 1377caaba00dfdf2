import json
import os
import shutil
import signal

import folder_clips
import numpy as np
import pytest

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import score_folder
from unityvideo_jax.evaluation.score_folder import HarnessConfig
from unityvideo_jax.files import provenance
from unityvideo_jax.inputs.clip_folders import clips_of
from unityvideo_jax.metrics import depth, scores

DEPTH = "depth/disparity_scale_shift_video/abs_rel"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    return folder_clips.benchmark(root / "truth"), folder_clips.perfect(root / "perfect")


@pytest.fixture
def broken(folders, tmp_path):
    """A copy of the perfect predictions to damage."""
    return shutil.copytree(folders[1], tmp_path / "broken")


def run(benchmark, predictions, output, **more):
    config = HarnessConfig(benchmark=benchmark, predictions=predictions, output=output, **more)
    outcome = score_folder.run(config)
    return outcome, scores.aggregate([row.score for row in outcome.rows])


def test_perfect_predictions_score_perfectly(folders, tmp_path):
    outcome, results = run(*folders, tmp_path)
    assert results[DEPTH] < 1e-5
    assert results["flow/pooled_all/epe"] == results["flow/pooled_foreground/fl_all"] == 0.0
    for key in (
        "segmentation/hungarian_clip/j_and_f",
        "segmentation/coco_frames/ap",
        "skeleton/torso_hungarian/pck_0.2",
        "skeleton/coco_oks_box53/ap",
        "densepose/clip_mean/part_miou",
        "densepose/gps_chart_proxy/gps",
    ):
        assert results[key] == pytest.approx(1.0), key
    assert results["frechet_proxy/dct3d_64"] == pytest.approx(0.0, abs=1e-6)
    assert 80 < results["vbench/temporal_flickering"] < 100
    # The re-estimated flow is off by (1, 1) everywhere, under its estimator's name.
    assert results["control_by_raft/flow/pooled_all/epe"] == pytest.approx(2**0.5, abs=1e-6)
    trivial = scores.aggregate([row.trivial for row in outcome.rows])
    speeds = [np.linalg.norm(folder_clips.truth(i)["flow"]["flow"], axis=-1) for i in range(3)]
    assert trivial["flow/pooled_all/epe"] == pytest.approx(np.mean(speeds), rel=1e-6)
    assert {m.headline for m in modalities.metrics().values()} <= trivial.keys()
    assert not outcome.faults and not outcome.unknown
    assert outcome.counts["clips"] == outcome.counts["clips_scored"] == 3
    assert set(outcome.skipped) >= {"subject_consistency", "fvd"}
    for row in outcome.rows:
        assert set(row.pictures) == {*modalities.metrics(), "rgb"}
        for path in (tmp_path / p for p in row.pictures.values()):
            assert path.stat().st_size > 200
            video, fps = media.read_video(path.with_suffix(".mp4"))
            assert len(video) == 3 and fps == 8
        assert "benchmark/depth.npz" in row.checksums and "predictions/rgb.mp4" in row.checksums


def test_a_second_run_scores_only_what_changed(folders, broken, tmp_path, monkeypatch):
    benchmark, _ = folders
    output = tmp_path / "out"
    _, first = run(benchmark, broken, output)
    seen = []
    score = score_folder._Scorer.row
    monkeypatch.setattr(
        score_folder._Scorer, "row", lambda self, t, p: seen.append(t.name) or score(self, t, p)
    )
    outcome, again = run(benchmark, broken, output)
    assert seen == [] and outcome.reused == 3 and again == first
    flow = folder_clips.truth(1)["flow"]["flow"]
    np.savez(broken / "clip1" / "flow.npz", flow=flow + 2.0)
    (output / "rows" / "clip2.json").write_text("{cut")
    (output / "pictures" / "clip0_flow.png").unlink()
    outcome, results = run(benchmark, broken, output)
    assert seen == ["clip0", "clip1", "clip2"] and outcome.reused == 0
    assert (output / "pictures" / "clip0_flow.png").exists()
    expected = 8**0.5 / 3  # one clip of three equal ones
    assert results["flow/pooled_all/epe"] == pytest.approx(expected, rel=1e-6)


def test_an_interrupted_run_resumes(folders, tmp_path):
    class Stopped(Exception):
        pass

    def stop(done, total):
        if done == 2:
            raise Stopped

    config = HarnessConfig(benchmark=folders[0], predictions=folders[1], output=tmp_path)
    with pytest.raises(Stopped):
        score_folder.run(config, stop)
    assert {p.name for p in (tmp_path / "rows").iterdir()} == {"clip0.json", "clip1.json"}
    outcome = score_folder.run(config)
    assert outcome.reused == 2 and outcome.counts["clips_scored"] == 3


class Killed(score_folder._Scorer):
    """Dies at clip1, as by the system when memory is short."""

    def row(self, truth, predicted):
        if truth.name == "clip1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().row(truth, predicted)


def test_a_killed_process_names_its_clip_and_the_others_are_saved(folders, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(score_folder, "_Scorer", Killed)
        with pytest.raises(UserError, match=r"^clip1: the process that worked on it was killed"):
            run(*folders, tmp_path, processes=2)
    scored = {p.stem for p in (tmp_path / "rows").iterdir()}
    assert "clip0" in scored and "clip1" not in scored
    outcome, _ = run(*folders, tmp_path)
    assert outcome.reused == len(scored) and outcome.counts["clips_scored"] == 3


def damage_nan(clip):
    depth = folder_clips.truth(1)["depth"]["depth"]
    depth[1, 9, 9] = np.nan
    np.savez(clip / "depth.npz", depth=depth)


def damage_size(clip):
    np.savez(clip / "depth.npz", depth=np.ones((3, 16, 16), np.float32))


def damage_length(clip):
    segments = folder_clips.truth(1)["segmentation"]["segments"]
    np.savez(clip / "segmentation.npz", segments=segments[:2])


def damage_key(clip):
    np.savez(clip / "flow.npz", optical_flow=np.ones(3))


def damage_file(clip):
    (clip / "skeleton.npz").write_bytes(b"PK nothing")


def damage_missing(clip):
    (clip / "densepose.npz").unlink()


def damage_video(clip):
    (clip / "rgb.mp4").write_bytes(b"nothing")


def damage_estimator(clip):
    shutil.rmtree(clip / "reestimated")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nan, "depth: clip1: predicted depth holds NaN, first at (1, 9, 9)"),
        (damage_size, "depth: clip1: depth is predicted as (3, 16, 16) but the truth is"),
        (damage_length, "segmentation: clip1: segments is predicted as (2, 32, 48)"),
        (damage_key, "flow.npz: lacks flow; it holds optical_flow"),
        (damage_file, "skeleton.npz: not a readable npz"),
        (damage_missing, "holds no densepose.npz or densepose.mp4"),
        (damage_video, "rgb.mp4: does not decode as video"),
        (damage_estimator, "reestimated/raft: no such folder"),
        (shutil.rmtree, "no prediction: its folder is missing"),
    ],
)
def test_faults_are_named_counted_and_left_out(folders, broken, tmp_path, damage, message):
    damage(broken / "clip1")
    outcome, results = run(folders[0], broken, tmp_path / "out")
    assert len(outcome.faults) == 1 and outcome.faults[0].startswith("clip1: ")
    assert message in outcome.faults[0]
    assert outcome.counts["clips_with_faults"] == 1
    # The other two clips are scored, and so are the sound streams of this one.
    assert results["depth/videos"] in (2, 3) and results[DEPTH] < 1e-5
    assert len(list((tmp_path / "out" / "rows").iterdir())) == 3


def test_single_frames_and_empty_or_constant_predictions_have_defined_values(tmp_path):
    """Truth of one frame; the system sees constant depth, rest, no instance and nobody."""
    truth = {
        modality: {key: array[:1] for key, array in arrays.items()}
        for modality, arrays in folder_clips.truth(0).items()
    }
    empty = {
        name: {k: np.zeros_like(truth[name][k]) for k in metric.keys}
        for name, metric in modalities.metrics().items()
    }
    empty["depth"] = {"depth": np.full_like(truth["depth"]["depth"], 3.0)}
    sides = {"truth": truth, "theirs": empty}
    for side, arrays in sides.items():
        folder_clips.write(tmp_path / side / "clip0", arrays)
        media.write_video(tmp_path / side / "clip0" / "rgb.mp4", folder_clips.rgb(0, frames=1), 8.0)
    outcome, results = run(tmp_path / "truth", tmp_path / "theirs", tmp_path / "out")
    assert not outcome.faults and outcome.counts["clips_scored"] == 1
    assert np.isfinite([value for value in results.values() if value is not None]).all()
    # Not defined, so no number: motion in time of one frame, UV where no part is right.
    assert {key for key, value in results.items() if value is None} == {
        *(f"depth/{a}/temporal_error" for a in depth.ALIGNMENTS),
        "densepose/clip_mean/uv_l1",
    }
    assert 0 < results[DEPTH] < 1  # the fit falls back to the mean disparity
    for key in (
        "segmentation/hungarian_clip/j_and_f",
        "segmentation/coco_frames/ap",
        "skeleton/torso_hungarian/pck_0.2",
        "skeleton/coco_oks_box53/ap",
        "densepose/clip_mean/part_miou",
        "densepose/gps_chart_proxy/gps",
    ):
        assert results[key] == 0.0, key
    assert results["depth/videos_of_one_frame"] == 1
    assert results["densepose/clips_without_right_part"] == 1
    assert results["video/temporal_flickering/clips_too_short"] == 1
    # The other way round: nothing true to find, which is counted and no number at all.
    outcome, results = run(tmp_path / "theirs", tmp_path / "truth", tmp_path / "back")
    assert not outcome.faults
    for key in ("segmentation/hungarian_clip/j_and_f", "skeleton/torso_hungarian/pck_0.2"):
        assert results[key] is None
    for key in (
        "segmentation/clips_without_objects",
        "skeleton/clips_without_people",
        "densepose/clips_without_body",
    ):
        assert results[key] == 1, key


def test_truth_that_is_missing_is_counted(folders, tmp_path):
    benchmark = shutil.copytree(folders[0], tmp_path / "truth")
    (benchmark / "clip0" / "skeleton.npz").unlink()
    (benchmark / "clip0" / "flow.npz").unlink()
    (benchmark / "clip0" / "rgb.mp4").unlink()
    outcome, results = run(benchmark, folders[1], tmp_path / "out")
    assert not outcome.faults
    assert results["skeleton/clips_without_truth"] == 1 and results["skeleton/clips"] == 2
    assert results["control_by_raft/flow/clips_without_truth"] == 1
    assert results["video/frechet_proxy/clips_without_reference"] == 1


def test_nothing_in_common_is_an_error(folders, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        run(folders[0], tmp_path / "none", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no clips"):
        run(folders[0], tmp_path / "empty", tmp_path)
    folder_clips.write(tmp_path / "other" / "elsewhere", folder_clips.truth(0))
    with pytest.raises(UserError, match="no clip of the benchmark with a stream to score"):
        run(folders[0], tmp_path / "other", tmp_path)
    folder_clips.write(tmp_path / "other" / "clip0", {"depth": folder_clips.truth(0)["depth"]})
    outcome, _ = run(folders[0], tmp_path / "other", tmp_path / "out")
    assert outcome.unknown == ["elsewhere"] and outcome.counts["clips_not_in_benchmark"] == 1
    assert len(outcome.faults) == 2  # clip1 and clip2 are missing


def test_pictures_of_a_modality_are_decoded(folders, tmp_path):
    """An mp4 in the codec's colours stands in for arrays."""
    codec = modalities.get("segmentation").codec
    for i in range(3):
        path = tmp_path / "coloured" / f"clip{i}"
        path.mkdir(parents=True)
        video, _ = codec.encode(folder_clips.truth(i)["segmentation"])
        media.write_video(path / "segmentation.mp4", media.to_uint8(np.asarray(video)), 8.0)
    outcome, results = run(folders[0], tmp_path / "coloured", tmp_path / "out")
    assert outcome.streams == ("segmentation",)
    assert results["segmentation/hungarian_clip/mean_iou"] > 0.9


def test_video_from_arrays_and_images(folders, tmp_path):
    from PIL import Image

    for i in range(2):
        path = tmp_path / "videos" / f"clip{i}"
        path.mkdir(parents=True)
        np.savez(path / "rgb.npz", rgb=folder_clips.rgb(i) / np.float32(255))
    images = tmp_path / "videos" / "clip2" / "rgb"
    images.mkdir(parents=True)
    for t, frame in enumerate(folder_clips.rgb(2)):
        Image.fromarray(frame).save(images / f"{t}.png")
    _, results = run(folders[0], tmp_path / "videos", tmp_path / "out")
    expected = [
        1 - np.abs(np.diff(folder_clips.rgb(i).astype(int), axis=0)).mean() / 255 for i in range(3)
    ]
    assert results["vbench/temporal_flickering"] == pytest.approx(100 * np.mean(expected))
    np.savez(tmp_path / "videos" / "clip0" / "rgb.npz", rgb=np.full((3, 4, 4, 3), 200.0))
    outcome, _ = run(folders[0], tmp_path / "videos", tmp_path / "out")
    assert "must be uint8, or finite and in [0, 1]" in outcome.faults[0]


def test_suffixes_in_capitals_are_read_and_other_files_listed(folders, broken, capsys):
    clip = broken / "clip0"
    for old, new in (("rgb.mp4", "rgb.MP4"), ("flow.npz", "flow.NPZ"), ("depth.npz", "depth.npy")):
        (clip / old).rename(clip / new)
    for name in ("sample.json", "sheet.png", "densepose.mp4", ".hidden", "dept.npz", "rgb.MOV"):
        (clip / name).touch()
    (clip / "reestimated" / "raft" / "flow.flo").touch()
    found = clips_of(broken, "predictions")["clip0"]
    (clip / "sample.json").unlink()
    assert found.streams == ("flow", "segmentation", "skeleton", "densepose", "rgb")
    assert found.source("rgb").name == "rgb.MP4" and found.video().frames.shape[0] == 3
    np.testing.assert_array_equal(
        found.arrays("flow")["flow"], folder_clips.truth(0)["flow"]["flow"]
    )
    files = ("dept.npz", "depth.npy", "rgb.MOV", "reestimated/raft/flow.flo")
    said = f"ignored 4 files: {', '.join(f'clip0/{name}' for name in files)}\n"
    assert said in capsys.readouterr().out


def test_weights_are_part_of_the_fingerprint(folders, tmp_path):
    import torch

    class Mean(torch.nn.Module):
        def forward(self, x):
            return 100.0 * x.mean()

    weights = tmp_path / "weights"
    weights.mkdir()
    torch.jit.script(Mean()).save(str(weights / "musiq_spaq.pt"))
    run(*folders, tmp_path / "out")
    outcome, results = run(*folders, tmp_path / "out", weights=weights)
    assert outcome.reused == 0 and "musiq_spaq.pt" in outcome.weights
    assert 10 < results["vbench/imaging_quality"] < 90
    outcome, again = run(*folders, tmp_path / "out", weights=weights)
    assert outcome.reused == 3 and again == results


def test_rows_are_plain_json(folders, tmp_path):
    run(*folders, tmp_path)
    record = json.loads((tmp_path / "rows" / "clip0.json").read_text())
    assert record["clip"] == "clip0" and record["score"]["means"][DEPTH][1] == 1.0
    row = {k: v for k, v in record.items() if k not in ("fingerprint", "sha256")}
    assert provenance.plain(score_folder.Row.from_json(row).to_json()) == row


def test_estimators_have_names_that_keys_can_hold(folders, broken, tmp_path):
    (broken / "clip0" / "reestimated" / "raft").rename(broken / "clip0" / "reestimated" / "r aft")
    with pytest.raises(UserError, match="estimator 'r aft': use letters"):
        run(folders[0], broken, tmp_path / "out")


def test_what_sample_was_given_is_no_prediction(folders, broken, tmp_path):
    for i in range(3):
        record = {"request": {"wanted": ["flow"]}}
        (broken / f"clip{i}" / "sample.json").write_text(json.dumps(record))
        shutil.rmtree(broken / f"clip{i}" / "reestimated")
    outcome, results = run(folders[0], broken, tmp_path / "out")
    assert outcome.streams == ("flow",) and not outcome.faults
    assert not [key for key in results if not key.startswith("flow/")]


def test_unreadable_json_of_a_clip_is_named(folders, tmp_path):
    benchmark = shutil.copytree(folders[0], tmp_path / "truth")
    (benchmark / "clip0" / "clip.json").write_text("{")
    outcome, _ = run(benchmark, folders[1], tmp_path / "out")
    assert len(outcome.faults) == 1 and "clip.json: not JSON" in outcome.faults[0]
