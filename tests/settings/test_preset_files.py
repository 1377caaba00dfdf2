"""Presets: complete, found by name from any folder, and each key open to the command line."""

import dataclasses
import pathlib
import subprocess
import sys

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from unityvideo_jax.errors import UserError
from unityvideo_jax.settings import presets
from unityvideo_jax.training.config import SECTIONS

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_base_has_every_key():
    base = presets.load("base")
    assert set(base) == {"seed", "init_from", "curriculum", *SECTIONS}
    for name, cls in SECTIONS.items():
        assert set(base[name]) == {field.name for field in dataclasses.fields(cls)}, name


def _leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, ml_collections.ConfigDict) and len(value):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("name", presets.names())
def test_every_key_of_every_preset_can_be_overridden(name):
    expected = presets.load(name)
    argv = ["program", f"--config={presets.find(name)}"]
    argv += [f"--config.{key}={value}" for key, value in _leaves(expected)]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    assert holder.value.to_dict() == expected.to_dict()
    assert len(config_flags.get_override_values(values["config"])) == len(argv) - 2


def test_a_local_file_comes_before_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = str(presets.FOLDER / "worlds_tiny.py")
    assert presets.find("worlds_tiny") == packaged
    (tmp_path / "worlds_tiny").mkdir()  # the folder of a run, say
    assert presets.find("worlds_tiny") == packaged
    (tmp_path / "worlds_tiny.py").touch()
    assert presets.find("worlds_tiny") == "worlds_tiny.py"
    assert presets.find("worlds_tiny.py:argument") == "worlds_tiny.py:argument"
    # What a preset starts from stays the package's.
    (tmp_path / "base.py").write_text("raise AssertionError")
    assert presets.load("worlds_tiny").model.dim == 96


def test_a_file_states_its_difference_from_a_preset_of_its_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, body in {
        "worlds_tiny": "config = uv.load_config('worlds_tiny'); config.model.dim *= 2",
        "wider": "config = uv.load_config('worlds_tiny.py'); config.model.dim += 1",
        "chosen": "config = uv.load_config('wider'); config.model.dim += int(argument or 0)",
        "empty": "config = None",
    }.items():
        lines = ("import unityvideo_jax as uv", "def get_config(argument=''):", f"    {body}")
        (tmp_path / f"{name}.py").write_text("\n".join((*lines, "    return config", "")))
    dims = {"worlds_tiny": 192, "wider": 193, "chosen:7": 200, tmp_path / "wider.py": 193}
    assert {name: presets.load_config(name).model.dim for name in dims} == dims
    with pytest.raises(UserError, match=r"empty\.py: lacks a function get_config\(\)"):
        presets.load_config("empty")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("worlds_tinny", "worlds_tinny: no such file or preset; did you mean 'worlds_tiny'"),
        ("configs/wan22_5b.py", "did you mean 'wan22_5b'"),
        ("", "presets: base, lora_wan22_5b"),
    ],
)
def test_names_of_neither_a_file_nor_a_preset_are_refused(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        presets.find(given)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("1 / 0", r"ZeroDivisionError: division by zero \(line 3 of .*own\.py\)"),
        ("uv.load_config('base').modle", r"AttributeError: .*modle.*\(line 3 of .*own\.py\)"),
        ("(", "SyntaxError: "),
        ("uv.load_config('bass')", r"^bass: no such file or preset; did you mean 'base'"),
    ],
)
def test_a_file_that_raises_is_one_line_with_its_place(tmp_path, body, says):
    file = tmp_path / "own.py"
    file.write_text(f"import unityvideo_jax as uv\ndef get_config():\n    {body}\n")
    with pytest.raises(UserError, match=says):
        presets.load_config(file)


@pytest.mark.parametrize("given", ["=worlds_tiny", f" {ROOT}/configs/worlds_tiny.py"])
def test_a_program_takes_a_preset_in_any_folder(tmp_path, given):
    # Another project's folder of the same name, from which nothing may be read.
    (tmp_path / "configs").mkdir()
    for name in ("__init__.py", "base.py"):
        (tmp_path / "configs" / name).write_text("raise AssertionError")
    config = f"--config{given}".split(" ")
    others = ["--workdir=run", "--config.data.dirs=('absent',)", "--config.mesh.slice=1"]
    done = subprocess.run(
        [sys.executable, "-m", "unityvideo_jax.train", *config, *others],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "absent: no such folder" in done.stderr, done.stderr
