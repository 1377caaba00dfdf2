"""Random scenes: the contents of a clip, their places, and their motions."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from unityvideo_jax.worlds import looks
from unityvideo_jax.worlds.config import SPLITS, WorldConfig
from unityvideo_jax.worlds.looks import MAX_ACTORS, MAX_OBJECTS
from unityvideo_jax.worlds.scene import Actors, CameraPath, Scene, Surroundings, Things


class _Draws:
    """Numbers from one block of uniforms, each used once: one PRNG call compiles fast."""

    def __init__(self, key: Any, size: int):
        self._block = jax.random.uniform(key, (size,), jnp.float32)
        self._next = 0

    def uniform(self, low: Any = 0.0, high: Any = 1.0, shape: tuple[int, ...] = ()) -> Array:
        count = math.prod(shape)
        assert self._next + count <= self._block.shape[0], "enlarge the block"
        values = self._block[self._next : self._next + count].reshape(shape)
        self._next += count
        return low + (high - low) * values

    def choice(self, weights: Any, shape: tuple[int, ...] = ()) -> Array:
        """Draws indices with these odds; an int means equal odds."""
        weights = np.ones(weights) if isinstance(weights, int) else np.asarray(weights, np.float64)
        edges = jnp.asarray(np.cumsum(weights / weights.sum())[:-1], jnp.float32)
        return jnp.sum(self.uniform(shape=shape)[..., None] >= edges, axis=-1).astype(jnp.int32)

    def chance(self, odds: float, shape: tuple[int, ...] = ()) -> Array:
        return self.uniform(shape=shape) < odds

    def order(self, count: int) -> Array:
        return jnp.argsort(self.uniform(shape=(count,)))


@functools.partial(jax.jit, static_argnums=0)
def _sample(config: WorldConfig, indices: Int[Array, " n"]) -> Scene:
    key = jax.random.fold_in(jax.random.key(config.seed), SPLITS.index(config.split))
    return jax.vmap(lambda index: _sample_one(config, jax.random.fold_in(key, index)))(indices)


def sample_scenes(config: WorldConfig, indices: Int[Array, " n"] | Int[np.ndarray, " n"]) -> Scene:
    """Draws scenes by number: a function of (seed, split, index), and of the clip's duration.

    Args:
      config: the split, seed, frames and frame rate; the size in pixels has no influence.
      indices: any non-negative int32 numbers.

    Returns:
      A Scene with a leading axis n on every leaf.
    """
    return _sample(config, jnp.asarray(indices, jnp.int32))


def _jitter(draws: _Draws, colours: Array) -> Array:
    """Varies brightness by a fifth and each channel a little, within the colour's name."""
    level = draws.uniform(0.85, 1.2, (*colours.shape[:-1], 1))
    return jnp.clip(colours * level * draws.uniform(0.9, 1.1, colours.shape), 0.0, 0.9)


def _sample_one(config: WorldConfig, key: Any) -> Scene:
    draws = _Draws(jax.random.fold_in(key, 0), 512)
    words = jax.random.bits(jax.random.fold_in(key, 1), dtype=jnp.uint32)
    surroundings = _sample_surroundings(draws)
    actors = _sample_actors(config, draws)
    things = _sample_things(config, draws, actors)
    camera = _sample_camera(config, draws, actors)
    share = 1.0 if config.split == "closeup" else config.closeup
    if share:
        # Drawn apart, so that the rest of a scene does not depend on the share.
        apart = _Draws(jax.random.fold_in(key, 2), 16)
        close = apart.chance(share)
        near = _closeup(config, apart, actors, camera)
        camera = jax.tree.map(lambda a, b: jnp.where(close, a, b), near, camera)
    return Scene(
        actors=actors,
        things=things,
        surroundings=surroundings,
        camera=camera,
        asked=_ask(config, draws, actors, things),
        words=words,
    )


