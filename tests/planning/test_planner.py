"""The planner's figures against closed forms and XLA's own counts, on virtual devices."""

import dataclasses
import functools
import math
import pathlib
import re
import subprocess
import sys

import in_process
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding

from unityvideo_jax.errors import UserError
from unityvideo_jax.kernels import splash
from unityvideo_jax.models import build
from unityvideo_jax.models.config import REMAT_POLICIES, DiTConfig, model_flops, parameter_count
from unityvideo_jax.parallel.chips import chip_of
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.plan import parse_mesh
from unityvideo_jax.planning import hlo, planner
from unityvideo_jax.planning.flops import count_flops
from unityvideo_jax.planning.report import advice, compare, describe
from unityvideo_jax.settings import presets

ROOT = pathlib.Path(__file__).parents[2]
LAYERS, MESH = 3, MeshConfig(data=1, fsdp=2, context=2, tensor=2)


def _config(**model):
    config = presets.load("worlds_tiny")
    tiny = dict(dim=32, ffn_dim=64, num_layers=LAYERS, text_dim=8, text_len=4, in_channels=16)
    config.model.update(tiny | model)
    config.data.update(dict(num_frames=5, height=32, width=32, text_length=4))
    config.train.batch_size = 4
    return config


@pytest.fixture(scope="module")
def made():
    return planner.plan(_config(), MESH, jax.devices()[:8])


def test_state_is_counted_by_the_shards_of_its_weights(made):
    weights = build.abstract_transformer(DiTConfig(**_config().model))[1]
    expected = 0
    for _, weight in nnx.to_flat_state(weights):
        axes = weight.get_metadata("logical_axes")
        parts = 2 ** sum(axis in ("embed", "heads", "mlp") for axis in axes)
        expected += 4 * weight.size // parts
    assert made.parameters == 2 * expected  # and the moving average
    assert made.optimizer == pytest.approx(2 * expected, abs=64)  # two moments, and counters
    latents, context = 2 * 2 * 4 * 4 * 16 * 4, 2 * 4 * 8 * 4
    assert made.batch == 2 * (latents + context + 2 * 4)  # two samples per device


def test_flops_are_the_models_and_those_recomputed(made):
    config = _config()
    assert made.model_flops * 8 == 3 * 4 * model_flops(DiTConfig(**config.model), (2, 4, 4), 2)
    # Nothing is recomputed here. Embeddings want no gradient of their input: slightly less than
    # three times the forward pass.
    assert 0.95 < made.executed_flops / made.model_flops < 1.02


def test_ulysses_sends_what_the_paper_says(made):
    # q, k, v and the output, forward and backward, per layer: each device sends half its tokens.
    samples, tokens, width = 2, 8, 16  # of one device
    expected = LAYERS * 8 * samples * tokens * width * 4 / 2
    assert made.traffic.sent["all-to-all", "context"] == expected


def test_ring_passes_keys_and_values_on():
    made = planner.plan(_config(attention_parallel="ring"), MESH, jax.devices()[:8])
    samples, tokens, width = 2, 8, 16
    # Around two devices: k and v once forward and once backward, their gradients twice.
    expected = LAYERS * 8 * samples * tokens * width * 4
    assert made.traffic.sent["collective-permute", "context"] == pytest.approx(expected, rel=0.2)


def test_unknown_devices_have_no_roofline_and_known_ones_do(made):
    assert made.fits is None and made.step_seconds is None
    chip = chip_of("TPU v5p")
    assert (chip_of("TPU v5 lite"), chip_of("cpu")) != (chip, None) and chip.flops == 459e12
    known = dataclasses.replace(made, chip=chip)
    assert known.fits and known.step_seconds == max(known.seconds.values())
    assert known.seconds["network"] == 0
    small = dataclasses.replace(chip, memory=made.memory - 1)
    full = dataclasses.replace(made, chip=small)
    assert not full.fits
    lines = compare([full, known]).splitlines()
    assert "yes" in lines[1] and "no" in lines[2]  # those that fit come first
    assert "does not fit" in describe(full)


