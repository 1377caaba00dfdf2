"""Configurations of published sizes: their exact parameter counts, and that every part is valid."""

import math

import pytest

from unityvideo_jax.flow_matching import ObjectiveConfig
from unityvideo_jax.inputs.config import as_data_config
from unityvideo_jax.interop import wan_keys
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.settings import presets
from unityvideo_jax.settings.sections import section
from unityvideo_jax.training.config import TrainConfig
from unityvideo_jax.training.curriculum import stages
from unityvideo_jax.training.optimizer import OptimizerConfig

# Weights of the backbone: of the published checkpoints, and of our own choice of 10B.
COUNTS = {
    "wan21_1_3b": 1_418_996_800,
    "wan21_14b": 14_288_491_584,
    "wan22_5b": 4_999_787_712,
    "unityvideo_release_5b": 4_999_787_712,
    "unityvideo_10b": 10_055_172_160,
}
# bfloat16, as its model card lists the file; what is left of it is the header.
RELEASE_FILE_BYTES = 10_020_954_352


def count(config: DiTConfig) -> int:
    return sum(math.prod(weight.shape) for weight in wan_keys.weights(config).values())


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_backbone_has_the_published_number_of_parameters(name):
    model = presets.load(name).model.to_dict()
    backbone = model | dict(modalities=("rgb",), switcher="none")
    assert count(DiTConfig(**backbone)) == COUNTS[name]
    # A checkpoint of Wan holds exactly that many, whatever our own parts add.
    entries = wan_keys.entries(DiTConfig(**model), "diffusers")
    assert sum(math.prod(entry.shape) for entry in entries) == COUNTS[name]


def test_the_release_has_the_size_of_its_file():
    model = DiTConfig(**presets.load("unityvideo_release_5b").model.to_dict())
    entries = wan_keys.entries(model, "unityvideo")
    stored = sum(math.prod(entry.shape) for entry in entries)
    assert stored == 5_010_432_384
    assert count(model) == stored + model.dim
    header = RELEASE_FILE_BYTES - 2 * stored
    assert 70 * len(entries) < header < 150 * len(entries)


def test_the_paper_says_ten_billion():
    assert abs(COUNTS["unityvideo_10b"] / 1e10 - 1) < 0.02


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_every_part_is_valid(name):
    config = presets.load(name)
    model = DiTConfig(**config.model.to_dict())
    assert model.head_dim == 128
    section(ObjectiveConfig, config, "objective")
    data = as_data_config(config.data)
    section(OptimizerConfig, config, "optimizer")
    section(SamplerConfig, config, "sampling")
    run = section(TrainConfig, config, "train")
    assert stages(config.curriculum, dict(config.data.modality_weights), run.steps)
    stride = 16 if model.in_channels == 48 else 8
    frames = (data.num_frames - 1) // 4 + 1
    model.token_grid((frames, data.height // stride, data.width // stride))
    assert data.height % stride == data.width % stride == 0