def _sample_actors(config: WorldConfig, draws: _Draws) -> Actors:
    shape = (MAX_ACTORS,)
    slot = jnp.arange(MAX_ACTORS)
    count = 1 + draws.choice([0.35, 0.4, 0.25])
    person = jnp.full(shape, looks.PERSON)
    animal = jnp.where(draws.chance(0.35, shape), looks.BIRD, looks.QUADRUPED)
    with_person = draws.chance(0.25)
    if config.split == "heldout_animals":
        # The last actor may be a person among animals; the first never is.
        kind = jnp.where((slot == count - 1) & (slot > 0) & with_person, person, animal)
    else:
        kind = person
    if config.split == "heldout_objects":
        count = jnp.where(with_person, 1, 0)
    kind = jnp.where(slot < count, kind, looks.NOBODY)

    motion = draws.choice([0.3, 0.16, 0.16, 0.13, 0.12, 0.13], shape)
    # Only the first actor has a prop (a seat, a ball to kick); the others wave instead.
    needs_prop = (motion == looks.SIT) | (motion == looks.KICK)
    motion = jnp.where(needs_prop & (slot > 0), looks.WAVE, motion)
    moves = (motion == looks.WALK) | (motion == looks.RUN)
    animals = (kind == looks.QUADRUPED) | (kind == looks.BIRD)
    motion = jnp.where(animals & ~moves, looks.WALK, motion)
    moves = moves | animals

    who = draws.choice([0.32, 0.32, 0.14, 0.22], shape)
    child = who == 2
    height = draws.uniform(1.6, 1.9, shape) - 0.08 * (who == 1)
    height = jnp.where(child, draws.uniform(1.1, 1.35, shape), height)
    species = draws.choice([0.4, 0.2, 0.2, 0.2], shape)
    animal_size = jnp.asarray([0.62, 0.42, 1.45, 0.8])[species] * draws.uniform(0.9, 1.15, shape)
    bird_size = draws.uniform(0.5, 0.8, shape)
    height = jnp.where(kind == looks.QUADRUPED, animal_size, height)
    height = jnp.where(kind == looks.BIRD, bird_size, height)

    # Parallel lanes in depth, so that straight paths never meet; each lane has its own place
    # sideways, so that few hide behind others.
    lane = draws.order(MAX_ACTORS)
    lanes = jnp.asarray([0.0, 1.15, -1.15])
    across = jnp.asarray([-1.15, 0.1, 1.2])[draws.order(MAX_ACTORS)]
    across = jnp.where(count == 1, 0.3 * across, across)
    # A mover passes its place at mid-clip.
    place = jnp.stack([across, lanes[lane]], axis=-1) + draws.uniform(-0.2, 0.2, (MAX_ACTORS, 2))
    leftward = draws.chance(0.5, shape)
    along = jnp.where(leftward, jnp.pi, 0.0) + draws.uniform(-0.22, 0.22, shape)
    towards_camera = -jnp.pi / 2 + draws.uniform(-0.9, 0.9, shape)
    sideways = jnp.where(leftward, jnp.pi, 0.0) + draws.uniform(-0.6, 0.6, shape) - 0.25
    facing = jnp.where(motion == looks.KICK, sideways, towards_camera)
    heading = jnp.where(moves, along, facing)
    # Alone in the scene, one may walk in any direction.
    heading = jnp.where(moves & (count == 1), draws.uniform(0.0, 2 * jnp.pi, shape), heading)
    walk, run = draws.uniform(0.75, 0.95, shape), draws.uniform(1.5, 1.9, shape)
    speed = jnp.where(motion == looks.RUN, run, walk) * jnp.sqrt(jnp.maximum(height, 0.4))
    speed = jnp.where(moves, speed, 0.0)

    shirt_name = draws.choice(len(looks.COLOUR_NAMES), shape)
    trousers_name = jnp.asarray([looks.COLOUR_NAMES.index(n) for n in looks.TROUSER_COLOURS])[
        draws.choice([3, 3, 2, 2, 1, 1, 1], shape)
    ]
    hair_name = draws.choice([3, 3, 2, 1, 1], shape)
    fur_name = draws.choice(len(looks.FUR_NAMES), shape)
    table = jnp.asarray(looks.COLOUR_TABLE)
    accent = table[draws.choice(len(looks.COLOUR_NAMES), shape)]
    fur = jnp.asarray(looks.FUR)[fur_name]
    fur = _jitter(draws, fur)
    shirt = _jitter(draws, table[shirt_name])
    return Actors(
        kind=kind.astype(jnp.int32),
        motion=motion.astype(jnp.int32),
        who=who,
        species=species,
        height=height,
        build=draws.uniform(0.85, 1.25, shape) * jnp.where(child, 0.95, 1.0),
        place=place,
        heading=heading,
        speed=speed,
        phase=draws.uniform(0.0, 1.0, shape),
        event=draws.uniform(0.25, 0.5, shape) * max(config.duration, 0.5),
        side=jnp.where(draws.chance(0.5, shape), 1.0, -1.0),
        skin=_jitter(draws, jnp.asarray(looks.SKIN)[draws.choice(len(looks.SKIN), shape)]),
        shirt=jnp.where(animals[:, None], fur, shirt),
        trousers=_jitter(draws, table[trousers_name]),
        hair=jnp.asarray(looks.HAIR)[hair_name],
        shoes=_jitter(draws, table[draws.choice([1, 0, 0, 0, 1, 0, 0, 2, 4, 3, 2, 0], shape)]),
        accent=accent,
        shirt_name=shirt_name,
        trousers_name=trousers_name,
        hair_name=hair_name,
        fur_name=fur_name,
        pattern=draws.choice([0.5, 0.3, 0.2], shape),
        long_sleeves=draws.chance(0.5, shape),
        shorts=draws.chance(0.3, shape),
        long_hair=draws.chance(0.6, shape) & (who == 1) | draws.chance(0.1, shape),
    )


