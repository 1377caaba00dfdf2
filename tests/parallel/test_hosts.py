"""How processes find each other, and jobs of two and four that train, stop, hang, and lose one."""

import json
import math
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tensorstore as ts
from flax import nnx

from unityvideo_jax.checkpoints import run_folder
from unityvideo_jax.errors import UserError
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.parallel import hosts
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import AxisRules
from unityvideo_jax.training import state as state_lib
from unityvideo_jax.training.checkpoints import Checkpointer
from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STEPS = 12
sys.path.insert(0, str(HERE.parent / "training"))
from synthetic_run import Batches, tiny_config  # noqa: E402

VIRTUAL = {
    "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2"),
    "JAX_PLATFORMS": "cpu",
    "UNITYVIDEO_HEARTBEAT": "15",
    "PYTHONPATH": f"{ROOT}:{HERE}",
}


def test_a_single_process_looks_for_no_other():
    assert hosts.arguments({}) is None
    assert hosts.arguments({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) is None
    assert hosts.arguments({"TPU_WORKER_HOSTNAMES": "localhost"}) is None


def test_jobs_are_found_in_the_environment():
    plain = {"coordinator_address": "a:8476", "num_processes": 3, "process_id": 2}
    assert hosts.arguments({"UNITYVIDEO_HOSTS": "a,b,c", "UNITYVIDEO_PROCESS_ID": "2"}) == plain
    own = socket.gethostname()
    found = hosts.arguments({"UNITYVIDEO_HOSTS": f"a:9000,{own}"})
    assert found == {"coordinator_address": "a:9000", "num_processes": 2, "process_id": 1}
    job = {
        "JAX_COORDINATOR_ADDRESS": "job-0:1234",
        "UNITYVIDEO_NUM_PROCESSES": "4",
        "JOB_COMPLETION_INDEX": "3",
    }
    found = hosts.arguments(job)
    assert found == {"coordinator_address": "job-0:1234", "num_processes": 4, "process_id": 3}
    for automatic in (
        {"UNITYVIDEO_HOSTS": "auto"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"MEGASCALE_NUM_SLICES": "2"},
    ):
        assert hosts.arguments(automatic) == {}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"UNITYVIDEO_HOSTS": "a,b"}, r"0 of them are this host .* set UNITYVIDEO_PROCESS_ID"),
        ({"UNITYVIDEO_HOSTS": "a,b", "UNITYVIDEO_PROCESS_ID": "2"}, r"=2 must be below .* 2"),
        ({"UNITYVIDEO_HOSTS": "a,b", "UNITYVIDEO_PROCESS_ID": "x"}, r"'x' must be a whole number"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, r"set UNITYVIDEO_NUM_PROCESSES and"),
    ],
)
def test_jobs_that_are_described_in_part(environment, message):
    with pytest.raises(UserError, match=message):
        hosts.arguments(environment)


def test_processes_that_hold_the_same_samples_feed_the_same_share(monkeypatch):
    class Device:
        def __init__(self, process):
            self.process_index = process

    def shares(processes, **sizes):
        mesh = make_mesh(MeshConfig(**({"data": 1} | sizes)))
        layout = {d: Device(p) for d, p in zip(mesh.devices.flat, processes, strict=True)}
        parts = jax.sharding.NamedSharding.devices_indices_map
        monkeypatch.setattr(
            jax.sharding.NamedSharding,
            "devices_indices_map",
            lambda self, shape: {layout[d]: part for d, part in parts(self, shape).items()},
        )
        found = []
        for process in sorted(set(processes)):
            monkeypatch.setattr(jax, "process_index", lambda process=process: process)
            found.append(hosts.feed_share(mesh))
        monkeypatch.undo()
        return found

    assert shares([0, 0, 0, 0, 1, 1, 1, 1], data=2, fsdp=4) == [(0, 2), (1, 2)]
    assert shares([0, 0, 1, 1, 2, 2, 3, 3], data=2, context=4) == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert shares([0, 0, 1, 1, 2, 2, 3, 3], tensor=8) == [(0, 1)] * 4
    with pytest.raises(UserError, match="overlap in part"):
        shares([0, 0, 0, 0, 0, 0, 1, 1], data=2, tensor=4)


