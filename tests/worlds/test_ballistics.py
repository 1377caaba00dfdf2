"""Balls in NumPy against closed forms, and against the simulation that worlds are made with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unityvideo_jax import worlds
from unityvideo_jax.worlds import looks
from unityvideo_jax.worlds.ballistics import CONTACT_BOUNCE, Bodies, Laws, State, simulate
from unityvideo_jax.worlds.objects import GRAVITY
from unityvideo_jax.worlds.objects import simulate as simulate_objects

FPS, RADIUS = 8.0, 0.2
BALL = Bodies(half=np.full((1, 3), RADIUS), fixed=np.array([False]), bounce=np.array([0.8]))


def thrown(place, velocity):
    return State(np.array([place], float), np.array([velocity], float))


def test_a_fall_is_a_parabola_and_a_bounce_takes_its_share():
    path = simulate(BALL, thrown([0, 0, 1.5], [0.5, 0, 2.0]), 17, FPS, Laws())
    t, dt = np.arange(4) / FPS, 1 / (FPS * 12)
    # Semi-implicit Euler falls by g t dt / 2 more than the parabola, at every step.
    expected = 1.5 + 2.0 * t - GRAVITY * (t * t + t * dt) / 2
    np.testing.assert_allclose(path.place[:4, 0, 2], expected, rtol=1e-12)
    np.testing.assert_allclose(path.place[:4, 0, 0], 0.5 * t, rtol=1e-12)
    energy = GRAVITY * path.place[:, 0, 2] + 0.5 * np.square(path.velocity[:, 0]).sum(axis=-1)
    assert energy[-1] < 0.8 * energy[0] and (np.diff(energy) < 0.02 * energy[0]).all()
    more = simulate(BALL, thrown([0, 0, 1.5], [0.5, 0, 2.0]), 17, FPS, Laws(bounce=1.5))
    assert more.place[:, 0, 2].max() > path.place[:, 0, 2].max() + 0.3
    none = simulate(BALL, thrown([0, 0, 1.5], [0, 0, 0]), 17, FPS, Laws(ground=False))
    assert none.place[-1, 0, 2] < -10


def test_a_ball_bounces_off_a_box_that_stands_still():
    half = np.array([[RADIUS] * 3, [0.1, 0.4, 0.4]])
    bodies = Bodies(half=half, fixed=np.array([False, True]), bounce=np.array([0.8, 0.0]))
    state = State(np.array([[-1.0, 0, RADIUS], [0, 0, 0.4]]), np.array([[1.5, 0, 0], [0, 0, 0]]))
    path = simulate(bodies, state, 9, FPS, Laws())
    assert path.place[:, 0, 0].max() <= -0.1 - RADIUS + 1e-9
    before, after = path.velocity[:, 0, 0].max(), path.velocity[-1, 0, 0]
    assert after == pytest.approx(-CONTACT_BOUNCE * (before - 0.13), abs=0.2)
    np.testing.assert_array_equal(path.place[:, 1], path.place[:1, 1].repeat(9, axis=0))
    through = simulate(bodies, state, 9, FPS, Laws(contacts=False))
    assert through.place[-1, 0, 0] > 0.2


def test_the_paths_are_those_of_worlds():
    config = worlds.WorldConfig(num_frames=9, fps=FPS, split="validation")
    scene = jax.tree.map(lambda x: x[0], worlds.sample_scenes(config, np.arange(1)))
    things, actors = scene.things, scene.actors
    first = np.arange(looks.MAX_OBJECTS) == 0
    start = thrown([0.3, -0.2, 1.4], [0.6, 0.1, 0.5])
    changed = dict(
        active=np.asarray(first),
        kind=np.full(looks.MAX_OBJECTS, looks.BALL),
        behaviour=np.full(looks.MAX_OBJECTS, looks.FALL),
        lying=np.zeros(looks.MAX_OBJECTS, bool),
        half=np.full((looks.MAX_OBJECTS, 3), RADIUS, np.float32),
        place=np.tile(start.place.astype(np.float32), (looks.MAX_OBJECTS, 1)),
        velocity=np.tile(start.velocity.astype(np.float32), (looks.MAX_OBJECTS, 1)),
        bounce=np.full(looks.MAX_OBJECTS, 0.8, np.float32),
        kicked_at=np.full(looks.MAX_OBJECTS, np.inf, np.float32),
    )
    things = dataclasses.replace(things, **jax.tree.map(jnp.asarray, changed))
    actors = dataclasses.replace(actors, kind=jnp.full_like(actors.kind, looks.NOBODY))
    found = simulate_objects(config, things, actors, scene.surroundings, 9).centre[:, 0]
    ours = simulate(BALL, start, 9, FPS, Laws()).place[:, 0]
    np.testing.assert_allclose(np.asarray(found), ours, atol=2e-3)
