"""Small networks of random weights stand in for VBench's, saved in the format of the real ones."""

import itertools
import json
import pathlib
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.scores import aggregate
from unityvideo_jax.metrics.video import consistency, frames, fvd, motion, quality, table, text
from unityvideo_jax.metrics.video.base import load_script

RNG = np.random.default_rng(0)
SIZE = 32


def video(length=5, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (length, size, size, 3), np.uint8)


def run(metric, clip, fps=8.0, caption="a ball", reference=None):
    return metric.score(clip, fps=fps, caption=caption, reference=reference)


def value(metric, clip, **more):
    (pair,) = run(metric, clip, **more).means.values()
    return pair[0]


class Musiq(torch.nn.Module):
    def forward(self, x):
        return 100.0 * x.mean() * (x.shape[3] / 512.0)


class Middle(torch.nn.Module):
    def forward(self, first, last, time):
        assert first.shape[2] % 16 == 0 and first.shape[3] % 16 == 0
        return first * (1.0 - time) + last * time


class Shift(torch.nn.Module):
    """Flow to the right by the rise of the brightness."""

    def forward(self, first, second):
        assert first.shape[2] % 8 == 0 and first.shape[3] % 8 == 0
        speed = (second - first).mean()
        return torch.stack([speed + 0 * first[:, 0], 0 * first[:, 0]], dim=1)


class SeeColour(torch.nn.Module):
    def forward(self, x):
        assert x.shape == (1, 8, 3, 224, 224)
        return x.mean(dim=(1, 3, 4))


class ReadIds(torch.nn.Module):
    def forward(self, ids):
        assert ids.shape == (1, 32)
        return torch.stack([(ids == i).sum(dim=1).float() for i in (2, 3, 4)], dim=1)


class I3D(torch.nn.Module):
    def forward(self, x, rescale: bool, resize: bool, return_features: bool):
        assert x.shape[1] == 3 and x.shape[3:] == (224, 224)
        assert return_features and not rescale and not resize
        return torch.stack([x.mean(), x.std(), x[:, 0].mean(), x[:, :, 0].mean()])[None]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    size = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ViTModel(ViTConfig(**size, image_size=SIZE, patch_size=8)).save_pretrained(
        folder / "dino-vitb16"
    )
    for name in ("clip-vit-base-patch32", "clip-vit-large-patch14"):
        config = CLIPVisionConfig(**size, image_size=SIZE, patch_size=8, projection_dim=12)
        CLIPVisionModelWithProjection(config).save_pretrained(folder / name)
    torch.save(torch.nn.Linear(12, 1).state_dict(), folder / "sa_0_4_vit_l_14_linear.pth")
    scripts = {
        "musiq_spaq.pt": Musiq(),
        "amt_s.pt": Middle(),
        "raft_things.pt": Shift(),
        "viclip_vision.pt": SeeColour(),
        "viclip_text.pt": ReadIds(),
        "i3d_torchscript.pt": I3D(),
    }
    for name, module in scripts.items():
        torch.jit.script(module).save(str(folder / name))
    tokens = folder / "clip-tokenizer"
    tokens.mkdir()
    vocabulary = ["<|startoftext|>", "<|endoftext|>", "red</w>", "green</w>", "blue</w>"]
    vocabulary += sorted({c for word in ("red", "green", "blue") for c in word})
    vocabulary += [c + "</w>" for c in "dne"]
    vocabulary += ["re", "gr", "gre", "gree", "bl", "blu"]
    (tokens / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocabulary)}))
    merges = ["r e", "re d</w>", "g re", "gre e", "gree n</w>", "b l", "bl u", "blu e</w>"]
    (tokens / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return folder


def test_flickering_closed_forms(parity):
    metric = consistency.TemporalFlickering()
    still = np.repeat(video(1), 4, axis=0)
    assert value(metric, still) == 100.0
    black_white = np.stack([still[0] * 0, still[0] * 0 + 255] * 2)
    assert value(metric, black_white) == 0.0
    ramp = np.stack([np.full((4, 4, 3), 10 * t, np.uint8) for t in range(6)])
    expected = 100 * (255 - 10) / 255
    parity("vbench, temporal flickering", "by hand", value(metric, ramp), expected, bound=1e-9)
    assert value(metric, ramp[::-1]) == value(metric, ramp)  # uint8 does not wrap


def test_consistency_formula():
    """Unit vectors at 0, 60 and 180 degrees: cosines 1/2 and 1/2; then -1/2 and -1, both cut."""
    angles = np.radians([0, 60, 180])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1], [5], [0.1]]
    assert consistency.consistency(features) == pytest.approx((0.5 + 0.0) / 2)
    rotation = np.linalg.qr(RNG.normal(size=(9, 9)))[0]
    x = RNG.normal(1, 1, (6, 9))
    assert consistency.consistency(x @ rotation) == pytest.approx(consistency.consistency(x))
    assert consistency.consistency(np.ones((4, 3))) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["subject", "background"])