@pytest.mark.parametrize("is_called_a_timeout", [False, True])  # by some of Orbax's barriers
def test_a_save_that_waited_for_a_lost_process_ends_as_the_loss_does(
    is_called_a_timeout, monkeypatch, tmp_path, capsys
):
    checkpointer = Checkpointer(tmp_path, 1)

    def fails():
        lost = jax.errors.JaxRuntimeError("INTERNAL: Barrier failed: another task died")
        if is_called_a_timeout:
            raise TimeoutError("Timed out while waiting for async_commit_complete.") from lost
        raise lost

    def leave(status):
        raise SystemExit(status)

    monkeypatch.setattr(checkpointer._manager, "wait_until_finished", fails)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", leave)
    checkpointer._saving = 3
    with pytest.raises(SystemExit) as left:
        checkpointer.wait()
    assert left.value.code == hosts.LOST_PEER
    told = capsys.readouterr().err
    assert "lost contact with another process" in told and "another task died" in told


def _free_port():
    with socket.socket() as chosen:
        chosen.bind(("localhost", 0))
        return chosen.getsockname()[1]


def _job(workdir, mesh, count=2, **options):
    """Processes of two virtual devices each."""
    hosts_of_job = f"localhost:{_free_port()}" + ",localhost" * (count - 1)
    common = VIRTUAL | {"UNITYVIDEO_HOSTS": hosts_of_job}
    options = json.dumps({"mesh": mesh, **options})
    return [
        subprocess.Popen(
            [sys.executable, HERE / "one_of_several.py", workdir, options],
            env=os.environ | common | {"UNITYVIDEO_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def _finish(job, timeout=900):
    ends = [process.communicate(timeout=timeout) for process in job]
    return [(process.returncode, *end) for process, end in zip(job, ends, strict=True)]


def _losses(workdir):
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Losses of the same run in a single process on a single device."""
    from unityvideo_jax.training import loop
    from unityvideo_jax.training.workdir import open_workdir

    workdir = tmp_path_factory.mktemp("alone") / "run"
    config = tiny_config(steps=STEPS)
    with open_workdir(workdir, config) as path:
        loop.train(config, path, Batches, log=lambda _: None, devices=jax.devices()[:1])
    return _losses(workdir)


def _wait_until(job, true):
    deadline = time.monotonic() + 900
    while not true():
        assert time.monotonic() < deadline and all(process.poll() is None for process in job)
        time.sleep(0.05)


def _from_a_terminal(workdir, mesh, **options):
    """A job of two processes, started as a user would on one machine."""
    options = json.dumps({"mesh": mesh, **options})
    return subprocess.Popen(
        ["bash", ROOT / "launch" / "local.sh", "2", "one_of_several", workdir, options],
        env=os.environ | VIRTUAL | {"PORT": str(_free_port()), "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _check_profile(folder, step):
    """Each of two processes has traced its own step; the first has written the step."""
    assert {path.name for path in folder.iterdir()} == {
        *("process_0", "process_1"),
        *("step.stablehlo.txt", "step.optimized_hlo.txt"),
    }
    for number in range(2):
        (trace,) = (folder / f"process_{number}").rglob("*.xplane.pb")
        events = [
            event
            for plane in jax.profiler.ProfileData.from_file(str(trace)).planes
            for line in plane.lines
            for event in line.events
        ]
        steps = [dict(e.stats)["step_num"] for e in events if e.name.split("#")[0] == "train"]
        assert [int(traced) for traced in steps] == [step]


@pytest.mark.slow
def test_a_job_that_loses_a_process_and_hangs_resumes_each_time(alone, tmp_path):
    """Checkpoints are due by the first process's clock alone."""
    workdir, mesh = tmp_path / "run", {"fsdp": 2, "tensor": 2}
    train = {"checkpoint_every": 100}
    job = _job(workdir, mesh, seconds=0.5, train=train | {"checkpoint_minutes": 0.02})
    _wait_until(job, lambda: run_folder.checkpoint_steps(workdir))
    job[1].kill()
    (code, _, error), _ = _finish(job)
    # Whichever sees it first: a collective that breaks, or JAX's heartbeat, which aborts.
    assert code in (hosts.LOST_PEER, -signal.SIGABRT), error
    told = "lost contact with another process" if code > 0 else "another task died"
    assert told in error
    assert max(_losses(workdir)) < STEPS

    # It resumes as processes that share every sample, until SIGTERM to one of them stops both at
    # the same step. What the lost job wrote after its checkpoint is cut off when it starts.
    lost = (workdir / "metrics.jsonl").stat().st_mtime_ns
    done = max(run_folder.checkpoint_steps(workdir))
    _check_parts(workdir / "checkpoints" / str(done), mesh)
    job = _from_a_terminal(
        workdir,
        {"context": 2, "tensor": 2},
        seconds=0.5,
        train=train,
        profile=f"{done + 2}:{done + 3}",
        pids=str(tmp_path),
    )
    trimmed = lambda: (workdir / "metrics.jsonl").stat().st_mtime_ns != lost  # noqa: E731
    _wait_until([job], lambda: trimmed() and max(_losses(workdir)) > done + 2)
    os.kill(int((tmp_path / "1.pid").read_text()), signal.SIGTERM)
    ((code, said, error),) = _finish([job])
    assert code == 0, error
    assert said.count(f"resumed at step {done}") == 2 and said.count("share 0 1") == 2
    assert said.count("stopped by a signal to another process") == 1
    assert said.count("stopped by signal 15") == 1
    _check_profile(workdir / "profile", done + 2)

    # One process never gets the last batch, and the other waits for it on the devices. No step
    # takes as long as the limit; compiling and restoring do.
    train |= {"hang_seconds": 5}
    ends = _finish(_job(workdir, mesh, seconds=0.5, train=train, hangs=[1, STEPS]))
    assert [code for code, _, _ in ends] == [hosts.LOST_PEER] * 2, ends
    assert ["share 0 2" in ends[0][1], "share 1 2" in ends[1][1]] == [True, True]
    for number, (_, _, error) in enumerate(ends):
        (line,) = re.findall("^error: .*$", error, re.MULTILINE)
        assert re.match(r"error: step 1[12] hangs: no process got further for [\d.]+ s", line)
        assert re.search(r"process 0 \(\S+\) waited for the devices for \d+ s", line)
        assert re.search(r"process 1 \(\S+\) waited for a batch for \d+ s", line)
        (stacks,) = (workdir / "hangs").glob(f"*_process_{number}.txt")
        assert str(stacks) in line and "the last whole checkpoint is" in line
        assert ("in never_comes" in stacks.read_text()) == (number == 1)

    # Twice as many go on, on a hybrid mesh: slices of two processes, weights split within each.
    hybrid = {"slice": 2, "data": 1, "fsdp": 2, "tensor": 2}
    ends = _finish(_job(workdir, hybrid, count=4, train={"checkpoint_every": STEPS}))
    assert [code for code, _, _ in ends] == [0] * 4, ends
    assert all(
        f"share {n} 4" in out and "resumed at step" in out for n, (_, out, _) in enumerate(ends)
    )
    # The batches were the same ones throughout: every loss is that of the run alone.
    assert _losses(workdir) == pytest.approx(alone, rel=2e-4)
    # Every process has written its parts of the checkpoint.
    parts = (workdir / "checkpoints" / str(STEPS) / "params").glob("ocdbt.process_*")
    assert {path.name for path in parts} == {f"ocdbt.process_{n}" for n in range(4)}
    # The process that was killed and the hang are losses, and the stop in order is none.
    record = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["restarts"] == 2 and record["restart_seconds"] > 5
    assert 0 < record["lost/restart"] < 1
    assert f"restarts after a loss: 2, with {record['restart_seconds']:.0f} s" in ends[0][1]


def _check_parts(folder, mesh):
    """A checkpoint of two processes of two devices: each wrote parts of what it held, no part was
    written twice, and both wrote as much.
    """
    _, state, layout = state_lib.plan(
        DiTConfig(**tiny_config().model),
        make_optimizer(OptimizerConfig(**tiny_config().optimizer), STEPS),
        make_mesh(MeshConfig(**({"data": 1} | mesh)), jax.devices()[:4]),
        AxisRules(),
        keep_ema=True,
    )
    written, sizes = [], []
    for process in range(2):
        where = {"driver": "file", "path": f"{folder}/params/ocdbt.process_{process}/"}
        store = ts.KvStore.open({"driver": "ocdbt", "base": where}).result()
        keys = {key.decode() for key in store.list().result()}
        written.append({key for key in keys if not key.endswith(".zarray")})
        size = 0
        for path, leaf in nnx.to_flat_state(state.params):
            name, shape = ".".join(map(str, path)), leaf.get_value().shape
            held = dict(nnx.to_flat_state(layout.params))[path].get_value()
            own = [
                index
                for device, index in held.devices_indices_map(shape).items()
                if device.id // 2 == process
            ]
            meta = ts.KvStore.open(
                {"driver": "ocdbt", "base": where | {"path": f"{folder}/params/"}}
            )
            chunk = json.loads(meta.result().read(f"{name}/.zarray").result().value)["chunks"]
            for key in (key for key in written[-1] if key.rpartition("/")[0] == name):
                start = np.multiply(chunk, [int(n) for n in key.rpartition("/")[2].split(".")])
                size += math.prod(chunk)
                assert any(
                    all(
                        (part.start or 0) <= first and first + n <= (part.stop or length)
                        for part, first, n, length in zip(index, start, chunk, shape, strict=True)
                    )
                    for index in own
                ), (process, key)
        sizes.append(size)
    assert not written[0] & written[1]
    assert sum(sizes) == sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
