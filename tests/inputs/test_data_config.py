import ml_collections
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.config import (
    DataConfig,
    as_data_config,
    stage_modality_weights,
)
from unityvideo_jax.models.sizes import check_frames, check_pixels

MODALITIES = ("rgb", "depth", "flow", "segmentation", "skeleton", "densepose")


def test_a_config_dict_becomes_a_data_config():
    values = ml_collections.ConfigDict(
        dict(dirs=("a", "b"), dir_weights=(1, 3), modality_weights=dict(depth=1.0), fps=8)
    )
    config = as_data_config(values)
    assert config.dirs == ("a", "b")
    assert config.weights_of_dirs() == (1.0, 3.0)
    assert config.modality_weights == {"depth": 1.0}
    assert as_data_config(config) is config
    assert DataConfig(**ml_collections.ConfigDict(dict(kind="online"))).kind == "online"


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(dirs=("a",), num_frame=17), "config.data.num_frame: no such key"),
        (dict(kind="shard"), "kind='shard'"),
        (dict(), "dirs is empty"),
        (dict(dirs="a"), r"dirs='a': give a tuple, \(VALUE,\)"),
        (dict(dirs={"a": 1}), "config.data.dirs={'a': 1}: give a tuple"),
        (dict(dirs=(1,)), r"config.data.dirs\[0\]=1: give a text"),
        (dict(dirs=("a",), dir_weights=("1",)), r"data.dir_weights\[0\]='1': give a finite num"),
        (dict(dirs=("a",), dir_weights=1.0), "dir_weights=1.0: give a tuple"),
        (dict(dirs=("a",), streams=("0", "1")), r"config.data.streams\[0\]='0': give a finite"),
        (dict(dirs=("a",), streams=None), "config.data.streams=None: give a tuple"),
        (dict(dirs=("a",), modality_weights=dict(depth="1")), r"weights\['depth'\]='1': give a"),
        (dict(dirs=("a",), modality_weights=None), "modality_weights=None: give a dict"),
        (dict(dirs=("a", "b"), dir_weights=(1.0,)), "1 entries for 2 dirs"),
        (dict(dirs=("a",), num_frames=16), "num_frames=16.*use 13 or 17"),
        (dict(dirs=("a",), height=100), "height=100.*use 96 or 112"),
        (dict(dirs=("a",), width=8), "width=8.*use 16 or 32"),
        (dict(dirs=("a",), caption_dropout=1.5), "caption_dropout=1.5"),
        (dict(kind="online", registry_prompt_rate=2), "registry_prompt_rate=2"),
        (dict(dirs=("a",), registry_prompt_rate=0.5), "give prepare --registry_prompt_rate"),
        (dict(dirs=("a",), modality_weights=dict(depth=-1.0)), "'depth'.*-1.0"),
        (dict(dirs=("a",), fps=0), "fps=0"),
        (dict(dirs=("a",), read_threads=0), "read_threads"),
        (dict(dirs=("a",), vae_dtype="half"), "vae_dtype='half': use one of"),
        (dict(dirs=("a",), never_together=("depth",)), r"together\[0\]='depth': give a tuple"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(UserError, match=message):
        as_data_config(values)


@pytest.mark.parametrize("frames", [1, 5, 17, 81])
def test_frames_of_the_form_4n_plus_1_pass(frames):
    check_frames(frames, "--num_frames")


@pytest.mark.parametrize("frames", [-3, 0, 2, 4, 80])
def test_other_frame_counts_do_not(frames):
    with pytest.raises(UserError, match="4n"):
        check_frames(frames, "--num_frames")


def test_sizes_must_divide():
    check_pixels(480, "--height")
    with pytest.raises(UserError, match="832 or 848"):
        check_pixels(833, "--width")


def test_stage_weights_replace_and_are_renormalised():
    config = DataConfig(kind="online")
    weights = stage_modality_weights(config, MODALITIES, None)
    assert list(weights) == ["depth", "flow", "segmentation", "skeleton", "densepose"]
    assert weights["skeleton"] == pytest.approx(2 / 7)
    stage = stage_modality_weights(config, MODALITIES, {"flow": 1, "depth": 3, "skeleton": 0})
    assert stage == {"depth": 0.75, "flow": 0.25}


@pytest.mark.parametrize(
    "modalities, stage, message",
    [
        (MODALITIES, {"normals": 1.0}, "unknown modality 'normals'"),
        (("rgb", "depth"), None, "unknown modality"),
        (MODALITIES, {"rgb": 1.0, "depth": 1.0}, "RGB is in every sample"),
        (MODALITIES, {"depth": 0.0}, "no modality with a positive weight"),
        (("depth",), {"depth": 1.0}, "lacks 'rgb'"),
    ],
)
def test_bad_stage_weights_are_named(modalities, stage, message):
    with pytest.raises(UserError, match=message):
        stage_modality_weights(DataConfig(kind="online"), modalities, stage)
