"""The notebooks are stripped of outputs, and run from the first cell to the last."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from unityvideo_jax.pretrained.text import load_text_encoder
from unityvideo_jax.pretrained.vae import load_vae
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.settings import presets

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# Cells run in one namespace in a process of their own, as in a kernel; figures are drawn unseen.
# Programs of the package that they start run in that process too.
RUNNER = """
import resource, subprocess, sys, time
from tests import in_process
start = subprocess.run
def run(command, **options):
    if command[:2] != [sys.executable, "-m"] or not command[2].startswith("unityvideo_jax."):
        return start(command, **options)
    return in_process.run(command[2].removeprefix("unityvideo_jax."), *command[3:])
subprocess.run = run
cells = sys.stdin.read().split("\\0")
namespace = {"__name__": "__main__"}
for number, source in enumerate(cells, start=1):
    began = time.perf_counter()
    exec(compile(source, f"<code cell {number} of {len(cells)}>", "exec"), namespace)
    print(f"code cell {number}: {time.perf_counter() - began:.1f} s", flush=True)
for who in ("SELF", "CHILDREN"):
    used = resource.getrusage(getattr(resource, f"RUSAGE_{who}")).ru_utime
    print(f"processor time of {who.lower()}: {used:.0f} s")
"""

# Of the download that `wan_download` makes, by keys of a configuration.
WAN = {
    "model.dim": 40,
    "model.ffn_dim": 72,
    "model.num_heads": 2,
    "model.num_layers": 2,
    "model.in_channels": 4,
    "model.text_dim": 32,
    "model.text_len": 20,
    "data.text_length": 20,
}
# What notebooks set for a reader in their first code cell, and what shows as much to a test. They
# render the same world, one at a time, so that it is compiled once.
SMALL = {
    "worlds_mini": {
        "FRAMES, SIZE = 17, 128": "FRAMES, SIZE = 5, 32",
        "\nSTEPS = 12": "\nSTEPS = 1",
    },
    "finetune": {
        '"worlds-mini", "worlds_mini_finetune"': '"tiny", "tiny.py"',
        'COUNT, SPLIT = 8, "heldout_animals"': 'COUNT, SPLIT = 1, "validation"',
        "FRAMES, SIZE = 17, 128": "FRAMES, SIZE = 5, 32",
        "TRAIN_STEPS, BATCH = 40, 2": "TRAIN_STEPS, BATCH = 1, 1",
        "\nSTEPS = 12": "\nSTEPS = 1",
    },
    "evaluate": {
        'MODEL = "worlds-mini"': 'MODEL = "tiny"',
        "CLIPS = 4": "CLIPS = 1",
        "SIZE = 128": "SIZE = 32",
    },
    "wan": {
        'SOURCE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"': 'SOURCE = "download"',
        "CHANGES = {}": f"CHANGES = {WAN}",
        "FRAMES, HEIGHT, WIDTH = 81, 480, 832": "FRAMES, HEIGHT, WIDTH = 5, 32, 64",
        "STEPS = 50": "STEPS = 2",
    },
}


def _tiny_model(folder):
    from tiny_pipeline import tiny_model, tiny_parts

    model = tiny_model(modalities=("rgb", "depth"))
    Pipeline(**tiny_parts(model=model)).save_pretrained(folder / "tiny")


def _tiny_download(folder):
    from wan_download import save_diffusers

    save_diffusers(folder / "download", "2.1")


# The preset of `finetune` with a smaller model.
PRESET = """
import unityvideo_jax as uv


def get_config():
    config = uv.load_config("worlds_mini_finetune")
    config.model.update(dim=32, ffn_dim=48, num_heads=2, num_layers=2, dtype="float32")
    return config
"""


def _tiny_start(folder):
    from tiny_pipeline import tiny_model, tiny_parts

    (folder / "tiny.py").write_text(PRESET)
    config = presets.load_config(str(folder / "tiny.py"))
    parts = tiny_parts(model=tiny_model(**config.model.to_dict()), vae=load_vae())
    parts["text_encoder"] = load_text_encoder("words", config.data.text_length)
    Pipeline(**parts).save_pretrained(folder / "tiny")


# What notebooks find in the folder that they run in.
MADE = {"evaluate": _tiny_model, "finetune": _tiny_start, "wan": _tiny_download}


def _cells(path):
    return json.loads(path.read_text())["cells"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_outputs(path):
    for cell in _cells(path):
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(tmp_path, path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "interop")
    if make := MADE.get(path.stem):
        make(tmp_path)
    sources = ["".join(c["source"]) for c in _cells(path) if c["cell_type"] == "code"]
    for text, small in SMALL[path.stem].items():
        assert text in sources[0]
        sources[0] = sources[0].replace(text, small)
    # One device, as most have.
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    environment = {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
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