def _sample_things(config: WorldConfig, draws: _Draws, actors: Actors) -> Things:
    shape = (MAX_OBJECTS,)
    slot = jnp.arange(MAX_OBJECTS)
    odds = [0.15, 0.2, 0.2, 0.18, 0.12, 0.09, 0.06]
    count = draws.choice(odds)
    if config.split == "heldout_objects":
        count = jnp.full((), 2)
    first = actors.motion[0]
    is_person = actors.kind[0] == looks.PERSON
    seat = is_person & (first == looks.SIT) & (slot == 0)
    kicked = is_person & (first == looks.KICK) & (slot == 0)
    count = jnp.maximum(count, jnp.where((seat | kicked).any(), 1, 0))
    active = slot < count

    kind = draws.choice(3, shape)
    kind = jnp.where(seat, looks.BOX, jnp.where(kicked, looks.BALL, kind))
    lying = (kind == looks.CYLINDER) & draws.chance(0.5, shape)
    rolls = (kind == looks.BALL) | lying
    behaviour = draws.choice([0.3, 0.4, 0.3], shape)
    behaviour = jnp.where((behaviour == looks.ROLL) & ~rolls, looks.FALL, behaviour)
    behaviour = jnp.where(seat, looks.SEAT, jnp.where(kicked, looks.KICKED, behaviour))
    size = draws.uniform(0.14, 0.34, shape)
    if config.split == "heldout_objects":
        size = size + 0.12
    shape_of = draws.uniform(0.7, 1.25, (MAX_OBJECTS, 3))
    half = size[:, None] * shape_of
    half = jnp.where((kind == looks.BALL)[:, None], size[:, None], half)
    # A cylinder's axis is its local z; x and y share one radius.
    slim = half[:, :1] * jnp.where(lying, 0.75, 0.7)[:, None]
    half = jnp.where(
        (kind == looks.CYLINDER)[:, None], jnp.concatenate([slim, slim, half[:, 2:]], -1), half
    )
    tall, heading = actors.height[0], actors.heading[0]
    forward = jnp.stack([jnp.cos(heading), jnp.sin(heading)])
    left = jnp.stack([-forward[1], forward[0]])
    seat_half = jnp.stack([0.11 * tall, 0.13 * tall, 0.5 * (0.285 - 0.05) * tall])
    half = jnp.where(seat[:, None], seat_half, half)
    half = jnp.where(kicked[:, None], 0.115, half)
    resting = jnp.where(lying, half[:, 0], half[:, 2])

    # A jittered ring of places around the actors; physics parts what still overlaps.
    spread = jnp.asarray(
        [(-1.5, -0.1), (1.5, 0.4), (-0.5, -1.05), (0.8, 1.8), (-1.4, 1.6), (1.1, -0.9)]
    )[draws.order(MAX_OBJECTS)]
    if config.split == "heldout_objects":
        spread = spread * 0.55
    ground_place = spread + draws.uniform(-0.35, 0.35, (MAX_OBJECTS, 2))
    seat_place = actors.place[0] - 0.245 * tall * forward
    ball_place = actors.place[0] + 0.30 * tall * forward - 0.055 * tall * actors.side[0] * left
    ground_place = jnp.where(seat[:, None], seat_place, ground_place)
    ground_place = jnp.where(kicked[:, None], ball_place, ground_place)
    drop = jnp.where(behaviour == looks.FALL, draws.uniform(0.6, 1.9, shape), 0.0)
    direction = draws.uniform(0.0, 2 * jnp.pi, shape)
    # Rollers head for the middle, give or take, so that they stay in view and may collide.
    inward = jnp.arctan2(-ground_place[:, 1], -ground_place[:, 0]) + draws.uniform(-0.5, 0.5, shape)
    roll = behaviour == looks.ROLL
    pace = jnp.where(roll, draws.uniform(0.6, 1.5, shape), draws.uniform(0.0, 0.6, shape))
    pace = jnp.where((behaviour == looks.FALL) | roll, pace, 0.0)
    course = jnp.where(roll, inward, direction)
    velocity = jnp.stack([pace * jnp.cos(course), pace * jnp.sin(course), jnp.zeros(shape)], -1)
    yaw = draws.uniform(0.0, 2 * jnp.pi, shape)
    # A lying cylinder's axis is across its course.
    yaw = jnp.where(lying, course + jnp.pi / 2, yaw)
    yaw = jnp.where(seat, heading, yaw)
    power, lift = draws.uniform(3.0, 4.5), draws.uniform(0.8, 2.2)

    colour_name = draws.choice(len(looks.COLOUR_NAMES), shape)
    table = jnp.asarray(looks.COLOUR_TABLE)
    material = draws.choice([0.62, 0.22, 0.16], shape)
    # At most one glass object per scene: refraction shows what is behind, and never other glass.
    glass = material == looks.GLASS
    material = jnp.where(glass & (jnp.cumsum(glass) > 1), looks.MATTE, material)
    material = jnp.where(seat | kicked, looks.MATTE, material)
    return Things(
        active=active,
        kind=kind,
        behaviour=behaviour,
        material=material,
        colour_name=colour_name,
        colour=_jitter(draws, table[colour_name]),
        accent=table[(colour_name + 1 + draws.choice(11, shape)) % len(looks.COLOUR_NAMES)],
        texture=draws.choice([0.4, 0.35, 0.25], shape),
        half=half,
        place=jnp.concatenate([ground_place, (resting + drop)[:, None]], axis=-1),
        velocity=velocity,
        yaw=yaw,
        spin=jnp.where((behaviour == looks.FALL) & ~lying, draws.uniform(-2.0, 2.0, shape), 0.0),
        bounce=jnp.where(
            kind == looks.BALL, draws.uniform(0.6, 0.85, shape), draws.uniform(0.15, 0.45, shape)
        ),
        lying=lying,
        kicked_at=jnp.where(kicked, actors.event[0], jnp.inf),
        kick=jnp.where(
            kicked[:, None], jnp.concatenate([power * forward, lift[None]]), jnp.zeros(3)
        ),
    )


