"""Runs of the real loop: exact resume, equal meshes, stops that name what stopped them."""

import functools
import json
import math
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
from one_trace import one_trace_per_step  # noqa: F401
from synthetic_run import MODALITIES, Batches, tiny_config

from unityvideo_jax.checkpoints.inference import load_for_inference
from unityvideo_jax.errors import UserError
from unityvideo_jax.training import loop
from unityvideo_jax.training import state as state_lib
from unityvideo_jax.training.batches import not_finite
from unityvideo_jax.training.curriculum import stages
from unityvideo_jax.training.workdir import open_workdir


def _run(workdir, config, **batches):
    lines = []
    with open_workdir(workdir, config) as path:
        devices = jax.devices()[: math.prod(config.mesh.values())]
        build = lambda stage: Batches(stage, **batches)  # noqa: E731
        loop.train(config, path, build, log=lines.append, devices=devices)
    return lines


def _records(workdir):
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return {r["step"]: r for r in map(json.loads, lines)}


def _weights(workdir, **kwargs):
    return jax.tree.map(np.asarray, load_for_inference(workdir, **kwargs)[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that is never interrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    _run(workdir, tiny_config())
    return workdir


def test_loss_falls_and_every_part_is_recorded(whole):
    records = _records(whole)
    assert sorted(records) == list(range(1, 9))
    assert records[8]["loss"] < 0.8 * records[1]["loss"]
    names = set().union(*records.values())
    for part in ("task/joint", "modality/skeleton", "timestep/0.50-0.75"):
        assert f"loss/{part}" in names
    assert {"grad_norm", "learning_rate", "step_seconds", "model_tflops_per_device"} <= names
    # The curriculum's first three steps draw depth and flow alone.
    assert not any("loss/modality/skeleton" in records[n] for n in (1, 2, 3))


def test_average_differs_from_last_weights_and_old_checkpoints_go(whole):
    with pytest.raises(AssertionError, match="not equal"):
        chex.assert_trees_all_equal(_weights(whole), _weights(whole, use_ema=False))
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["6", "8"]
    with pytest.raises(UserError, match=r"no checkpoint of step 2; there are \[6, 8\]"):
        load_for_inference(whole, step=2)


def _assert_same_bits(whole, workdir):
    for use_ema in (False, True):
        chex.assert_trees_all_equal(
            _weights(whole, use_ema=use_ema), _weights(workdir, use_ema=use_ema)
        )
    losses = [{n: r["loss"] for n, r in _records(w).items()} for w in (whole, workdir)]
    assert losses[0] == losses[1]


def test_a_run_that_its_seconds_and_a_signal_end_saved_goes_on_with_the_same_bits(whole, tmp_path):
    class Slow(Batches):
        def __next__(self):
            time.sleep(0.2)
            return super().__next__()

    class Signalled(Batches):
        def __next__(self):
            if self.stage.start + self.n == 6:
                signal.raise_signal(signal.SIGTERM)
            return super().__next__()

    def run(build, **changes):
        config, lines = tiny_config(**changes), []
        with open_workdir(tmp_path / "run", config) as path:
            ended = loop.train(config, path, build, log=lines.append, devices=jax.devices()[:1])
        return ended, "\n".join(lines)

    ended, said = run(Slow, max_seconds=0.5)
    assert 1 <= ended.step < 6 and not ended.stopped
    assert f"max_seconds=0.5 at step {ended.step}; saved; raise it for more" in said
    # The seconds of both starts count together.
    assert run(Slow, max_seconds=0.5)[0].step <= ended.step + 1
    ended, said = run(Signalled)
    assert ended.stopped and ended.step < 8
    assert f"stopped by signal 15 at step {ended.step}; saved; run it again to continue" in said
    assert run(Batches)[0] == loop.Ended(step=8, stopped=False)
    _assert_same_bits(whole, tmp_path / "run")


def test_data_that_cannot_be_read_costs_no_model(tmp_path, monkeypatch):
    def build(stage):
        raise UserError("no such folder")

    monkeypatch.setattr(state_lib, "create", None)
    run = open_workdir(tmp_path / "run", tiny_config())
    with run as path, pytest.raises(UserError, match="no such folder"):
        loop.train(tiny_config(), path, build, devices=jax.devices()[:1])


@pytest.mark.parametrize(
    ("mesh", "attention_parallel"),
    [
        ({"data": 2, "context": 2}, "ring"),
        ({"fsdp": 2, "context": 2, "tensor": 2}, "ulysses"),
    ],
)
def test_meshes_train_alike(whole, tmp_path, mesh, attention_parallel):
    config = tiny_config(checkpoint_every=8)
    config.mesh.update(mesh)
    config.model.attention_parallel = attention_parallel
    _run(tmp_path / "run", config)
    one, many = _records(whole), _records(tmp_path / "run")
    for step in one:
        assert many[step]["loss"] == pytest.approx(one[step]["loss"], rel=2e-4), step
    chex.assert_trees_all_close(_weights(whole), _weights(tmp_path / "run"), rtol=1e-7, atol=2e-3)


def test_accumulation_is_the_gradient_of_the_mean_over_all_samples():
    import optax
    from flax import nnx

    from unityvideo_jax.flow_matching import ObjectiveConfig, flow_matching_loss
    from unityvideo_jax.models import build
    from unityvideo_jax.models.dit import DiTConfig
    from unityvideo_jax.models.lora import WHOLE
    from unityvideo_jax.training import step as step_lib
    from unityvideo_jax.training.state import TrainState

    config = tiny_config()
    config.model.num_layers = 1
    model, parts = DiTConfig(**config.model), 4
    # Descent at rate 1: what a step takes off the weights is the gradient.
    optimizer = optax.sgd(1.0)
    graphdef, _ = build.abstract_transformer(model)
    params = jax.jit(lambda: build.new_transformer(model, WHOLE, 0)[1])()
    state = TrainState(
        step=jax.numpy.int32(3), params=params, ema=params, opt_state=optimizer.init(params)
    )
    batch = next(Batches(stages(config.curriculum, dict(config.data.modality_weights), 8)[1]))
    batch = {k: jax.numpy.asarray(v) for k, v in batch.items() if k != "index"}
    make = functools.partial(
        step_lib.make_train_step, graphdef, ObjectiveConfig(), modalities=model.modalities
    )
    step = jax.jit(make(optimizer, ema_decay=0.9, accumulation=parts))
    following, metrics = step(state, batch, jax.random.key(0))

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params, part, key):
        velocity = nnx.merge(graphdef, params)
        return flow_matching_loss(
            velocity, part, key, ObjectiveConfig(), modalities=model.modalities
        )

    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 3), parts)
    each, tasks = zip(
        *(
            gradient(params, {k: x[n::parts] for k, x in batch.items()}, keys[n])
            for n in range(parts)
        ),
        strict=True,
    )
    expected = jax.tree.map(lambda *g: sum(g) / parts, *each)
    # The parts differ in what they were drawn to do.
    assert len({float(part["loss/task/joint"][1]) for part in tasks}) > 1
    taken = jax.tree.map(jax.numpy.subtract, params, following.params)
    chex.assert_trees_all_close(taken, expected, rtol=1e-7, atol=2e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(
        float(optax.global_norm(expected)), rel=1e-4
    )
    assert float(metrics["loss"][1]) == 8  # every sample counted once


def test_a_run_on_rgb_alone_starts_one_of_any_number_of_streams(tmp_path):
    config = tiny_config(steps=2)
    config.model.update(modalities=("rgb",), switcher="none")
    config.curriculum = ()
    lines = _run(tmp_path / "rgb", config, streams=(1,))
    config = tiny_config(steps=4)
    config.init_from = str(tmp_path / "rgb")
    config.curriculum = ()
    config.optimizer.learning_rate = 1e-9
    lines = _run(tmp_path / "run", config, streams=(1, 3))
    assert f"new in this run, as RGB starts: {', '.join(MODALITIES[1:])}" in lines
    compiled = [line for line in lines if line.startswith("compiling")]
    other = " of 8 samples, 3 streams of 2x4x4"
    assert compiled == [f"compiling the step{of}" for of in ("", other)]
    records = _records(tmp_path / "run")
    found = [{k for k in r if k.startswith("loss/streams")} for r in records.values()]
    assert found == [{f"loss/streams/{n}"} for n in (1, 3)] * 2
    # Every table and head is RGB's, and the rest is as it was.
    old, new = (load_for_inference(tmp_path / name)[1] for name in ("rgb", "run"))
    del new["modality_embedding"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(*np.broadcast_arrays(a, b), atol=1e-6), old, new
    )


def test_not_finite_names_step_and_record_and_keeps_the_checkpoint_without_an_average(tmp_path):
    workdir = tmp_path / "run"

    def run(steps, **batches):
        config = tiny_config(steps=steps)
        config.curriculum = ()
        config.optimizer.ema_decay = 0.0
        config.optimizer.accumulation = 2  # the record is found among micro-batches too
        return _run(workdir, config, **batches)

    run(4)
    with pytest.raises(UserError, match=r"step 6: the loss of record 43 is not finite"):
        run(8, poison_at=5)
    chex.assert_tree_all_finite(_weights(workdir))
    assert load_for_inference(workdir)[2] == 4
    assert "resumed at step 4" in run(8)
    # A longer run does not lift the rate that the cosine has ended at.
    rates = [_records(workdir)[step]["learning_rate"] for step in (3, 4, 5, 8)]
    assert rates == pytest.approx([1e-2, 5.5e-3, 1e-3, 1e-3])
    # The last weights are what is sampled.
    saved = workdir / "checkpoints" / "8"
    assert (saved / "params").is_dir() and not (saved / "ema").exists()
    chex.assert_trees_all_equal(_weights(workdir), _weights(workdir, use_ema=False))


def test_not_finite_distinguishes_one_record_from_divergence():
    def why(losses, index):
        return not_finite(np.asarray(losses), np.asarray(index), 2, "clip {}".format)

    assert "the loss of all 4 records" in why([np.nan] * 4, [7, 8])
    assert "the gradient is not finite" in why([1.0] * 4, [7, 8])
    assert "the loss of clip 8 is" in why([1.0, 1.0, 1.0, np.inf], [7, 8])
    assert "another process reads" in why([np.inf, 1.0, 1.0, 1.0], [7, 8])


def test_a_record_averages_the_steps_before_a_resume_too_and_checks_change_no_bit(whole, tmp_path):
    class Dying(Batches):
        def __next__(self):
            if self.stage.index == 1 and self.n == 2:
                raise UserError("no power")
            return super().__next__()

    config = tiny_config(log_every=3)
    run = open_workdir(tmp_path / "run", config)
    with run as path, pytest.raises(UserError, match="no power"):
        loop.train(config, path, Dying, log=lambda _: None, devices=jax.devices()[:1])
    config.train.check_every = 3
    assert "resumed at step 4" in _run(tmp_path / "run", config)
    one, thrice = _records(whole), _records(tmp_path / "run")
    assert sorted(thrice) == [3, 6, 8]
    for step, steps in ((3, (1, 2, 3)), (6, (4, 5, 6)), (8, (7, 8))):
        expected = np.mean([one[n]["loss"] for n in steps])
        assert thrice[step]["loss"] == pytest.approx(expected, rel=1e-6)
    chex.assert_trees_all_equal(_weights(whole), _weights(tmp_path / "run"))


def test_dropped_conditions_need_timesteps_of_their_own(tmp_path):
    config = tiny_config()
    config.model.shared_timestep = True
    with pytest.raises(UserError, match=r"condition_dropout=0\.1: .*set it to 0"):
        _run(tmp_path / "run", config)
    config.objective = dict(condition_dropout=0, p_joint=0.4, p_any=0.1, own_timesteps=True)
    with pytest.raises(UserError, match=r"own_timesteps=True: .*set one of them to False"):
        _run(tmp_path / "other", config)


def test_workdir_in_use_foreign_or_of_another_config(whole, tmp_path):
    config = tiny_config()
    with (
        open_workdir(tmp_path / "a", config),
        pytest.raises(UserError, match="in use by process"),
        open_workdir(tmp_path / "a", config),
    ):
        pass
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"thesis\.tex"), open_workdir(tmp_path / "b", config):
        pass
    config.model.dim = 64
    before = (whole / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"config\.model\.dim=64 \(was 32\)"):
        _run(whole, config)
    assert (whole / "config.json").read_bytes() == before


