"""Schedules from calibrations, the program that measures one, and weights in fewer bits."""

import json
import pathlib
from unittest import mock

import in_process
import numpy as np
import pytest
from flax import nnx
from tiny_pipeline import quick_compile, tiny_model, tiny_parts, tiny_pipeline  # noqa: F401

from unityvideo_jax.errors import UserError
from unityvideo_jax.sampling.calibration import fingerprint
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.schedule import LONGEST, Curve, derive

JOINT = dict(wanted=("rgb", "depth"), steps=10, text_guidance=2.0)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A pipeline whose folder has its calibration, of joint sampling alone."""
    folder = tmp_path_factory.mktemp("calibrated")
    pipeline = Pipeline(**tiny_parts(), folder=folder)
    requests = folder / "requests.jsonl"
    requests.write_text('{"mode": "joint", "modality": "depth", "prompt": "a man walks"}\n')
    flags = (f"--batch_file={requests}", "--steps=8", "--text_guidance=2")
    sampled = pipeline.sample_latents
    with mock.patch.object(Pipeline, "from_workdir", lambda *_, **__: pipeline):
        done = in_process.run("calibrate", f"--workdir={folder}", *flags)
    assert done.returncode == 0, done.stderr
    pipeline.sample_latents = sampled
    return pipeline


def test_a_constant_change_is_skipped_evenly_after_the_first_fifth():
    sigma = SamplerConfig(steps=50, shift=1.0).table().sigma
    changes, needed = np.full((50, 1), 0.01), np.ones((50, 1), bool)
    run = derive(changes, needed, sigma, 0.5).run[:, 0]
    assert run[:10].all() and 20 <= run.sum() <= 25
    apart = np.diff(np.flatnonzero(run)[10:])
    assert apart.min() >= 2 and np.ptp(apart) <= 1
    assert derive(changes, needed, sigma, 0.0).run.all()
    with pytest.raises(UserError, match=r"cache=0\.9: at most 0\.\d+ of 50 passes can be skipped"):
        derive(changes, needed, sigma, 0.9)
    most = derive(changes, needed, sigma, 0.68).run[:, 0]
    assert np.diff(np.flatnonzero(most)).max() == LONGEST + 1


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6])
def test_passes_run_where_and_as_much_as_their_outputs_change(share):
    """Two passes, of which the second changes a fifth as much; all change more towards the end."""
    sigma = SamplerConfig(steps=40).table().sigma
    needed = np.ones((40, 2), bool)
    needed[:12, 1] = False  # no guidance yet
    change = np.linspace(0.01, 0.04, 40)
    run = derive(np.stack([change, change / 5], axis=1), needed, sigma, share).run
    assert share <= 1 - run.sum() / needed.sum() < share + 0.1
    assert not run[:12, 1].any() and run[12, 1] and run[~run[:, 0], 1].sum() == 0
    assert run[12:, 1].sum() < run[12:, 0].sum()
    assert run[30:, 0].sum() >= run[12:22, 0].sum()


def test_a_curve_serves_other_noise_levels():
    curve = Curve(sigma=np.array([1.0, 0.5, 0.25]), change=np.array([0.0, 0.2, 0.4]))
    found = curve.at(np.array([1.0, 0.75, 0.5, 0.375, 0.25, 0.1]))
    np.testing.assert_allclose(found, [0.0, 0.1, 0.1, 0.2, 0.2, 0.0], atol=1e-12)


def test_the_dial_skips_and_zero_is_the_dense_sample(calibrated):
    dense = calibrated("a dog", **JOINT)
    assert dense.records[0]["passes"] is None
    plain = tiny_pipeline()("a dog", **JOINT)
    none, half = (calibrated("a dog", **JOINT, cache=share) for share in (0.0, 0.5))
    assert half.records[0]["passes"] <= 10 and half.records[0]["sampler"]["cache"] == 0.5
    for name, latents in dense.latents.items():
        np.testing.assert_array_equal(none.latents[name], latents)
        np.testing.assert_array_equal(plain.latents[name], latents)
        error = np.abs(half.latents[name] - latents).max() / np.abs(latents).max()
        assert 1e-6 < error < 0.5, error
    record = json.loads((calibrated.folder / "cache.json").read_text())
    assert record["measured"]["steps"] == 8 and record["measured"]["samples"] == {"joint": 1}
    assert list(record["tasks"]["joint"]) == ["everything", "text"]


def test_what_a_calibration_cannot_serve_is_refused(calibrated, tmp_path):
    def refused(pattern, pipeline=calibrated, **changes):
        with pytest.raises(UserError, match=pattern):
            pipeline("a dog", **JOINT | {"cache": 0.4} | changes)

    flow = {"flow": np.zeros((5, 32, 32, 3), np.uint8)}
    refused(r"cache\.json: has no curve of control's passes of everything", given=flow)
    refused(r"cache=1\.5: give the share", cache=1.5)
    refused(r"cache=0\.8: at most 0\.\d+ of 20 passes", cache=0.8)
    refused("this pipeline has no folder", tiny_pipeline())
    refused(r"cache\.json is missing; calibrate", Pipeline(**tiny_parts(), folder=tmp_path))
    other = tiny_model()
    other.blocks.ffn.up.bias.set_value(other.blocks.ffn.up.bias[...] + 1)
    other = Pipeline(**tiny_parts(model=other), folder=calibrated.folder)
    refused(r"cache\.json: is of another model", other)
    text = (calibrated.folder / "cache.json").read_text()
    (tmp_path / "cache.json").write_text(text.replace('"steps": 8', '"steps": 9'))
    damaged = Pipeline(**tiny_parts(), folder=tmp_path)
    refused(r"cache\.json: damaged or changed", damaged)


def test_weights_in_fewer_bits_sample_alike():
    """A model that computes in bfloat16 gives bit for bit the same of matrices held so."""
    whole = Pipeline(**tiny_parts(model=tiny_model(dtype="bfloat16")))
    sample = dict(wanted=("rgb", "depth"), steps=1)
    expected = whole("a man", **sample).latents["depth"]
    size = sum(x.nbytes for _, x in nnx.to_flat_state(whole.params))
    for base, largest in (("bfloat16", 0.0), ("int8", 0.05)):
        held = Pipeline(**tiny_parts(model=tiny_model(dtype="bfloat16")))
        held.hold_weights(base)
        assert fingerprint(held.model_config, held.params) == whole.fingerprint
        assert sum(x.nbytes for _, x in nnx.to_flat_state(held.params)) < 0.75 * size
        found = held("a man", **sample).latents["depth"]
        error = np.abs(found - expected).max() / np.abs(expected).max()
        assert error <= largest and (base == "bfloat16" or error > 0)
        refused = pytest.raises(UserError, match=f"weights are held as {base}; do it before")
        with refused:
            held.hold_weights("int8")
        with refused:
            held.add_adapters((pathlib.Path("x.safetensors"), 1.0))
        with refused:
            held.save_pretrained("somewhere")
    small = Pipeline(**tiny_parts())
    with pytest.raises(UserError, match="hold_weights='nf4': nf4 quantises 64 inputs together"):
        small.hold_weights("nf4")
