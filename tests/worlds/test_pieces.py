import importlib

import jax
import numpy as np
import pytest

from unityvideo_jax import worlds

# The package's `render` is the function.
module = importlib.import_module("unityvideo_jax.worlds.render")


@pytest.fixture(autouse=True)
def quick_compile():
    """Compiles with few optimisations, since compiling takes most of the time here."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.slow
def test_large_clips_in_pieces_are_the_same_clips(monkeypatch):
    """Five frames in pieces of two, the last overlapping: the values of one piece."""
    whole = worlds.WorldConfig(height=16, width=24, num_frames=5, supersample=2, seed=3)
    scenes = worlds.sample_scenes(whole, np.arange(2))
    expected = jax.device_get(worlds.render(whole, scenes))
    monkeypatch.setattr(module, "_RAYS_OF_CLIP", 2 * 16 * 24 * 4)
    found = jax.device_get(jax.jit(module._trace_in_pieces, static_argnums=0)(whole, scenes, None))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype
        if value.dtype.kind == "f":
            # Compiled for another shape, sums may round differently; a grazing ray may flip.
            near = np.isclose(found[name], value, rtol=1e-4, atol=1e-4)
            assert near.mean() > 0.999, name
        else:
            assert (found[name] == value).mean() > 0.999, name
