"""The program's faults, each one line before anything is written."""

import pathlib

import in_process
import jax
import pytest

from unityvideo_jax import train
from unityvideo_jax.errors import UserError
from unityvideo_jax.settings import presets
from unityvideo_jax.training import loop
from unityvideo_jax.training.config import check_read

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIG = "--config=worlds_tiny"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model.rmeat", "none", r"config\.model\.rmeat: no such key; did you mean 'remat'"),
        ("objective.p_cand", 0.2, r"config\.objective\.p_cand: .*'p_cond'"),
        ("optimizer.emma", 1, r"config\.optimizer\.emma: no such key"),
        ("train.log", 1, r"config\.train\.log: no such key"),
        ("mesh.dta", 1, r"config\.mesh\.dta: .*'data'"),
        ("sampling.stpes", 1, r"config\.sampling\.stpes: .*'steps'"),
        ("data.heigth", 1, r"config\.data\.heigth: .*'height'"),
        ("sede", 1, r"config\.sede: no such key; did you mean 'seed'"),
        ("optimizer.learning_rate", None, r"config\.optimizer\.learning_rate: missing"),
        ("sampling", None, r"config\.sampling: missing"),
        ("data.vae", None, r"config\.data\.vae: missing"),
        ("curriculum", [dict(until=-1, modalities=["flow"], dir_weights=[1, 2])], "2 entries for"),
        ("data.buckets", [dict(frames=1, height=64, width=64)], "17x64x64, .* none of .*: 1x64x64"),
        ("data.buckets", [dict(frames=17, height=64)], r"data\.buckets\[0\]\.width: missing"),
    ],
)
def test_a_config_with_a_slip_is_refused_before_anything_is_opened(key, value, says):
    train.check(presets.load("worlds_tiny"))
    config = presets.load("worlds_tiny")
    section, _, name = key.rpartition(".")
    part = config[section] if section else config
    with part.unlocked():
        if value is None:
            del part[name]
        else:
            part[name] = value
    with pytest.raises(UserError, match=says):
        train.check(config)


def _train(*args):
    return in_process.run("train", *args, folder=ROOT)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([CONFIG, "--config.train.stepz=3"], 'no such key stepz. Did you mean "steps"'),
        ([CONFIG, "--config.train.steps=many"], "--config.train.steps=many"),
        (["--config=configs/nothing.py"], "configs/nothing.py"),
        ([CONFIG, "stray"], "unexpected argument 'stray'"),
        ([], "give both --config"),
        ([CONFIG, "--config", "base"], f"--config: given as {CONFIG[9:]} and as base; leave one"),
        ([CONFIG, "--workdir=b"], "/run and as b; leave one out"),
        ([CONFIG, "--alsologtostderr", "--noalsologtostderr"], "given as true and as false"),
        # One value twice, and what may be there several times.
        ([CONFIG, CONFIG, "--plugins=", "--plugins", "", "stray"], "unexpected argument 'stray'"),
        ([CONFIG, "--config.seed=1", "--config.seed=2", "stray"], "unexpected argument 'stray'"),
    ],
)
def test_faulty_command_lines_are_one_error_and_write_nothing(tmp_path, args, says):
    done = _train(f"--workdir={tmp_path / 'run'}", *args)
    assert done.returncode == 2
    assert says in done.stderr
    assert "error: " in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_plugin_makes_a_modality_known(tmp_path):
    data = tmp_path / "shards"
    args = ["--config=examples/normals_config.py", f"--workdir={tmp_path / 'run'}"]
    args += [f"--config.data.dirs=('{data}',)"]
    assert "unknown ['normals']" in _train(*args).stderr
    # Known now, so that the folder is what is missing.
    known = _train("--plugins=examples.normals", *args)
    assert f"error: {data}: no such folder" in known.stderr
    lacking = _train("--plugins=no_such_module", *args)
    assert lacking.stderr.startswith("error: --plugins=no_such_module: no module 'no_such_module'")


def test_a_start_that_failed_does_not_pin_its_config(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    for name in ("first", "second"):
        done = _train(CONFIG, workdir, f"--config.data.dirs=('{tmp_path / name}',)")
        assert done.returncode == 2
        assert f"{tmp_path / name}: no such folder" in done.stderr


@pytest.mark.parametrize(
    ("preset", "key", "says"),
    [
        ("worlds_tiny", "lora.alpha", r"config\.lora\.alpha: config\.lora\.rank=0 trains all"),
        ("worlds_tiny", "data.closeup", r"closeup: is read only with config\.data\.kind='online'"),
        ("worlds_small", "data.dirs", r"data\.dirs: is read only with .*, and that is 'online'"),
        ("worlds_small", "optimizer.momentum", r"read only with config\.optimizer\.name='muon'"),
    ],
)
def test_a_key_of_the_command_line_that_nothing_reads_is_refused(preset, key, says):
    config = presets.load(preset)
    check_read(config, ["lora.rank", "data.kind", "train.steps"])
    with pytest.raises(UserError, match=says):
        check_read(config, [key])


def test_memory_that_a_device_refuses_is_one_line(monkeypatch):
    """The step's line names the batch; what no line is nearer to, as a VAE's batch, has one too."""

    def refuse(*_):
        said = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 25739010976 bytes."
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(loop, "_train", refuse)
    config = presets.load("worlds_tiny")
    with pytest.raises(UserError, match=r"^config\.train\.batch_size=8: .* no room for 23\.9 GiB"):
        loop.train(config, pathlib.Path(), refuse)
    monkeypatch.setattr(train, "main", refuse)
    done = _train(CONFIG)
    assert done.returncode == 2
    assert done.stderr.startswith("error: what was computed: a device (cpu) has no room for 23.9")
