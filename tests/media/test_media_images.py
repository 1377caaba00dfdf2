"""Right values of images, animations and folders: order, orientation, colours, numbers."""

import numpy as np
import pytest
from made_media import animate, png, quadrants
from PIL import Image

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.media.images import in_order

PICTURE = quadrants(1)[0]
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_orientation_is_honoured(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(PICTURE).transpose(TURNS[orientation])
    stored.save(tmp_path / f"a{suffix}", exif=exif, quality=95)
    video, info = media.read(tmp_path / f"a{suffix}"), media.video_info(tmp_path / f"a{suffix}")
    assert np.abs(video.frames[0].astype(int) - PICTURE)[4:-4:8, 4:-4:8].max() < 12
    assert (info.height, info.width) == video.stored_size == (64, 48)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("1 2 10", "1 2 10"),
        ("b a", "a b"),
        ("f10_b f9_b", "f9_b f10_b"),
        ("s1_f10 s1_f9 s2_f1", "s1_f9 s1_f10 s2_f1"),
        ("001 01 1", "001.png and 01.png have the same number"),
        ("s10_f2 s1_f10", "not clear"),
        ("0.25 0.5", "not clear"),
        ("a1 a2 b10", "not clear"),
        ("frame_9 frame_10 cover", "not clear"),
        ("-1 0 10", "not clear"),
    ],
)
def test_images_come_in_the_order_of_their_numbers(tmp_path, names, expected):
    files = [tmp_path / f"{name}.png" for name in names.split()]
    if " and " in expected or expected == "not clear":
        with pytest.raises(UserError, match=expected):
            in_order(files)
    else:
        assert [p.stem for p in in_order(files)] == expected.split()


def test_files_that_are_no_images_are_reported_and_a_number_in_two_formats_refused(
    tmp_path, capsys
):
    for n in (9, 10, 11):
        Image.new("L", (8, 8), n).save(tmp_path / f"{n}.png")
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".DS_Store").touch()
    assert media.read(tmp_path).frames[:, 0, 0, 0].tolist() == [9, 10, 11]
    assert "1 files that are no images are left out, such as notes.txt" in capsys.readouterr().out
    Image.new("L", (8, 8)).save(tmp_path / "10.jpg")
    with pytest.raises(UserError, match=r"10\.jpg and 10\.png have the same number"):
        media.read(tmp_path)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".apng", ".avif"])
def test_animations_are_videos_with_the_times_that_they_state(tmp_path, suffix):
    options = {".apng": {"format": "PNG"}, ".webp": {"lossless": True}}.get(suffix, {})
    path = animate(tmp_path / f"a{suffix}", [100, 100, 400, 100, 100, 100, 100, 100], **options)
    video, info = media.read(path, fps=10), media.video_info(path)
    expected = [0, 1, 2, 2, 2, 2, 3, 4, 5, 6, 7]
    assert video.numbers.tolist() == expected
    assert np.abs(video.frames[:, 8, 8, 0] - np.asarray(expected) * 25.0).max() < 4
    assert info.num_frames == 8 and info.seconds == pytest.approx(1.1)
    assert media.read(path).numbers.tolist() == expected and info.fps == pytest.approx(10)
    assert abs(media.read_at(path, np.asarray([0.55]))[0, 8, 8, 0] - 50.0) < 4


def test_joined_frames_of_an_animation_keep_their_time(tmp_path):
    # Pillow writes equal frames as one that stays longer.
    path = animate(tmp_path / "a.gif", [125] * 17, levels=[40] * 17)
    assert len(media.read(path).frames) == 17
    # Browsers show frames without a delay for a tenth of a second.
    path = animate(tmp_path / "b.gif", [0] * 8)
    assert media.read(path, fps=5).numbers.tolist() == [0, 2, 4, 6]


def test_a_still_image_is_no_video(tmp_path):
    for suffix in (".webp", ".gif"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"still{suffix}")
        animate(tmp_path / f"moving{suffix}", [100] * 8)
        assert not media.is_video(tmp_path / f"still{suffix}")
        assert media.is_video(tmp_path / f"moving{suffix}")
    assert media.is_video(tmp_path / "a.MKV") and not media.is_video(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1"])
def test_colour_modes(tmp_path, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    image = Image.fromarray(PICTURE).convert(mode)
    image.save(tmp_path / f"a{suffix}", quality=95)
    expected = np.asarray(image.convert("RGB")).astype(int)
    found = media.read(tmp_path / f"a{suffix}").frames[0]
    assert np.abs(found - expected)[4:-4:8, 4:-4:8].max() < 12


def test_transparent_pixels_are_black_and_said(tmp_path, capsys):
    alpha = np.full((64, 48, 1), 255, np.uint8)
    alpha[:, 24:] = 0
    Image.fromarray(np.concatenate([PICTURE, alpha], -1)).save(tmp_path / "a.png")
    frame = media.read(tmp_path / "a.png").frames[0]
    assert (frame[:, 24:] == 0).all() and (frame[:, :24] == PICTURE[:, :24]).all()
    assert "a.png: transparent pixels are shown on black" in capsys.readouterr().out


def test_stored_numbers_survive(tmp_path):
    ramp = np.arange(64 * 48).reshape(64, 48) * 20
    saved = {
        "16.png": ramp.astype(np.uint16),
        "be.tif": ramp.astype(">u2"),
        "32.tif": (ramp * 100).astype(np.int32),
        "f.tif": (ramp / 7).astype(np.float32),
        "8.png": (ramp % 251).astype(np.uint8),
    }
    for name, array in saved.items():
        Image.fromarray(array).save(tmp_path / name)
        found = media.read_numbers(tmp_path / name)[0]
        assert np.array_equal(found, array) and found.dtype == array.dtype.newbyteorder("=")
    palette = Image.fromarray(saved["8.png"]).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(media.read_numbers(tmp_path / "p.png")[0], np.asarray(palette))
    pages = [Image.fromarray(np.uint16(ramp + n)) for n in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert media.read_numbers(tmp_path / "pages.tif", [0, 2])[:, 0, 0].tolist() == [0, 2]
    for name in ("16.png", "32.tif", "f.tif"):
        with pytest.raises(UserError, match="holds numbers such as depth, not colours"):
            media.read(tmp_path / name)


@pytest.mark.parametrize(
    ("bits", "colour", "row", "expected"),
    [
        (1, 0, 0b01010000, [0, 1, 0, 1]),
        (2, 0, 0b00011011, [0, 1, 2, 3]),
        (4, 0, (0x01, 0x2F), [0, 1, 2, 15]),
        (4, 3, (0x01, 0x21), [0, 1, 2, 1]),
    ],
)
def test_ids_of_few_bits_are_not_stretched(tmp_path, bits, colour, row, expected):
    row = bytes(row if isinstance(row, tuple) else (row,))
    path = png(tmp_path / "a.png", 4, 1, bits, colour, [row])
    assert media.read_numbers(path).tolist() == [[expected]]


def test_sizes_are_bounded_before_memory_is_taken(tmp_path):
    for side in (9_000, 100_000):
        path = png(tmp_path / f"{side}.png", side, side, 8, 0, [b""])
        with pytest.raises(UserError, match=f"{side}.png.*(limit)"):
            media.read(path)
