"""Damaged files of a run, and data that changed under it or cannot be."""

import functools
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile

import numpy as np

from tests.faults.harness import ROOT, Case

for name in ("training", "inputs"):
    sys.path.insert(0, str(ROOT / "tests" / name))

KIND = "run"


def _config(**train):
    from synthetic_run import tiny_config

    config = tiny_config(**dict(steps=4, checkpoint_every=2) | train)
    config.curriculum = ()
    return config


def _open(path, config=None, **options):
    from unityvideo_jax.training.workdir import open_workdir

    options = {"log": lambda _: None} | options
    with open_workdir(path, config or _config(), **options) as folder:
        return folder


def _made(folder: pathlib.Path, steps=(2, 4)) -> pathlib.Path:
    """A run's folder as it is after a checkpoint, without the weights."""
    run = _open(folder / "run")
    for step in steps:
        (run / "checkpoints" / str(step) / "params").mkdir(parents=True)
        copy = run / "checkpoints" / str(step) / "config"
        copy.mkdir()
        shutil.copy(run / "config.json", copy / "metadata")
    return run


def _train(run: pathlib.Path, config=None, batches=None) -> list[str]:
    import jax
    from synthetic_run import Batches

    from unityvideo_jax.training import loop

    lines = []
    config = config or _config()
    _open(run, config)
    devices = jax.devices()[: math.prod(config.mesh.values())]
    loop.train(config, run, batches or Batches, log=lines.append, devices=devices)
    return lines


@functools.cache
def _once_trained() -> pathlib.Path:
    run = pathlib.Path(tempfile.mkdtemp()) / "run"
    _train(run)
    return run


