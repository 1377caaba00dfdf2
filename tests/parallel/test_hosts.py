"""How processes find each other, and jobs of two and four that train, stop, and lose one."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.parallel import hosts
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
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


def _free_port():
    with socket.socket() as chosen:
        chosen.bind(("localhost", 0))
        return chosen.getsockname()[1]


def _job(workdir, mesh, seconds=0.0, count=2):
    """Processes of two virtual devices each."""
    hosts_of_job = f"localhost:{_free_port()}" + ",localhost" * (count - 1)
    common = VIRTUAL | {"UNITYVIDEO_HOSTS": hosts_of_job}
    command = [sys.executable, HERE / "one_of_several.py", workdir, json.dumps(mesh), str(seconds)]
    return [
        subprocess.Popen(
            command,
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
    sys.path.insert(0, str(HERE.parent / "training"))
    from synthetic_run import Batches, tiny_config

    from unityvideo_jax.training import loop
    from unityvideo_jax.training.workdir import open_workdir

    workdir = tmp_path_factory.mktemp("alone") / "run"
    config = tiny_config(steps=6)
    with open_workdir(workdir, config) as path:
        loop.train(config, path, Batches, log=lambda _: None, devices=jax.devices()[:1])
    return _losses(workdir)


@pytest.mark.slow
def test_two_processes_that_share_every_sample_train_as_one(alone, tmp_path):
    """Started as a user would on one machine."""
    mesh = json.dumps({"data": 1, "context": 2, "tensor": 2})
    command = ["bash", ROOT / "launch" / "local.sh", "2", "one_of_several"]
    environment = VIRTUAL | {"PORT": str(_free_port()), "PYTHON": sys.executable}
    done = subprocess.run(
        [*command, tmp_path / "run", mesh, "0", "3:4"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("share 0 1") == 2
    assert _losses(tmp_path / "run") == pytest.approx(alone, rel=2e-4)
    # Each has traced its own step 3; the first has written the step.
    profile = tmp_path / "run" / "profile"
    assert {path.name for path in profile.iterdir()} == {
        *("process_0", "process_1"),
        *("step.stablehlo.txt", "step.optimized_hlo.txt"),
    }
    for number in range(2):
        (trace,) = (profile / f"process_{number}").rglob("*.xplane.pb")
        events = [
            event
            for plane in jax.profiler.ProfileData.from_file(str(trace)).planes
            for line in plane.lines
            for event in line.events
        ]
        steps = [dict(e.stats)["step_num"] for e in events if e.name.split("#")[0] == "train"]
        assert [int(step) for step in steps] == [3]


@pytest.mark.slow
def test_a_lost_process_stops_the_job_which_then_resumes(alone, tmp_path):
    workdir, mesh = tmp_path / "run", {"data": 2, "tensor": 2}
    job = _job(workdir, mesh, seconds=0.5)
    deadline = time.monotonic() + 900
    while not (workdir / "checkpoints" / "2").exists():
        assert time.monotonic() < deadline and all(process.poll() is None for process in job)
        time.sleep(0.05)
    job[1].kill()
    (code, _, error), _ = _finish(job)
    # Whichever sees it first: a collective that breaks, or JAX's heartbeat, which aborts.
    assert code in (hosts.LOST_PEER, -signal.SIGABRT), error
    told = "lost contact with another process" if code > 0 else "another task died"
    assert told in error
    assert max(_losses(workdir)) < 6

    # The same command resumes, until SIGTERM to one process stops both at the same step.
    # What the lost job wrote after its checkpoint is cut off when the next one starts.
    lost = (workdir / "metrics.jsonl").stat().st_mtime_ns
    job = _job(workdir, mesh, seconds=0.5)
    deadline = time.monotonic() + 900
    while (workdir / "metrics.jsonl").stat().st_mtime_ns == lost or max(_losses(workdir)) < 4:
        assert time.monotonic() < deadline and all(process.poll() is None for process in job)
        time.sleep(0.05)
    job[1].send_signal(signal.SIGTERM)
    ends = _finish(job)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "resumed at step" in ends[0][1] and "a signal to another process" in ends[0][1]
    assert "signal 15" in ends[1][1]

    assert ["share 0 2" in ends[0][1], "share 1 2" in ends[1][1]] == [True, True]

    # Twice as many go on, on a hybrid mesh: slices of two processes, weights split within each.
    ends = _finish(_job(workdir, {"slice": 2, "data": 1, "fsdp": 2, "tensor": 2}, count=4))
    assert [code for code, _, _ in ends] == [0] * 4, ends
    assert all(
        f"share {n} 4" in out and "resumed at step" in out for n, (_, out, _) in enumerate(ends)
    )
    # The batches were the same ones throughout: every loss is that of the run alone.
    assert _losses(workdir) == pytest.approx(alone, rel=2e-4)
    # Every process has written its parts of the checkpoint.
    parts = (workdir / "checkpoints" / "6" / "params").glob("ocdbt.process_*")
    assert {path.name for path in parts} == {f"ocdbt.process_{n}" for n in range(4)}
