import numpy as np
import pytest

from unityvideo_jax.errors import UserError
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


WRONG = {
    "channels": (
        dict(latents=np.zeros((4, 2, 3, 8, 8, MODEL.in_channels + 1), np.float32)),
        "shape",
    ),
    "streams": (dict(modality=np.zeros((4, 3), np.int32)), "shape"),
    "text": (dict(context=np.zeros((4, 2, 7, MODEL.text_dim - 1), np.float32)), "shape"),
    "kind": (dict(modality=np.zeros((4, 2), np.float32)), "type"),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_batch_does_not(case):
    changes, message = WRONG[case]
    with pytest.raises(UserError, match=f"do not fit config.model.*{message}"):
        check_batch(batch(**changes), MODEL)
