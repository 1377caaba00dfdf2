"""Videos, images and numbers in pictures as users have them: right values, or one right line."""

import contextlib
import fractions
import functools
import json

import numpy as np
from PIL import Image

from tests.curation import made_videos
from tests.faults.harness import Case
from tests.media import made_media
from unityvideo_jax import media, modalities
from unityvideo_jax.inputs.clip_folders import Clip
from unityvideo_jax.inputs.folder import FolderSource
from unityvideo_jax.sampling import files

LEVELS = (np.arange(24, dtype=np.uint8) * 10)[:, None, None, None].repeat(64, 1).repeat(64, 2)
LEVELS = LEVELS.repeat(3, 3)
SIZE = dict(height=64, width=64, fps=8.0)
MILLIMETRES = np.linspace(500, 8000, 64 * 64).reshape(64, 64).astype(np.uint16)
IDS = (np.arange(64 * 64).reshape(64, 64) // 256 % 5).astype(np.uint8)


def sample(path, name="rgb", frames=5):
    """A stream as `sample` takes it: u8 frames, and what its record says."""
    given = files.read_given({name: str(path)}, num_frames=frames, default_frames=5, **SIZE)[name]
    return given if name != "rgb" else media.to_uint8(given.video)


def prepare(folder, *names, fps=0.0, **size):
    """The only clip of a folder as `prepare` takes it, by stream; a caption is added."""
    (key,) = {path.name.partition(".")[0] for path in folder.iterdir()}
    (folder / f"{key}.txt").write_text("x")
    target = {"num_frames": 5, "height": 64, "width": 64, "fps": fps} | size
    batch = FolderSource(folder, ("rgb", *names), **target).load([0], ("rgb", *names))
    return {name: (batch.videos[name][0], batch.sides[name]) for name in ("rgb", *names)}


def first_frame(path):
    """An image as `sample --first_frame` takes it."""
    return media.to_uint8(files.read_image(str(path), height=64, width=64).video)[0]


def levels(frames):
    """Brightness over ten: the number of a frame of `LEVELS`."""
    return np.round(frames.mean(axis=(1, 2, 3)) / 10).astype(int).tolist()


def is_upright(frame):
    assert made_media.corners(frame) == "RGBW" and made_media.worst(frame) <= 12
    return True


def encoded(folder, name="a.mp4", frames=None, **options):
    """A video in a folder of its own."""
    (folder / "clips").mkdir(exist_ok=True)
    frames = made_media.quadrants(9, 64, 64) if frames is None else frames
    return made_media.encode(folder / "clips" / name, frames, **options)


def mirrored(folder):
    stored = made_media.quadrants(9, 64, 64)[:, :, ::-1]
    path = encoded(folder, frames=np.ascontiguousarray(stored), turn=(0, True, False))
    assert is_upright(sample(path)[0])
    assert is_upright(media.to_uint8(prepare(path.parent)["rgb"][0])[0])


def turned(folder):
    stored = np.rot90(made_media.quadrants(9, 64, 64), -1, (1, 2))
    path = encoded(folder, "a.mov", np.ascontiguousarray(stored), turn=(90, False, False))
    assert is_upright(sample(path)[0]) and is_upright(first_frame(path))
    assert is_upright(media.to_uint8(prepare(path.parent)["rgb"][0])[0])


def rates(folder, fps, expected):
    path = encoded(folder, frames=LEVELS, fps=fps)
    assert levels(sample(path)) == expected
    assert levels(media.to_uint8(prepare(path.parent, fps=8.0)["rgb"][0])) == expected


def phone(folder):
    """30 frames in the first second, then 4 per second, as phones film in the dark."""
    stamps = [*(n * 33 for n in range(16)), *(495 + n * 250 for n in range(1, 9))]
    path = encoded(folder, "a.mkv", LEVELS, stamps=stamps)
    expected = [int(np.searchsorted(stamps, t + 1, side="right")) - 1 for t in range(0, 1000, 125)]
    assert levels(sample(path, frames=5)) == expected[:5]
    assert levels(media.to_uint8(prepare(path.parent, fps=8.0)["rgb"][0])) == expected[:5]


def containers(folder, name, **options):
    path = encoded(folder, name, LEVELS, **options)
    assert levels(sample(path)) == [0, 1, 2, 3, 4]
    assert levels(media.to_uint8(prepare(path.parent)["rgb"][0])) == [0, 1, 2, 3, 4]


def animations(folder, name, **options):
    (folder / "clips").mkdir()
    path = made_media.animate(folder / "clips" / name, [125] * 8, range(0, 160, 20), **options)
    assert levels(sample(path)) == [0, 2, 4, 6, 8]
    assert levels(media.to_uint8(prepare(path.parent)["rgb"][0])) == [0, 2, 4, 6, 8]


def tagged(folder, matrix, colour_range):
    path = encoded(
        folder,
        convert={"dst_colorspace": matrix, "dst_color_range": colour_range},
        colorspace={"ITU709": 1, "BT2020": 9}[matrix],
        color_range=1 if colour_range == "MPEG" else 2,
    )
    assert is_upright(sample(path)[0])


def round_trip(folder):
    media.write_video(folder / "a.mp4", made_media.quadrants(9, 64, 64), 12.5)
    frames, fps = media.read_video(folder / "a.mp4")
    assert is_upright(frames[0]) and fps == 12.5


def cut_off(folder):
    path = made_videos.truncated(folder / "a.mp4", np.ascontiguousarray(LEVELS), 0.7)
    media.read_video(path)


def named(folder, name, text):
    path = folder / name
    path.write_bytes(text)
    sample(path)


def with_colon(folder):
    path = encoded(folder, "12:30 %d.mp4")
    with contextlib.chdir(path.parent):
        assert is_upright(sample("12:30 %d.mp4")[0])


def pictures(folder, names, mode="RGB", suffix=".png"):
    """Flat pictures whose level is ten times their place in `names`."""
    out = folder / "pictures"
    out.mkdir()
    for n, name in enumerate(names):
        Image.new(mode, (64, 64), (n * 10,) * 3 if mode == "RGB" else n * 10).save(
            out / f"{name}{suffix}"
        )
    return out


def natural(folder):
    out = pictures(folder, [f"frame_{n}" for n in range(8, 13)])
    assert levels(sample(out)) == [0, 1, 2, 3, 4]


def stored_upright(folder, suffix, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(made_media.quadrants(1, 64, 64)[0]).transpose(turn)
    picture.save(folder / f"a{suffix}", exif=exif, quality=95)
    assert is_upright(first_frame(folder / f"a{suffix}"))


def transparent(folder):
    picture = np.full((64, 64, 4), 255, np.uint8)
    picture[:, 32:, 3] = 0
    Image.fromarray(picture).save(folder / "a.png")
    frame = first_frame(folder / "a.png")
    assert (frame[:, :30] == 255).all() and (frame[:, 34:] == 0).all()


def saved(folder, name, array, **options):
    path = folder / name
    Image.fromarray(array).save(path, **options)
    return path


def cropped(folder):
    path = saved(folder, "a.jpg", made_media.quadrants(1, 64, 64)[0])
    path.write_bytes(path.read_bytes()[:400])
    first_frame(path)


def stored(folder, arrays, suffix=".png"):
    out = folder / "stored"
    out.mkdir()
    for n, array in enumerate(arrays):
        image = array if isinstance(array, Image.Image) else Image.fromarray(array)
        image.save(out / f"{n}{suffix}")
    return out


def depth(folder, arrays, expected, suffix=".png", side=None):
    """Depth in pictures as sample, prepare and evaluate take it."""
    out = stored(folder, arrays, suffix)
    clips = folder / "clips"
    made_media.encode(_made(clips) / "a.mp4", made_media.quadrants(5, 64, 64))
    out.rename(clips / "a.depth")
    if side:
        (clips / "a.depth.json").write_text(json.dumps(side))
    decode = modalities.get("depth").codec.decode
    given = sample(clips / "a.depth", "depth")
    assert np.allclose(decode(given.video, given.side)["depth"], expected, rtol=5e-3)
    video, sides = prepare(clips, "depth")["depth"]
    found = decode(video, {"bounds": sides["bounds"][0]})["depth"]
    assert np.allclose(found, expected, rtol=5e-3)
    (clips / "a.depth").rename(clips / "depth")
    if side:
        (clips / "a.depth.json").rename(clips / "depth.json")
    assert np.allclose(Clip(path=clips).arrays("depth")["depth"], expected, rtol=5e-3)


def ids(folder, arrays, suffix=".png"):
    out = stored(folder, arrays, suffix)
    given = sample(out, "segmentation")
    found = modalities.get("segmentation").codec.decode(given.video, given.side)["segments"]
    assert (found == IDS).all()
    out.rename(_made(folder / "clip") / "segmentation")
    assert (Clip(path=folder / "clip").arrays("segmentation")["segments"] == IDS).all()


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def palette():
    image = Image.fromarray(IDS).convert("P")
    image.putdata(IDS.ravel().tolist())
    image.putpalette([value for n in range(256) for value in (n * 37 % 256, 255 - n, n)])
    return image


def two_sizes(folder):
    out = pictures(folder, ["0", "1", "2", "3", "4"])
    Image.new("RGB", (32, 32)).save(out / "2.png")
    sample(out)


def animation_inside(folder):
    out = pictures(folder, ["0", "1", "2", "3"])
    made_media.animate(out / "4.webp", [125] * 8)
    sample(out)


def changing_size(folder):
    """A recording whose size changes on the way, as of calls."""
    parts = [encoded(folder, f"{n}.ts", LEVELS[:3, :n, :n]) for n in (64, 48)]
    path = folder / "call.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    media.read_video(path)


def kitti_flow(folder):
    row = np.arange(64 * 3, dtype=">u2").tobytes()
    out = folder / "flow"
    out.mkdir()
    for n in range(5):
        made_media.png(out / f"{n}.png", 64, 64, 16, 2, [row] * 64)
    sample(out, "flow")


def case(kind, name, act, *arguments, says=(), **options):
    return Case(kind=kind, name=name, act=lambda f: act(f, *arguments, **options), says=says)


TURN = Image.Transpose
VIDEO = functools.partial(case, "video")
PICTURE = functools.partial(case, "picture")
NUMBERS = functools.partial(case, "numbers")

CASES = [
    VIDEO("mirrored by the display matrix", mirrored),
    VIDEO("turned by the display matrix", turned),
    VIDEO("slower than the model", rates, 4, [0, 0, 1, 1, 2]),
    VIDEO("29.97 frames per second", rates, fractions.Fraction(30000, 1001), [0, 3, 7, 11, 15]),
    VIDEO("variable rate of a phone", phone),
    VIDEO("m4v", containers, "a.m4v"),
    VIDEO("3gp", containers, "a.3gp"),
    VIDEO("transport stream from 1.4 s", containers, "a.ts"),
    VIDEO("wmv", containers, "a.wmv", codec="wmv2", options={"b": "4000000"}),
    VIDEO("gif", animations, "a.gif"),
    VIDEO("webp", animations, "a.webp", lossless=True),
    VIDEO("apng", animations, "a.apng", format="PNG"),
    VIDEO("BT.709", tagged, "ITU709", "MPEG"),
    VIDEO("BT.709 full range", tagged, "ITU709", "JPEG"),
    VIDEO("BT.2020", tagged, "BT2020", "MPEG"),
    VIDEO("written and read again", round_trip),
    VIDEO("colon and percent in the name", with_colon),
    VIDEO(
        "high dynamic range",
        lambda f: sample(encoded(f, color_trc=16)),
        says=("a.mp4", "high dynamic range", "map its tones"),
    ),
    VIDEO(
        "turned by 45 degrees",
        lambda f: sample(encoded(f, turn=(45, False, False))),
        says=("a.mp4", "re-encode it upright"),
    ),
    VIDEO(
        "16-bit grey",
        lambda f: sample(encoded(f, "a.mkv", codec="ffv1", pixels="gray16le", options={})),
        says=("a.mkv", "16 bits", "PNG"),
    ),
    VIDEO("cut off", cut_off, says=("a.mp4", "leave it out")),
    VIDEO(
        "playlist", named, "a.mp4", b"#EXTM3U\n#EXTINF:9,\n/etc/hosts\n", says=("a.mp4", "decode")
    ),
    VIDEO("empty file", named, "a.mp4", b"", says=("a.mp4", "empty file")),
    VIDEO(
        "sound only",
        lambda f: sample(made_videos.sound_only(f / "a.mp4")),
        says=("a.mp4", "no video stream"),
    ),
    VIDEO("no frames", lambda f: sample(made_videos.no_frames(f / "a.mkv")), says=("a.mkv",)),
    VIDEO("size changes on the way", changing_size, says=("call.ts", "size of frame 3")),
    PICTURE("natural order", natural),
    PICTURE("EXIF in jpg", stored_upright, ".jpg", 6, TURN.ROTATE_90),
    PICTURE("EXIF in webp, mirrored", stored_upright, ".webp", 5, TURN.TRANSPOSE),
    PICTURE("EXIF in png", stored_upright, ".png", 3, TURN.ROTATE_180),
    PICTURE("transparent", transparent),
    PICTURE(
        "one number twice",
        lambda f: sample(pictures(f, ["1", "01", "2", "3", "4"])),
        says=("pictures", "01.png and 1.png", "keep one"),
    ),
    PICTURE(
        "order not clear",
        lambda f: sample(pictures(f, ["a1b10", "a2b9", "a10b1", "a1b1"])),
        says=("pictures", "not clear", "leading zeros"),
    ),
    PICTURE("two sizes", two_sizes, says=("pictures", "differs from the first")),
    PICTURE("animation in a folder of images", animation_inside, says=("4.webp", "one file per")),
    PICTURE(
        "bomb",
        lambda f: first_frame(made_media.png(f / "a.png", 9000, 9000, 8, 0, [b""])),
        says=("a.png", "9000x9000", "limit"),
    ),
    PICTURE(
        "huge bomb",
        lambda f: first_frame(made_media.png(f / "a.png", 10**6, 10**6, 8, 0, [])),
        says=("a.png", "limit"),
    ),
    PICTURE("cut off", cropped, says=("a.jpg", "not a readable image")),
    PICTURE("no image", named, "a.png", b"<html>", says=("a.png", "not a readable image")),
    PICTURE(
        "depth given as RGB",
        lambda f: first_frame(saved(f, "a.png", MILLIMETRES)),
        says=("a.png", "16 bits", "numbers"),
    ),
    NUMBERS("16-bit depth", depth, [MILLIMETRES] * 5, MILLIMETRES / 1000),
    NUMBERS(
        "depth with unit and scale beside it",
        depth,
        [MILLIMETRES] * 5,
        MILLIMETRES / 5000,
        side={"unit": "m", "scale": 1 / 5000},
    ),
    NUMBERS(
        "depth in floats",
        depth,
        [np.float32(MILLIMETRES / 1000)] * 5,
        MILLIMETRES / 1000,
        suffix=".tif",
    ),
    NUMBERS(
        "depth in 32-bit integers",
        depth,
        [MILLIMETRES.astype(np.int32)] * 5,
        MILLIMETRES / 1000,
        suffix=".tif",
    ),
    NUMBERS(
        "depth without a surface",
        depth,
        [np.where(MILLIMETRES < 900, 0, MILLIMETRES)] * 5,
        np.where(MILLIMETRES < 900, np.inf, MILLIMETRES / 1000),
    ),
    NUMBERS("ids in grey", ids, [IDS] * 5),
    NUMBERS("ids in 16 bits", ids, [IDS.astype(np.uint16)] * 5),
    NUMBERS("ids in a palette", ids, [palette()] * 5),
    NUMBERS("ids in a TIFF of 32 bits", ids, [IDS.astype(np.int32)] * 5, ".tif"),
    NUMBERS(
        "ids in jpg",
        lambda f: sample(stored(f, [IDS] * 5, ".jpg"), "segmentation"),
        says=("0.jpg", "JPEG", "PNG"),
    ),
    NUMBERS(
        "ids in floats",
        lambda f: sample(stored(f, [np.float32(IDS)] * 5, ".tif"), "segmentation"),
        says=("stored", "integers"),
    ),
    NUMBERS(
        "mask of 0 and 255",
        lambda f: sample(stored(f, [IDS // 4 * 255] * 5), "segmentation"),
        says=("stored", "[0, 255]", "renumber"),
    ),
    NUMBERS("16-bit flow of a data set", kitti_flow, says=("flow", "16 bits", ".npz")),
    NUMBERS(
        "unknown unit",
        depth,
        [MILLIMETRES] * 5,
        1.0,
        side={"unit": "feet"},
        says=("a.depth.json", "'feet'", "mm"),
    ),
    NUMBERS(
        "ids and colours mixed",
        lambda f: sample(
            stored(f, [IDS, IDS, np.stack([IDS] * 3, -1)] + [IDS] * 2), "segmentation"
        ),
        says=("2.png", "one channel"),
    ),
]