def _trained(folder: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(_once_trained(), folder / "run")


# --- Files ------------------------------------------------------------------------------------


def _damaged_config(content, read):
    def act(folder):
        run = _made(folder)
        file = run / "config.json"
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        read(run)

    return act


def _find(run):
    from unityvideo_jax.checkpoints.reading import find

    return find(run)


CONFIGS = {
    "empty": b"",
    "truncated": b'{"model": {"dim": 3',
    "binary": bytes(range(256)),
    "a list": b"[1, 2]",
    "without model": b'{"seed": 0, "data": {}}',
    "missing": None,
}


def _edited_config(folder):
    run = _made(folder)
    file = run / "config.json"
    file.write_text(file.read_text().replace('"dim": 32', '"dim": "wide"'))
    _open(run)


def _edited_data(folder):
    from unityvideo_jax.sampling.pipeline import Pipeline

    run = _trained(folder)
    config = json.loads((run / "config.json").read_text())
    config["data"] |= dict(num_frames="five", height=32, width=32, fps=8.0, vae="")
    config["data"] |= dict(text_encoder="words", text_length=4)
    (run / "config.json").write_text(json.dumps(config))
    Pipeline.from_workdir(run)


def _checkpoint_is_a_file(folder):
    run = _made(folder)
    (run / "checkpoints" / "6").write_text("")
    _open(run)


def _checkpoints_is_a_file(folder):
    run = _made(folder)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("")
    _open(run)


def _empty_checkpoint(read):
    def act(folder):
        run = _made(folder)
        (run / "checkpoints" / "6").mkdir()
        read(run)

    return act


def _stray_entries(folder):
    run = _trained(folder)
    for name in ("old", "4 copy", "4.bak", "-1"):
        (run / "checkpoints" / name).mkdir()
    (run / "checkpoints" / "notes.txt").write_text("")
    assert "resumed at step 4" in _train(run, _config(steps=6))


def _damaged_record(content):
    def act(folder):
        run = _made(folder)
        (run / "run.json").write_bytes(content)
        _open(run)

    return act


def _inputs(content):
    def act(folder):
        run = _trained(folder)
        file = run / "checkpoints" / "4" / "inputs" / "metadata"
        file.chmod(0o644)
        file.write_text(content)
        _train(run, _config(steps=6))

    return act


def _metrics(content):
    def act(folder):
        run = _trained(folder)
        file = run / "metrics.jsonl"
        file.write_bytes(file.read_bytes() + content + b'{"step": 4, "loss": 1.0}\n')
        lines = _train(run, _config(steps=6))
        steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
        assert steps == [1, 2, 3, 4, 4, 5, 6]
        assert any("metrics.jsonl: 1 of" in line and "do not read" in line for line in lines)

    return act


def _metrics_folder(folder):
    run = _trained(folder)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    _train(run, _config(steps=6))


# --- Data -------------------------------------------------------------------------------------


@functools.cache
def _shards(salt: int = 0) -> pathlib.Path:
    import stand_ins

    path = pathlib.Path(tempfile.mkdtemp()) / "shards"
    stand_ins.prepare_noise(path, 8, salt=salt)
    return path


def _absurd(name, number):
    """One record of the depth series with one absurd number, as another program might write it."""

    def act(folder):
        import stand_ins

        from unityvideo_jax.inputs import shards
        from unityvideo_jax.inputs.pipeline import make_iterator

        data = shutil.copytree(_shards(), folder / "data")
        series = shards.Series(data, "depth")
        records = [dict(series[n]) for n in range(len(series))]
        records[5][name] = records[5][name].copy()
        records[5][name].flat[3] = number
        card = shards.read_card(data)
        shutil.rmtree(shards.series_path(data, "depth"))
        side = {key: np.shape(value) for key, value in records[0]["side"].items()}
        shards.write_series(
            data,
            "depth",
            lambda: iter(records),
            count=len(records),
            latent_shape=card.latent_shape,
            embedding_shape=(card.text_length, card.text_dim),
            side_shapes=side,
        )
        config = stand_ins.config(data, modality_weights={"depth": 1.0})
        batches = make_iterator(config, stand_ins.MODALITIES, batch_size=4, seed=0)
        for _ in range(2):
            next(batches)

    return act


def _absurd_null(folder):
    import stand_ins

    from unityvideo_jax.inputs import shards
    from unityvideo_jax.inputs.pipeline import make_iterator

    data = shutil.copytree(_shards(), folder / "data")
    file = shards.root_of(data) / shards.NULL_CONTEXT_NAME
    np.save(file, np.full_like(np.load(file), np.nan))
    make_iterator(stand_ins.config(data), stand_ins.MODALITIES, batch_size=4, seed=0)


def _changed_data(change, moved=False):
    """A run on shards that are changed between its stop and its resumption."""

    def act(folder):
        import stand_ins

        from unityvideo_jax.inputs.config import as_data_config
        from unityvideo_jax.inputs.fingerprints import fingerprints

        data = shutil.copytree(_shards(), folder / "data")
        config = _config()
        config.data = stand_ins.config(data)

        def open_run():
            identify = functools.partial(fingerprints, as_data_config(config.data))
            return _open(folder / "run", config, identify=identify)

        run = open_run()
        copy = run / "checkpoints" / "2" / "config"
        copy.mkdir(parents=True)
        shutil.copy(run / "config.json", copy / "metadata")
        if moved:
            os.rename(data, folder / "moved")
            data = folder / "moved"
            config.data.dirs = (str(data),)
        change(data)
        open_run()

    return act


def _replaced(data):
    shutil.rmtree(data)
    shutil.copytree(_shards(1), data)


def _exchanged(data):
    """Two modalities' files change places record by record: here, those of other clips."""
    from unityvideo_jax.inputs import shards

    for name in ("rgb", "depth", "flow"):
        target = shards.series_path(data, name)
        shutil.rmtree(target)
        shutil.copytree(shards.series_path(_shards(1), name), target)


def _poisoned(folder):
    from synthetic_run import Batches

    class Poisoned(Batches):
        def __init__(self, stage):
            super().__init__(stage, poison_at=1)

        def describe(self, index):
            return f"record {index} (clip 'cat{index}')"

    _train(folder / "run", batches=Poisoned)


def _case(name, act, *says, slow=False):
    return Case(kind=KIND, name=name, act=act, says=says, slow=slow)


CASES = [
    *(
        _case(f"config.json {name}, read by {who}", _damaged_config(content, read), "config.json")
        for name, content in CONFIGS.items()
        for who, read in (("train", _open), ("sample", _find))
    ),
    _case("config.json edited", _edited_config, "config.json", "model.dim", "'wide'", "cp "),
    _case("config.json edited, sampled", _edited_data, "config.data.num_frames='five'", slow=True),
    _case("run.json damaged", _damaged_record(b"{"), "run.json", "remove it"),
    _case("run.json of another kind", _damaged_record(b"[3]"), "run.json", "remove it"),
    _case("checkpoint is a file", _checkpoint_is_a_file, "checkpoints/6: a file", "remove it"),
    _case("checkpoints is a file", _checkpoints_is_a_file, "checkpoints: a file", "remove it"),
    _case("checkpoint is empty", _empty_checkpoint(_open), "checkpoints/6", "remove it"),
    _case("checkpoint is empty, read by sample", _empty_checkpoint(_find), "checkpoints/6"),
    _case("stray entries among checkpoints", _stray_entries, slow=True),
    *(
        _case(f"input position {name}", _inputs(content), "checkpoints/4", slow=True)
        for name, content in {
            "empty": "",
            "truncated": '{"stage": 0, "sta',
            "a list": "[]",
            "without stage": '{"state": {"next_index": 4}}',
            "of another stage": '{"stage": 7, "state": {"next_index": 4}}',
            "without state": '{"stage": 0, "state": {}}',
            "with damaged averages": '{"stage":0,"state":{"next_index":4},"averages":{"loss":3}}',
        }.items()
    ),
    _case("metrics.jsonl with a damaged line", _metrics(b'{"step": 4, "lo\n'), slow=True),
    _case("metrics.jsonl with bytes", _metrics(b"\xff\xfe\x00\n"), slow=True),
    _case("metrics.jsonl with another value", _metrics(b"17\n"), slow=True),
    _case("metrics.jsonl with a step in words", _metrics(b'{"step": "four"}\n'), slow=True),
    _case("metrics.jsonl is a folder", _metrics_folder, "metrics.jsonl", "remove it", slow=True),
    *(
        _case(
            f"{name} hold {number}",
            _absurd(name, number),
            *("depth", "array_record", "record 5 ", "'noise-0005'", name),
        )
        for name, number in (
            ("latents", np.nan),
            ("latents", -np.inf),
            ("latents", 255.0),
            ("latents", 60000.0),
            ("embedding", np.nan),
        )
    ),
    _case("null context holds NaN", _absurd_null, "null_context.npy", "NaN"),
    _case("data replaced", _changed_data(_replaced), "data.dirs", "the run used", "restore"),
    _case("records exchanged", _changed_data(_exchanged), "data.dirs", "the run used", "restore"),
    _case("data moved and replaced", _changed_data(_replaced, moved=True), "data.dirs", "moved"),
    _case("data moved", _changed_data(lambda data: None, moved=True)),
    _case("loss not finite", _poisoned, "step 2", "record 11 (clip 'cat11')", slow=True),
]
