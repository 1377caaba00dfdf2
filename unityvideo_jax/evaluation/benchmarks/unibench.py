"""UniBench's rendered half: 200 procedural clips with exact truth, as evaluation reads them.

The paper's benchmark has 200 clips from a game engine with exact depth and flow; those are not
public, so these are scenes of `worlds` at a fixed seed and version, larger than any training size,
with soft shadows and antialiased. Half show people and objects as training does (of another seed),
the others animals or objects that training never asks for.

Clips are frozen in `assets/unibench/v1.json`: a hash of everything discrete in the scene and its
texts, which is the same on every machine; and a signature, coarse means of the rendered arrays,
which every machine meets within `TOLERANCE` steps although the last bits of rays differ between CPU
and GPU.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from unityvideo_jax import media, modalities, worlds
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import checksums, provenance
from unityvideo_jax.files.assets import ASSETS
from unityvideo_jax.inputs.clip_folders import Clip
from unityvideo_jax.metrics.base import Arrays

VERSION = 1
# The paper's number on arXiv; no other world has this seed.
SEED = 251207831
NUM_CLIPS = 200
# Of each ten clips, in this order, so that the first few are a mix too.
KINDS = ("people", "animals") * 3 + ("people", "objects") * 2
SPLITS = {"people": "validation", "animals": "heldout_animals", "objects": "heldout_objects"}
FROZEN = ASSETS / "unibench" / f"v{VERSION}.json"
# Signatures are compared in steps of 1/255 of each quantity's range.
TOLERANCE = 2
GRID = (3, 4)
FILES = {
    "depth": ("depth",),
    "flow": ("flow", "occluded", "instances"),
    "segmentation": ("segments",),
    "skeleton": ("keypoints", "visibility"),
    "densepose": ("part", "uv"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Frames and pixels to render; the default is the benchmark's own.

    The paper's demos are 384 x 672; the public release makes 33 frames at 8 per second.

    Attributes:
      num_frames, height, width: of a clip.
      fps: frames per second.
      supersample: RGB is averaged over supersample^2 rays per pixel.
    """

    num_frames: int = 33
    height: int = 384
    width: int = 672
    fps: float = 8.0
    supersample: int = 3

    @property
    def name(self) -> str:
        """Name of the size in the frozen signatures."""
        return f"{self.num_frames}x{self.height}x{self.width}@{self.fps:g}/{self.supersample}"


