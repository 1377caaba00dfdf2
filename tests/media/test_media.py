import numpy as np
import pytest
from PIL import Image

from unityvideo_jax import media
from unityvideo_jax.errors import UserError


def _gradient(frames=5, height=32, width=48):
    y, x = np.mgrid[:height, :width]
    return np.stack([np.stack([x * 5, y * 7, 0 * x + 20 * t], -1) for t in range(frames)]).astype(
        np.uint8
    )


def test_mp4_round_trip_is_close_and_keeps_the_rate(tmp_path):
    frames = _gradient()
    media.write_video(tmp_path / "a.mp4", frames, 8.0)
    back, fps = media.read_video(tmp_path / "a.mp4")
    assert back.shape == frames.shape and fps == 8
    assert np.abs(back.astype(int) - frames).mean() < 4  # chroma is subsampled
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_image_folder_in_name_order(tmp_path):
    frames = _gradient()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{i:03d}.png")
    np.testing.assert_array_equal(media.read_video(tmp_path)[0], frames)
    assert len(media.read_video(tmp_path, max_frames=2)[0]) == 2


def test_fit_keeps_the_centre():
    frames = np.zeros((1, 40, 80, 3), np.uint8)
    frames[:, 18:22, 38:42] = 255
    fitted = media.fit(frames, height=32, width=32)
    assert fitted.shape == (1, 32, 32, 3)
    ys, xs = np.nonzero(fitted[0, ..., 0] > 128)
    assert abs(ys.mean() - 15.5) < 0.6 and abs(xs.mean() - 15.5) < 0.6


def test_pixel_ranges_invert():
    frames = _gradient()
    np.testing.assert_array_equal(media.to_uint8(media.to_float(frames)), frames)


@pytest.mark.parametrize("kind", ["missing", "empty", "garbage", "sizes"])
def test_unreadable_input_names_the_path(tmp_path, kind):
    path = tmp_path / "input"
    if kind == "empty":
        path.mkdir()
    elif kind == "garbage":
        path = tmp_path / "input.mp4"
        path.write_bytes(b"not a video" * 100)
    elif kind == "sizes":
        path.mkdir()
        Image.new("RGB", (16, 16)).save(path / "0.png")
        Image.new("RGB", (16, 32)).save(path / "1.png")
    with pytest.raises(UserError, match="input"):
        media.read_video(path)


def test_contact_sheet(tmp_path):
    media.contact_sheet({"rgb": _gradient(), "again": _gradient()}, tmp_path / "s.png", columns=3)
    assert Image.open(tmp_path / "s.png").size == (3 * 50, 2 * (32 + 14))
