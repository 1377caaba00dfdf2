"""A run whose steps have several shapes: one program each, and the same bits after any stop."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import chex
import jax
import mixed_run
import numpy as np
import pytest
import stand_ins
from one_trace import one_trace_per_step  # noqa: F401
from test_loop import _wait_for

from unityvideo_jax.checkpoints.inference import load_for_inference
from unityvideo_jax.errors import UserError
from unityvideo_jax.training.workdir import pin_batch_multiple


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    path = tmp_path_factory.mktemp("sizes")
    stand_ins.prepare_sizes(path, mixed_run.SIZES, modalities=mixed_run.MODALITIES)
    return path


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """The run that is never interrupted, and what it prints."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, mixed_run.run(shards, workdir)


def _losses(workdir):
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


def _assert_same_bits(left, right):
    assert _losses(left) == _losses(right)
    for use_ema in (False, True):
        weights = [load_for_inference(one, use_ema=use_ema)[1] for one in (left, right)]
        chex.assert_trees_all_equal(*(jax.tree.map(np.asarray, tree) for tree in weights))


def test_each_shape_is_compiled_once_before_the_first_step(whole):
    _, lines = whole
    compiled = [n for n, line in enumerate(lines) if line.startswith("compiling the step of")]
    steps = [n for n, line in enumerate(lines) if line.startswith("step")]
    assert len(compiled) == 2 and max(compiled) < min(steps)
    assert {lines[n].removeprefix("compiling the step of ") for n in compiled} == {
        "8 samples, 2 streams of 2x2x2",
        "16 samples, 1 stream of 1x2x4",
    }


def test_a_shape_that_was_not_announced_is_not_compiled(shards, tmp_path, monkeypatch):
    from unityvideo_jax.training.batches import Inputs

    monkeypatch.setattr(Inputs, "shapes", property(lambda self: ((16, 1, 1, 2, 4, 4),)))
    with pytest.raises(AssertionError, match="traced > 1 times"):
        mixed_run.run(shards, tmp_path / "run")


def test_a_stopped_run_resumes_with_the_same_bits(whole, shards, tmp_path):
    mixed_run.run(shards, tmp_path / "run", **{"train.steps": 5})
    mixed_run.run(shards, tmp_path / "run")
    _assert_same_bits(whole[0], tmp_path / "run")


def test_eight_devices_train_as_one(whole, shards, tmp_path):
    mesh = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.context": 2}
    mixed_run.run(shards, tmp_path / "run", **mesh)
    one, many = _losses(whole[0]), _losses(tmp_path / "run")
    assert many == pytest.approx(one, rel=2e-4)


def test_a_batch_that_the_mesh_does_not_divide_is_one_line(shards, tmp_path):
    with pytest.raises(UserError, match=r"batch_size=6 must be a multiple of .* = 4"):
        changes = {"mesh.data": 2, "data.batch_multiple": 3, "train.batch_size": 6}
        mixed_run.run(shards, tmp_path / "run", **changes)


def test_another_mesh_keeps_the_batches_of_the_run(whole):
    config = mixed_run.config("somewhere", **{"data.batch_multiple": 0})
    pin_batch_multiple(whole[0].parent / "new", config, 2)
    assert config.data.batch_multiple == 2
    config.data.batch_multiple = 0
    pin_batch_multiple(whole[0], config, 2)
    assert config.data.batch_multiple == 8


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(whole, shards, tmp_path):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, mixed_run.__file__, shards, workdir, "0.3"],
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    )
    _wait_for(workdir / "checkpoints" / "5", process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=300) == -9
    mixed_run.run(shards, workdir)
    _assert_same_bits(whole[0], workdir)
