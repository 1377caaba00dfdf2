"""What may change when a run resumes: every change by its rule, every advice accepted."""

import json
import pathlib

import ml_collections
import pytest
from synthetic_run import tiny_config

from unityvideo_jax.checkpoints.run_folder import read_config
from unityvideo_jax.errors import UserError
from unityvideo_jax.training.workdir import open_workdir

PRINTS = {"data.dirs": ["aaa"], "data.vae": "vvv", "data.text_encoder": "words"}


def _config(**changes):
    config = tiny_config()
    config.data.update(
        dirs=("data",), vae="", text_encoder="words", num_frames=5, num_workers=0, read_threads=4
    )
    for key, value in changes.items():
        section, _, name = key.partition("__")
        config[section][name] = value
    return config


def _open(path, config, overridden=(), prints=PRINTS):
    lines = []
    with open_workdir(
        path, config, overridden=overridden, identify=lambda: prints, log=lines.append
    ):
        pass
    return lines


@pytest.fixture
def run(tmp_path):
    """A run's folder as it is after a checkpoint, without the weights."""
    return made(tmp_path / "run")


def made(path, config=None, overridden=()):
    config = config or _config()
    assert _open(path, config, overridden) == []
    saved = path / "checkpoints" / "4" / "config"
    saved.mkdir(parents=True)
    (saved / "metadata").write_text(json.dumps(json.loads((path / "config.json").read_text())))
    return path


@pytest.mark.parametrize(
    "change",
    [
        dict(data__num_workers=3),
        dict(data__read_threads=9),
        dict(train__log_every=7),
        dict(train__check_every=5),
        dict(train__sample_every=2),
        dict(sampling__steps=9),
        dict(mesh__data=2),
    ],
)
def test_how_it_runs_may_change(run, change):
    assert _open(run, _config(**change)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(optimizer__learning_rate=3e-3), "config.optimizer.learning_rate: 0.01 -> 0.003: "),
        (dict(train__batch_size=16), "config.train.batch_size: 8 -> 16: the next record is"),
        (dict(optimizer__clip_norm=2.0), "config.optimizer.clip_norm: 1.0 -> 2.0"),
    ],
)
def test_the_training_may_change_when_asked_and_says_so_once(run, change, says):
    (line,) = _open(run, _config(**change))
    assert line.startswith(says)
    assert _open(run, _config(**change)) == []


def test_a_forgotten_override_is_not_a_change_that_was_asked_for(tmp_path):
    key = "optimizer.learning_rate"
    run = made(tmp_path / "run", _config(optimizer__learning_rate=5e-3), (key,))
    with pytest.raises(UserError, match=r"learning_rate was set to 0\.005 on the command line"):
        _open(run, _config())
    assert _open(run, _config(optimizer__learning_rate=5e-3), (key,)) == []
    (line,) = _open(run, _config(), (key,))  # now it is asked for
    assert "0.005 -> 0.01" in line


@pytest.mark.parametrize("key", ["dirs", "vae", "text_encoder"])
def test_things_may_move_if_they_are_the_same(run, key):
    place = ("elsewhere",) if key == "dirs" else "elsewhere"
    moved = _config(**{f"data__{key}": place})
    assert _open(run, moved) == []
    assert "elsewhere" in read_config(run).data[key]
    other = PRINTS | {f"data.{key}": ["bbb"] if key == "dirs" else "bbb"}
    with pytest.raises(UserError, match=f"data.{key}=.*bbb.*the run used.*restore"):
        _open(run, moved, prints=other)
    with pytest.raises(UserError, match=f"data.{key}=.*nothing to read there"):
        _open(run, _config(), prints=PRINTS | {f"data.{key}": None})
    assert _open(run, moved, prints=PRINTS | {f"data.{key}": None}) == []  # not needed, not there


def test_records_exchanged_in_place_are_noticed(run):
    with pytest.raises(UserError, match=r"data\.dirs=\['data'\] holds \['bbb'\].*used \['aaa'\]"):
        _open(run, _config(), prints=PRINTS | {"data.dirs": ["bbb"]})


def test_a_longer_run_keeps_its_schedule_until_asked(run):
    assert read_config(run).optimizer.schedule_steps == 8
    (line,) = _open(run, _config(train__steps=20))
    assert "ends at step 8" in line and "config.optimizer.schedule_steps=20" in line
    assert read_config(run).optimizer.schedule_steps == 8
    (line,) = _open(run, _config(train__steps=20, optimizer__schedule_steps=20))
    assert line.startswith("config.optimizer.schedule_steps: 8 -> 20: ")
    assert _open(run, _config(train__steps=20)) == []  # it stays so
    assert read_config(run).optimizer.schedule_steps == 20


