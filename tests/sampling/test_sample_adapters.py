"""Adapters in sampling: flags, settings, and what a pipeline does with a file."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_pipeline import quick_compile, tiny_parts  # noqa: F401

from unityvideo_jax.errors import UserError
from unityvideo_jax.sampling.adapters import check, parse
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.presets import PRESETS
from unityvideo_jax.sampling.solvers import shift_sigmas


def test_a_weight_follows_the_last_colon(tmp_path):
    (named := tmp_path / "a:2").touch()
    assert parse("a.safetensors") == ("a.safetensors", 1.0)
    assert parse("a.safetensors:-0.5") == ("a.safetensors", -0.5)
    assert parse("C:/a.safetensors:2") == ("C:/a.safetensors", 2.0)
    assert parse(str(named)) == (str(named), 1.0)
    for text in ("a.safetensors:much", "a.safetensors:nan", "a.safetensors:"):
        with pytest.raises(UserError, match=r"is no weight; give FILE or FILE:NUMBER"):
            parse(text)


def test_four_steps_are_those_that_distillation_trains():
    """Timesteps 1000, 750, 500 and 250, shifted, with one evaluation each and no guidance."""
    config = dataclasses.replace(SamplerConfig(), **PRESETS["four_steps"])
    levels = shift_sigmas(np.float64([1000, 750, 500, 250]) / 1000, 5.0)
    np.testing.assert_allclose(config.table().sigma, levels, rtol=1e-6)
    assert list(config.passes((1,)).values()) == [1.0]


def test_one_pass_is_one_step_from_noise_to_the_clean_stream():
    config = dataclasses.replace(SamplerConfig(text_guidance=5.0), **PRESETS["one_pass"])
    np.testing.assert_array_equal(config.table().sigma, [1.0])
    assert list(config.passes((1,)).values()) == [1.0]


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    name = "diffusion_model.blocks.{}.self_attn.v.lora_{}.weight"
    shapes = {"A": (2, 32), "B": (32, 2)}
    tensors = {
        name.format(layer, side): rng.standard_normal(shape).astype(np.float32)
        for layer in range(2)
        for side, shape in shapes.items()
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


def test_merged_or_beside_the_weights_samples_are_the_same(file):
    found = []
    for weights, merge in (((), True), ((0.5,), True), ((0.2, 0.3), False)):
        pipeline = Pipeline(**tiny_parts())
        pipeline.add_adapters(*((file, w) for w in weights), merge=merge)
        assert tuple(adapter["weight"] for adapter in pipeline.adapters) == weights
        found.append(pipeline("a", wanted=("rgb",)).latents["rgb"])
    plain, merged, beside = found
    assert np.abs(plain - merged).max() > 0.01
    np.testing.assert_allclose(merged, beside, atol=1e-4)


@pytest.mark.parametrize("weight", [np.nan, np.inf, None, "0.5", "1,5", True])
def test_a_weight_in_python_is_a_finite_number(weight):
    for adapter in (("a", weight), ("a",), "a1"):
        with pytest.raises(UserError, match=r"add_adapters: .*: give \(FILE, NUMBER\)"):
            check([("b", 1), adapter])
    with pytest.raises(UserError, match=r"add_adapters: \('a', nan\)"):
        Pipeline(**tiny_parts()).add_adapters(("a", np.nan))


def test_beside_the_weights_is_once_and_not_saved(file, tmp_path):
    pipeline = Pipeline(**tiny_parts())
    pipeline.add_adapters((file, 1), merge=False)
    with pytest.raises(UserError, match="has adapters of its own"):
        pipeline.add_adapters((file, 1), merge=False)
    assert [adapter["weight"] for adapter in pipeline.adapters] == [1.0]
    with pytest.raises(UserError, match=r"save_pretrained: .* add them with merge=True"):
        pipeline.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
