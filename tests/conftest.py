"""Checks every jaxtyping annotation of the package while the tests run, and lists comparisons."""

import atexit
import collections
import gc
import os
import shutil
import tempfile

import numpy as np
import pytest

# Eight virtual devices let mesh tests run anywhere, and tests spend their time compiling small
# programs, not running them: without fusion emitters a train step compiles in less than half the
# time, and as one LLVM module instead of 32 it takes a fifth less. Set before JAX starts; programs
# that tests start inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
)

# Everything that this run compiles is compiled once: workers and the programs that tests start
# share one folder, which no later run sees. An entry that a killed process left incomplete does not
# decompress: JAX warns and compiles.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from jaxtyping import install_import_hook

install_import_hook("unityvideo_jax", "beartype.beartype")

# Tracing makes objects by the hundred thousand, beside a million of imported modules: collecting
# garbage every 700 of them takes a tenth of the time of tracing.
gc.set_threshold(50_000, 20, 50)

PARITY = "parity"


@pytest.fixture
def parity(record_property):
    """Asserts that the largest error against another implementation is below a bound.

    The run ends with a table of them: the largest error of each (what, reference).
    """

    def check(what, reference, ours, expected, *, bound, relative=True):
        ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
        assert ours.shape == expected.shape
        error = float(np.abs(ours - expected).max() / (np.abs(expected).max() if relative else 1))
        record_property(PARITY, (what, reference, error, bound, relative))
        assert error < bound, (what, error)

    return check


@pytest.fixture(autouse=True)
def fresh_notes(monkeypatch):
    """No test depends on notes of another: a process says each kind a few times only."""
    from unityvideo_jax.media import source

    monkeypatch.setattr(source, "_notes", collections.defaultdict(set))


@pytest.fixture
def row_kernels(monkeypatch):
    """Takes the GPU kernel of `models.rows`, emulated, wherever arrays allow.

    Lists its launches: (formula, shape of the rows).
    """
    import jax

    from unityvideo_jax.kernels import rows

    launches = []

    def listed(arrays, *operands, original=rows._kernel, **settings):
        launches.append((settings["formula"], arrays[0].shape))
        return original(arrays, *operands, **settings)

    monkeypatch.setattr(rows, "is_supported", lambda platform, kind: True)
    monkeypatch.setattr(rows, "_kernel", listed)
    jax.clear_caches()  # of what was traced with the other choice
    yield launches
    jax.clear_caches()


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no worker is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter):
    rows = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == PARITY:
                    what, reference, error, bound, relative = value
                    count, largest, *_ = rows.get((what, reference), (0, 0.0))
                    row = (count + 1, max(error, largest), bound, relative)
                    rows[what, reference] = row
    if not rows:
        return
    terminalreporter.section("parity")
    lines = ["| what | reference | comparisons | largest error | bound |"]
    lines.append("| --- | --- | ---: | ---: | ---: |")
    for (what, reference), (count, error, bound, relative) in sorted(rows.items()):
        kind = "relative" if relative else "absolute"
        lines.append(f"| {what} | {reference} | {count} | {error:.1e} {kind} | {bound:.0e} |")
    terminalreporter.line("\n".join(lines))
