import json

import in_process
import ml_collections
import numpy as np
import pytest
from tiny_pipeline import quick_compile, save_run, tiny_pipeline  # noqa: F401

from unityvideo_jax import convert
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance
from unityvideo_jax.pretrained.vae import flatten
from unityvideo_jax.sampling.pipeline import Pipeline


def test_a_saved_run_samples_as_its_parts_do(tmp_path):
    run = tmp_path / "run"
    config = save_run(run)
    averaged = Pipeline.from_workdir(run)
    assert averaged.step == 7
    wanted = ("rgb", "depth")
    expected = tiny_pipeline()("a man", wanted=wanted)
    samples = averaged("a man", wanted=wanted)
    for name in wanted:
        np.testing.assert_allclose(samples.videos[name], expected.videos[name], atol=1e-4)
    last = Pipeline.from_workdir(run, use_ema=False)("a man", wanted=wanted)
    assert not np.allclose(last.videos["depth"], expected.videos["depth"], atol=1e-2)
    assert provenance.config_hash(averaged.config) == provenance.config_hash(
        ml_collections.ConfigDict(config)
    )

    # The same weights as a model's folder, without optimiser and history.
    lines = []
    convert.convert_to_model(str(run), str(tmp_path / "model"), log=lines.append)
    assert lines == [f"step 7 (averaged weights) of {run} is in {tmp_path / 'model'}, as float32"]
    loaded = Pipeline.from_pretrained(tmp_path / "model")
    for name, value in flatten(averaged.params).items():
        np.testing.assert_array_equal(flatten(loaded.params)[name], value, name)
    averaged.save_pretrained(tmp_path / "saved")
    for file in ("model.safetensors", "config.json"):
        written = [(tmp_path / folder / file).read_bytes() for folder in ("model", "saved")]
        if file == "config.json":
            written = [json.loads(content) for content in written]
        assert written[0] == written[1], file

    # What a conversion does not read is no choice.
    for source, to, flag, says in (
        ("model", "pretrained", "--checkpoint_step=3", "a model has one set of weights"),
        ("model", "pretrained", "--noema", "a model has one set of weights"),
        ("model", "diffusers", "--fallback", "a model has one set of weights"),
        ("run", "diffusers", "--merge", "has no adapters"),
        ("run", "diffusers", "--config=worlds_tiny", "is for --to=orbax; leave it out"),
        ("run", "pretrained", "--merge", "is for --to=diffusers|wan"),
        ("run", "pretrained", "--shard_gb=1", "is for --to=diffusers|wan"),
        ("run", "orbax", "--storage=bfloat16", "is for --to=pretrained|diffusers|wan"),
    ):
        places = f"--from={tmp_path / source}", f"--workdir={tmp_path / 'out'}"
        done = in_process.run("convert", *places, f"--to={to}", flag)
        assert done.returncode == 2 and says in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="no run is there"):
        Pipeline.from_workdir(tmp_path)
