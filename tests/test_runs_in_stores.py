"""Programs whose folders are in an object store: trained, killed, resumed, sampled and exported."""

import json
import os
import pathlib
import signal
import sys

import chex
import jax
import pytest

sys.path.append(str(pathlib.Path(__file__).parent / "training"))
from one_trace import one_trace_per_step  # noqa: F401
from synthetic_run import Batches, tiny_config

import unityvideo_jax as uv
from tests import in_process
from tests.bucket import NAME, all_pass, gs, objects, s3, started, store  # noqa: F401
from tests.tiny_pipeline import quick_compile, save_run, tiny_pipeline  # noqa: F401
from unityvideo_jax import convert
from unityvideo_jax.checkpoints import manifest, run_folder
from unityvideo_jax.checkpoints.inference import load_for_inference
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths, stores
from unityvideo_jax.training import loop
from unityvideo_jax.training.workdir import open_workdir

URL = f"s3://{NAME}"
ROOT = pathlib.Path(__file__).parents[1]


def _train(path, config, log=lambda _: None, **options) -> None:
    with stores.session(), open_workdir(stores.local(path, writes=True), config) as workdir:
        loop.train(config, workdir, Batches, log=log, devices=jax.devices()[:1], **options)


def _config(**train):
    config = tiny_config(**train)
    config.model.freq_dim = 256  # as Wan's, so that it can be exported
    return config


@pytest.mark.slow
def test_a_run_killed_while_it_saves_ends_with_the_same_bits(s3, tmp_path, monkeypatch):  # noqa: F811
    """The kill comes when all of a checkpoint is stored but the mark that it is whole."""
    run, mark = f"{URL}/killed/run", f"/{NAME}/killed/run/checkpoints/4/{stores.LAST}"
    s3.holds = lambda method, key: method == "PUT" and key == mark
    one = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    arguments = (f"--workdir={run}", '--train={"steps": 4}')
    with monkeypatch.context() as child:  # not of JAX here, which may start later
        child.setenv("PYTHONPATH", str(ROOT))
        child.setenv("XLA_FLAGS", one)
        with started("tests.faults.tiny_run", *arguments) as process:
            while not s3.held.wait(timeout=1):
                assert process.poll() is None, process.stderr.read()
            process.send_signal(signal.SIGKILL)
            assert process.wait(timeout=300) == -signal.SIGKILL
    s3.reset()
    below = "killed/run/checkpoints"
    there = set(objects(below))
    assert {"2/params/_METADATA", "4/params/_METADATA", f"4/params/{stores.LAST}"} < there
    # Nothing takes the one that is not whole, although all its arrays are there.
    assert run_folder.checkpoint_steps(run) == [2]
    with stores.session():
        assert manifest.newest_whole(run_folder.checkpoints(run), before=9) == 2
        assert load_for_inference(run)[2] == 2
    lines = []
    _train(run, _config(steps=4), lines.append)
    assert "resumed at step 2" in lines
    _train(tmp_path / "run", _config(steps=4))
    for use_ema in (False, True):
        chex.assert_trees_all_equal(
            load_for_inference(run, use_ema=use_ema)[1],
            load_for_inference(tmp_path / "run", use_ema=use_ema)[1],
        )
    records = [
        [json.loads(line) for line in text.splitlines()]
        for text in (
            objects("killed/run")["metrics.jsonl"].decode(),
            (tmp_path / "run" / "metrics.jsonl").read_text(),
        )
    ]
    losses = [[(r["step"], r["loss"]) for r in one] for one in records]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert run_folder.checkpoint_steps(run) == [2, 4]


def test_google_s_store_takes_checkpoints(gs):  # noqa: F811
    url = f"gs://{NAME}/run"
    with stores.session():
        paths.check_output("--workdir", url, "folder")
        save_run(stores.local(f"gs://{NAME}", writes=True) / "run")
    assert run_folder.checkpoint_steps(url) == [7]
    with stores.session():
        _, params, step = load_for_inference(url)
        assert step == 7
        chex.assert_trees_all_equal(params, tiny_pipeline().params)
        (run_folder.checkpoints(url) / "7" / stores.LAST).unlink()
        assert run_folder.checkpoint_steps(url) == []
        with pytest.raises(UserError, match="no such bucket"):
            paths.check_output("--workdir", "gs://another/run", "folder")


@pytest.mark.slow
def test_weights_are_converted_between_folders_of_a_store(s3, tmp_path):  # noqa: F811
    config = _config(steps=1, checkpoint_every=1)
    config.optimizer.schedule_steps = 4  # the step of the run above
    config.curriculum = ()
    _train(f"{URL}/made/run", config)

    def converted(source, to, target, *flags):
        done = in_process.run(
            "convert", f"--from={source}", f"--to={to}", f"--workdir={target}", *flags
        )
        assert done.returncode == 0, done.stderr
        assert "unityvideo-stores-" not in done.stdout
        return done.stdout

    said = converted(f"{URL}/made/run", "diffusers", f"{URL}/made/wan")
    assert f"of {URL}/made/run is in {URL}/made/wan" in said
    files = objects("made/wan")
    assert {"config.json", "diffusion_pytorch_model.safetensors"} <= set(files)
    assert not [name for name in files if convert.STAGING in name]
    (tmp_path / "config.py").write_text(
        "import json, ml_collections\n"
        f"def get_config():\n    return ml_collections.ConfigDict({config.to_dict()!r})\n"
    )
    converted(f"{URL}/made/wan", "orbax", f"{URL}/made/again", f"--config={tmp_path}/config.py")
    assert run_folder.checkpoint_steps(f"{URL}/made/again") == [0]
    with stores.session():
        theirs, ours = (load_for_inference(f"{URL}/made/{name}")[1] for name in ("run", "again"))
        chex.assert_trees_all_equal(theirs, ours)


@pytest.mark.slow
def test_samples_and_scores_of_a_run_in_a_store_stay_there(s3, tmp_path):  # noqa: F811
    with stores.session():
        save_run(stores.local(f"{URL}/kept", writes=True) / "run")
    small = ("--steps=1", f"--workdir={URL}/kept/run")

    def ran(program, *flags):
        done = in_process.run(program, *flags)
        assert done.returncode == 0, done.stderr
        assert "unityvideo-stores-" not in done.stdout + done.stderr
        return done.stdout

    mode = ("--mode=joint", "--modality=depth", "--prompt=A ball.")
    assert f"{URL}/kept/joint" in ran("sample", *small, *mode, f"--output={URL}/kept/joint")
    files = objects("kept/joint")
    assert set(files) == {"rgb.mp4", "depth.mp4", "depth.npz", "sheet.png", "sample.json"}
    record = json.loads(files["sample.json"])
    assert record["workdir"] == f"{URL}/kept/run"
    score = (*small, "--num_clips=1", "--benchmark=worlds_validation")
    fewer = ("--nocontrol", "--joint_clips=0", "--condition_gap_clips=0", "--heldout_timesteps=0")
    ran("evaluate", *score, *fewer, f"--output={URL}/kept/scores")
    assert json.loads(objects("kept/scores")["results.json"])["workdir"] == f"{URL}/kept/run"
    # The folder of a model, by the Python interface.
    with stores.session():
        tiny_pipeline().save_pretrained(f"{URL}/kept/model")
        again = uv.Pipeline.from_pretrained(f"{URL}/kept/model")
        chex.assert_trees_all_equal(again.params, tiny_pipeline().params)
