"""A Scene: all random properties of a clip, as a pytree of small arrays."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from unityvideo_jax.worlds.pytree import pytree


@pytree
class Actors:
    """People and animals. `B` may be absent; slots with kind NOBODY come last.

    Lengths in metres, angles in radians, times in seconds, colours linear RGB. Heading 0 walks
    along +x. `kind`, `motion`, `who`, `species` and the `*_name`s index the tuples of `looks`.
    """

    kind: Int[Array, "*b a"]
    motion: Int[Array, "*b a"]
    who: Int[Array, "*b a"]
    species: Int[Array, "*b a"]
    height: Float[Array, "*b a"]
    build: Float[Array, "*b a"]
    place: Float[Array, "*b a 2"]
    heading: Float[Array, "*b a"]
    speed: Float[Array, "*b a"]
    phase: Float[Array, "*b a"]
    event: Float[Array, "*b a"]
    side: Float[Array, "*b a"]
    skin: Float[Array, "*b a 3"]
    shirt: Float[Array, "*b a 3"]
    trousers: Float[Array, "*b a 3"]
    hair: Float[Array, "*b a 3"]
    shoes: Float[Array, "*b a 3"]
    accent: Float[Array, "*b a 3"]
    shirt_name: Int[Array, "*b a"]
    trousers_name: Int[Array, "*b a"]
    hair_name: Int[Array, "*b a"]
    fur_name: Int[Array, "*b a"]
    pattern: Int[Array, "*b a"]
    long_sleeves: Bool[Array, "*b a"]
    shorts: Bool[Array, "*b a"]
    long_hair: Bool[Array, "*b a"]


@pytree
class Things:
    """Objects; slots that are not active come last. `half` are half extents in metres."""

    active: Bool[Array, "*b o"]
    kind: Int[Array, "*b o"]
    behaviour: Int[Array, "*b o"]
    material: Int[Array, "*b o"]
    colour_name: Int[Array, "*b o"]
    colour: Float[Array, "*b o 3"]
    accent: Float[Array, "*b o 3"]
    texture: Int[Array, "*b o"]
    half: Float[Array, "*b o 3"]
    place: Float[Array, "*b o 3"]
    velocity: Float[Array, "*b o 3"]
    yaw: Float[Array, "*b o"]
    spin: Float[Array, "*b o"]
    bounce: Float[Array, "*b o"]
    lying: Bool[Array, "*b o"]
    kicked_at: Float[Array, "*b o"]
    kick: Float[Array, "*b o 3"]


@pytree
class Surroundings:
    """Ground, walls, sky and sun."""

    place: Int[Array, "*b"]
    ground: Int[Array, "*b"]
    ground_colours: Float[Array, "*b 2 3"]
    ground_scale: Float[Array, "*b"]
    ground_offset: Float[Array, "*b 2"]
    walls: Bool[Array, "*b 2"]
    wall_distance: Float[Array, "*b 2"]
    wall_height: Float[Array, "*b"]
    wall_colours: Float[Array, "*b 2 3"]
    wall_pattern: Int[Array, "*b"]
    sky_low: Float[Array, "*b 3"]
    sky_high: Float[Array, "*b 3"]
    clouds: Float[Array, "*b"]
    sun_direction: Float[Array, "*b 3"]
    sun_colour: Float[Array, "*b 3"]
    sun_radius: Float[Array, "*b"]


@pytree
class CameraPath:
    """Azimuth 0 looks along +y from -y; rates are per second."""

    kind: Int[Array, "*b"]
    azimuth: Float[Array, "*b"]
    azimuth_rate: Float[Array, "*b"]
    distance: Float[Array, "*b"]
    distance_rate: Float[Array, "*b"]
    height: Float[Array, "*b"]
    target: Float[Array, "*b 3"]
    pan_rate: Float[Array, "*b"]
    focal: Float[Array, "*b"]


@pytree
class Scene:
    """Everything that a clip depends on besides its size, length and frame rate.

    Attributes:
      asked: which actors, then which objects, the segmentation prompt asks for.
      words: seeds the wording of the caption.
    """

    actors: Actors
    things: Things
    surroundings: Surroundings
    camera: CameraPath
    asked: Bool[Array, "*b n"]
    words: UInt32[Array, "*b"]


def ask_for_all(scenes: Scene, chosen: Bool[np.ndarray, " b"]) -> Scene:
    """Scenes of which the chosen ones ask for every actor and object, as a general prompt does.

    `segments`, the ground truth of segmentation, follows what a scene asks for.
    """
    return dataclasses.replace(scenes, asked=scenes.asked | jnp.asarray(chosen)[:, None])