def test_stages_may_change_from_where_the_run_is(tmp_path):
    stages = [dict(until=3, modalities=["depth"]), dict(until=8, modalities=["flow"])]
    config = _config()
    config.curriculum = stages
    run = made(tmp_path / "run", config)  # four steps are done

    def lines(*entries, steps=8):
        changed = _config(train__steps=steps, optimizer__schedule_steps=8)
        changed.curriculum = entries
        return _open(run, changed)

    for entries in (
        (dict(until=-1, modalities=["depth"]),),
        (dict(until=2, modalities=["depth"]), stages[1]),
        (stages[0], dict(until=-1, modalities=["skeleton"])),
        (),
    ):
        with pytest.raises(UserError, match=r"config\.curriculum changes stages of the 4 steps"):
            lines(*entries)
    (line,) = lines(stages[0], dict(stages[1], until=-1), steps=9)  # as a longer run must have it
    assert line.startswith("config.curriculum: ")
    lines(stages[0], dict(stages[1], until=5), dict(until=-1, modalities=["skeleton"]))


def test_runs_of_earlier_versions_resume(run):
    config = json.loads((run / "config.json").read_text())
    del config["optimizer"]["schedule_steps"]
    (run / "config.json").write_text(json.dumps(config))
    (run / "checkpoints" / "4" / "config" / "metadata").write_text(json.dumps(config))
    (run / "run.json").unlink()
    with pytest.raises(UserError, match=r"the run recorded no fingerprint.*set config\.data\.vae"):
        _open(run, _config(data__vae="elsewhere"))
    assert "ends at step 8" in _open(run, _config(train__steps=9))[0]
    assert json.loads((run / "run.json").read_text())["fingerprints"] == PRINTS


def test_what_shapes_the_model_or_its_samples_stays(run):
    for change in (dict(model__dim=64), dict(objective__shift=3.0), dict(optimizer__b2=0.99)):
        with pytest.raises(UserError, match=r"a run of another config: .*set them back"):
            _open(run, _config(**change))
    assert _open(run, _config()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {}}', "\x00\x80", None])
def test_a_damaged_config_says_how_to_restore_it(run, content):
    file = run / "config.json"
    before = json.loads(file.read_text())
    file.write_bytes(content.encode("latin1")) if content is not None else file.unlink()
    for read in (lambda: _open(run, _config()), lambda: read_config(run)):
        with pytest.raises(UserError, match=r"config\.json: .*restore it with `cp ") as error:
            read()
    _obey(str(error.value))
    assert _open(run, _config()) == []
    assert json.loads(file.read_text()) == before


def test_an_edited_config_is_held_against_the_checkpoints(run):
    file = run / "config.json"
    file.write_text(file.read_text().replace('"dim": 32', '"dim": 64'))
    with pytest.raises(UserError, match=r"config\.model\.dim is 64 and 32 in .*edited") as error:
        _open(run, _config())
    _obey(str(error.value))
    assert _open(run, _config()) == []


def test_after_removing_what_errors_name_the_run_opens(run):
    (run / "run.json").write_text("{")
    (run / "checkpoints" / "6").mkdir()
    (run / "checkpoints" / "8").write_text("")
    for _ in range(3):
        with pytest.raises(UserError, match="remove it") as error:
            _open(run, _config())
        found = pathlib.Path(str(error.value).partition(": ")[0])
        found.rmdir() if found.is_dir() else found.unlink()
    assert _open(run, _config()) == []


def _obey(message):
    """Does what the message advises, as a shell would."""
    import shlex
    import shutil

    command = shlex.split(message.partition("`")[2].partition("`")[0])
    assert command[0] == "cp"
    shutil.copy(*command[1:])


def test_another_programs_folder_is_not_taken_for_a_runs(tmp_path):
    for name, content in {"vae": {"z_dim": 16}, "model": {"format": 1, "model": {}}}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"holds 'config\.json' but no config\.json of a run"):
            _open(folder, _config())
        assert [file.name for file in folder.iterdir()] == ["config.json"]
        assert json.loads((folder / "config.json").read_text()) == content
    file = tmp_path / "vae" / "config.json"
    with pytest.raises(UserError, match=r"config\.json: a file; name the folder of a run"):
        read_config(file)


def test_a_run_without_a_checkpoint_may_start_anew(tmp_path):
    assert _open(tmp_path, _config()) == []
    assert _open(tmp_path, _config(model__dim=64)) == []


def test_config_is_not_changed_by_opening(run):
    config = _config()
    before = ml_collections.ConfigDict(config.to_dict())
    _open(run, config)
    assert config == before
