"""Right values of images, animations and folders: order, orientation, colours, numbers."""

import struct

import numpy as np
import pytest
from made_media import animate, png, quadrants
from PIL import Image

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.media.order import in_order

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
        ("-2 -1 0 1", "not clear"),
        ("1 1.5 2", "not clear"),
        ("0,25 0,5", "not clear"),
        ("cover s1_9 s1_10", "not clear"),
        ("0.5 1.0 1.5", "0.5 1.0 1.5"),
        ("Frame_3 frame_2 Frame_1", "Frame_1 frame_2 Frame_3"),
        ("img1 IMG2 IMG10", "img1 IMG2 IMG10"),
        ("f１０ f２", "f２ f１０"),  # full-width digits
        ("f١٠ f٢", "f٢ f١٠"),  # Arabic ones
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
    (tmp_path / "a\nb.txt").touch()
    (tmp_path / ".DS_Store").touch()
    assert media.read(tmp_path).frames[:, 0, 0, 0].tolist() == [9, 10, 11]
    assert (
        "1 files that are not read as images are left out, such as a b.txt"
        in capsys.readouterr().out
    )
    (tmp_path / "12.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"12\.png: a link to nothing"):
        media.read(tmp_path)
    (tmp_path / "12.png").unlink()
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


def test_a_camera_s_further_pictures_are_no_frames(tmp_path):
    first, second = (Image.fromarray(PICTURE).transpose(t) for t in (TURNS[3], TURNS[4]))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    for path in (tmp_path, tmp_path / "a.jpg"):
        frames = media.read(path).frames
        assert np.abs(frames.astype(int) - np.asarray(first))[:, 4:-4:8, 4:-4:8].max() < 12
        assert frames.shape == (1, 64, 48, 3)


IDS = np.arange(48 * 64).reshape(64, 48) % 4


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_numbers_of_tiff_are_upright(tmp_path, orientation, compression, dtype):
    array = (np.arange(48 * 64).reshape(64, 48) % 250).astype(dtype)
    stored = np.ascontiguousarray(np.rot90(array)) if orientation == 6 else array
    tags = {274: orientation} | ({339: 2} if dtype == "int32" else {})
    Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo=tags, compression=compression)
    np.testing.assert_array_equal(media.read_numbers(tmp_path / "a.tif")[0], array)
    info = media.video_info(tmp_path / "a.tif")
    assert (info.height, info.width) == (64, 48)


def tiff(path, array, bits, photometric=1, sample=1):
    """Writes an uncompressed little-endian TIFF of one strip, as other programs do."""
    levels = np.asarray(array)
    if bits < 8:
        ones = (levels[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        data = np.packbits(ones.reshape(len(levels), -1).astype(np.uint8), axis=-1).tobytes()
    else:
        data = levels.tobytes()
    height, width = levels.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: height, 279: len(data), 339: sample}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in tags.items())
    header = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(header + data + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("photometric", [0, 1])
def test_ids_of_tiff_stay_ids(tmp_path, bits, photometric):
    ids = (IDS % (1 << bits)).astype(np.uint8)
    path = tiff(tmp_path / "a.tif", ids, bits, photometric)
    np.testing.assert_array_equal(media.read_numbers(path)[0], ids)


@pytest.mark.parametrize(("dtype", "sample"), [("uint32", 1), ("int32", 2), ("int8", 2)])
def test_signs_of_tiff_are_kept(tmp_path, dtype, sample):
    values = np.array([[np.iinfo(dtype).max, np.iinfo(dtype).min, 1, 0]], dtype)
    path = tiff(tmp_path / "a.tif", values, 8 * values.itemsize, 1, sample)
    np.testing.assert_array_equal(media.read_numbers(path)[0], values)


@pytest.mark.parametrize("most", [3, 26, 255, 1000, 10000, 65535])
@pytest.mark.parametrize("magic", ["P2", "P5"])
def test_numbers_of_pgm_are_as_stored(tmp_path, most, magic):
    values = np.linspace(0, most, 12 * 8).round().astype(int).reshape(8, 12)
    text = " ".join(map(str, values.ravel())).encode()
    binary = values.astype(">u2" if most > 255 else "u1").tobytes()
    head = f"{magic}\n12 8\n{most}\n".encode()
    (tmp_path / "a.pgm").write_bytes(head + (text if magic == "P2" else binary))
    np.testing.assert_array_equal(media.read_numbers(tmp_path / "a.pgm")[0], values)


@pytest.mark.parametrize(("name", "options"), [
    ("a.jpg", {}), ("a.avif", {}), ("a.tif", {"compression": "jpeg"}),
])  # fmt: skip
def test_numbers_with_loss_are_refused(tmp_path, name, options):
    Image.fromarray(IDS.astype(np.uint8)).save(tmp_path / name, **options)
    with pytest.raises(UserError, match=r"changes the numbers that it stores; write PNG|colours"):
        media.read_numbers(tmp_path / name)


def test_a_kind_of_tiff_that_is_not_read_is_said(tmp_path):
    path = tiff(tmp_path / "a.tif", np.ones((4, 4)), 64, 1, 3)
    with pytest.raises(UserError, match=r"a\.tif: .*with 8 or 16 bits or 32-bit floats"):
        media.read_numbers(path)
