import shutil

import numpy as np
import pytest
import stand_ins
from PIL import Image

from unityvideo_jax import media
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.crop import Crop
from unityvideo_jax.inputs.folder import FolderSource

MODALITIES = ("rgb", "depth", "flow")
TARGET = dict(num_frames=5, height=16, width=32)


def _write_clip(folder, key, *, frames=7, height=32, width=64, fps=8.0, number=0):
    """A smooth video and its arrays; returns the arrays."""
    folder.mkdir(exist_ok=True)
    truth = stand_ins.clip(number, frames, height, width)
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    video = np.broadcast_to(ramp[None, None, :, None], (frames, height, width, 3)).copy()
    media.write_video(folder / f"{key}.mp4", video, fps)
    (folder / f"{key}.txt").write_text(f"Caption of {key}.\n")
    np.savez(folder / f"{key}.depth.npz", depth=truth["depth"])
    np.savez(folder / f"{key}.flow.npz", flow=truth["flow"], occluded=truth["occluded"])
    return truth


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "clips"
    _write_clip(path, "b", number=1)
    _write_clip(path, "a", number=0)
    return path


def test_clips_come_in_name_order_with_texts_and_size(folder):
    (folder / "a.depth.txt").write_text("depth of the kitchen")
    (folder / "notes.md").write_text("ignored")
    source = FolderSource(folder, MODALITIES, **TARGET)
    assert list(source.keys) == ["a", "b"]
    assert source.fps == 8.0
    batch = source.load([0, 1, 1], MODALITIES)
    for name in MODALITIES:
        assert batch.videos[name].shape == (3, 5, 16, 32, 3)
        np.testing.assert_array_equal(batch.videos[name][1], batch.videos[name][2])
        assert np.abs(batch.videos[name]).max() <= 1
    assert batch.texts["rgb"] == ["Caption of a.", "Caption of b.", "Caption of b."]
    assert batch.texts["depth"][:2] == ["depth of the kitchen", registry.get("depth").prompt]


def test_texts_and_stills_of_no_modality_are_listed(folder, capsys):
    names = ("a.DEPTH.txt", "a.depht.txt", "a.mp4.txt", "still.depht.png")
    for name in names:
        (folder / name).touch()
    for name in ("still.png", "still.depth.png"):
        Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(folder / name)
    for name in ("still.txt", "a.depth.txt"):
        (folder / name).touch()
    assert "still" in FolderSource(folder, ("rgb",), **TARGET).keys
    assert f"ignored 4 files: {', '.join(names)}\n" in capsys.readouterr().out
    (folder / "b.TXT").touch()
    with pytest.raises(UserError, match=r"clip 'b': .*b.TXT and .*b.txt: keep one"):
        FolderSource(folder, ("rgb",), **TARGET)


def test_suffixes_in_capitals_are_read(folder):
    truth = FolderSource(folder, MODALITIES, **TARGET).load([0], MODALITIES)
    for name in ("a.depth.npz", "a.mp4", "a.txt"):
        stem, _, suffix = name.rpartition(".")
        (folder / name).rename(folder / f"{stem}.{suffix.upper()}")
    found = FolderSource(folder, MODALITIES, **TARGET).load([0], MODALITIES)
    assert found.texts == truth.texts
    for name in MODALITIES:
        np.testing.assert_array_equal(found.videos[name], truth.videos[name])


def test_depth_and_flow_keep_their_values_through_scaling(folder):
    truth = stand_ins.clip(0, 7, 32, 64)
    batch = FolderSource(folder, MODALITIES, **TARGET).load([0], MODALITIES)

    def decode(name):
        side = {k: np.asarray(v[0]) for k, v in batch.sides[name].items()}
        return registry.get(name).codec.decode(batch.videos[name][0], side)

    # Half size: pixel (i, j) lies on the source's pixel (2i+1, 2j+1), and motion halves.
    expected = truth["depth"][:5, 1::2, 1::2]
    np.testing.assert_allclose(decode("depth")["depth"], expected, rtol=1e-3)
    np.testing.assert_allclose(decode("flow")["flow"], truth["flow"][:5, 1::2, 1::2] / 2, atol=2e-2)


def test_video_is_scaled_and_cropped_at_the_centre(folder):
    source = FolderSource(folder, ("rgb",), num_frames=5, height=16, width=16)
    video = source.load([0], ("rgb",)).videos["rgb"][0]
    # The middle half of a ramp from -1 to 1.
    np.testing.assert_allclose(video.mean((0, 1, 3)), np.linspace(-0.5, 0.5, 16), atol=0.06)


