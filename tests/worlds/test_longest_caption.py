"""No caption of a world is longer than the text of the models that are trained on worlds."""

import functools
import itertools
import types

import numpy as np
import pytest

from unityvideo_jax.inputs.config import DataConfig
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.models.text.encoder import LENGTH
from unityvideo_jax.pretrained.text import load_words
from unityvideo_jax.settings import presets
from unityvideo_jax.worlds import captions, looks

_count = functools.cache(load_words(LENGTH).count)


class Wordy(captions._Writer):
    """Random numbers that always choose the longest wording, with everything it may say."""

    def __init__(self, scene):
        self.scene = scene
        self.rng = types.SimpleNamespace(random=lambda: 0.0)

    def pick(self, *options):
        return max(options, key=_count)

    def thing(self, i):
        self.rng.random = lambda: 1.0  # a texture is named unless this is small
        text = super().thing(i)
        self.rng.random = lambda: 0.0
        return text


def _longest_of(place, ground, motion, moving, resting, pan_rate):
    three, six = np.ones(3, int), np.ones(6, int)
    behaviour = np.full(6, looks.SEAT)
    behaviour[:moving] = looks.FALL
    behaviour[moving : moving + resting] = looks.REST
    colour = looks.COLOUR_NAMES.index("teal")
    actors = types.SimpleNamespace(
        kind=looks.PERSON * three, motion=motion * three, pattern=three, shorts=0 * three,
        shirt_name=colour * three, trousers_name=colour * three, hair_name=three, who=three,
        long_sleeves=0 * three, long_hair=three,
    )  # fmt: skip
    things = types.SimpleNamespace(
        active=six, kind=looks.CYLINDER * six, behaviour=behaviour, material=looks.GLOSSY * six,
        texture=six, colour_name=colour * six,
    )  # fmt: skip
    camera = types.SimpleNamespace(kind=looks.PAN, pan_rate=pan_rate, distance_rate=1.0)
    scene = types.SimpleNamespace(
        actors=actors, things=things, camera=camera, words=0,
        surroundings=types.SimpleNamespace(place=place, ground=ground),
    )  # fmt: skip
    return Wordy(scene).caption()


def test_the_longest_caption_fits():
    # More objects, ways to move or grounds only add words, so their largest numbers are enough.
    kinds = itertools.product(range(3), range(5), range(6), (3,), (3,), (-1.0, 1.0))
    longest = max((_longest_of(*kind) for kind in kinds), key=_count)
    assert 90 < _count(longest) <= LENGTH, longest
    assert DiTConfig.text_len == DataConfig.text_length == LENGTH


@pytest.mark.parametrize("name", ["worlds_small", "worlds_tiny"])
def test_the_worlds_configs_take_it(name):
    config = presets.load(name)
    assert config.model.text_len == config.data.text_length == LENGTH