def _sample_surroundings(draws: _Draws) -> Surroundings:
    place = draws.choice([0.45, 0.25, 0.3])
    indoors = place == looks.ROOM
    ground = jnp.where(indoors, draws.choice([2, 0, 3, 1, 0]), draws.choice([2, 3, 0, 3, 2]))
    bases = jnp.asarray(
        [
            [(0.50, 0.47, 0.42), (0.20, 0.19, 0.20)],
            [(0.10, 0.22, 0.035), (0.05, 0.12, 0.02)],
            [(0.34, 0.18, 0.08), (0.21, 0.10, 0.04)],
            [(0.32, 0.32, 0.31), (0.23, 0.23, 0.23)],
            [(0.58, 0.45, 0.27), (0.46, 0.34, 0.20)],
        ]
    )
    ground_colours = jnp.clip(bases[ground] * draws.uniform(0.8, 1.2, (2, 3)), 0.0, 0.85)
    azimuth = draws.uniform(-2.6, -0.5)
    elevation = draws.uniform(0.55, 1.15)
    warm = draws.uniform()
    flat = jnp.cos(elevation)
    dusk = (elevation < 0.7) & ~indoors
    low = jnp.where(dusk, jnp.asarray([0.95, 0.62, 0.42]), jnp.asarray([0.68, 0.80, 0.92]))
    high = jnp.where(dusk, jnp.asarray([0.22, 0.32, 0.58]), jnp.asarray([0.12, 0.30, 0.72]))
    wall = draws.uniform(0.25, 0.75, (1, 3)) * jnp.asarray([[1.0], [0.72]])
    return Surroundings(
        place=place,
        ground=ground,
        ground_colours=ground_colours,
        ground_scale=draws.uniform(0.45, 1.0),
        ground_offset=draws.uniform(0.0, 50.0, (2,)),
        walls=jnp.stack([place != looks.OPEN, indoors]),
        wall_distance=draws.uniform(3.6, 6.0, (2,))
        * jnp.stack([jnp.float32(1.0), jnp.where(draws.chance(0.5), -1.0, 1.0)]),
        wall_height=jnp.where(indoors, 30.0, draws.uniform(1.6, 3.5)),
        wall_colours=wall,
        wall_pattern=draws.choice(3),
        sky_low=low * draws.uniform(0.85, 1.1),
        sky_high=high * draws.uniform(0.8, 1.15, (3,)),
        clouds=draws.uniform(0.0, 1.0),
        sun_direction=jnp.stack(
            [flat * jnp.cos(azimuth), flat * jnp.sin(azimuth), jnp.sin(elevation)]
        ),
        sun_colour=jnp.asarray([1.0, 0.92, 0.80]) * (1 - warm)
        + warm * jnp.asarray([1, 0.97, 0.94]),
        sun_radius=jnp.where(draws.chance(0.4), 0.01, draws.uniform(0.05, 0.16)),
    )


