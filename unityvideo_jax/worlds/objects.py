"""Objects: rigid-body motion on the ground, integrated with small steps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unityvideo_jax.worlds import looks
from unityvideo_jax.worlds.config import WorldConfig
from unityvideo_jax.worlds.pytree import pytree
from unityvideo_jax.worlds.scene import Actors, Surroundings, Things
from unityvideo_jax.worlds.vector import compose, rotate_x, rotate_z

GRAVITY = 9.81
STEP = 1.0 / 96.0  # seconds, at most
_SETTLING = 24  # rounds that part objects which start inside each other
_BODY = 0.26  # metres around a person that objects keep out of


@pytree
class Motion:
    """Centres in metres and rotations (columns: local axes) of objects over time."""

    centre: Float[Array, "*b t o 3"]
    rotation: Float[Array, "*b t o 3 3"]


def _rows(vector: Array) -> Array:
    return vector[:, None, :] - vector[None, :, :]


def simulate(
    config: WorldConfig, things: Things, actors: Actors, surroundings: Surroundings, frames: int
) -> Motion:
    """Simulates objects that fall, bounce, roll and collide with ground, walls and people.

    Semi-implicit Euler with steps of at most STEP; contacts are impulses between bounding circles
    of upright shapes of equal mass. Boxes keep their base level; balls and lying cylinders roll
    without slipping while they touch the ground.
    """
    substeps = max(1, round(1.0 / (config.fps * STEP) + 0.499))
    dt = 1.0 / (config.fps * substeps)
    ball, lying = things.kind == looks.BALL, things.lying
    rolls = ball | lying
    half = things.half
    rest = jnp.where(lying, half[:, 0], half[:, 2])
    # A circle around the footprint; a lying cylinder's is only as wide as fits its mean extent.
    girth = jnp.where(
        things.kind == looks.BOX, 0.5 * (jnp.hypot(half[:, 0], half[:, 1]) + half[:, :2].max(-1)),
        jnp.where(lying, jnp.maximum(half[:, 0], half[:, 2]), half[:, 0]),
    )  # fmt: skip
    fixed = (things.behaviour == looks.SEAT) | ~things.active
    # The kicked ball's course goes past its kicker.
    own = things.behaviour == looks.KICKED
    middle = config.duration / 2
    n = girth.shape[0]
    pairs = things.active[:, None] & things.active[None, :] & ~jnp.eye(n, dtype=bool)
    walks = (
        jnp.stack([jnp.cos(actors.heading), jnp.sin(actors.heading)], -1) * actors.speed[:, None]
    )
    is_body = actors.kind != looks.NOBODY
    body_radius = jnp.where(
        actors.kind == looks.PERSON, _BODY,
        jnp.where(actors.kind == looks.QUADRUPED, 0.6, 0.35) * actors.height,
    )  # fmt: skip

    def contacts(place: Array, velocity: Array, time: Array) -> tuple[Array, Array]:
        """Corrections of horizontal place and velocity."""
        between = _rows(place[:, :2])
        distance = jnp.sqrt(jnp.sum(between**2, -1) + 1e-9)
        normal = between / distance[..., None]
        overlap = girth[:, None] + girth[None, :] - distance
        height_gap = jnp.abs(_rows(place)[..., 2]) - rest[:, None] - rest[None, :]
        touch = pairs & (overlap > 0) & (height_gap < 0)
        share = jnp.where(fixed[None, :], 1.0, 0.5)
        push = jnp.sum(jnp.where(touch[..., None], (share * overlap)[..., None] * normal, 0.0), 1)
        closing = jnp.sum(_rows(velocity[:, :2]) * normal, -1)
        impulse = jnp.where(touch & (closing < 0), -1.6 * share * closing, 0.0)
        kick = jnp.sum(impulse[..., None] * normal, 1)

        bodies = actors.place + walks * (time - middle)
        apart = place[:, None, :2] - bodies[None]
        away = jnp.sqrt(jnp.sum(apart**2, -1) + 1e-9)
        outward = apart / away[..., None]
        deep = girth[:, None] + body_radius[None] - away
        hit = is_body[None] & (deep > 0) & ~own[:, None] & things.active[:, None]
        push = push + jnp.sum(jnp.where(hit[..., None], deep[..., None] * outward, 0.0), 1)
        towards = jnp.sum((velocity[:, None, :2] - walks[None]) * outward, -1)
        bump = jnp.where(hit & (towards < 0), -1.3 * towards, 0.0)
        kick = kick + jnp.sum(bump[..., None] * outward, 1)

        # Wall 0 stands at y = distance, wall 1 at x = distance, either side.
        for wall, axis in ((0, 1), (1, 0)):
            limit = surroundings.wall_distance[wall]
            side = jnp.sign(limit)
            beyond = side * place[:, axis] + girth - side * limit
            inside = surroundings.walls[wall] & (beyond > 0)
            push = push.at[:, axis].add(jnp.where(inside, -side * beyond, 0.0))
            speed = side * velocity[:, axis]
            kick = kick.at[:, axis].add(jnp.where(inside & (speed > 0), -1.6 * side * speed, 0.0))
        still = fixed[:, None]
        return jnp.where(still, 0.0, push), jnp.where(still, 0.0, kick)

    def settle(place: Array, _: None) -> tuple[Array, None]:
        level = place.at[:, 2].set(rest)
        push, _ = contacts(level, jnp.zeros_like(place), jnp.zeros(()))
        return place.at[:, :2].add(push), None

    place, _ = jax.lax.scan(settle, things.place, None, length=_SETTLING)

    def step(state: tuple, index: Array) -> tuple[tuple, None]:
        place, velocity, spin, yaw, roll = state
        time = index * dt
        struck = (time >= things.kicked_at) & (time - dt < things.kicked_at)
        velocity = jnp.where(struck[:, None], things.kick, velocity)
        velocity = velocity.at[:, 2].add(-GRAVITY * dt)
        place = place + velocity * dt
        landed = place[:, 2] <= rest
        place = place.at[:, 2].max(rest)
        # A bounce below this speed cannot be seen, and without the bound it would never end.
        back = jnp.where(velocity[:, 2] < -0.35, -things.bounce * velocity[:, 2], 0.0)
        velocity = velocity.at[:, 2].set(
            jnp.where(landed & (velocity[:, 2] < 0), back, velocity[:, 2])
        )
        push, kick = contacts(place, velocity, time)
        place = place.at[:, :2].add(push)
        velocity = velocity.at[:, :2].add(kick)
        flat = jnp.sqrt(jnp.sum(velocity[:, :2] ** 2, -1) + 1e-12)
        drag = jnp.where(rolls, 0.25, 3.5)
        slower = jnp.where(landed, jnp.maximum(1.0 - drag * dt / flat, 0.0), 1.0)
        velocity = velocity.at[:, :2].multiply(slower[:, None])
        spin = spin * jnp.where(landed, 1.0 - 4.0 * dt, 1.0)
        velocity = jnp.where(fixed[:, None], 0.0, velocity)
        place = jnp.where(fixed[:, None], things.place, place)
        yaw = yaw + spin * dt
        # Rolling turns a ball about the horizontal axis across its way: a vector of angles.
        across = jnp.stack([-velocity[:, 1], velocity[:, 0], jnp.zeros(n)], -1) / rest[:, None]
        turn = jnp.where(ball[:, None], across * dt, 0.0)
        angle = jnp.sqrt(jnp.sum(turn**2, -1) + 1e-18)
        roll = compose(_about(turn / angle[:, None], angle), roll)
        # A lying cylinder turns about its own axis only: by its motion across that axis.
        sideways = velocity[:, 0] * jnp.sin(yaw) - velocity[:, 1] * jnp.cos(yaw)
        cylinder = rotate_z(jnp.where(lying, sideways / rest * dt, 0.0))
        roll = jnp.where(lying[:, None, None], compose(roll, cylinder), roll)
        return (place, velocity, spin, yaw, roll), None

    def frame(state: tuple, start: Array) -> tuple[tuple, tuple]:
        shown = (state[0], state[3], state[4])
        state, _ = jax.lax.scan(step, state, start + jnp.arange(substeps, dtype=jnp.float32))
        return state, shown

    eye = jnp.broadcast_to(jnp.eye(3), (n, 3, 3))
    state = (place, things.velocity, things.spin, things.yaw, eye)
    starts = jnp.arange(frames, dtype=jnp.float32) * substeps
    _, (centres, yaws, rolled) = jax.lax.scan(frame, state, starts)
    upright = rotate_z(yaws)
    # Lying: the axis (local z) along the yaw direction.
    laid = compose(
        compose(upright, rotate_z(jnp.full_like(yaws, jnp.pi / 2))),
        rotate_x(jnp.full_like(yaws, jnp.pi / 2)),
    )
    choose = lambda mask, a, b: jnp.where(mask[:, None, None], a, b)  # noqa: E731
    rotation = choose(lying, compose(laid, rolled), choose(ball, compose(rolled, upright), upright))
    return Motion(centre=centres, rotation=rotation)


def _about(axis: Float[Array, "o 3"], angle: Float[Array, " o"]) -> Float[Array, "o 3 3"]:
    """Rodrigues' rotation."""
    x, y, z = axis[:, 0], axis[:, 1], axis[:, 2]
    zero = jnp.zeros_like(x)
    skew = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    s, c = jnp.sin(angle)[:, None, None], jnp.cos(angle)[:, None, None]
    return jnp.eye(3) + s * skew + (1.0 - c) * compose(skew, skew)
