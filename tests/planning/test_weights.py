"""The planner's memory of weights equals that of a training state's arrays."""

import dataclasses
import math

import jax
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.models.lora import WHOLE, LoraConfig
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import AxisRules
from unityvideo_jax.planning import choice, fit
from unityvideo_jax.planning.weights import weights_of
from unityvideo_jax.settings import presets
from unityvideo_jax.training import state
from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer

MODEL = DiTConfig(dim=64, ffn_dim=128, num_heads=4, num_layers=3, text_dim=16, freq_dim=16)
OWN = ("heads.*", "blocks.modulation.*")


@pytest.mark.parametrize(
    "lora",
    [
        WHOLE,
        LoraConfig(rank=4, train=OWN),
        LoraConfig(rank=4, base="int8", adapters="per_modality"),
        LoraConfig(rank=4, base="nf4"),
    ],
)
def test_weights_are_those_of_the_state(lora):
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1.0), 1)
    _, shapes, layout = state.plan(MODEL, optimizer, mesh, AxisRules(), keep_ema=True, lora=lora)

    def local(tree, where):
        parts = zip(jax.tree.leaves(tree), jax.tree.leaves(where), strict=True)
        return sum(math.prod(w.shard_shape(x.shape)) * x.dtype.itemsize for x, w in parts)

    held = weights_of(MODEL, lora, dict(mesh.shape))
    assert 4 * (held.kernels + held.rest) == local(shapes.params, layout.params)
    assert held.frozen == local(shapes.frozen, layout.frozen)
    both = {dataclasses.replace(lora, base=base) for base in ("float32", lora.base)}
    assert len({weights_of(MODEL, x, dict(mesh.shape)).frozen_kernels for x in both}) == 1
    if lora.rank:
        assert held.frozen_kernels == 3 * (8 * 64 * 64 + 2 * 64 * 128) // 4


def test_adapters_of_5b_take_a_fraction_of_the_memory():
    """An adapter beside 5B weights needs 10, 5.5 or 3.3 GiB of base, and little that trains."""
    config = presets.load("lora_wan22_5b")
    gib = {}
    for base in ("bfloat16", "int8", "nf4"):
        config.lora.base = base
        made = choice.estimate(config, MeshConfig(), "NVIDIA H100", 1)
        gib[base] = made.parameters / 2**30
        assert made.optimizer < 2**30
    assert 9.5 < gib["bfloat16"] < 11.5 and gib["int8"] < 7 and gib["nf4"] < 5
    whole = choice.estimate(presets.load("wan22_5b"), MeshConfig(), "NVIDIA H100", 1)
    assert whole.parameters + whole.optimizer > 70 * 2**30


def test_adapters_fit_where_all_weights_do_not(monkeypatch):
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    monkeypatch.setattr(fit, "device_bytes", lambda device: 40 * 2**30)
    fit.check_training(presets.load("lora_wan22_5b"), mesh)
    whole = presets.load("wan22_5b")
    whole.train.batch_size = 1
    with pytest.raises(UserError, match="for weights and optimiser"):
        fit.check_training(whole, mesh)