def test_crop_moves_points_with_their_pixels():
    crop = Crop(source=(32, 64), target=(16, 16))
    assert (crop.scaled, crop.offset, crop.factors) == ((16, 32), (0, 8), (0.5, 0.5))
    marked = np.zeros((1, 32, 64), np.int32)
    marked[0, 20:22, 30:32] = 7
    rows, columns = np.nonzero(crop.nearest(marked)[0])
    moved = crop.points(np.array([[31.0, 21.0]]))[0]
    np.testing.assert_array_equal([columns + 0.5, rows + 0.5], moved[:, None])
    # Enlarging, from an odd size.
    crop = Crop(source=(9, 15), target=(48, 64))
    assert crop.scaled == (48, 80)
    assert crop.nearest(np.zeros((2, 9, 15, 3))).shape == (2, 48, 64, 3)
    corners = crop.points(np.array([[0.0, 0.0], [15.0, 9.0]]))
    np.testing.assert_allclose(corners, [[-8, 0], [72, 48]], rtol=1e-6)


def test_keypoints_that_the_crop_cuts_off_become_absent(folder):
    keypoints = np.zeros((7, 1, 17, 2), np.float32)
    keypoints[..., 0] = np.linspace(0.5, 63.5, 17)
    keypoints[..., 1] = 16
    visibility = np.full((7, 1, 17), 2, np.int32)
    np.savez(folder / "a.skeleton.npz", keypoints=keypoints, visibility=visibility)
    source = FolderSource(
        folder, ("rgb", "skeleton"), num_frames=5, height=32, width=32, num_clips=1
    )
    video = source.load([0], ("skeleton",)).videos["skeleton"][0]
    inside = (keypoints[0, 0, :, 0] >= 16) & (keypoints[0, 0, :, 0] < 48)
    expected, _ = registry.get("skeleton").codec.encode(
        {
            "keypoints": (keypoints - [16, 0])[:5].astype(np.float32),
            "visibility": np.where(inside, visibility, 0)[:5].astype(np.int32),
            "rgb": stand_ins.clip(0, 5, 32, 32)["rgb"],
        }
    )
    np.testing.assert_allclose(video, expected, atol=1e-5)


def test_a_modality_may_be_given_as_pictures_or_video(tmp_path):
    folder = tmp_path / "clips"
    truth = _write_clip(folder, "a", frames=5, height=16, width=32)
    drawn, _ = registry.get("depth").codec.encode({"depth": truth["depth"]})
    (folder / "a.depth.npz").unlink()
    (folder / "a.depth").mkdir()
    for n, frame in enumerate(media.to_uint8(np.asarray(drawn))):
        Image.fromarray(frame).save(folder / "a.depth" / f"{n:03d}.png")
    batch = FolderSource(folder, ("rgb", "depth"), **TARGET).load([0], ("depth",))
    np.testing.assert_allclose(batch.videos["depth"][0], drawn, atol=0.5 / 127.5 + 1e-6)
    default = registry.get("depth").codec.default_side
    assert default.keys() == batch.sides["depth"].keys()
    for key, value in default.items():
        np.testing.assert_array_equal(batch.sides["depth"][key][0], value)


