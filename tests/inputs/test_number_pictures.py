"""Depth and ids stored in pictures: the same values in prepare, sample and evaluate."""

import json

import numpy as np
import pytest
from PIL import Image

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import pictures
from unityvideo_jax.inputs.clip_folders import Clip
from unityvideo_jax.inputs.folder import FolderSource
from unityvideo_jax.sampling import files

MILLIMETRES = np.linspace(500, 8000, 5 * 32 * 64).reshape(5, 32, 64).astype(np.uint16)
# From left to right, as the codec numbers instances that appear together.
IDS = np.tile(np.arange(64, dtype=np.uint8) // 16, (5, 32, 1))
TARGET = dict(num_frames=5, height=32, width=64)


def store(folder, arrays, suffix=".png", mode=None):
    folder.mkdir(parents=True)
    for n, array in enumerate(arrays):
        Image.fromarray(array, mode).save(folder / f"{n}{suffix}")
    return folder


def palette(folder, arrays):
    folder.mkdir(parents=True)
    for n, array in enumerate(arrays):
        image = Image.fromarray(array).convert("P")
        image.putdata(array.ravel().tolist())
        image.putpalette([value for n in range(256) for value in (n * 37 % 256, 255 - n, n)])
        image.save(folder / f"{n}.png")
    return folder


def read_by_all(tmp_path, modality, folder):
    """A modality's arrays as prepare, sample and evaluate take them from a folder."""
    clips, benchmark = tmp_path / "clips", tmp_path / "clip"
    clips.mkdir(exist_ok=True)
    media.write_video(clips / "a.mp4", np.zeros((5, 32, 64, 3), np.uint8), 8.0)
    (clips / "a.txt").touch()
    benchmark.mkdir(exist_ok=True)
    folders = clips / f"a.{modality}", benchmark / modality
    for target in folders:
        if not target.exists():
            target.symlink_to(folder)
            if (side := pictures.side_file(folder)).exists():
                pictures.side_file(target).symlink_to(side)
    codec = modalities.get(modality).codec
    batch = FolderSource(clips, ("rgb", modality), **TARGET).load([0], ("rgb", modality))
    side = {key: np.asarray(value[0]) for key, value in batch.sides[modality].items()}
    given = files.read_given(
        {modality: str(folder)}, num_frames=5, default_frames=5, height=32, width=64, fps=8.0
    )[modality]
    return (
        codec.decode(batch.videos[modality][0], side),
        codec.decode(given.video, given.side),
        Clip(path=benchmark).arrays(modality),
        Clip(path=benchmark).truth(modality),
    )


def test_depth_of_16_bits_is_millimetres_everywhere(tmp_path, capsys):
    folder = store(tmp_path / "stored", MILLIMETRES)
    for arrays in read_by_all(tmp_path, "depth", folder):
        np.testing.assert_allclose(arrays["depth"], MILLIMETRES / 1000, rtol=1e-3)
    assert "stored: no unit is stated, so its uint16 are taken as mm" in capsys.readouterr().out


def test_a_file_beside_the_pictures_states_unit_and_scale(tmp_path, capsys):
    # 5000 steps per metre, as the TUM data sets have it; 0 is no surface.
    steps = (MILLIMETRES * 5).astype(np.uint16)
    steps[:, 0] = 0
    folder = store(tmp_path / "stored", steps)
    (tmp_path / "stored.json").write_text(json.dumps({"unit": "m", "scale": 1 / 5000}))
    for arrays in read_by_all(tmp_path, "depth", folder):
        assert np.isinf(arrays["depth"][:, 0]).all()
        np.testing.assert_allclose(arrays["depth"][:, 1:], steps[:, 1:] / 5000, rtol=2e-3)
    assert "unit" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stored", "suffix", "unit", "expected"),
    [
        (np.float32(MILLIMETRES / 1000), ".tif", "", MILLIMETRES / 1000),
        (np.float32(MILLIMETRES / 10), ".tif", "cm", MILLIMETRES / 1000),
        (MILLIMETRES.astype(np.int32), ".tif", "mm", MILLIMETRES / 1000),
        (MILLIMETRES, ".png", "relative", MILLIMETRES),
        (MILLIMETRES, ".png", "disparity", 1 / MILLIMETRES.astype(float)),
        ((MILLIMETRES // 40).astype(np.uint8), ".png", "cm", MILLIMETRES // 40 / 100),
    ],
)
def test_units_by_flag(tmp_path, stored, suffix, unit, expected):
    folder = store(tmp_path / "d", stored, suffix)
    assert pictures.holds_numbers("depth", folder, depth_unit=unit)
    found = pictures.read_arrays("depth", folder, [1, 3], depth_unit=unit)["depth"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[[1, 3]], rtol=1e-6)


def test_npz_of_depth_follows_the_unit_too(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, depth=MILLIMETRES.astype(np.float32))
    size = dict(num_frames=5, default_frames=5, height=32, width=64, fps=8.0)
    given = files.read_given({"depth": str(path)}, **size, depth_unit="mm")["depth"]
    np.testing.assert_allclose(
        given.side["bounds"], [1000 / MILLIMETRES.max(), 1000 / MILLIMETRES.min()], rtol=1e-6
    )


@pytest.mark.parametrize("write", [store, palette])
def test_ids_of_masks_and_palettes_stay_ids(tmp_path, write):
    folder = write(tmp_path / "stored", IDS)
    for arrays in read_by_all(tmp_path, "segmentation", folder):
        assert arrays["segments"].dtype == np.int32
        np.testing.assert_array_equal(arrays["segments"], IDS)


def test_a_grey_drawing_of_8_bits_stays_a_drawing(tmp_path):
    folder = store(tmp_path / "d", (MILLIMETRES // 40).astype(np.uint8))
    assert not pictures.holds_numbers("depth", folder)


def colours(folder, mode="RGB"):
    return store(folder, [np.zeros((8, 8, 3), np.uint8)] * 2)


REFUSED = {
    "unit of colours": ("depth", colours, "mm", "colours, which hold no depth in a unit"),
    "16 bits of flow": ("flow", lambda f: store(f, MILLIMETRES), "", "no meaning for flow"),
    "grey of parts": ("densepose", lambda f: store(f, IDS), "", "no meaning for densepose"),
    "float ids": ("segmentation", lambda f: store(f, np.float32(IDS), ".tif"), "", "as integers"),
    "ids in jpg": ("segmentation", lambda f: store(f, IDS, ".jpg"), "", "JPEG changes"),
    "unknown unit": ("depth", lambda f: store(f, MILLIMETRES), "inch", "'inch' is no unit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pictures_of_unknown_numbers_are_refused_by_name(tmp_path, name):
    modality, write, unit, message = REFUSED[name]
    folder = write(tmp_path / "stored")
    with pytest.raises(UserError, match=message):
        assert pictures.holds_numbers(modality, folder, depth_unit=unit)
        pictures.read_arrays(modality, folder, depth_unit=unit)


def test_ids_beyond_32_bits_are_refused(tmp_path, monkeypatch):
    ids = np.array([[[1, 3_000_000_000]]], np.uint32)
    monkeypatch.setattr(pictures.media, "read_numbers", lambda *_: ids)
    with pytest.raises(UserError, match=r"a\.tif: ids to 3000000000; number them to 2147483647"):
        pictures.read_arrays("segmentation", tmp_path / "a.tif")


def test_a_side_file_may_have_a_byte_order_mark(tmp_path):
    folder = store(tmp_path / "d", MILLIMETRES)
    (tmp_path / "d.json").write_text('{"unit": "cm"}', encoding="utf-8-sig")
    assert pictures.stated(folder).unit == "cm"


@pytest.mark.parametrize(
    "text",
    [
        *("mm", "[]", "{}", '{"unit": "feet"}', '{"unit": "m", "scale": 0}', '{"units": "m"}'),
        *('{"unit": ["mm"]}', '{"unit": "m", "unit": "mm"}', '{"unit": "m", "scale": NaN}'),
        *('{"unit": "m", "scale": ' + "1" * 400 + "}", "[" * 100_000, '{"unit": "m"}\0'),
    ],
)
def test_a_bad_side_file_is_named(tmp_path, text):
    folder = store(tmp_path / "d", MILLIMETRES)
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(UserError, match=r"d\.json"):
        pictures.read_arrays("depth", folder)
