"""The notebooks are stripped of outputs, and run from the first cell to the last."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# Cells run in one namespace in a process of their own, as in a kernel; figures are drawn unseen.
RUNNER = """
import sys, time
cells = sys.stdin.read().split("\\0")
namespace = {"__name__": "__main__"}
for number, source in enumerate(cells, start=1):
    began = time.perf_counter()
    exec(compile(source, f"<code cell {number} of {len(cells)}>", "exec"), namespace)
    print(f"code cell {number}: {time.perf_counter() - began:.1f} s", flush=True)
"""

# What notebooks set for a reader, and a size that shows as much to a test.
SMALL = {"FRAMES, SIZE = 17, 128": "FRAMES, SIZE = 5, 64", "\nSTEPS = 12": "\nSTEPS = 1"}


def _cells(path):
    return json.loads(path.read_text())["cells"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_outputs(path):
    for cell in _cells(path):
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(tmp_path, path):
    # One device, as most have; and code that runs fast, which is worth compiling longer here.
    environment = {
        "MPLBACKEND": "Agg",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false",
    }
    sources = ["".join(c["source"]) for c in _cells(path) if c["cell_type"] == "code"]
    if path.stem == "worlds_mini":
        assert all(text in sources[0] for text in SMALL)
        for text, small in SMALL.items():
            sources[0] = sources[0].replace(text, small)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNNER],
        env=os.environ | environment,
        input="\0".join(sources),
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    print(done.stdout)
