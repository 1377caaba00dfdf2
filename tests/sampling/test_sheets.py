import functools

import jax
import numpy as np
from PIL import Image
from tiny_pipeline import (  # noqa: F401
    quick_compile,
    tiny_params,
    tiny_pipeline,
    tiny_vae,
)

from unityvideo_jax import media
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.sheets import TrainingSheets

RNG = np.random.default_rng(0)
PARAMS = tiny_params()


@functools.cache
def sheets():
    batch = {
        "latents": RNG.normal(size=(4, 2, 2, 4, 4, 4)).astype(np.float32),
        "modality": np.array([[0, 2], [0, 2], [0, 1], [0, 2]], np.int32),
        "context": RNG.normal(size=(4, 2, 16, 256)).astype(np.float32),
        "index": np.arange(4, dtype=np.int32),
    }
    arguments = dict(
        null_text=np.zeros((16, 256), np.float32),
        modalities=("rgb", "depth", "flow"),
        sampler=SamplerConfig(steps=2, text_guidance=1.0, solver="euler"),
        count=2,
    )
    return batch, TrainingSheets(tiny_pipeline().velocity, tiny_vae(), batch, **arguments)


def test_records_of_different_modalities_come_first():
    _, made = sheets()
    labels = [label for label, _ in made.rows(PARAMS)]
    assert labels[:6] == [
        "rgb: truth",
        "rgb: control by flow",
        "rgb: joint",
        "flow: truth",
        "flow: estimation",
        "flow: joint",
    ]
    assert labels[6:] == [label.replace("flow", "depth") for label in labels[:6]]


def test_truth_is_decoded_and_samples_depend_on_the_weights():
    batch, made = sheets()
    rows = dict(made.rows(PARAMS)[:6])
    truth = tiny_vae().decode(batch["latents"][:1, 1])
    np.testing.assert_array_equal(rows["flow: truth"], media.to_uint8(np.asarray(truth))[0])
    again = dict(made.rows(PARAMS)[:6])
    other = dict(made.rows(tiny_params(1))[:6])
    for label, frames in rows.items():
        np.testing.assert_array_equal(frames, again[label])
        assert (frames == other[label]).all() == label.endswith("truth")


def test_sheets_are_png_files(tmp_path):
    _, made = sheets()
    made(PARAMS, 40, tmp_path / "samples" / "40.png")
    with Image.open(tmp_path / "samples" / "40.png") as image:
        assert image.width >= 64 and image.height >= 12 * 32


def test_sharded_parameters_give_the_same_sheet():
    """As in training: under a mesh, each weight split over the devices where it divides."""
    _, made = sheets()
    expected = made.rows(PARAMS)[:6]
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))

    def split(weight):
        axes = [a for a in range(weight.ndim) if weight.shape[a] % 2 == 0]
        spec = [None] * weight.ndim
        if axes:
            spec[axes[-1]] = "fsdp"
        return jax.device_put(weight, jax.NamedSharding(mesh, jax.P(*spec)))

    with jax.set_mesh(mesh):
        sharded = made.rows(jax.tree.map(split, PARAMS))[:6]
    for (label, frames), (_, other) in zip(expected, sharded, strict=True):
        difference = np.abs(frames.astype(int) - other)
        assert difference.mean() < 0.5 and np.percentile(difference, 99) <= 8, label


def test_texts_and_guidance_are_those_that_evaluate_uses(monkeypatch):
    """Of the pipeline: prompts are dropped as in training, and estimation has no caption."""
    rng = np.random.default_rng(1)
    context = rng.normal(size=(1, 2, 16, 256)).astype(np.float32)
    null = np.zeros((16, 256), np.float32)
    batch = {
        "latents": np.zeros((1, 2, 1, 4, 4, 4), np.float32),
        "modality": np.array([[0, 1]], np.int32),
        "context": context,
    }
    for drops_prompts in (False, True):
        made = TrainingSheets(
            tiny_pipeline().velocity,
            tiny_vae(),
            batch,
            null_text=null,
            modalities=("rgb", "depth"),
            sampler=SamplerConfig(steps=2, text_guidance=5.0),
            drops_prompts=drops_prompts,
        )
        calls = []

        def sample(params, latents, ids, texts, nulls, key, *, calls=calls, **how):
            calls.append((how["wanted"], texts, nulls, how["sampler"].text_guidance))
            return latents

        monkeypatch.setattr(made, "_sample", sample)
        monkeypatch.setattr(made, "_frames", lambda *_: [np.zeros((1, 2, 2, 3), np.uint8)])
        made.rows(None)
        prompt = null if drops_prompts else context[0, 1]
        for wanted, texts, nulls, guidance in calls:
            estimation = wanted == (False, True)
            np.testing.assert_array_equal(texts[0, 0], null if estimation else context[0, 0])
            np.testing.assert_array_equal(texts[0, 1], context[0, 1])
            np.testing.assert_array_equal(nulls[0], np.stack([null, prompt]))
            # Without a caption and with the prompt kept there is no text to guide by.
            assert guidance == (1.0 if estimation and not drops_prompts else 5.0)
        assert len(calls) == 3


def test_a_model_of_rgb_alone_has_sheets_of_what_it_makes_of_text():
    batch, _ = sheets()
    alone = {name: x[:, :1] for name, x in batch.items() if name != "index"}
    made = TrainingSheets(
        tiny_pipeline().velocity,
        tiny_vae(),
        alone,
        null_text=np.zeros((16, 256), np.float32),
        modalities=("rgb",),
        sampler=SamplerConfig(steps=2, text_guidance=1.0, solver="euler"),
        count=1,
    )
    assert [label for label, _ in made.rows(PARAMS)] == ["rgb: truth", "rgb: joint"]