def _sample_camera(config: WorldConfig, draws: _Draws, actors: Actors) -> CameraPath:
    kind = draws.choice([0.3, 0.27, 0.22, 0.21])
    sign = jnp.where(draws.chance(0.5), 1.0, -1.0)
    # Slow enough that long clips do not circle behind the walls.
    span = max(config.duration, 1.0)
    turn = sign * draws.uniform(0.35, 0.7) / span
    present = actors.kind != looks.NOBODY
    moving = (actors.speed * present).max()
    tallest = jnp.where(present, actors.height, 0.0).max()
    lone = present.sum() <= 1
    near = jnp.where(lone, 2.7, 3.7) + 0.3 * moving * min(config.duration, 3.0) / 2.0
    # Room above for those who jump.
    near = near + 0.5 * ((actors.motion == looks.JUMP) & present).any()
    # Small animals are shown from nearer; objects alone from as far as a person.
    near = near - jnp.where(tallest < 1.0, 0.6, 0.0)
    near = jnp.where(present.any(), near, 3.0)
    shift = sign * draws.uniform(0.7, 1.5)
    focal = draws.uniform(0.85, 1.15)
    distance = near * draws.uniform(0.95, 1.15) * focal / 0.9
    middle = jnp.sum(actors.place * present[:, None], 0) / jnp.maximum(present.sum(), 1)
    look_height = jnp.clip(0.5 * tallest, 0.35, 0.95)
    return CameraPath(
        kind=kind,
        azimuth=draws.uniform(-0.35, 0.35) - jnp.where(kind == looks.ORBIT, turn * span / 2, 0.0),
        azimuth_rate=jnp.where(kind == looks.ORBIT, turn, 0.0),
        distance=distance - jnp.where(kind == looks.DOLLY, shift / 2, 0.0),
        distance_rate=jnp.where(kind == looks.DOLLY, shift / span, 0.0),
        height=draws.uniform(0.7, 2.3),
        target=jnp.concatenate([0.7 * middle, look_height[None]]),
        pan_rate=jnp.where(kind == looks.PAN, sign * draws.uniform(0.12, 0.3) / span, 0.0),
        focal=focal,
    )


