"""Procedural worlds with exact ground truth: people, animals and objects, ray-cast in JAX."""

from unityvideo_jax.worlds.captions import Description, describe
from unityvideo_jax.worlds.config import SPLITS, VERSION, WorldConfig
from unityvideo_jax.worlds.course import Course
from unityvideo_jax.worlds.render import ARRAYS, render
from unityvideo_jax.worlds.sampling import sample_scenes
from unityvideo_jax.worlds.scene import Scene, ask_for_all

__all__ = [
    "ARRAYS",
    "SPLITS",
    "VERSION",
    "Course",
    "Description",
    "Scene",
    "WorldConfig",
    "ask_for_all",
    "describe",
    "render",
    "sample_scenes",
]
