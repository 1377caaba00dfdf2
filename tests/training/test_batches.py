import numpy as np
import pytest

from unityvideo_jax.models import DiTConfig
from unityvideo_jax.settings import presets
from unityvideo_jax.training.batches import check_batch

MODEL = DiTConfig(**presets.load("worlds_tiny").model)


def batch(**changes):
    return {
        "latents": np.zeros((4, 2, 3, 8, 8, MODEL.in_channels), np.float32),
        "modality": np.zeros((4, 2), np.int32),
        "context": np.zeros((4, 2, 7, MODEL.text_dim), np.float32),
    } | changes


def test_a_batch_for_the_model_passes():
    check_batch(batch(), MODEL)


@pytest.mark.parametrize(
    "changes",
    [
        dict(latents=np.zeros((4, 2, 3, 8, 8, MODEL.in_channels + 1), np.float32)),
        dict(modality=np.zeros((4, 3), np.int32)),
        dict(modality=np.zeros((4, 2), np.float32)),
        dict(context=np.zeros((4, 2, 7, MODEL.text_dim - 1), np.float32)),
        dict(context=np.full((4, 2, 7, MODEL.text_dim), np.nan, np.float32)),
    ],
)
def test_another_batch_does_not(changes):
    with pytest.raises(AssertionError, match="Error in|Assertion"):
        check_batch(batch(**changes), MODEL)