def test_features_equal_the_model_behind_its_own_processor(weights, name, parity):
    clip = video(11)
    images = list(clip)
    if name == "subject":
        metric = consistency.SubjectConsistency(weights)
        statistics = dict(zip(("image_mean", "image_std"), frames.IMAGENET, strict=True))
        inputs = ViTImageProcessor(do_resize=False, **statistics)(images, return_tensors="pt")
        model = ViTModel.from_pretrained(weights / "dino-vitb16").eval()
        with torch.no_grad():
            expected = model(**inputs).last_hidden_state[:, 0]
    else:
        metric = consistency.BackgroundConsistency(weights)
        processor = CLIPImageProcessor(do_resize=False, crop_size=SIZE)
        inputs = processor(images, return_tensors="pt")
        model = CLIPVisionModelWithProjection.from_pretrained(weights / "clip-vit-base-patch32")
        with torch.no_grad():
            expected = model.eval()(**inputs).image_embeds
    found = frames.features(clip, metric._features)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    cosine = torch.nn.functional.cosine_similarity
    sims = [
        (cosine(a, b, dim=0).clamp(min=0) + cosine(b, expected[0], dim=0).clamp(min=0)) / 2
        for a, b in itertools.pairwise(expected)
    ]
    ((key, (score, weight)),) = run(metric, clip).means.items()
    expected = 100 * float(torch.stack(sims).mean())
    parity(f"vbench, {name} consistency", "transformers", score, expected, bound=1e-6)
    assert weight == 10.0  # frames are pooled
    # Another network is another score, and says so.
    assert key.startswith(f"vbench_proxy/{name}_consistency_") and "16x2x8" in key


def test_the_real_sizes_take_vbenchs_name():
    config = ViTConfig()  # ViT-B/16 is transformers' default
    expected = {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 16}
    assert consistency.key_for("x", config, expected, "vit") == "vbench/x"


def test_other_sizes_are_resized_and_cropped(weights):
    metric = consistency.SubjectConsistency(weights)
    wide = RNG.integers(0, 256, (2, 40, 80, 3), np.uint8)
    assert frames.features(wide, metric._features).shape == (2, 16)
    tall = frames.resize_shorter(frames.tensor(wide), 20)
    assert tall.shape == (2, 3, 20, 40)
    cropped = frames.centre_crop(tall, 16)
    np.testing.assert_array_equal(cropped, tall[..., 2:18, 12:28])


def test_enlarging_equals_pillow():
    """When enlarging, antialiasing changes nothing, and Pillow's bilinear is the same filter."""
    frame = video(1, 12)[0]
    expected = np.asarray(Image.fromarray(frame).resize((29, 31), Image.Resampling.BILINEAR))
    found = frames.resize(frames.tensor(frame[None]), 31, 29)[0].permute(1, 2, 0)
    np.testing.assert_allclose(found, expected, atol=1.01)


def test_aesthetic_head(weights, parity):
    metric = quality.AestheticQuality(weights)
    clip = video(9)
    model = CLIPVisionModelWithProjection.from_pretrained(weights / "clip-vit-large-patch14")
    inputs = CLIPImageProcessor(do_resize=False, crop_size=SIZE)(list(clip), return_tensors="pt")
    head = torch.nn.Linear(12, 1)
    head.load_state_dict(torch.load(weights / "sa_0_4_vit_l_14_linear.pth"))
    with torch.no_grad():
        features = model.eval()(**inputs).image_embeds
        expected = head(torch.nn.functional.normalize(features, dim=-1)).mean() / 10
    found = value(metric, clip)
    parity("vbench, aesthetic quality", "transformers", found, 100 * float(expected), bound=1e-6)