def test_resampling_takes_frames_by_time(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    video = np.broadcast_to(
        (np.arange(20, dtype=np.uint8) * 12)[:, None, None, None], (20, 16, 32, 3)
    )
    media.write_video(folder / "a.mp4", video, 16.0)
    (folder / "a.txt").write_text("")
    source = FolderSource(folder, ("rgb",), **TARGET, fps=4.0)
    assert source.fps == 4.0
    levels = (source.load([0], ("rgb",)).videos["rgb"][0].mean((1, 2, 3)) + 1) * 127.5
    np.testing.assert_allclose(levels, np.array([0, 4, 8, 12, 16]) * 12, atol=3)
    with pytest.raises(UserError, match=r"a.mp4: 3 frames at 2 fps are too few.*=1 or less"):
        FolderSource(folder, ("rgb",), **TARGET, fps=2.0).load([0], ("rgb",))


def test_clips_of_other_rates_are_said(folder, capsys):
    media.write_video(folder / "b.mp4", np.zeros((12, 32, 64, 3), np.uint8), 16.0)
    for fps in (8.0, 0.0):
        FolderSource(folder, ("rgb",), **TARGET, fps=fps).load([1], ("rgb",))
        said = "b.mp4: 16 fps beside 8 of the first clip" in capsys.readouterr().out
        assert said == (fps == 0.0)


def test_drawings_of_another_rate_than_their_clip_are_said(tmp_path, capsys):
    folder = tmp_path / "clips"
    _write_clip(folder, "a", height=16, width=32)
    (folder / "a.depth.npz").unlink()
    for fps in (8.0, 4.0):
        media.write_video(folder / "a.depth.mp4", np.zeros((7, 16, 32, 3), np.uint8), fps)
        FolderSource(folder, ("rgb", "depth"), **TARGET).load([0], ("rgb", "depth"))
        said = "a.depth.mp4: 4 fps beside 8 of the RGB video" in capsys.readouterr().out
        assert said == (fps == 4.0)


def test_fingerprints_follow_the_files(folder):
    def identities():
        source = FolderSource(folder, MODALITIES, **TARGET)
        return {(key, m): source.identity(key, m) for key in source.keys for m in MODALITIES}

    first = identities()
    assert first == identities() and len(set(first.values())) == 6
    np.savez(folder / "a.depth.npz", depth=np.ones((7, 32, 64), np.float32), extra=np.zeros(9))
    (folder / "b.txt").write_text("Another caption of b.")
    second = identities()
    assert [k for k in first if first[k] != second[k]] == [("a", "depth"), ("b", "rgb")]


def _delete(folder, name):
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _empty(folder):
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (_empty, "no videos in it"),
        (lambda f: _delete(f, "a.flow.npz"), r"clip 'a': no flow file; add a.flow.npz.*--modal"),
        (lambda f: _delete(f, "b.txt"), r"clip 'b': no caption; add b.txt"),
        (lambda f: (f / "a.normals.npz").write_bytes(b""), "unknown modality 'normals'"),
        (lambda f: (f / "a.npz").write_bytes(b""), "name it <key>.<modality>.npz"),
        (lambda f: (f / "a.mov").write_bytes(b""), "are both rgb of a"),
    ],
)
def test_bad_folders_are_refused_before_any_work(folder, spoil, message):
    spoil(folder)
    with pytest.raises(UserError, match=message):
        FolderSource(folder, MODALITIES, **TARGET)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--source=.*nothing: no such folder"):
        FolderSource(tmp_path / "nothing", MODALITIES, **TARGET)


def _save_depth(folder, array):
    np.savez(folder / "a.depth.npz", depth=array)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda f: _save_depth(f, np.ones((6, 32, 64), np.float32)),
            r"a.depth.npz: depth has shape \(6, 32, 64\), but the RGB video has 7 frames",
        ),
        (
            lambda f: _save_depth(f, np.ones((7, 16, 64), np.float32)),
            r"a.depth.npz: depth is 16x64, but the RGB frames are 32x64",
        ),
        (
            lambda f: _save_depth(f, np.full((7, 32, 64), np.nan, np.float32)),
            r"a.depth.npz.*NaN",
        ),
        (
            lambda f: np.savez(f / "a.depth.npz", disparity=np.ones((7, 32, 64))),
            "a.depth.npz: lacks depth; it holds disparity",
        ),
        (lambda f: (f / "a.depth.npz").write_bytes(b"PK\x03\x04 no"), "not a readable npz"),
        (lambda f: (f / "a.mp4").write_bytes(b"no video"), r"a.mp4: does not decode"),
    ],
)
def test_bad_files_are_named(folder, spoil, message):
    source = FolderSource(folder, MODALITIES, **TARGET)
    spoil(folder)
    with pytest.raises(UserError, match=message):
        source.load([0], MODALITIES)


def test_pictures_of_another_size_or_length_are_refused(folder):
    _delete(folder, "a.depth.npz")
    media.write_video(folder / "a.depth.mp4", np.zeros((7, 16, 32, 3), np.uint8), 8.0)
    source = FolderSource(folder, MODALITIES, **TARGET)
    with pytest.raises(UserError, match=r"16x32 beside RGB of 32x64.*as .npz instead"):
        source.load([0], MODALITIES)
    media.write_video(folder / "a.depth.mp4", np.zeros((6, 32, 64, 3), np.uint8), 8.0)
    with pytest.raises(UserError, match=r"a.depth.mp4: 6 frames, but the RGB video has 7"):
        source.load([0], MODALITIES)


def test_too_short_a_clip_is_named_with_what_would_fit(folder):
    source = FolderSource(folder, ("rgb",), num_frames=9, height=16, width=32)
    with pytest.raises(UserError, match=r"a.mp4: 7 frames .*--num_frames=9; use --num_frames=5"):
        source.load([0], ("rgb",))


def test_flow_cannot_be_resampled(tmp_path):
    folder = tmp_path / "clips"
    _write_clip(folder, "a", frames=12, fps=8.0)
    source = FolderSource(folder, MODALITIES, **TARGET, fps=4.0)
    with pytest.raises(UserError, match="flow leads to the next frame"):
        source.load([0], MODALITIES)
    assert source.load([0], ("rgb", "depth")).videos["depth"].shape == (1, 5, 16, 32, 3)