def test_collectives_in_loops_count_every_round():
    mesh = make_mesh(MeshConfig(slice=2, data=2, tensor=2))
    spec = jax.P(("slice", "data"), "tensor")

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    def program(x):
        def step(x, _):
            x = x + jax.lax.psum(x, ("slice", "data"))
            gathered = jax.lax.all_gather(x, "tensor", tiled=True)
            return jnp.tanh(x + gathered[: x.shape[0]]), None

        x, _ = jax.lax.scan(step, x, length=5)
        return jax.lax.psum_scatter(x, "data", tiled=True).repeat(2, axis=0)

    x = jax.ShapeDtypeStruct((64, 6), jnp.float32, sharding=NamedSharding(mesh, spec))
    text = jax.jit(program).lower(x).compile().as_text()
    local = 16 * 3 * 4
    sent = hlo.measure(text, dict(mesh.shape)).sent
    assert sent == {
        ("all-reduce", "slice+data"): 5 * 2 * local * 3 / 4,
        ("all-gather", "tensor"): 5 * local,
        ("reduce-scatter", "data"): local / 2,
    }


def test_flops_and_bytes_agree_with_xla_where_nothing_loops():
    def program(a, b):
        return jnp.sum(jnp.tanh(a @ b) @ b.T, axis=0)

    args = (
        jax.ShapeDtypeStruct((256, 64), jnp.float32),
        jax.ShapeDtypeStruct((64, 128), "float32"),
    )
    compiled = jax.jit(program).lower(*args).compile()
    known = compiled.cost_analysis()
    flops = count_flops(jax.jit(program).trace(*args).jaxpr)
    assert flops == 2 * 2 * 256 * 64 * 128
    assert flops == pytest.approx(known["flops"], rel=0.05)
    traffic = hlo.measure(compiled.as_text(), {"data": 1})
    assert traffic.memory == pytest.approx(known["bytes accessed"], rel=0.05)


def test_flops_of_loops_and_of_the_tpu_kernel():
    def looped(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)[0]

    x = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    assert count_flops(jax.jit(looped).trace(x).jaxpr) == 7 * 2 * 16**3

    def kernel(q):
        return splash.attention(q, q, q, saved_name="x", interpret=True)

    q = jax.ShapeDtypeStruct((2, 256, 3, 64), jnp.float32)
    assert count_flops(jax.jit(kernel).trace(q).jaxpr) == 2 * 3 * 4 * 256 * 256 * 64


def test_what_does_not_fit_is_refused_before_compiling():
    config = _config()
    config.train.batch_size = 5
    with pytest.raises(UserError, match=r"batch_size=5 must be a multiple of .* = 2"):
        planner.plan(config, MESH, jax.devices()[:8])
    with pytest.raises(UserError, match="--mesh=fsdp:2: give best, or axis=size"):
        parse_mesh("fsdp:2", 1)
    assert parse_mesh("fsdp=2,context=-1", 2) == MeshConfig(data=1, slice=2, fsdp=2, context=-1)


def test_what_the_compiler_refuses_is_reported(made):
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (21.21G) exceeds available HBM (15.75G). HLO module: x."
    )
    problem = planner._out_of_memory(message)
    assert problem.startswith("out of memory: ") and "(21.21G) exceeds" in problem
    refused = dataclasses.replace(made, problem=problem)
    assert refused.fits is False and problem in describe(refused)


@pytest.mark.parametrize(
    ("name", "devices", "flops"),
    [
        ("v4:2x2x1", 4, 275e12),
        ("v5e:4x4", 16, 197e12),
        ("v5p:2x2x1", 4, 459e12),
        ("v6e:2x2", 4, 918e12),
        ("tpu7x:2x2x1", 8, 1153.5e12),  # of a chip's two devices
    ],
)
def test_every_tpu_is_in_the_table_by_the_name_that_libtpu_gives_it(name, devices, flops):
    found = planner.topology(name)
    assert len(found) == devices
    assert chip_of(found[0].device_kind).flops == pytest.approx(flops, rel=1e-3)


def test_chips_are_found_by_the_longest_name():
    assert chip_of("TPU v5e") is chip_of("TPU v5 lite") is not chip_of("TPU v5p")
    assert chip_of("NVIDIA A100-SXM4-40GB").memory < chip_of("NVIDIA A100-SXM4-80GB").memory
    assert (
        chip_of("NVIDIA GB200").flops > chip_of("NVIDIA B200").flops > chip_of("NVIDIA H200").flops
    )
    assert chip_of("cpu") is chip_of("NVIDIA GeForce RTX 4090") is None


def test_a_name_that_is_no_tpu_is_refused():
    with pytest.raises(UserError, match="give a TPU and its shape"):
        planner.topology("bogus:2x2")


