"""Scoring a long clip takes little more memory than the clip itself."""

import tracemalloc

import folder_clips
import numpy as np
import pytest

from unityvideo_jax import modalities


@pytest.mark.parametrize(
    ("modality", "most"),
    # The fits of depth keep float64 of what counts; the others work frame by frame.
    [("depth", 3.0), ("flow", 0.5), ("segmentation", 0.5), ("densepose", 0.5)],
)
def test_working_memory_is_a_small_multiple_of_the_clip(modality, most):
    short = folder_clips.truth(0)[modality]
    arrays = {key: np.tile(a, (30, *[1] * (a.ndim - 1))) for key, a in short.items()}
    metric = modalities.get(modality).metric
    prediction = {key: arrays[key].copy() for key in metric.keys}
    size = sum(array.nbytes for given in (prediction, arrays) for array in given.values())
    tracemalloc.start()
    metric().score(prediction, arrays, "clip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most * size
