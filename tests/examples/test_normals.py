"""The modality of `examples/normals.py`: what one file brings, from numbers to a scored folder."""

import importlib
import types

import in_process
import jax
import numpy as np
import pytest

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import score_folder
from unityvideo_jax.inputs.sources import check_rendered
from unityvideo_jax.metrics import scores

T, H, W = 3, 24, 32
ERROR = "normals/pooled_surfaces/degrees"


@pytest.fixture
def normals():
    """The example, registered for one test."""
    with in_process.fresh_plugins():
        yield importlib.import_module("examples.normals")


def ball(radius=10.0):
    """Normals of a ball before no surface, seen from afar: f32 [T, H, W, 3]."""
    y, x = np.mgrid[0:H, 0:W].astype(np.float32) + 0.5
    frames = []
    for t in range(T):
        away = np.stack([x - W / 2 - t, y - H / 2], axis=-1) / radius
        inside = np.square(away).sum(-1) < 1
        z = -np.sqrt(np.maximum(1 - np.square(away).sum(-1), 0.0))
        frames.append(np.where(inside[..., None], np.concatenate([away, z[..., None]], -1), 0.0))
    return np.stack(frames).astype(np.float32)


def tilted(array, degrees):
    """Every vector turned by an angle, in the plane that it spans with the x axis."""
    aside = np.cross(array, np.cross(array, [1.0, 0.0, 0.0]))
    aside /= np.maximum(np.linalg.norm(aside, axis=-1, keepdims=True), 1e-9)
    turn = np.radians(degrees)
    return (np.cos(turn) * array + np.sin(turn) * aside).astype(np.float32)


def test_codec_reads_what_it_drew(normals):
    codec, truth = modalities.get("normals").codec, ball()
    modalities.check_clip(codec, {"normals": truth})
    with pytest.raises(UserError, match="unit length"):
        modalities.check_clip(codec, {"normals": 2 * truth})
    video, side = jax.jit(codec.encode)({"normals": truth})
    eight_bit = media.to_float(media.to_uint8(np.asarray(video)))
    for shown, floor in ((video, "degrees"), (eight_bit, "degrees_8bit")):
        decoded = codec.decode(shown, side)["normals"]
        assert np.nanmax(normals.angles(decoded, truth)) < codec.error_floor[floor]
        assert (decoded[(truth == 0).all(-1)] == 0).all()


def test_a_turn_is_its_own_angle_and_a_missing_surface_a_right_one(normals):
    truth = ball()
    metric = normals.NormalsMetric()
    metric.update({"normals": tilted(truth, 25.0)}, {"normals": truth}, "clip")
    found = metric.compute()
    assert found[ERROR] == pytest.approx(25.0, abs=0.05)
    assert found["normals/pooled_surfaces/within_22.5"] == 0.0
    assert found["normals/pooled_surfaces/within_30"] == 1.0
    nothing = normals.NormalsMetric()
    nothing.update({"normals": 0 * truth}, {"normals": truth}, "clip")
    assert nothing.compute()[ERROR] == pytest.approx(90.0)
    trivial = normals.NormalsMetric()
    trivial.update(modalities.get("normals").trivial({"normals": truth}), {"normals": truth}, "c")
    # Over a disc, the angle of a ball's normal to the view is pi/4 on average.
    assert trivial.compute()[ERROR] == pytest.approx(45.0, abs=1.0)


def test_a_folder_of_predictions_is_scored_and_drawn(normals, tmp_path):
    for side, degrees in (("truth", 0.0), ("theirs", 10.0)):
        clip = tmp_path / side / "a"
        clip.mkdir(parents=True)
        np.savez(clip / "normals.npz", normals=tilted(ball(), degrees))
    # In a new process, which must know the modality too.
    config = score_folder.HarnessConfig(
        benchmark=tmp_path / "truth",
        predictions=tmp_path / "theirs",
        output=tmp_path / "out",
        processes=2,
    )
    outcome = score_folder.run(config)
    assert outcome.streams == ("normals",) and not outcome.faults
    found = scores.aggregate([row.score for row in outcome.rows])
    assert found[ERROR] == pytest.approx(10.0, abs=0.05)
    video, _ = media.read_video(tmp_path / "out" / "pictures" / "a_normals.mp4")
    # Truth, prediction and error side by side, magnified four times.
    assert video.shape == (T, 4 * H, 3 * 4 * W, 3)


def test_arrays_that_worlds_lack_are_named(normals):
    check_rendered("normals", modalities.get("normals").codec)
    codec = types.SimpleNamespace(keys=("rgb", "albedo"))
    with pytest.raises(UserError, match="'albedo': its codec draws albedo, which rendered worlds"):
        check_rendered("albedo", codec)
