"""The package as others install it: nothing beside its own name, and a sample from anywhere."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest
from tiny_pipeline import tiny_pipeline

ROOT = pathlib.Path(__file__).parents[1]
PARTS = ("setup.py", "pyproject.toml", "README.md", "unityvideo_jax", "configs", "data")
# The dependencies are this environment's; the package itself is the installed one.
FIRST_RUN = """
import importlib.util, pathlib, sys
import unityvideo_jax as uv
assert pathlib.Path(uv.__file__).is_relative_to({where!r}), uv.__file__
assert "jax" not in sys.modules
for name in ("configs", "data"):
    spec = importlib.util.find_spec(name)
    assert spec is None or not str(spec.origin).startswith({where!r}), spec
assert uv.load_config("worlds_tiny").model.dim == 96
from unityvideo_jax.inputs.shards import builder_module
assert builder_module("unibench").Builder.name == "unibench"
"""
SAMPLE = """
import jax
jax.config.update("jax_disable_most_optimizations", True)
pipe = uv.Pipeline.from_pretrained("tiny")
out = pipe("a dog runs", wanted=("rgb", "depth"), steps=1, seed=3)
assert out.video("rgb").shape == (5, 32, 32, 3) and out.video("rgb").dtype.name == "uint8"
assert out.arrays("depth")["depth"].shape == (5, 32, 32)
print(*out.save("dog"))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy to build in, since building leaves files."""
    folder = tmp_path_factory.mktemp("source")
    for name in PARTS:
        ignore = shutil.ignore_patterns("__pycache__")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def _environment(folder: pathlib.Path) -> pathlib.Path:
    """A fresh environment that sees this one's packages, but for what their .pth files add."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    place = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    seen = sysconfig.get_paths()["purelib"]
    (folder / place / "dependencies.pth").write_text(f"{seen}\n")
    return folder / "bin" / "python"


def _pip(python: pathlib.Path, *arguments: str | pathlib.Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    common = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*command, *common, *arguments], check=True, capture_output=True, timeout=600)


def _run(python: pathlib.Path, folder: pathlib.Path, code: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", code], cwd=folder, env=clean, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_samples_in_a_clean_environment(source, tmp_path):
    python = _environment(tmp_path / "env")
    _pip(python, source)
    (place,) = (tmp_path / "env").glob("lib/*/site-packages")
    assert {p.name for p in place.iterdir() if p.is_dir() and "-" not in p.name} == {
        "unityvideo_jax"
    }
    assert (place / "unityvideo_jax" / "data" / "latents" / "README.md").is_file()
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    said = _run(python, tmp_path, FIRST_RUN.format(where=str(place)) + SAMPLE)
    assert said.split() == ["rgb.mp4", "depth.mp4", "depth.npz", "sheet.png", "sample.json"]
    assert (tmp_path / "dog" / "rgb.mp4").stat().st_size > 0


def test_an_editable_install_takes_no_other_name(source, tmp_path):
    python = _environment(tmp_path / "env")
    _pip(python, "--editable", source)
    _run(python, tmp_path, FIRST_RUN.format(where=str(source)))
