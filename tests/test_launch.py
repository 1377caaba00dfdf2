"""The launch files: that they parse, agree with the program, and that the local one runs."""

import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
SHELL = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_parses(path):
    subprocess.run(["bash", "-n", path], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, path], check=True)


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_says_how_to_use_it(path):
    done = subprocess.run(["bash", path], capture_output=True, text=True)
    assert done.returncode != 0 and "usage:" in done.stderr


def test_jobset_asks_for_whole_slices():
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
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
    assert (ROOT / config.removeprefix("--config=")).exists()
    names = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == names


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
        "print(sys.argv[1], hosts.arguments(os.environ))\n",
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
    assert job.communicate(timeout=60)[0] == "saved\nsaved\n"
    assert job.returncode == 0