def test_damaged_checkpoint_names_its_folder(whole, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(checkpoints / "6")
    for file in (checkpoints / "8" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"checkpoints/8/params: does not open.*no earlier"):
        load_for_inference(tmp_path / "run", use_ema=False)


def _start(workdir):
    here = pathlib.Path(__file__).parent
    code = (
        f"import sys; sys.path.insert(0, {str(here)!r})\n"
        "import time, jax\n"
        "from synthetic_run import Batches, start_light, tiny_config\n"
        "from unityvideo_jax.training import loop\n"
        "from unityvideo_jax.training.workdir import open_workdir\n"
        "class Slow(Batches):\n"
        "    def __next__(self):\n"
        "        time.sleep(0.3)\n"
        "        return super().__next__()\n"
        "start_light()\n"
        "config = tiny_config()\n"
        f"with open_workdir({str(workdir)!r}, config) as path:\n"
        "    loop.train(config, path, Slow, devices=jax.devices()[:1])\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=here.parent.parent)


def _wait_for(path, process):
    deadline = time.monotonic() + 900
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(whole, tmp_path):
    workdir = tmp_path / "run"
    process = _start(workdir)
    _wait_for(workdir / "checkpoints" / "4", process)
    process.kill()
    assert process.wait(timeout=300) == -signal.SIGKILL
    interrupted = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    assert interrupted < 8
    _run(workdir, tiny_config())
    _assert_same_bits(whole, workdir)
