"""Skeletons and DensePose."""

import numpy as np
import pytest
import tiny_models
import torch
import transformers

from unityvideo_jax import modalities
from unityvideo_jax.annotators.densepose import DensePoseScript
from unityvideo_jax.annotators.detection import Detector
from unityvideo_jax.annotators.skeleton import ViTPose
from unityvideo_jax.errors import UserError

FRAMES = tiny_models.frames()


def vitpose(**values):
    return ViTPose(weights=tiny_models.vitpose(), detector=tiny_models.detector(), **values)


def walking(self, frames):
    """Two people who walk, found in any order; the second from frame 1 on."""
    found = []
    for t in range(len(frames)):
        people = [[5 + t, 4, 25 + t, 44], [40 - t, 8, 60 - t, 40]][: 1 + (t > 0)]
        found.append(np.asarray(people[:: -1 if t % 2 else 1], np.float32))
    return found


def test_joints_are_those_of_transformers_in_the_order_of_first_sight(monkeypatch):
    monkeypatch.setattr(Detector, "__call__", walking)
    arrays = vitpose(visible=0.2, present=0.1, batch_size=3)(FRAMES)
    codec = modalities.get("skeleton").codec
    modalities.check_clip(codec, {**arrays, "rgb": FRAMES})
    assert arrays["keypoints"].shape == (5, 2, 17, 2)
    assert (arrays["visibility"][0, 1] == 0).all()
    model = transformers.VitPoseForPoseEstimation.from_pretrained(tiny_models.vitpose()).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tiny_models.vitpose())
    for t in range(5):
        for person, box in enumerate([[5 + t, 4, 20, 40], [40 - t, 8, 20, 32]][: 1 + (t > 0)]):
            boxes = [np.asarray([box], np.float32)]
            inputs = processor(images=FRAMES[t], boxes=boxes, return_tensors="pt")
            with torch.no_grad():
                outputs = model(**inputs)
            ((result,),) = processor.post_process_pose_estimation(outputs, boxes=boxes)
            points = result["keypoints"].numpy() + 0.5
            np.testing.assert_allclose(arrays["keypoints"][t, person], points, atol=0.01)
            scores = result["scores"].numpy()
            expected = (scores >= 0.2).astype(int) + (scores >= 0.1)
            assert (arrays["visibility"][t, person] == expected).all()


def test_those_seen_longest_are_chosen(monkeypatch):
    monkeypatch.setattr(Detector, "__call__", walking)
    assert vitpose(max_people=1)(FRAMES)["keypoints"].shape[1] == 1


def test_nobody_is_an_empty_skeleton(monkeypatch):
    monkeypatch.setattr(Detector, "__call__", lambda s, f: [np.zeros((0, 4), np.float32)] * len(f))
    arrays = vitpose()(FRAMES)
    assert arrays["keypoints"].shape == (5, 0, 17, 2)
    codec = modalities.get("skeleton").codec
    modalities.check_clip(codec, {**arrays, "rgb": FRAMES})


def test_other_joints_are_refused():
    with pytest.raises(UserError, match="gives 21 joints"):
        ViTPose(weights=tiny_models.vitpose(21), detector=tiny_models.detector()).setup()


def test_densepose_charts_land_where_their_boxes_are():
    arrays = DensePoseScript(weights=tiny_models.densepose())(FRAMES)
    codec = modalities.get("densepose").codec
    modalities.check_clip(codec, arrays)
    # The sure person: columns -8 to 32 of 64, a quarter of the box (to column 2) background.
    part = arrays["part"][0]
    assert (part[:, 3:32] == 3).all() and (part[:, :1] == 0).all()
    # The other: columns 16 to 48 and rows 24 on, below the first where they overlap.
    assert (part[25:, 32:48] == 7).all() and (part[:24, 32:] == 0).all()
    u, v = arrays["uv"][0, :, 3:32, 0], arrays["uv"][0, :, 3:32, 1]
    x = (np.arange(3, 32) + 0.5 + 8) / 40
    np.testing.assert_allclose(u[0], np.clip(1.2 * (x * 16 - 0.5) / 15, 0, 1), atol=1e-5)
    y = (np.arange(48) + 0.5) / 48
    np.testing.assert_allclose(v[:, 0], np.clip((y * 16 - 0.5) / 15, 0, 1), atol=1e-5)
    only = DensePoseScript(weights=tiny_models.densepose(), threshold=0.9)(FRAMES)["part"]
    assert set(np.unique(only)) == {0, 3}


def test_scripts_of_another_interface_are_named(tmp_path):
    class Other(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"pred_boxes": image}

    torch.jit.script(Other()).save(str(tmp_path / "other.pt"))
    with pytest.raises(UserError, match="gives no scores"):
        DensePoseScript(weights=str(tmp_path / "other.pt"))(FRAMES)
    (tmp_path / "none.pt").write_bytes(b"x")
    with pytest.raises(UserError, match="does not load as TorchScript"):
        DensePoseScript(weights=str(tmp_path / "none.pt")).setup()