def _closeup(config: WorldConfig, draws: _Draws, actors: Actors, camera: CameraPath) -> CameraPath:
    """The camera near the frontmost actor, who fills half to all of the frame's height.

    It turns with one who moves, or stands, circles or draws near as other cameras do.
    """
    present = actors.kind != looks.NOBODY
    # The camera stands towards -y: nobody is then between it and whom it shows.
    whom = jnp.argmin(jnp.where(present, actors.place[:, 1], jnp.inf))
    place, tall, speed = actors.place[whom], actors.height[whom], actors.speed[whom]
    filled = draws.uniform(0.55, 1.0)
    distance = camera.focal * tall / filled + 0.3 * speed * min(config.duration, 3.0) / 2.0
    kind = jnp.where(speed > 0, looks.PAN, camera.kind)
    dolly = (kind == looks.DOLLY) * draws.uniform(0.15, 0.3) * distance
    nearer = jnp.where(draws.chance(0.5), -1.0, 1.0)
    azimuth = draws.uniform(-0.35, 0.35)
    # Heading as seen from the camera, to the right positive; a pan to the left is positive.
    across = speed * jnp.cos(actors.heading[whom] - azimuth)
    follow = -across / distance * draws.uniform(0.6, 0.9)
    span = max(config.duration, 1.0)
    orbit = jnp.where(kind == looks.ORBIT, camera.azimuth_rate, 0.0)
    pan = jnp.where(kind == looks.PAN, jnp.where(speed > 0, follow, camera.pan_rate), 0.0)
    return CameraPath(
        kind=kind,
        azimuth=azimuth - orbit * span / 2,
        azimuth_rate=orbit,
        distance=distance - nearer * dolly / 2,
        distance_rate=nearer * dolly / span,
        height=tall * draws.uniform(0.4, 1.1),
        # Higher than the middle, where a part of the body shows: the head matters most.
        target=jnp.concatenate([place, (tall * (0.5 + 0.25 * (filled - 0.55)))[None]]),
        pan_rate=pan,
        focal=camera.focal,
    )


def _ask(config: WorldConfig, draws: _Draws, actors: Actors, things: Things) -> Array:
    person = actors.kind == looks.PERSON
    someone = actors.kind != looks.NOBODY
    one, which = draws.chance(0.15), draws.uniform()
    if config.split == "heldout_objects":
        return jnp.concatenate([jnp.zeros_like(person), things.active])
    if config.split == "heldout_animals":
        return jnp.concatenate([someone & ~person, jnp.zeros_like(things.active)])
    # Sometimes one person alone, distinguished by the colour of the shirt.
    count = person.sum()
    chosen = jnp.minimum((which * count).astype(jnp.int32), count - 1)
    unique = (person & (actors.shirt_name == actors.shirt_name[chosen])).sum() == 1
    single = jnp.arange(MAX_ACTORS) == chosen
    people = jnp.where(one & unique & (count > 1), single, person)
    return jnp.concatenate([people, jnp.zeros_like(things.active)])
