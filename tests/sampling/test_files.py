import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.clip_folders import Clip
from unityvideo_jax.sampling import files
from unityvideo_jax.sampling.samples import Samples
from unityvideo_jax.sampling.streams import check_size, stream_order

SIZE = dict(height=32, width=48, fps=8.0)


def clip(frames=9, height=32, width=48):
    y, x = np.mgrid[:height, :width]
    video = np.stack(
        [np.stack([x * 5 % 256, y * 7 % 256, 0 * x + 10 * t], -1) for t in range(frames)]
    )
    return video.astype(np.uint8)


@pytest.mark.parametrize(
    ("available", "source_fps", "expected"),
    [
        (9, 8.0, [0, 1, 2, 3, 4]),
        (13, 24.0, [0, 3, 6, 9, 12]),
        (7, 12.0, [0, 1, 3, 4, 6]),
        (3, 4.0, [0, 0, 1, 1, 2]),
        (10, 14.985, [0, 1, 3, 5, 7]),
    ],
)
def test_frames_are_those_on_display_and_slow_input_repeats(
    tmp_path, capsys, available, source_fps, expected
):
    path = tmp_path / "film.mp4"
    media.write_video(path, clip(available), source_fps)
    given = files.read_given({"rgb": str(path)}, num_frames=5, default_frames=5, **SIZE)["rgb"]
    assert given.source["frames"] == expected
    said = "slower than 8 frames per second, so 2 of 5 frames repeat" in capsys.readouterr().out
    assert said == (source_fps == 4)


def test_real_video_of_any_size_comes_in_the_models(tmp_path):
    path = tmp_path / "film.mp4"
    media.write_video(path, clip(30, 60, 100), 16.0)
    given = files.read_given({"rgb": str(path)}, num_frames=None, default_frames=9, **SIZE)["rgb"]
    assert given.video.shape == (9, 32, 48, 3)
    assert given.video.dtype == np.float32 and np.abs(given.video).max() <= 1
    assert given.source["frames"] == list(range(0, 18, 2))
    assert given.source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_short_video_gives_the_largest_length_that_fits(tmp_path, capsys):
    path = tmp_path / "film.mp4"
    media.write_video(path, clip(8), 8.0)
    given = files.read_given({"rgb": str(path)}, num_frames=None, default_frames=17, **SIZE)["rgb"]
    assert len(given.video) == 5 and given.source["frames"] == list(range(5))
    said = f"{path}: 8 frames at 8 frames/s, so 5 are sampled instead of 17"
    assert said in capsys.readouterr().out
    with pytest.raises(UserError, match=r"film.mp4: 8 frames at 8 frames/s but num_frames=9"):
        files.read_given({"rgb": str(path)}, num_frames=9, default_frames=17, **SIZE)


def test_image_folder(tmp_path):
    for t, frame in enumerate(clip(6)):
        Image.fromarray(frame).save(tmp_path / f"{t:03d}.png")
    given = files.read_given({"rgb": str(tmp_path)}, num_frames=5, default_frames=5, **SIZE)["rgb"]
    np.testing.assert_array_equal(media.to_uint8(given.video), clip(6)[:5])


def test_truth_is_encoded_with_its_record(tmp_path):
    path = tmp_path / "depth.npz"
    depth = np.linspace(1.0, 9.0, 9 * 32 * 48).reshape(9, 32, 48).astype(np.float32)
    np.savez(path, depth=depth)
    given = files.read_given({"depth": str(path)}, num_frames=5, default_frames=17, **SIZE)["depth"]
    decoded = modalities.get("depth").codec.decode(given.video, given.side)["depth"]
    np.testing.assert_allclose(decoded, depth[:5], rtol=1e-4)


def pictures_of(folder, arrays):
    folder.mkdir()
    for n, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{n:02d}.png")
    return folder


@pytest.mark.parametrize("num_frames", [5, None])
def test_depth_is_drawn_within_the_bounds_of_the_frames_taken(tmp_path, num_frames):
    # Only frames that are not taken are near.
    depth = np.full((8, 32, 48), 4000, np.uint16)
    depth[:, :16], depth[5:] = 8000, 500
    np.savez(tmp_path / "d.npz", depth=depth / np.float32(1000))
    for path in (tmp_path / "d.npz", pictures_of(tmp_path / "d", depth)):
        given = files.read_given(
            {"depth": str(path)}, num_frames=num_frames, default_frames=9, **SIZE
        )["depth"]
        np.testing.assert_allclose(given.side["bounds"], (1 / 8, 1 / 4), rtol=1e-6)
        assert given.source["frames"] == list(range(5)) and len(given.video) == 5


def test_a_long_video_of_numbers_is_refused(tmp_path):
    def first(name, path, unit=""):
        frames = files.stream_given(name, str(path), fps=8.0, size=(32, 48), depth_unit=unit)
        return next(frames)

    ids = pictures_of(tmp_path / "ids", np.ones((2, 32, 48), np.uint8))
    metres = pictures_of(tmp_path / "depth", np.ones((2, 32, 48), np.uint16))
    np.savez(tmp_path / "depth.NPZ", depth=np.ones((2, 32, 48)))
    for name, path, unit in (
        ("segmentation", ids, ""),
        ("depth", ids, "cm"),
        ("depth", metres, ""),
        ("depth", tmp_path / "depth.NPZ", ""),
    ):
        with pytest.raises(UserError, match=f"holds numbers, .* give {name} as a video"):
            first(name, path, unit)
    assert first("depth", ids).max() == 1 and first("rgb", ids).shape == (32, 48, 3)


