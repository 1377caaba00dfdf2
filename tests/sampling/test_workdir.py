import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from tiny_pipeline import (  # noqa: F401
    CONFIG,
    quick_compile,
    tiny_params,
    tiny_pipeline,
    tiny_vae,
)

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance
from unityvideo_jax.pretrained.vae import save_vae
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.training.checkpoints import Checkpointer
from unityvideo_jax.training.state import TrainState


def test_a_saved_run_samples_as_its_parts_do(tmp_path):
    save_vae(tiny_vae(), tmp_path / "vae", storage="float32")
    config = CONFIG | {"data": CONFIG["data"] | {"vae": str(tmp_path / "vae")}}
    run = tmp_path / "run"
    run.mkdir()
    provenance.write_json(run / "config.json", config)
    checkpointer = Checkpointer(run, keep=2)
    state = TrainState(
        step=jnp.int32(7),
        params=tiny_params(1),
        ema=tiny_params(0),
        opt_state=[jnp.zeros(1)],
    )
    checkpointer.save(state, {}, config)
    checkpointer.wait()

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


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="no run is there"):
        Pipeline.from_workdir(tmp_path)
