"""The launch files: checked by shellcheck and by schemas, and run with what they call replaced."""

import copy
import dataclasses
import json
import math
import os
import pathlib
import re
import runpy
import shutil
import signal
import subprocess
import sys
import sysconfig

import jsonschema
import kubernetes_validate
import pytest
import yaml

from unityvideo_jax.parallel.mesh import MeshConfig
from unityvideo_jax.settings import presets

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
SHELL = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_parses(path):
    subprocess.run(["bash", "-n", path], check=True)
    # Beside this interpreter, where the test extra puts it: the environment need not be active.
    shellcheck = shutil.which("shellcheck", path=sysconfig.get_path("scripts"))
    assert shellcheck, "shellcheck is missing: install the test extra"
    done = subprocess.run([shellcheck, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_prints_its_usage(path):
    done = subprocess.run(["bash", path], capture_output=True, text=True)
    assert done.returncode != 0 and "usage:" in done.stderr


def _jobset():
    return yaml.safe_load((LAUNCH / "jobset.yaml").read_text())


def _check(jobset):
    schema = json.loads((ROOT / "tests" / "jobset.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(jobset, schema, jsonschema.Draft202012Validator)
    for job in jobset["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", **job["template"]}
        kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)


def test_jobset_fits_its_schema():
    _check(_jobset())


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("spec", "replicatedJob"), []),
        (("spec", "failurePolicy", "maxRestarts"), "10"),
        (("spec", "replicatedJobs", 0, "name"), "Slice"),
        (("spec", "replicatedJobs", 0, "template", "spec", "backofLimit"), 0),
        (("spec", "replicatedJobs", 0, "template", "spec", "completions"), "2"),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, tuple) else "",
)
def test_the_schema_refuses(where, value):
    jobset = copy.deepcopy(_jobset())
    *path, last = where
    part = jobset
    for key in path:
        part = part[key]
    part[last] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        _check(jobset)


def test_every_preset_takes_the_flags_that_the_planner_prints():
    for path in (ROOT / "configs").glob("*.py"):
        config = runpy.run_path(str(path))["get_config"]()
        if "mesh" in config:
            assert set(config.mesh) == {f.name for f in dataclasses.fields(MeshConfig)}, path


def test_jobset_asks_for_whole_slices():
    jobset = _jobset()
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    sizes = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = math.prod(int(size) for size in sizes)
    hosts = spec["parallelism"]
    assert spec["completions"] == hosts
    assert hosts * container["resources"]["limits"]["google.com/tpu"] == chips
    assert f"--config.mesh.slice={job['replicas']}" in container["command"]
    config = next(a for a in container["command"] if a.startswith("--config="))
    assert config.removeprefix("--config=") in presets.names()
    names = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == names
    # What a user must fix ends the job; all else starts it again.
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2],
    }
    assert jobset["spec"]["failurePolicy"]["rules"][0]["onJobFailureReasons"] == [
        "PodFailurePolicy"
    ]