# Small enough that all 200 clips render on a CPU in minutes.
CHECK_SIZE = Size(num_frames=33, height=48, width=80, supersample=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendered:
    """A clip in memory.

    Attributes:
      arrays: as `worlds.render` gives them, unbatched.
      caption: of RGB.
      prompts: by modality.
      scene: its `scene_hash`.
    """

    arrays: Arrays
    caption: str
    prompts: Mapping[str, str]
    scene: str


def names() -> list[str]:
    """The clips' names: number and contents."""
    return [f"{n:03d}_{KINDS[n % len(KINDS)]}" for n in range(NUM_CLIPS)]


def world_of(name: str, size: Size) -> tuple[worlds.WorldConfig, int]:
    """The world of a clip, and its index there."""
    number, kind = int(name[:3]), name[4:]
    index = sum(KINDS[n % len(KINDS)] == kind for n in range(number))
    config = worlds.WorldConfig(
        height=size.height,
        width=size.width,
        num_frames=size.num_frames,
        fps=size.fps,
        supersample=size.supersample,
        split=SPLITS[kind],
        seed=SEED,
    )
    return config, index


def scene_hash(scene: worlds.Scene, caption: str, prompts: Mapping[str, str]) -> str:
    """SHA-256 of all that is discrete in a scene, and of its texts.

    Kinds, motions, names and the choice of what is asked for are the same on every device, since
    random bits and comparisons are.
    """
    digest = hashlib.sha256(json.dumps([caption, dict(prompts)], sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(scene):
        array = np.asarray(leaf)
        if array.dtype.kind != "f":
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(array.astype("<i8")).tobytes())
    return digest.hexdigest()[:16]


def render_clip(name: str, size: Size) -> Rendered:
    """Renders one clip of the benchmark."""
    config, index = world_of(name, size)
    scenes = worlds.sample_scenes(config, np.asarray([index], np.int32))
    (text,) = worlds.describe(config, scenes)
    arrays = jax.device_get(worlds.render(config, scenes))
    return Rendered(
        arrays={key: value[0] for key, value in arrays.items()},
        caption=text.caption,
        prompts=text.prompts,
        scene=scene_hash(jax.tree.map(lambda x: x[0], scenes), text.caption, text.prompts),
    )


def signature(arrays: Arrays) -> str:
    """Means over a coarse grid of the first and last frames, 8 bits each, in hexadecimal.

    Red, green, blue; disparity 1/depth up to 1/m; flow to a tenth of the diagonal; the share of
    what the prompt asks for.

    Args:
      arrays: rgb in [0, 1] or uint8, depth, flow and segments of one clip.
    """
    rgb = np.asarray(arrays["rgb"])
    rgb = rgb / 255.0 if rgb.dtype == np.uint8 else rgb
    diagonal = np.hypot(*rgb.shape[1:3])
    channels = [
        *np.moveaxis(rgb, -1, 0),
        np.minimum(1.0 / np.asarray(arrays["depth"], np.float64), 1.0),
        *np.moveaxis(np.clip(0.5 + 5.0 * np.asarray(arrays["flow"]) / diagonal, 0.0, 1.0), -1, 0),
        np.asarray(arrays["segments"]) > 0,
    ]
    values = []
    for channel in channels:
        for frame in (channel[0], channel[-1]):
            bands = np.array_split(np.asarray(frame, np.float64), GRID[0], axis=0)
            values += [b.mean() for band in bands for b in np.array_split(band, GRID[1], axis=1)]
    return np.round(255.0 * np.asarray(values)).astype(np.uint8).tobytes().hex()


def distance(a: str, b: str) -> int:
    """The largest difference of two signatures in steps of 1/255; 255 if they do not compare."""
    if len(a) != len(b):
        return 255
    x, y = (np.frombuffer(bytes.fromhex(s), np.uint8).astype(int) for s in (a, b))
    return int(np.abs(x - y).max())


def frozen() -> dict[str, dict]:
    """The frozen facts of every clip: {"scene": hash, "signatures": {size's name: signature}}.

    Raises:
      UserError: a damaged file.
    """
    checksums.check(FROZEN, "reinstall unityvideo_jax")
    return json.loads(FROZEN.read_text())["clips"]


def check(name: str, scene: str, signed: str, size: Size, known: Mapping[str, dict]) -> None:
    """Raises UserError unless a clip is the frozen one.

    Args:
      name: of the clip.
      scene: its `scene_hash`.
      signed: its `signature`.
      size: that it was rendered at; sizes without frozen signatures are checked by scene alone.
      known: as `frozen` gives it.
    """
    entry = known[name]
    fix = "use the version of unityvideo_jax that made the benchmark, or delete the clip and build"
    if scene != entry["scene"]:
        raise UserError(
            f"{name}: its scene hashes to {scene}, UniBench v{VERSION} has {entry['scene']}; {fix}"
        )
    expected = entry["signatures"].get(size.name)
    if expected is not None and (steps := distance(signed, expected)) > TOLERANCE:
        raise UserError(
            f"{name}: its pictures differ from UniBench v{VERSION} by {steps}/255 "
            f"(at most {TOLERANCE}); {fix}"
        )


def write_clip(folder: pathlib.Path, name: str, rendered: Rendered, size: Size) -> None:
    """Writes `<folder>/<name>/`, whole or not at all: lossless video and exact arrays."""
    temporary = folder / f".{name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    rgb: UInt8[np.ndarray, "t h w 3"] = np.round(255.0 * rendered.arrays["rgb"]).astype(np.uint8)
    media.write_lossless(temporary / "rgb.mkv", rgb, size.fps)
    for stream, keys in FILES.items():
        np.savez_compressed(
            temporary / f"{stream}.npz", **{key: rendered.arrays[key] for key in keys}
        )
    record = {
        "caption": rendered.caption,
        "prompts": dict(rendered.prompts),
        "fps": size.fps,
        "unibench": {
            "version": VERSION,
            "scene": rendered.scene,
            "signature": signature(rendered.arrays),
            "size": dataclasses.asdict(size),
        },
    }
    provenance.write_json(temporary / "clip.json", record)
    write_sheet(temporary / "sheet.png", f"{name}: {rendered.caption}", rendered.arrays)
    shutil.rmtree(folder / name, ignore_errors=True)
    os.replace(temporary, folder / name)


@functools.cache
def _drawer(stream: str) -> Callable[[Arrays], np.ndarray]:
    """A drawing function, compiled once per stream and size, not once per clip."""
    draw = jax.jit(lambda clip: modalities.get(stream).codec.encode(clip)[0])
    return lambda clip: media.to_uint8(np.asarray(draw(clip)))


def write_sheet(path: pathlib.Path, label: str, arrays: Arrays, columns: int = 4) -> None:
    """A picture of a clip to look at: every modality as its codec draws it."""
    every = max(1, len(arrays["rgb"][0]) // 192)
    picks = np.linspace(0, len(arrays["rgb"]) - 1, columns).round().astype(int)
    rows = []
    for stream in ("rgb", *FILES):
        video = _drawer(stream)({key: arrays[key] for key in modalities.get(stream).codec.keys})
        rows.append((f"{label}, {stream}", video[picks, ::every, ::every]))
    media.contact_sheet(rows, path, columns=columns)


def freeze(names: Sequence[str], size: Size, say: Callable[[str], None]) -> None:
    """Records clips as the frozen ones of this version, beside what is recorded already.

    Raises:
      UserError: a clip of another scene than was frozen.
    """
    known = frozen() if FROZEN.exists() else {}
    for name in names:
        rendered = render_clip(name, size)
        entry = known.setdefault(name, {"scene": rendered.scene, "signatures": {}})
        if entry["scene"] != rendered.scene:
            raise UserError(f"{name}: another scene than was frozen; raise VERSION")
        entry["signatures"][size.name] = signature(rendered.arrays)
        say(f"{name}: {rendered.scene} {rendered.caption}")
    FROZEN.parent.mkdir(parents=True, exist_ok=True)
    record = {"version": VERSION, "seed": SEED, "clips": dict(sorted(known.items()))}
    provenance.write_json(FROZEN, record)
    checksums.write_sums(FROZEN.parent, {FROZEN.name: FROZEN.read_bytes()})


def verify_clip(clip: Clip, known: Mapping[str, dict]) -> None:
    """Raises UserError unless the files of a clip of UniBench show what is frozen."""
    made = clip.record["unibench"]
    try:
        size = Size(**made["size"])
        entry_scene, version = str(made["scene"]), made["version"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{clip.path / 'clip.json'}: not as it was written ({error})") from None
    if version != VERSION or clip.name not in known:
        raise UserError(
            f"{clip.path}: of UniBench v{version}, this is v{VERSION} of {len(known)} clips; build "
            "it anew"
        )
    arrays = {"rgb": clip.video().frames}
    for stream in FILES:
        arrays |= clip.truth(stream) or {}
    if missing := [key for keys in FILES.values() for key in keys if key not in arrays]:
        raise UserError(f"{clip.path}: lacks {', '.join(missing)}; delete it and build it again")
    check(clip.name, entry_scene, signature(arrays), size, known)
