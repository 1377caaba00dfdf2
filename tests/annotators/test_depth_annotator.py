import pickle

import numpy as np
import pytest
import tiny_models
import torch
import transformers

from unityvideo_jax import modalities
from unityvideo_jax.annotators.depth import DepthAnything, VideoDepth, from_relative_disparity
from unityvideo_jax.errors import UserError

FRAMES = tiny_models.frames()


def expected(folder):
    """Each frame alone through transformers, enlarged as the authors' code does."""
    model = transformers.AutoModelForDepthEstimation.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    found = []
    for frame in FRAMES:
        with torch.no_grad():
            predicted = model(**processor(images=frame, return_tensors="pt")).predicted_depth
        full = torch.nn.functional.interpolate(
            predicted[None], FRAMES.shape[1:3], mode="bilinear", align_corners=True
        )
        found.append(full[0, 0].numpy())
    return np.stack(found)


def test_relative_depth_is_linear_in_the_networks_disparity_over_the_clip():
    folder = tiny_models.depth_anything()
    arrays = DepthAnything(weights=folder, batch_size=2)(FRAMES)
    modalities.check_clip(modalities.get("depth").codec, arrays)
    raw = expected(folder)
    share = (raw - raw.min()) / (raw.max() - raw.min())
    assert share.std() > 0.05
    np.testing.assert_allclose(1 / arrays["depth"], 0.02 + 0.98 * share, atol=1e-4)


def test_metric_depth_is_kept_in_metres():
    folder = tiny_models.depth_anything("metric")
    arrays = DepthAnything(weights=folder)(FRAMES)
    modalities.check_clip(modalities.get("depth").codec, arrays)
    np.testing.assert_allclose(arrays["depth"], np.maximum(expected(folder), 1e-3), atol=2e-4)


def test_constant_disparity_is_constant_depth():
    depth = from_relative_disparity(np.full((2, 4, 4), 3.0, np.float32))
    assert np.ptp(depth) == 0 and np.isfinite(depth).all()


class Windows(torch.nn.Module):
    """Mean of the channels, at a scale and shift that the window's first frame decides."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        grey = video.mean(2)
        return grey * (1.5 + grey[:, :1].mean()) + 3.0 * grey[:, :1].std()


@pytest.mark.parametrize("count", [5, 8, 13, 21])
def test_windows_of_a_video_network_are_brought_to_one_scale(tmp_path, count):
    path = tmp_path / "video.pt"
    torch.jit.script(Windows()).save(str(path))
    steps = np.random.default_rng(0).integers(0, 30, (count, 1, 1, 1))
    frames = (np.linspace(40, 180, 28 * 42).reshape(1, 28, 42, 1) + steps).astype(np.uint8)
    frames = frames.repeat(3, axis=-1)
    network = VideoDepth(weights=str(path), side=28, window=8, overlap=3)
    depth = pickle.loads(pickle.dumps(network))(frames)["depth"]
    mean, std = np.asarray([0.485, 0.456, 0.406]), np.asarray([0.229, 0.224, 0.225])
    grey = ((frames / 255 - mean) / std).mean(-1)
    np.testing.assert_allclose(
        1 / depth, 1 / from_relative_disparity(grey.astype(np.float32)), atol=2e-3
    )


def test_other_models_and_missing_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no weights at"):
        DepthAnything(weights=str(tmp_path / "none")).setup()
    with pytest.raises(UserError, match="does not load as AutoModelForDepthEstimation"):
        DepthAnything(weights=tiny_models.mask2former()).setup()
    with pytest.raises(UserError, match="overlap"):
        VideoDepth(weights="x", window=8, overlap=8)
