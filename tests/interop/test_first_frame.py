"""Image to video and video to video of Wan: our whole call against diffusers' pipelines."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanVideoToVideoPipeline,
)
from diffusers.pipelines.wan import pipeline_wan_video2video
from PIL import Image
from tiny_pipeline import quick_compile  # noqa: F401
from wan_torch import our_config, torch_wan

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.interop.wan import load_dit
from unityvideo_jax.pretrained.vae import load_vae
from unityvideo_jax.sampling.generate import SamplerConfig, stream_noise
from unityvideo_jax.sampling.pipeline import Pipeline

PROMPTS = ["a dog runs off", "a red ball rolls"]
NEGATIVE = "green grass"
FRAMES, HEIGHT, WIDTH = 9, 32, 64
STEPS, SHIFT, GUIDANCE, SEED = 6, 5.0, 4.0, 7


@dataclasses.dataclass(frozen=True)
class RandomTexts:
    """A text encoder of random numbers, which the reference gets as they are."""

    name: str = "random"
    dim: int = 12
    length: int = 7

    def count(self, text):
        return 1

    def __call__(self, texts):
        generators = [np.random.default_rng(list(text.encode())) for text in texts]
        rows = [generator.standard_normal((self.length, self.dim)) for generator in generators]
        return np.stack(rows).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4, decoder_base_dim=4, z_dim=4, num_res_blocks=1, is_residual=True, patch_size=2,
        in_channels=12, out_channels=12, scale_factor_spatial=16,
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 2.0, 1.5, 0.7],
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler(
        solver_order=2, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
    )
    pipe = WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=torch_wan(),
        expand_timesteps=True,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipeline(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan22")
    reference.transformer.save_pretrained(folder / "transformer")
    reference.vae.save_pretrained(folder / "vae")
    model = our_config(modalities=("rgb",), switcher="none")
    made = Pipeline(
        load_dit(folder, model),
        vae=load_vae(folder / "vae"),
        text_encoder=RandomTexts(),
        num_frames=FRAMES,
        height=HEIGHT,
        width=WIDTH,
        fps=24.0,
        sampler=SamplerConfig(
            steps=STEPS, solver="unipc", text_guidance=GUIDANCE, shift=SHIFT, grid="diffusers"
        ),
    )
    velocity = made.velocity

    def with_whole_timesteps(params):
        # diffusers passes whole thousandths to the transformer.
        return lambda latents, timestep, *rest, **kwargs: velocity(params)(
            latents, jnp.floor(1000.0 * timestep) / 1000.0, *rest, **kwargs
        )

    made.velocity = with_whole_timesteps
    return made


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def test_whole_trajectory(reference, pipeline, image, parity):
    samples = pipeline(
        PROMPTS, wanted=("rgb",), first_frame=image, negative_prompt=NEGATIVE, seed=SEED
    )
    latents = samples.latents["rgb"]
    noise = stream_noise(jax.random.key(SEED), (2, 1, *latents.shape[1:]), 0)[:, 0]
    texts = pipeline.text_encoder
    steps = []
    result = reference(
        image=Image.fromarray(image),
        prompt_embeds=torch.from_numpy(texts(PROMPTS)),
        negative_prompt_embeds=torch.from_numpy(texts([NEGATIVE] * 2)),
        latents=torch.from_numpy(np.moveaxis(np.array(noise), -1, 1).copy()),
        num_frames=FRAMES,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="latent",
        callback_on_step_end=lambda pipe, i, t, tensors: steps.append(int(t)) or {},
    ).frames
    assert len(steps) == STEPS
    expected = np.moveaxis(result.numpy(), 1, -1)
    name = "image to video with a negative prompt, a whole trajectory (latents)"
    parity(name, "diffusers WanImageToVideoPipeline", latents, expected, bound=1e-4)
    # The frames after the image depend on it.
    other = pipeline(PROMPTS, wanted=("rgb",), first_frame=255 - image, seed=SEED).latents["rgb"]
    assert np.abs(other[:, 1:] - latents[:, 1:]).max() > 0.01

    first = pipeline.encode(media.to_float(image[None, None]), "rgb")
    np.testing.assert_array_equal(latents[:, :1], np.repeat(first, 2, axis=0))


def test_video_to_video(reference, pipeline, parity, monkeypatch):
    """The last four of six steps, from the film's own latents under our noise."""
    film = np.random.default_rng(1).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    call = dict(given={"rgb": film}, wanted=("rgb",), negative_prompt=NEGATIVE, seed=SEED)
    latents = pipeline(PROMPTS, **call, strength=0.7).latents["rgb"]
    noise = stream_noise(jax.random.key(SEED), (2, 1, *latents.shape[1:]), 0)[:, 0]
    drawn = torch.from_numpy(np.moveaxis(np.array(noise), -1, 1).copy())
    monkeypatch.setattr(pipeline_wan_video2video, "randn_tensor", lambda *_, **__: drawn)
    parts = ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")
    pipe = WanVideoToVideoPipeline(**{name: getattr(reference, name) for name in parts})
    pipe.vae_scale_factor_spatial = 16  # it counts the strides without Wan 2.2's patches
    pipe.set_progress_bar_config(disable=True)
    texts = pipeline.text_encoder
    steps = []
    result = pipe(
        video=[[Image.fromarray(frame) for frame in film]] * 2,
        prompt_embeds=torch.from_numpy(texts(PROMPTS)),
        negative_prompt_embeds=torch.from_numpy(texts([NEGATIVE] * 2)),
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        strength=0.7,
        guidance_scale=GUIDANCE,
        output_type="latent",
        callback_on_step_end=lambda pipe, i, t, tensors: steps.append(int(t)) or {},
    ).frames
    assert len(steps) == 4
    expected = np.moveaxis(result.numpy(), 1, -1)
    name = "video to video by strength, a whole trajectory (latents)"
    parity(name, "diffusers WanVideoToVideoPipeline", latents, expected, bound=1e-4)


def test_what_cannot_start_with_an_image_is_named(pipeline, image):
    with pytest.raises(UserError, match=r"first_frame: shape \(16, 64, 3\) is not"):
        pipeline("", wanted=("rgb",), first_frame=image[:16])
    with pytest.raises(UserError, match="first_frame: holds NaN"):
        pipeline("", wanted=("rgb",), first_frame=np.full(image.shape, np.nan, np.float32))
    with pytest.raises(UserError, match=r"height=48: must be a multiple of 32 pixels"):
        pipeline("", wanted=("rgb",), height=48)
