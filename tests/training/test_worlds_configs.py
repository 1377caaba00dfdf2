"""The configurations of runs on worlds: every key is known, and sizes are what they say."""

import jax
import pytest

from unityvideo_jax import train
from unityvideo_jax.errors import UserError
from unityvideo_jax.models import build
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.settings import presets


@pytest.mark.parametrize("name", ["worlds_tiny", "worlds_small", "worlds_mini"])
def test_every_key_is_known_and_every_value_valid(name):
    train.check(presets.load(name))


def test_mini_fits_in_24_megabytes_of_8_bit_weights():
    config = DiTConfig(**presets.load("worlds_mini").model.to_dict())
    _, params = build.abstract_transformer(config)
    assert 20e6 < sum(x.size for x in jax.tree.leaves(params)) < 24e6


def test_an_unknown_modality_in_the_loss_weights_is_named():
    config = presets.load("worlds_mini")
    config.objective.modality_loss_weights.normals = 1.0
    with pytest.raises(UserError, match=r"modality_loss_weights\.normals: no such key"):
        train.check(config)