def test_masks_are_white(tmp_path):
    ids = np.zeros((32, 48), np.uint8)
    ids[:, :24] = 1
    palette = Image.fromarray(ids).convert("P")
    palette.putdata(ids.ravel().tolist())
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(tmp_path / "palette.png")
    for number, value in ((1, 1), (2, 127), (3, 255)):
        Image.fromarray(ids * np.uint8(value)).save(tmp_path / f"{number}.png")
    for name, lightest in (("1", 1), ("2", 127), ("palette", 43)):
        with pytest.raises(
            UserError, match=rf"{name}\.png: nothing .* lightest pixel is {lightest}"
        ):
            files.read_mask(str(tmp_path / f"{name}.png"), (5, 32, 48), fps=8.0)
    mask = files.read_mask(str(tmp_path / "3.png"), (5, 32, 48), fps=8.0).video
    np.testing.assert_array_equal(mask, np.broadcast_to(ids > 0, (5, 32, 48)))


@pytest.mark.parametrize("suffix", [".npy", ".flo", ".pfm", ".exr", ".npz"])
def test_files_of_other_kinds_are_refused_with_those_that_are_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"PF\n48 32\n-1.0\n" + bytes(48 * 32 * 12))
    with pytest.raises(UserError, match=rf"no \{suffix} files are read here; give an image, a vi"):
        files.read_mask(str(path), (5, 32, 48), fps=8.0)
    if suffix != ".npz":
        with pytest.raises(UserError, match=rf"no \{suffix} files .*, or an \.npz of its arrays"):
            files.read_given({"flow": str(path)}, num_frames=5, default_frames=5, **SIZE)


def test_several_inputs_share_a_length(tmp_path):
    np.savez(tmp_path / "d.npz", depth=np.ones((7, 32, 48), np.float32))
    media.write_video(tmp_path / "v.mp4", clip(12), 8.0)
    given = files.read_given(
        {"depth": str(tmp_path / "d.npz"), "rgb": str(tmp_path / "v.mp4")},
        num_frames=None,
        default_frames=9,
        **SIZE,
    )
    assert {len(one.video) for one in given.values()} == {5}


def test_bad_truth_is_named(tmp_path):
    path = tmp_path / "d.npz"

    def read():
        files.read_given({"depth": str(path)}, num_frames=None, default_frames=5, **SIZE)

    with pytest.raises(UserError, match="no such file"):
        read()
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="not a readable npz"):
        read()
    np.savez(path, disparity=np.ones((5, 32, 48)))
    with pytest.raises(UserError, match="lacks depth"):
        read()
    np.savez(path, depth=np.ones((5, 16, 16), np.float32))
    with pytest.raises(UserError, match="16x16 pixels but 32x48 is sampled"):
        read()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((16, 64, 64), "num_frames=16: the VAE takes 4n\\+1 frames; use 13 or 17"),
        ((0, 64, 64), "num_frames=0"),
        ((17, 60, 64), "height=60: must be a multiple of 16 pixels; use 48 or 64"),
        ((17, 64, 8), "width=8: must be a multiple of 16 pixels; use 16 or 32"),
    ],
)
def test_sizes_that_the_model_cannot_take_are_named(size, message):
    with pytest.raises(UserError, match=message):
        check_size(*size)


def test_streams_keep_the_models_order():
    known = ("rgb", "depth", "flow")
    assert stream_order(["flow", "rgb"], known) == ("rgb", "flow")
    with pytest.raises(UserError, match="modality 'normals': this model knows rgb, depth, flow"):
        stream_order(["rgb", "normals"], known)
    with pytest.raises(UserError, match="either given or wanted"):
        stream_order(["rgb", "rgb"], known)


def test_outputs_read_back(tmp_path):
    depth = np.linspace(1.0, 9.0, 5 * 32 * 48).reshape(5, 32, 48).astype(np.float32)
    encoded, side = modalities.get("depth").codec.encode({"depth": depth})
    videos = {"rgb": media.to_float(clip(5))[None], "depth": np.asarray(encoded)[None]}
    samples = Samples(
        videos=videos,
        latents={name: np.zeros((1, 2, 4, 6, 16), np.float32) for name in videos},
        streams=("rgb", "depth"),
        wanted=("depth",),
        sides={"depth": side},
    )
    names = samples.save(tmp_path / "out", record={"seed": 3})
    assert sorted(names) == sorted(p.name for p in (tmp_path / "out").iterdir())
    frames, fps = media.read_video(tmp_path / "out" / "rgb.mp4")
    assert frames.shape == (5, 32, 48, 3) and fps == 8.0
    loaded = np.load(tmp_path / "out" / "depth.npz")
    np.testing.assert_allclose(loaded["depth"], depth, rtol=1e-4)
    record = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert record["seed"] == 3
    assert record["files"] == ["rgb.mp4", "depth.mp4", "depth.npz", "sheet.png"]
    # What was given is nobody's prediction.
    samples.save(tmp_path / "given", record={"wanted": ["rgb"]})
    assert Clip(path=tmp_path / "given").streams == ("rgb",)
