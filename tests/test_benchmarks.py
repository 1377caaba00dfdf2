"""The benchmark programs run; what they measure here means nothing."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.schedule import of_runs

ROOT = pathlib.Path(__file__).parents[1]
WAN = ROOT / "benchmarks" / "wan.py"
TINY = ["--size=tiny", "--steps=1", "--repeats=1"]


def load(name):
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wan():
    return load("wan")


def table(text, columns=6):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [row for row in rows if len(row) == columns][2:]


def test_parts_are_timed_beside_their_peers(wan, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    # Processes of their own, and compiling with torch, take minutes here.
    monkeypatch.setattr(wan, "measure", lambda part, system, args: getattr(wan, system)(part, args))
    with torch.compiler.set_stance("force_eager"):
        wan.main(TINY)
    rows = table(capsys.readouterr().out)
    names = ["sampling step", "VAE decode, bfloat16"]
    names += [f"text, 8 prompts of {count} tokens" for count in (96, 20)]
    assert len(rows) == 2 * len(names)
    for name in names:
        ours, peer = (row for row in rows if row[0] == name)
        assert ours[1].startswith("ours: jax ") and peer[1].startswith("peer: diffusers ")
        assert float(ours[3]) > 0 and float(peer[3]) > 0
        assert abs(float(ours[5]) - float(peer[3]) / float(ours[3])) < 0.1 * float(ours[5]) + 0.01
        assert peer[5] == ""


def test_a_system_that_fails_is_reported_and_the_others_run(tmp_path):
    (tmp_path / "diffusers.py").write_text("raise ImportError('no diffusers here')")
    done = subprocess.run(
        [sys.executable, WAN, *TINY, "--part=text", "--system", "peer", "ours"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| text | peer | failed: ImportError: no diffusers here |" in done.stdout
    assert [row[0] for row in table(done.stdout)][-1] == "text, 8 prompts of 20 tokens"


def test_the_chart_and_the_page_show_the_same_numbers(tmp_path):
    chart = load("chart")
    rows = chart.read(chart.FOLDER / "speed.csv")
    page = table((chart.FOLDER / "README.md").read_text(), 9)
    page += table((chart.FOLDER / "README.md").read_text(), 7)
    cells = {cell for row in page for cell in row}
    assert len(rows) > 5
    assert [row for row in rows if not {row["ours"], row["peer"]} <= cells] == []
    chart.draw(rows, tmp_path / "speed.svg")
    drawn = (tmp_path / "speed.svg").read_text()
    stored = (chart.FOLDER / "speed.svg").read_text()
    for row in rows:
        for label in (row["what"], f"{row['ours']} s", f"{row['peer']} s"):
            assert f">{label}<" in drawn and f">{label}<" in stored, label


def test_input_is_timed_beside_what_a_step_takes(capsys):
    size = ["--latents=2,2,2,4", "--text=6,8", "--clips=8", "--batch=2", "--takes=10"]
    load("inputs").main([*size, "--workers=0", "--threads=1,2", "--seconds=0.1"])
    rows = [[float(cell) for cell in row] for row in table(capsys.readouterr().out, 7)]
    assert [row[:2] for row in rows] == [[0, 1], [0, 2]]
    for _, _, speed, _, cpu, ratio, cores in rows:
        assert speed > 0 and ratio == pytest.approx(speed / 10, abs=0.11)
        assert cores == pytest.approx(5 * 10 * cpu / 1e3, abs=0.006)


@pytest.mark.slow
def test_scoring_is_timed_with_links_for_clips(monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the program that is timed
    size = ["--num_frames=5", "--height=64", "--width=96"]
    counts = ["--clips=3", "--few=1", "--distinct=1", "--processes=1"]
    load("evaluation").main([*size, *counts])
    printed = capsys.readouterr().out
    ((clips, processes, speed, cpu, first, memory, again),) = table(printed, 7)
    assert (clips, processes) == ("3", "1") and float(speed) > 0 and float(again) > 0
    # Two runs of an interpreter that imports JAX take a second of processor time at the least.
    assert float(cpu) > 1 / 3
    assert 0.1 < float(first) <= 1.5 * float(memory)
    seconds = {row[0]: float(row[1]) for row in table(printed, 2)}
    assert seconds.keys() == {"depth", "flow", "segmentation", "skeleton", "densepose", "rgb"}


def test_the_table_of_plans_resumes_where_it_stopped(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location(
        "benchmark_of_plans", ROOT / "benchmarks/plans.py"
    )
    plans = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plans)
    cells = plans.tpu_cells()
    assert len(cells) == len(set(cells)) == 4 * 4 * 3
    row = plans.estimated("14B", "17x256x256", 8)  # stands in for what compiling would give
    asked = []

    def compiled(command, **_):
        asked.append(tuple(command[-3:]))
        failed = asked[-1] == cells[1] and asked.count(cells[1]) == 1
        return subprocess.CompletedProcess(command, int(failed), json.dumps(row), "")

    monkeypatch.setattr(plans.subprocess, "run", compiled)
    monkeypatch.setattr(plans, "tpu_cells", lambda: cells[:3])
    monkeypatch.setattr(plans, "GPU_COUNTS", (1, 64))
    rows = f"--rows={tmp_path / 'plans.jsonl'}"
    for _ in range(3):
        plans.main([rows])
    assert asked == [*cells[:3], cells[1]]  # the one that failed is tried again, the others are not
    assert f"{cells[1]}: failed with status 1" in capsys.readouterr().out
    plans.main([rows, "--table"])
    lines = table(capsys.readouterr().out, columns=9)
    assert [line[1] for line in lines if line[0] == cells[0][0]] == ["1.3B", "5B", "10B"]
    (alone,) = (line for line in lines[-8:] if line[:2] == ["1 x H200", "14B"])
    (many,) = (line for line in lines[-8:] if line[:2] == ["64 x H200", "14B"])
    assert alone[-1] == "no" and many[-1] == "yes" and float(many[5]) < 131 < float(alone[5])


@pytest.mark.slow
def test_mixed_steps_are_timed_beside_each_bucket_alone(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    tiny = dict(dim=16, ffn_dim=32, num_heads=2, num_layers=1, freq_dim=16, dtype="float32")
    settings = [f"model.{key}={value}" for key, value in tiny.items()]
    buckets = ["--bucket", "2x5x32x32*2", "1x1x32x48"]
    load("mix").main(
        [
            "--steps=1",
            "--rounds=1",
            "--batch=8",
            *buckets,
            "--set",
            "optimizer.name=adamw",
            *settings,
        ]
    )
    printed = capsys.readouterr().out
    video, image, alone, mixed = table(printed)
    assert video[:4] == ["2 streams of 5x32x32", "66.7%", "8", "128"]
    assert image[:4] == ["1 stream of 1x32x48", "33.3%", "16", "96"]
    assert alone[3] == mixed[3] == f"{(2 * 128 + 96) // 3}"
    assert all(float(row[4]) > 0 for row in (video, image, alone, mixed))
    assert "mixed / alone: " in printed.splitlines()[-1]


@pytest.mark.slow
def test_both_systems_skip_as_many_passes(monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    caches = load("caches")
    sampler = SamplerConfig(steps=10, text_guidance=3.0, batched_guidance=False)
    run = np.array([[row < 2 or row % 2 == 0, row < 2 or row % 4 == 0] for row in range(10)])
    schedule = of_runs(run, sampler.table().sigma)
    monkeypatch.setattr(
        caches, "schedule", lambda args, share: (sampler, schedule if share else None)
    )
    monkeypatch.setattr(caches, "measure", lambda name, *rest: getattr(caches, name)(*rest[::-1]))
    with torch.compiler.set_stance("force_eager"):
        caches.main(["speed", "--size_of_model=tiny", "--steps=10", "--cache=0.4", "--whole"])
    rows = table(capsys.readouterr().out, columns=7)
    assert [row[2] for row in rows] == ["20", str(run.sum()), "20", "10"] and run.sum() == 10
    assert all(float(row[4]) > 0 for row in rows)


def test_ssim_is_that_of_torchmetrics(monkeypatch):
    torch = pytest.importorskip("torch")
    ssim = pytest.importorskip("torchmetrics.functional").structural_similarity_index_measure
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (2, 24, 32, 3)).astype(np.float32)
    b = np.clip(a + rng.normal(0, 0.2, a.shape), -1, 1).astype(np.float32)
    theirs = ssim(*(torch.tensor(x).permute(0, 3, 1, 2) for x in (a, b)), data_range=2.0)
    assert abs(load("caches").ssim(a, b) - float(theirs)) < 1e-3


def test_a_start_is_divided_into_parts(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    load("start").main(["trace", "--size_of_model=tiny"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["graph", "trace", "lower"]
    assert all(float(line.split()[1]) > 0 for line in lines)