@pytest.fixture
def own_cache(tmp_path):
    """An empty folder of compiled programs."""
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.slow
def test_compiles_with_splash_for_tpus_that_are_not_there(monkeypatch, own_cache):
    mesh = MeshConfig(slice=2, data=1, fsdp=2, context=2, tensor=2)
    programs = []
    measure = planner.hlo.measure

    def keep(text, shape):
        programs.append(text)
        return measure(text, shape)

    monkeypatch.setattr(planner.hlo, "measure", keep)
    devices = planner.topology("v5e:2x4", 2)
    config = _config(dtype="bfloat16", num_heads=4, dim=512)  # heads of 128, as the presets'
    made = planner.plan(config, mesh, devices)
    assert made.fits and not made.problem
    assert 'custom_call_target="tpu_custom_call"' in programs[0]  # a Pallas kernel
    assert {axis for _, axes in made.traffic.sent for axis in axes.split("+")} == {
        *("slice", "fsdp", "context", "tensor")
    }
    assert made.seconds["network"] > 0
    assert made.executed_flops > made.model_flops > 0
    # Nothing could read them again.
    assert not list(own_cache.glob("jit_train_step*"))
    planner.plan(_config(), MeshConfig(), jax.devices()[:4])
    assert list(own_cache.glob("jit_train_step*"))


def test_sampling_holds_all_weights_on_every_device():
    config = _config()
    config.sampling.update(steps=3, solver="heun", text_guidance=2.0)
    made = planner.plan_sampling(config, jax.devices()[:4])
    assert made.samples == 4 and made.evaluations == 5  # Heun: two per step, one in the last
    weights = build.abstract_transformer(DiTConfig(**config.model))[1]
    assert made.parameters == 4 * sum(w.size for w in jax.tree.leaves(weights))
    assert made.optimizer == 0
    forward = model_flops(DiTConfig(**config.model), (2, 4, 4), 2)
    assert made.model_flops == 5 * 2 * forward  # with text and without, one sample per device
    assert 0.95 < made.executed_flops / made.model_flops < 1.06
    assert "5 evaluations" in describe(made) and "optimiser" not in describe(made)
    with pytest.raises(UserError, match="--samples=6: must be a multiple of the 4 devices"):
        planner.plan_sampling(config, jax.devices()[:4], samples=6)


CONFIG = "--config=configs/wan21_1_3b.py"


def test_gpus_are_answered_at_once_with_the_flags_of_the_best_mesh():
    command = [sys.executable, "-m", "unityvideo_jax.plan", CONFIG, "--topology=h200:8"]
    command += ["--mesh=best", "--config.train.batch_size=8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rates: measured" in done.stdout
    # Weights, their average and two moments, in float32, and the optimiser's counts.
    weights = parameter_count(DiTConfig(**presets.load("wan21_1_3b").model))
    size = float(re.search(r"a checkpoint: ([\d.]+) GiB, written once", done.stdout)[1])
    assert size == pytest.approx(16 * weights / 2**30, abs=1e-3)
    *_, best, options = done.stdout.strip().splitlines()
    assert best.startswith("best: mesh ")
    parsed = dict(option.removeprefix("--config.").split("=") for option in options.split())
    assert math.prod(int(n) for name, n in parsed.items() if name.startswith("mesh.")) == 8
    assert parsed["model.remat"] in REMAT_POLICIES


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--program=sampling", "--mesh=best"], "--mesh: sampling shares"),
        (["--samples=8"], "--samples is for --program=sampling"),
        (["--mesh=best", "--mesh=fsdp=8"], "--mesh=best: leave out the other meshes"),
        (["--slices=2"], "--slices: is for TPUs"),
        (["--mesh=fsdp=8", "--tries=3"], "--tries: is for --mesh=best"),
        (["--mesh=fsdp=8,fsdp=2"], "--mesh=fsdp=8,fsdp=2: says fsdp twice"),
        (["--config.objective.p_any=2"], "objective.p_any=2"),
        (["--mesh=fsdp:8"], "--mesh=fsdp:8: give best, or axis=size"),
    ],
)
def test_flags_that_do_not_go_together_are_one_error(args, says):
    done = in_process.run("plan", CONFIG, "--topology=h100:8", *args, folder=ROOT)
    assert done.returncode == 2
    assert f"error: {says}" in done.stderr and "Traceback" not in done.stderr


def test_the_best_that_compiles_is_advised(made):
    slow = dataclasses.replace(made, chip=chip_of("TPU v5p"))
    fast = dataclasses.replace(slow, executed_flops=0.0, traffic=hlo.Traffic(sent={}, memory=1.0))
    full = dataclasses.replace(slow, problem="out of memory")
    text = advice([full, slow, fast])
    assert text == advice([fast, slow, full]) and text.startswith("best: mesh fsdp=2,context=2")
    assert "--config.mesh.data=1 --config.mesh.fsdp=2 --config.mesh.context=2" in text
    assert advice([full]).startswith("none of these fits")