def _tool(folder, name, body):
    """A program `name` that notes its arguments, one JSON list a call, and then does `body`."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    calls = f"open('{path}.calls', 'a')"
    note = f"import json, sys; print(json.dumps(sys.argv[1:]), file={calls})"
    path.write_text(f'#!/usr/bin/env bash\n{sys.executable} -c "{note}" "$@"\n{body}\n')
    path.chmod(0o755)


def _calls(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.calls").read_text().splitlines()]


FLAGS = ["--config.train.steps=3", "--config.data.dirs=('no such shards',)"]


def test_slurm_starts_the_program_with_its_flags(tmp_path):
    _tool(tmp_path / "bin", "srun", 'shift; exec "$@"')
    workdir = tmp_path / "a run"
    done = subprocess.run(
        ["bash", LAUNCH / "slurm.sbatch", workdir, "configs/worlds_tiny.py", *FLAGS],
        env=os.environ
        | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHON": sys.executable},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    (call,) = _calls(tmp_path / "bin", "srun")
    program = [sys.executable, "-m", "unityvideo_jax.train", "--config=configs/worlds_tiny.py"]
    assert call == ["--kill-on-bad-exit=1", *program, f"--workdir={workdir}", *FLAGS]
    # The program that srun starts understood them: it looks for these shards.
    assert done.returncode == 2 and "error: no such shards: no such folder" in done.stderr


def test_slurm_asks_for_one_process_a_node_and_time_to_save():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    asked = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if "#SBATCH" in line
    )
    assert asked["ntasks-per-node"] == "1" and "requeue" in asked
    name, _, seconds = asked["signal"].partition("@")
    # Without "B:" the signal goes to the steps, which srun starts, and not to this script.
    assert name == "TERM" and int(seconds) >= 60


@pytest.mark.parametrize(
    ("slices", "tool", "mesh"),
    [
        ("", ["compute", "tpus", "tpu-vm"], []),
        ("2", ["alpha", "compute", "tpus", "queued-resources"], ["--config.mesh.slice=2"]),
    ],
)
def test_tpu_pod_copies_installs_and_trains(tmp_path, slices, tool, mesh):
    """Hosts are a folder here: `gcloud` copies into it and runs its commands in it."""
    tools, home = tmp_path / "bin", tmp_path / "home"
    home.mkdir()
    _tool(
        tools,
        "gcloud",
        f'cd "{home}"\n'
        "files=()\n"
        'for one in "$@"; do case "$one" in\n'
        '  --command=*) bash -c "${one#--command=}" ;;\n'
        '  /*) files+=("$one") ;;\n'
        '  pod:*) cp -r "${files[@]}" "${one#*:}" ;;\n'
        "esac; done",
    )
    venv = 'mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/pip'
    _tool(tools, "python3.12", f"if [[ $2 == venv ]]; then {venv}; fi")
    done = subprocess.run(
        ["bash", LAUNCH / "tpu_pod.sh", "pod", "zone", "/runs/a run", "configs/a.py", *FLAGS],
        env=os.environ
        | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": "python3.12"}
        | ({"SLICES": slices} if slices else {}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for call in _calls(tools, "gcloud"):
        assert call[: len(tool)] == tool
        assert {"--worker=all", "--zone=zone"} <= set(call)
        assert ("--node=all" in call) == bool(slices)
    copied = {path.name for path in (home / "unityvideo").iterdir()} - {".venv"}
    assert copied == {"unityvideo_jax", "configs", "data", "setup.py", "README.md"}
    venv, install, train = _calls(tools, "python3.12")
    assert venv == ["-m", "venv", ".venv"]
    assert install == ["install", "--quiet", ".[tpu,gcs]"]
    program = ["-m", "unityvideo_jax.train", "--config=configs/a.py", "--workdir=/runs/a run"]
    assert train == [*program, *mesh, *FLAGS]
    assert "UNITYVIDEO_HOSTS=auto" in _calls(tools, "gcloud")[-1][-1]


def test_the_page_names_every_file_and_variable():
    page = (ROOT / "docs" / "launch.md").read_text()
    assert all(f"launch/{path.name}" in page for path in LAUNCH.iterdir())
    source = (ROOT / "unityvideo_jax" / "parallel" / "hosts.py").read_text()
    assert all(name in page for name in re.findall(r'"(UNITYVIDEO_\w+)"', source))


def _local(tmp_path, code, count=2):
    (tmp_path / "program.py").write_text(code)
    return subprocess.run(
        ["bash", LAUNCH / "local.sh", str(count), "program", "--flag=a b"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_local_starts_processes_that_know_each_other(tmp_path):
    done = _local(
        tmp_path,
        "import os, sys\n"
        "from unityvideo_jax.parallel import hosts\n"
        # In one write: parts of two processes' lines could mix.
        "os.write(1, f'{sys.argv[1]} {hosts.arguments(os.environ)}\\n'.encode())\n",
    )
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    for number, line in enumerate(lines):
        assert line.startswith("--flag=a b {'coordinator_address': 'localhost:8476'")
        assert line.endswith(f"'num_processes': 2, 'process_id': {number}}}")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("end", "status"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 128 + 9)]
)
def test_local_stops_all_when_one_fails(tmp_path, end, status):
    done = _local(
        tmp_path,
        "import os, sys, time\n"
        f"if os.environ['UNITYVIDEO_PROCESS_ID'] == '1': {end}\n"
        "time.sleep(100)\n",
    )
    assert done.returncode == status
    assert f"ended with status {status}" in done.stderr


def test_local_passes_sigterm_on_and_waits(tmp_path):
    (tmp_path / "program.py").write_text(
        "import os, signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(1)\n"
        "    os.write(1, b'saved\\n')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "os.write(1, b'ready\\n')\n"
        "time.sleep(100)\n"
    )
    job = subprocess.Popen(
        ["bash", LAUNCH / "local.sh", "2", "program"],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert [job.stdout.readline() for _ in range(2)] == ["ready\n", "ready\n"]
    job.send_signal(signal.SIGTERM)
    assert job.communicate(timeout=300)[0] == "saved\nsaved\n"
    assert job.returncode == 0