def test_imaging_quality_shrinks_the_longer_side(weights):
    metric = quality.ImagingQuality(weights)
    grey = np.full((2, 100, 512, 3), 51, np.uint8)
    assert value(metric, grey) == pytest.approx(20.0, abs=1e-3)
    assert value(metric, np.full((1, 100, 1024, 3), 51, np.uint8)) == pytest.approx(20.0, abs=1e-3)
    assert value(metric, np.full((1, 64, 256, 3), 51, np.uint8)) == pytest.approx(10.0, abs=1e-3)


def test_smoothness_of_a_ramp_is_perfect_and_of_a_blink_is_not(weights):
    metric = motion.MotionSmoothness(weights)
    ramp = np.stack([np.full((20, 24, 3), 10 * t, np.uint8) for t in range(7)])
    assert value(metric, ramp) == pytest.approx(100.0, abs=100 / 255)
    blink = ramp * 0
    blink[1::2] = 51
    assert value(metric, blink) == pytest.approx(80.0)
    assert value(metric, blink[:4]) == pytest.approx(80.0)  # the last odd frame has no partner


def test_dynamic_degree(weights):
    metric = motion.DynamicDegree(weights)
    ramp = np.stack([np.full((64, 80, 3), 8 * t, np.uint8) for t in range(16)])  # 8 > 6 * 64/256
    assert value(metric, ramp) == 100.0
    assert value(metric, np.repeat(ramp[:1], 16, axis=0)) == 0.0
    # 16 frames ask for 4 moving pairs.
    for moving, expected in ((3, 0.0), (4, 100.0)):
        steps = np.minimum(np.arange(16), moving)
        assert value(metric, ramp[steps]) == expected
    # At 24 fps every third frame is looked at: 6 frames ask for round(1.5) = 2.
    assert value(metric, ramp[np.minimum(np.arange(16), 6)], fps=24.0) == 100.0
    assert value(metric, ramp[np.minimum(np.arange(16), 3)], fps=24.0) == 0.0
    assert not motion.is_dynamic([0.0], 2, 64)


def test_fast_motion_is_the_mean_of_the_fastest_twentieth():
    flow = np.zeros((2, 10, 10))
    flow[0, 0, :5], flow[1, 0, :5] = 3.0, 4.0
    assert motion.fast_motion(flow) == pytest.approx(5.0)
    flow[:, 5:] = 1.0
    assert motion.fast_motion(flow) == pytest.approx(5.0)
    assert motion.fast_motion(np.ones((2, 2, 2))) == pytest.approx(2**0.5)


def test_overall_consistency_reads_and_sees(weights):
    metric = text.OverallConsistency(weights)
    red = np.zeros((20, 64, 64, 3), np.uint8)
    red[..., 0] = 255
    scores = {word: value(metric, red, caption=word) for word in ("red", "green", "blue")}
    assert scores["red"] > 50 > scores["green"]
    assert metric.tokens("red blue")[:5] == [0, 2, 4, 1, 0]
    long = metric.tokens("red " * 50)
    assert len(long) == 32 and long[-1] == 1
    silent = run(metric, red, caption=" ")
    assert silent.counts == {"video/overall_consistency/clips_without_caption": 1}
    assert not silent.means


def test_middle_frames():
    np.testing.assert_array_equal(frames.middle_frames(8, 16), np.arange(8) * 2)
    np.testing.assert_array_equal(frames.middle_frames(8, 3), [0, 1, 2, 2, 2, 2, 2, 2])
    np.testing.assert_array_equal(frames.middle_frames(2, 10), [2, 7])


