"""Records of a run, read back by libraries that did not write them."""

import gzip
import json
import re
import time

import jax
import pytest
from synthetic_run import Batches, tiny_config

from unityvideo_jax.errors import UserError
from unityvideo_jax.training import loop, profiling
from unityvideo_jax.training.goodput import LOST
from unityvideo_jax.training.profiling import ProfileConfig, Profiler
from unityvideo_jax.training.workdir import open_workdir


class Slow(Batches):
    """Batches that take longer than a step."""

    def __next__(self):
        time.sleep(0.5)
        return super().__next__()


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """Folder and lines of a run of six steps in which all that can be recorded is."""
    workdir, lines = tmp_path_factory.mktemp("profiled") / "run", []
    config = tiny_config(steps=6, checkpoint_every=3)
    profile = ProfileConfig(steps="3:5", hlo=True, memory=4)
    devices = jax.devices()[:1]
    with open_workdir(workdir, config) as path:
        loop.train(config, path, Slow, log=lines.append, devices=devices, profile=profile)
    return workdir, lines


def _events(folder):
    (file,) = folder.rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                yield event.name, dict(event.stats), event.duration_ns


def test_trace_holds_the_steps_asked_for_and_what_the_host_did(profiled):
    events = list(_events(profiled[0] / "profile"))
    steps = [stats["step_num"] for name, stats, _ in events if name.split("#")[0] == "train"]
    assert sorted(int(step) for step in steps) == [3, 4]
    names = {name for name, _, _ in events}
    assert {"input", "transfer", "checkpoint"} <= names  # step 3 saves
    assert "sampling" not in names
    # The device's own work is there as well: operations of the compiled step.
    assert any("hlo_op" in stats for _, stats, duration in events if duration > 0)


def test_the_step_that_runs_is_written_and_compiled_once(profiled):
    folder = profiled[0] / "profile"
    stable = (folder / "step.stablehlo.txt").read_text()
    assert stable.startswith("module @jit_train_step")
    assert "stablehlo.dot_general" in stable and "func.func public @main" in stable
    optimized = (folder / "step.optimized_hlo.txt").read_text()
    assert optimized.startswith("HloModule jit_train_step") and "fusion" in optimized
    # The donated state is an output's memory: this is the step as it is trained.
    assert "input_output_alias={" in optimized.splitlines()[0]


def test_memory_profile_is_what_pprof_reads(profiled):
    content = gzip.decompress((profiled[0] / "profile/memory_before_step_4.prof").read_bytes())
    # The string table of the Profile message names the sample types and where arrays were made.
    assert b"space" in content and b"bytes" in content and b"loop.py" in content


def test_a_run_says_that_it_waited_for_input(profiled):
    workdir, lines = profiled
    record = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    shares = {k: v for k, v in record.items() if k == "goodput" or k.startswith("lost/")}
    assert shares.keys() == {"goodput", *(f"lost/{name}" for name in LOST)}
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 <= share < 1 for share in shares.values())
    # Six batches of half a second; a tiny step takes far less.
    assert shares["lost/input"] > shares["goodput"] > 0 and shares["lost/start"] > 0
    assert lines[-1].startswith("goodput ")
    assert {"start", "input"} <= set(re.findall(r"(\w+) [\d.]+%", lines[-1]))


def test_a_range_that_the_run_has_passed_records_nothing(tmp_path):
    lines = []
    profiler = Profiler(ProfileConfig(steps="3:5"), tmp_path, 6, 9, lines.append)
    assert lines == ["--profile_steps=3:5: the run continues after step 6; nothing to record"]
    with profiler.step(7, None):
        pass
    profiler.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", ["5", "3:3", "4:2", "0:2", "a:b", "-1:3", "3:"])
def test_ranges_that_are_none(steps):
    with pytest.raises(UserError, match=f"--profile_steps={steps}: give A:B with 1 <= A < B"):
        ProfileConfig(steps=steps)


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        (ProfileConfig(steps="7:9"), "--profile_steps=7:9: the run ends at config.train.steps=6"),
        (ProfileConfig(memory=7), "--profile_memory=7: the run ends at config.train.steps=6"),
    ],
)
def test_records_beyond_the_end_are_refused(tmp_path, profile, says):
    with pytest.raises(UserError, match=says):
        Profiler(profile, tmp_path, 0, 6, print)


def test_the_program_refuses_a_range_before_anything_is_written(tmp_path):
    from test_train_program import CONFIG, _train

    done = _train(CONFIG, f"--workdir={tmp_path / 'run'}", "--profile_steps=9:3")
    assert done.returncode == 2 and "error: --profile_steps=9:3: give A:B" in done.stderr
    assert not (tmp_path / "run").exists()


def test_peak_memory_is_recorded_where_the_backend_reports_it(profiled, monkeypatch):
    record = json.loads((profiled[0] / "metrics.jsonl").read_text().splitlines()[-1])
    assert ("peak_memory_gib" in record) == (jax.devices()[0].memory_stats() is not None)

    class Device:
        def __init__(self, peak):
            self.peak = peak

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak, "bytes_in_use": 1}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(2**30), Device(3 * 2**30)])
    assert profiling.peak_memory() == {"peak_memory_gib": 3.0}
