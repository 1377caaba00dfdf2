import dataclasses

import jax
import numpy as np
import pytest
from synthetic_clips import clip

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities import base


@pytest.fixture
def restored_registry(monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))


def test_built_in_names_weights_and_alignment():
    assert modalities.names()[:6] == modalities.BUILT_IN
    assert modalities.BUILT_IN == ("rgb", "depth", "flow", "segmentation", "skeleton", "densepose")
    weights = {n: modalities.get(n).sampling_weight for n in modalities.BUILT_IN[1:]}
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights["segmentation"] == weights["skeleton"] == pytest.approx(2 / 7)
    aligned = [n for n in modalities.BUILT_IN[1:] if modalities.get(n).pixel_aligned]
    assert aligned == ["depth", "flow", "densepose"]
    prompts = [modalities.get(n).prompt for n in modalities.BUILT_IN]
    assert len(set(prompts)) == 6


def test_unknown_name_lists_the_known():
    with pytest.raises(UserError, match=r"'depht'.*depth.*densepose"):
        modalities.get("depht")


def test_register_refuses_what_would_not_work(restored_registry):
    depth = modalities.get("depth")
    with pytest.raises(UserError, match="registered already"):
        modalities.register(dataclasses.replace(depth, prompt="another"))
    assert modalities.register(depth) is depth  # importing a module twice is harmless
    with pytest.raises(UserError, match="lower-case"):
        dataclasses.replace(depth, name="Depth map")
    with pytest.raises(UserError, match="prompt is empty"):
        dataclasses.replace(depth, prompt=" ")
    with pytest.raises(UserError, match="negative"):
        dataclasses.replace(depth, sampling_weight=-1.0)


@pytest.mark.parametrize("name", modalities.BUILT_IN)
def test_encode_is_jittable_vmappable_and_in_range(name):
    codec = modalities.get(name).codec
    clips = [clip(5, 16, 32, seed=s) for s in range(2)]
    single = [codec.encode(c) for c in clips]
    batch = {k: np.stack([c[k] for c in clips]) for k in clips[0]}
    video, side = jax.jit(jax.vmap(codec.encode))(batch)
    assert video.shape == (2, 5, 16, 32, 3) and video.dtype == np.float32
    assert np.abs(video).max() <= 1.0 + 1e-6
    assert side.keys() == codec.default_side.keys()
    for b in range(2):
        np.testing.assert_allclose(video[b], single[b][0], atol=2e-5)
        for key, value in side.items():
            assert value.dtype == np.float32
            assert value[b].shape == codec.default_side[key].shape
            np.testing.assert_allclose(value[b], single[b][1][key], atol=1e-6)
    decoded = codec.decode(video[0], codec.default_side)
    assert decoded.keys() <= set(codec.keys)
    for key, value in decoded.items():
        assert value.dtype == clips[0][key].dtype and value.ndim == clips[0][key].ndim


@pytest.mark.parametrize("name", modalities.BUILT_IN)
def test_a_good_clip_passes_the_check(name):
    modalities.check_clip(modalities.get(name).codec, clip(1, 16, 16))


def _with(**changes):
    return clip(2, 16, 16) | changes


NAN = np.full((2, 16, 16), np.nan, np.float32)
WRONG = {
    "missing": ("depth", {"rgb": NAN}, "lacks depth"),
    "depth nan": ("depth", _with(depth=NAN), "NaN"),
    "depth zero": ("depth", _with(depth=np.zeros((2, 16, 16), np.float32)), r"<= 0 m"),
    "depth shape": ("depth", _with(depth=NAN[0]), r"give \[T, H, W\]"),
    "depth empty": ("depth", _with(depth=NAN[:0]), "empty"),
    "depth dtype": ("depth", _with(depth=np.ones((2, 16, 16), np.uint8)), "convert it to float32"),
    "flow inf": ("flow", _with(flow=np.full((2, 16, 16, 2), np.inf)), "infinity"),
    "flow shape": ("flow", _with(flow=np.zeros((2, 16, 16, 3))), r"give \[T, H, W, 2\]"),
    "rgb range": ("rgb", _with(rgb=np.full((2, 16, 16, 3), 255.0)), r"bring it to \[0, 1\]"),
    "ids": ("segmentation", _with(segments=np.full((2, 16, 16), 27)), r"1\.\.26"),
    "ids float": ("segmentation", _with(segments=np.ones((2, 16, 16))), "integers"),
    "part": ("densepose", _with(part=np.full((2, 16, 16), 25)), r"1\.\.24"),
    "uv": ("densepose", _with(uv=np.full((2, 16, 16, 2), 1.5)), "uv spans"),
    "uv size": ("densepose", _with(uv=np.zeros((2, 8, 16, 2))), "differ"),
    "joints": ("skeleton", _with(keypoints=np.zeros((2, 2, 18, 2))), r"\[T, P, 17, 2\]"),
    "joints nan": ("skeleton", _with(keypoints=np.full((2, 2, 17, 2), np.nan)), "NaN"),
    "visibility": ("skeleton", _with(visibility=np.full((2, 2, 17), 3)), "use 0 absent"),
    "people": ("skeleton", _with(visibility=np.zeros((2, 3, 17), int)), "like keypoints"),
    "frames": ("skeleton", _with(rgb=np.zeros((3, 16, 16, 3), np.float32)), "one length"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_clips_are_refused_with_the_fix(case):
    name, bad, message = WRONG[case]
    with pytest.raises(UserError, match=message) as error:
        modalities.check_clip(modalities.get(name).codec, bad, "clip_7.npz")
    assert str(error.value).startswith("clip_7.npz")


def test_a_metric_comes_with_a_trivial_prediction_and_its_own_name(restored_registry):
    depth = modalities.get("depth")
    with pytest.raises(UserError, match="give metric and trivial together"):
        dataclasses.replace(depth, trivial=None)
    with pytest.raises(UserError, match="its metric scores 'depth'"):
        dataclasses.replace(depth, name="height")
    modalities.register(dataclasses.replace(depth, name="height", metric=None, trivial=None))
    assert tuple(modalities.metrics()) == modalities.BUILT_IN[1:]