def test_fvd_is_the_frechet_distance_of_the_networks_features(weights):
    metric = fvd.FVD(weights)
    clips = [run(metric, video(10, 40, i), reference=video(12, 50, 90 + i)) for i in range(4)]
    found = aggregate(clips)
    assert found["fvd/i3d_kinetics400"] > 0 and found["fvd/i3d_kinetics400/videos"] == 4
    same = [run(metric, v, reference=v) for v in (video(10, 40, i) for i in range(4))]
    assert aggregate(same)["fvd/i3d_kinetics400"] == pytest.approx(0.0, abs=1e-9)
    white = np.full((10, 30, 40, 3), 255, np.uint8)
    np.testing.assert_allclose(metric.features(white), [1, 0, 1, 1], atol=1e-6)


def test_proxy_distinguishes_noise_from_video():
    metric = fvd.FrechetProxy()
    smooth = [np.sort(video(6, 40, i), axis=1) for i in range(6)]
    noise = [video(6, 40, 50 + i) for i in range(6)]
    pairs = {
        name: aggregate([run(metric, a, reference=b) for a, b in zip(smooth, other, strict=True)])
        for name, other in (("same", smooth[::-1]), ("noise", noise))
    }
    assert pairs["same"][fvd.PROXY] == pytest.approx(0.0, abs=1e-9)
    assert pairs["noise"][fvd.PROXY] > 1.0
    # A constant has one coefficient: sqrt(16 * 32 * 32) times its value.
    grey = np.full((3, 64, 48, 3), 255, np.uint8)
    expected = np.zeros(64)
    expected[0] = np.log1p(128.0)
    np.testing.assert_allclose(metric.features(grey), expected, atol=1e-9)
    assert aggregate([run(metric, noise[0], reference=noise[1])])[fvd.PROXY] is None


def test_short_videos_and_missing_references_are_counted(weights):
    still = run(consistency.TemporalFlickering(), video(1))
    assert still.counts == {"video/temporal_flickering/clips_too_short": 1} and not still.means
    alone = run(fvd.FrechetProxy(), video(4))
    assert alone.counts == {"video/frechet_proxy/clips_without_reference": 1}
    brief = run(fvd.FVD(weights), video(12), reference=video(9))
    assert brief.counts == {"video/fvd/clips_too_short": 1}


def test_without_weights_each_dimension_says_what_it_lacks(weights, tmp_path):
    ready, skipped = table.available(None)
    assert [m.name for m in ready] == ["temporal_flickering", "frechet_proxy"]
    assert len(skipped) == 8
    assert skipped["subject_consistency"] == (
        "subject_consistency is skipped: dino-vitb16 (no --weights folder is given; "
        "docs/evaluation.md says what)"
    )
    (tmp_path / "sa_0_4_vit_l_14_linear.pth").write_bytes(b"x")
    _, skipped = table.available(tmp_path)
    assert "clip-vit-large-patch14 (not in" in skipped["aesthetic_quality"]
    ready, skipped = table.available(weights)
    assert len(ready) == 10 and not skipped


def test_damaged_weights_are_named(tmp_path, weights):
    (tmp_path / "musiq_spaq.pt").write_bytes(b"not a network")
    with pytest.raises(UserError, match=r"musiq_spaq.pt: does not load as TorchScript"):
        load_script(tmp_path, "musiq_spaq.pt")
    (tmp_path / "dino-vitb16").mkdir()
    with pytest.raises(UserError, match="dino-vitb16: does not load as ViTModel"):
        consistency.SubjectConsistency(tmp_path)
    mixed = pathlib.Path(tmp_path / "mixed")
    mixed.mkdir()
    (mixed / "clip-vit-large-patch14").symlink_to(weights / "clip-vit-large-patch14")
    torch.save(torch.nn.Linear(7, 1).state_dict(), mixed / "sa_0_4_vit_l_14_linear.pth")
    with pytest.raises(UserError, match="use the head of the same network"):
        quality.AestheticQuality(mixed)


def test_missing_libraries_are_named(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"musiq_spaq.pt needs torch; pip install"):
        quality.ImagingQuality(weights)
    with pytest.raises(UserError, match="dino-vitb16 needs torch"):
        consistency.SubjectConsistency(weights)
    # What needs no network works without.
    assert value(consistency.TemporalFlickering(), video()) > 0
