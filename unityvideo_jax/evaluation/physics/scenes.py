"""Pairs as scenes of `worlds`, rendered, with the truth of every modality."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from unityvideo_jax import worlds
from unityvideo_jax.evaluation.physics.kinds import BALL, KINDS, PAIRS, SEED, Camera, Pair, Side
from unityvideo_jax.worlds import looks
from unityvideo_jax.worlds.looks import MAX_ACTORS, MAX_OBJECTS
from unityvideo_jax.worlds.scene import CameraPath, Scene, Things

SLOTS = 2
Clip = dict[str, Shaped[np.ndarray, "b ..."]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """One clip to render.

    Attributes:
      side: its bodies and their path.
      rolls: whether the ball rolls; else it falls.
      camera: its camera.
      place: numbers the surroundings.
    """

    side: Side
    rolls: bool
    camera: Camera
    place: int


def sides(pair: Pair) -> tuple[Shown, Shown]:
    """The valid and the invalid clip of a pair, in the same surroundings."""
    place = [*KINDS].index(pair.kind) * PAIRS + pair.number
    common = dict(rolls=pair.rolls, camera=pair.camera, place=place)
    return Shown(side=pair.valid, **common), Shown(side=pair.invalid, **common)


def scenes_of(config: worlds.WorldConfig, shown: Sequence[Shown]) -> tuple[Scene, worlds.Course]:
    """Scenes of worlds without people, whose surroundings have the seed `SEED`."""
    places = np.array([one.place for one in shown], np.int32)
    around = worlds.sample_scenes(
        dataclasses.replace(config, split="validation", seed=SEED), places
    )
    things = _things(shown)
    static = jnp.zeros(len(shown))

    def of_cameras(name: str) -> Any:
        return jnp.asarray([getattr(one.camera, name) for one in shown], jnp.float32)

    camera = CameraPath(
        kind=jnp.full(len(shown), looks.STATIC, jnp.int32),
        azimuth=static,
        azimuth_rate=static,
        distance=of_cameras("distance"),
        distance_rate=static,
        height=of_cameras("height"),
        target=jnp.stack([static, static, of_cameras("target")], axis=-1),
        pan_rate=static,
        focal=of_cameras("focal"),
    )
    nobody = dataclasses.replace(
        around.actors, kind=jnp.full_like(around.actors.kind, looks.NOBODY)
    )
    asked = jnp.concatenate([jnp.zeros((len(shown), MAX_ACTORS), bool), things.active], axis=1)
    scenes = dataclasses.replace(around, actors=nobody, things=things, camera=camera, asked=asked)
    course = worlds.Course(
        centre=_filled([one.side.centre for one in shown], axis=1),
        caster=_filled([one.side.caster for one in shown], axis=1),
    )
    return scenes, course


def _filled(rows: Sequence[np.ndarray], axis: int, value: float = 0.0) -> Any:
    """Arrays of `SLOTS` objects with all the slots that worlds have."""
    stacked = np.stack(rows)
    width = [(0, 0)] * stacked.ndim
    width[axis + 1] = (0, MAX_OBJECTS - SLOTS)
    dtype = np.float32 if stacked.dtype.kind == "f" else stacked.dtype
    return jnp.asarray(np.pad(stacked, width, constant_values=value).astype(dtype))


def _things(shown: Sequence[Shown]) -> Things:
    batch = len(shown)
    colour = _filled([one.side.colour.astype(np.int32) for one in shown], axis=0)
    zeros = jnp.zeros((batch, MAX_OBJECTS))
    none = jnp.zeros((batch, MAX_OBJECTS), jnp.int32)
    deeds = np.full((batch, MAX_OBJECTS), looks.REST, np.int32)
    deeds[:, BALL] = [looks.ROLL if one.rolls else looks.FALL for one in shown]
    return Things(
        active=_filled([one.side.active for one in shown], axis=0),
        kind=_filled([one.side.shape.astype(np.int32) for one in shown], axis=0),
        behaviour=jnp.asarray(deeds),
        material=none + looks.MATTE,
        colour_name=colour,
        colour=jnp.asarray(looks.COLOUR_TABLE)[colour],
        accent=jnp.asarray(looks.COLOUR_TABLE)[colour],
        texture=none + looks.PATTERNS.index("plain"),
        half=_filled([one.side.half for one in shown], axis=0, value=0.1),
        place=_filled([one.side.centre[0] for one in shown], axis=0),
        velocity=jnp.zeros((batch, MAX_OBJECTS, 3)),
        yaw=zeros,
        spin=zeros,
        bounce=zeros,
        lying=zeros > 0,
        kicked_at=zeros + jnp.inf,
        kick=jnp.zeros((batch, MAX_OBJECTS, 3)),
    )


def render(config: worlds.WorldConfig, shown: Sequence[Shown]) -> tuple[Clip, list[str], list]:
    """Renders clips as `worlds.render` does; also returns captions, and prompts by modality."""
    scenes, course = scenes_of(config, shown)
    texts = worlds.describe(config, scenes)
    clips = jax.device_get(worlds.render(config, scenes, course))
    return clips, [text.caption for text in texts], [text.prompts for text in texts]
