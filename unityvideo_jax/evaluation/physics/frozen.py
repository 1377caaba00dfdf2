"""The frozen pairs: a hash of each one's scene, and no pixels.

A hash covers what two clips of a pair show, where and when they part, and their caption: numbers
that every machine draws and simulates to the last bit, rounded to micrometres. Pairs depend on the
length and rate of clips; those of `FROZEN_AT` are frozen.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np

from unityvideo_jax import worlds
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.physics import kinds, scenes
from unityvideo_jax.evaluation.physics.kinds import KINDS, PAIRS, Pair
from unityvideo_jax.files import checksums, provenance
from unityvideo_jax.files.assets import ASSETS

VERSION = 1
FROZEN = ASSETS / "worlds_physics" / f"v{VERSION}.json"
FROZEN_AT = ((17, 8.0),)


def length(frames: int, fps: float) -> str:
    """Key of a length and rate in the frozen file."""
    return f"{frames}@{fps:g}"


def scene_hash(pair: Pair, caption: str) -> str:
    """SHA-256 of all that a pair shows, 16 digits of it."""
    digest = hashlib.sha256(
        json.dumps([pair.name, pair.begins, pair.rolls, caption], sort_keys=True).encode()
    )
    camera = np.array([pair.camera.distance, pair.camera.height, pair.camera.target])
    for side in (pair.valid, pair.invalid):
        for array in (side.active, side.shape, side.colour):
            digest.update(np.ascontiguousarray(array.astype("<i8")).tobytes())
        for array in (side.half, side.centre, side.caster, camera):
            digest.update(np.round(1e6 * array).astype("<i8").tobytes())
    return digest.hexdigest()[:16]


@functools.cache
def known() -> dict[str, dict[str, str]]:
    """Hashes by length and by the pair's name.

    Raises:
      UserError: a damaged or altered file.
    """
    checksums.check(FROZEN, "reinstall unityvideo_jax")
    return json.loads(FROZEN.read_text())["pairs"]


def verify(pairs: Sequence[Pair], captions: Sequence[str], frames: int, fps: float) -> bool:
    """Returns whether clips of this length are frozen.

    Raises:
      UserError: a pair that differs from the frozen one.
    """
    expected = known().get(length(frames, fps))
    if expected is None:
        return False
    for pair, caption in zip(pairs, captions, strict=True):
        found = scene_hash(pair, caption)
        if found != expected[pair.name]:
            raise UserError(
                f"{pair.name}: its scene hashes to {found}, worlds_physics v{VERSION} has "
                f"{expected[pair.name]}; use the version of unityvideo_jax that froze it"
            )
    return True


def freeze(say: Callable[[str], None] = print) -> None:
    """Records all pairs as the frozen ones of this version."""
    record: dict[str, dict[str, str]] = {}
    for frames, fps in FROZEN_AT:
        hashes = record.setdefault(length(frames, fps), {})
        config = worlds.WorldConfig(num_frames=frames, fps=fps, split="validation")
        for kind in KINDS:
            pairs = [kinds.draw(kind, number, frames, fps) for number in range(PAIRS)]
            shown = [scenes.sides(pair)[0] for pair in pairs]
            texts = worlds.describe(config, scenes.scenes_of(config, shown)[0])
            for pair, text in zip(pairs, texts, strict=True):
                hashes[pair.name] = scene_hash(pair, text.caption)
            say(f"{kind}: {len(pairs)} pairs of {length(frames, fps)}, {texts[0].caption}")
    FROZEN.parent.mkdir(parents=True, exist_ok=True)
    provenance.write_json(FROZEN, {"version": VERSION, "seed": kinds.SEED, "pairs": record})
    checksums.write_sums(FROZEN.parent, {FROZEN.name: FROZEN.read_bytes()})
