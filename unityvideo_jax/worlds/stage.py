"""Everything that has a pose, frame by frame: from a Scene to Solids, cameras and keypoints."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unityvideo_jax.worlds import animals, looks, people
from unityvideo_jax.worlds.bodies import PARTS
from unityvideo_jax.worlds.camera import Cameras, cameras
from unityvideo_jax.worlds.config import WorldConfig
from unityvideo_jax.worlds.course import Course
from unityvideo_jax.worlds.geometry import NUM_LIMBS, NUM_SOLIDS, Solids
from unityvideo_jax.worlds.looks import MAX_ACTORS, MAX_OBJECTS
from unityvideo_jax.worlds.objects import Motion, simulate
from unityvideo_jax.worlds.pytree import pytree
from unityvideo_jax.worlds.scene import Actors, Scene
from unityvideo_jax.worlds.vector import rotate_z

# Surface texture of a solid.
PLAIN, STRIPED, CHECKED, FACE, MUZZLE, SPOTTED = range(6)


@pytree
class Skin:
    """Appearance and names of solids; constant over the clip.

    Attributes:
      instance: 1.. for people and animals, then objects; 0 for slots that are empty.
      segment: the number among what the prompt asks for; 0 for the rest.
      part: DensePose parts of the two halves of a limb; 0 for all but people.
      across: local axis that divides the halves: 0 for x, 1 for y.
    """

    colour: Float[Array, "b n 3"]
    accent: Float[Array, "b n 3"]
    texture: Int[Array, "b n"]
    material: Int[Array, "b n"]
    instance: Int[Array, "b n"]
    segment: Int[Array, "b n"]
    part: Int[Array, "b n 2"]
    across: Int[Array, " n"]


@pytree
class Stage:
    """T + 1 frames of a batch of clips; the last serves only as the target of flow.

    `casters` are the solids that throw shadows, as a rule `solids` themselves.
    """

    solids: Solids
    cameras: Cameras
    skin: Skin
    keypoints: Float[Array, "b t p 17 3"]
    is_person: Bool[Array, "b p"]
    casters: Solids

    def cut(self, start: Int[Array, ""], count: int) -> "Stage":
        """Returns frames start to start + count - 1; `start` may be traced."""

        def frames(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, start, count, axis=1)

        return dataclasses.replace(
            self,
            solids=self.solids.each_frame(frames),
            casters=self.casters.each_frame(frames),
            cameras=jax.tree.map(frames, self.cameras),
            keypoints=frames(self.keypoints),
        )


def set_stage(config: WorldConfig, scenes: Scene, course: Course | None = None) -> Stage:
    """Poses everything in a batch of scenes; objects by simulation, or as a course says."""
    frames = config.num_frames + 1
    seconds = jnp.arange(frames, dtype=jnp.float32) / config.fps
    middle = config.duration / 2
    has_animals = config.split == "heldout_animals"

    def pose(actor: Actors) -> tuple:
        limbs, keypoints = people.pose_person(actor, seconds, middle)
        if has_animals:
            others = (
                animals.pose_quadruped(actor, seconds, middle),
                animals.pose_bird(actor, seconds, middle),
            )
            for kind, other in zip((looks.QUADRUPED, looks.BIRD), others, strict=True):
                limbs = jax.tree.map(
                    lambda a, b, k=kind: jnp.where(actor.kind == k, b, a), limbs, other
                )
        return limbs, keypoints

    def one_clip(scene: Scene) -> tuple:
        limbs, keypoints = jax.vmap(pose)(scene.actors)
        motion = None
        if course is None:
            motion = simulate(config, scene.things, scene.actors, scene.surroundings, frames)
        return limbs, keypoints, motion, cameras(config, scene.camera, seconds)

    limbs, keypoints, motion, views = jax.vmap(one_clip)(scenes)
    if course is not None:
        upright = rotate_z(scenes.things.yaw)[:, None]
        rotation = jnp.broadcast_to(upright, (*course.centre.shape[:3], 3, 3))
        motion = Motion(centre=course.centre, rotation=rotation)
    actors, things = scenes.actors, scenes.things
    batch = actors.kind.shape[0]
    someone = actors.kind != looks.NOBODY

    def flat(x: Array) -> Array:
        """Reshapes [b, actor, t, part, ...] to [b, t, actor * part, ...]."""
        x = jnp.moveaxis(x, 1, 2)
        return x.reshape(*x.shape[:2], NUM_LIMBS, *x.shape[4:])

    def steady(x: Array) -> Array:
        """Repeats [b, n, ...] in time: [b, t, n, ...]."""
        return jnp.broadcast_to(x[:, None], (batch, frames, *x.shape[1:]))

    hidden = (~someone)[:, :, None, None, None]
    centre = jnp.where(hidden, jnp.asarray([0.0, 0.0, -500.0]), limbs.centre)
    radii = limbs.radii.reshape(batch, NUM_LIMBS, 3)
    radii = jnp.concatenate([radii, things.half], axis=1)
    rotation = jnp.concatenate([flat(limbs.rotation), motion.rotation], axis=2)
    inverse = jnp.swapaxes(rotation, -1, -2) / steady(radii)[..., None]
    half = limbs.half.reshape(batch, NUM_LIMBS) / radii[:, :NUM_LIMBS, 2]
    half = jnp.concatenate([half, jnp.zeros((batch, MAX_OBJECTS))], axis=1)
    around = scenes.surroundings
    solids = Solids(
        inverse=inverse,
        centre=jnp.concatenate([flat(centre), motion.centre], axis=2),
        half=steady(half),
        size=steady(radii.mean(-1)),
        shape=things.kind,
        active=things.active,
        clear=things.material == looks.GLASS,
        someone=someone.any(axis=0),
        walls=around.walls,
        wall_distance=around.wall_distance,
        wall_height=around.wall_height,
    )
    casters = solids
    if course is not None:
        casting = jnp.concatenate([flat(centre), course.caster], axis=2)
        casters = dataclasses.replace(solids, centre=casting)
    return Stage(
        solids=solids,
        casters=casters,
        cameras=views,
        skin=_skin(scenes, has_animals),
        keypoints=jnp.moveaxis(keypoints, 1, 2),
        is_person=actors.kind == looks.PERSON,
    )


def _skin(scenes: Scene, has_animals: bool) -> Skin:
    actors, things = scenes.actors, scenes.things
    batch = actors.kind.shape[0]
    kind = actors.kind[..., None]
    colour = jax.vmap(jax.vmap(people.limb_colours))(actors)
    shirts = np.zeros(PARTS, bool)
    shirts[[people.TORSO, people.SHOULDERS, people.ARM_L, people.ARM_R]] = True
    texture = jnp.where(jnp.asarray(shirts), actors.pattern[..., None], PLAIN)
    texture = jnp.where(jnp.arange(PARTS) == people.HEAD, FACE, texture)
    if has_animals:
        quadruped, bird = jax.vmap(jax.vmap(animals.animal_colours))(actors)
        colour = jnp.where((kind == looks.QUADRUPED)[..., None], quadruped, colour)
        colour = jnp.where((kind == looks.BIRD)[..., None], bird, colour)
        fur = jnp.where((actors.pattern == 1)[..., None] & (jnp.arange(PARTS) < 2), SPOTTED, PLAIN)
        fur = jnp.where(jnp.arange(PARTS) == 2, MUZZLE, fur)
        texture = jnp.where(kind == looks.PERSON, texture, fur)
    part = jnp.where((kind == looks.PERSON)[..., None], jnp.asarray(people.DENSEPOSE), 0)
    someone = actors.kind != looks.NOBODY
    there = jnp.concatenate([someone, things.active], axis=1)
    instance = jnp.where(there, jnp.cumsum(there, axis=1), 0).astype(jnp.int32)
    asked = scenes.asked & there
    segment = jnp.where(asked, jnp.cumsum(asked, axis=1), 0).astype(jnp.int32)

    def limbs_and_things(actor: Array, thing: Array) -> Array:
        """Joins [b, actor, part, ...] and [b, object, ...] as [b, n, ...]."""
        actor = actor.reshape(batch, NUM_LIMBS, *actor.shape[3:])
        return jnp.concatenate([actor, thing], axis=1)

    def spread(x: Array) -> Array:
        """Repeats the actors of [b, actor + object] for each limb: [b, n]."""
        return jnp.concatenate([jnp.repeat(x[:, :MAX_ACTORS], PARTS, 1), x[:, MAX_ACTORS:]], 1)

    accent = jnp.broadcast_to(actors.accent[:, :, None], colour.shape)
    accent = accent.at[:, :, people.HEAD].set(actors.hair)
    across = np.zeros(NUM_SOLIDS, np.int32)
    across[people.HEAD : NUM_LIMBS : PARTS] = 1
    across[people.HAIR : NUM_LIMBS : PARTS] = 1
    return Skin(
        colour=limbs_and_things(colour, things.colour),
        accent=limbs_and_things(accent, things.accent),
        texture=limbs_and_things(texture, things.texture).astype(jnp.int32),
        material=limbs_and_things(jnp.zeros(colour.shape[:3], jnp.int32), things.material),
        instance=spread(instance),
        segment=spread(segment),
        part=limbs_and_things(part, jnp.zeros((batch, MAX_OBJECTS, 2), jnp.int32)),
        across=jnp.asarray(across),
    )
