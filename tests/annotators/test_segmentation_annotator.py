import numpy as np
import pytest
import tiny_models
import torch
import transformers
from PIL import Image

from unityvideo_jax import modalities
from unityvideo_jax.annotators import base
from unityvideo_jax.annotators.detection import Detector
from unityvideo_jax.annotators.mask2former import Mask2Former
from unityvideo_jax.annotators.sam2 import SAM2
from unityvideo_jax.errors import UserError

FRAMES = tiny_models.frames()
CODEC = modalities.get("segmentation").codec
BOXES = ((0.1, 0.1, 0.5, 0.6), (0.5, 0.5, 0.9, 0.9))


def streamed(boxes):
    """SAM 2 given one frame after the other: transformers' other way of running it."""
    model = transformers.Sam2VideoModel.from_pretrained(tiny_models.sam2()).eval()
    session = transformers.Sam2VideoInferenceSession(
        video_height=48, video_width=64, dtype=torch.float32
    )
    (images,) = base.batches(FRAMES, len(FRAMES))
    images = base.normalise(base.resize(images, 64, 64))
    segments = []
    for t, image in enumerate(images):
        if t == 0:
            for n, box in enumerate(boxes, 1):
                corners = torch.tensor(box).reshape(1, 1, 2, 2) * 64
                labels = torch.tensor([[[2, 3]]], dtype=torch.int32)
                inputs = {"point_coords": corners, "point_labels": labels}
                session.add_point_inputs(session.obj_id_to_idx(n), 0, inputs)
            session.obj_with_new_inputs = list(range(1, len(boxes) + 1))
        with torch.no_grad():
            masks = model(session, frame=image[None]).pred_masks
        full = torch.nn.functional.interpolate(masks, (48, 64), mode="bilinear")[:, 0].numpy()
        segments.append(np.where((full > 0).any(0), full.argmax(0) + 1, 0))
    return np.stack(segments)


def test_sam2_tracks_given_boxes_as_when_it_is_streamed():
    segments = SAM2(weights=tiny_models.sam2(), boxes=BOXES)(FRAMES)["segments"]
    modalities.check_clip(CODEC, {"segments": segments})
    assert len(np.unique(segments)) == 3
    assert (segments == streamed(BOXES)).mean() > 0.999


def test_sam2_takes_up_what_appears_later(monkeypatch):
    looked = []

    def detect(self, frames):
        looked.append(len(frames))
        boxes = [[BOXES[0]], [], [BOXES[0], BOXES[1]]]
        scale = np.asarray([64, 48, 64, 48], np.float32)
        return [np.asarray(b, np.float32).reshape(-1, 4) * scale for b in boxes]

    monkeypatch.setattr(Detector, "__call__", detect)
    network = SAM2(weights=tiny_models.sam2(), detector=tiny_models.detector(), every=2)
    segments = network(FRAMES)["segments"]
    assert looked == [3] and segments[:4].max() == 1 and segments[4].max() > 1
    few = SAM2(
        weights=tiny_models.sam2(), detector=tiny_models.detector(), every=2, max_instances=1
    )
    assert few(FRAMES)["segments"].max() == 1


def test_sam2_finds_nothing_where_nothing_is_detected():
    network = SAM2(weights=tiny_models.sam2(), detector=tiny_models.detector(), threshold=0.999)
    assert network(FRAMES)["segments"].max() == 0


def test_sam2_needs_boxes_or_a_detector():
    for values in ({}, {"boxes": BOXES, "detector": "d"}):
        with pytest.raises(UserError, match="either boxes or a detector"):
            SAM2(weights="w", **values)
    with pytest.raises(UserError, match="four shares"):
        SAM2(weights="w", boxes=((0, 0, 2, 1),))


def test_mask2former_finds_the_masks_of_transformers_pipeline():
    folder = tiny_models.mask2former()
    network = Mask2Former(weights=folder, threshold=0.3, batch_size=2)
    segments = network(FRAMES)["segments"]
    modalities.check_clip(CODEC, {"segments": segments})
    pipe = transformers.pipeline("image-segmentation", model=folder, device="cpu")
    for frame, found in zip(FRAMES, segments, strict=True):
        image = Image.fromarray(frame)
        reference = pipe(image, subtask="instance", threshold=0.3)
        wanted = sorted(np.asarray(r["mask"]).astype(bool).tobytes() for r in reference)
        masks = [found == n for n in np.unique(found[found > 0])]
        assert sorted(m.tobytes() for m in masks) == [w for w in wanted if any(w)]
    assert segments.max() > 0


def test_mask2former_names_the_same_thing_alike_over_time():
    still = FRAMES[:1].repeat(4, axis=0)
    segments = Mask2Former(weights=tiny_models.mask2former(), threshold=0.3)(still)["segments"]
    assert segments.max() > 0 and (segments == segments[0]).all()


def test_mask2former_keeps_the_wanted_classes():
    folder = tiny_models.mask2former()
    both = Mask2Former(weights=folder, threshold=0.3)(FRAMES[:2])["segments"] > 0
    parts = [
        Mask2Former(weights=folder, threshold=0.3, labels=(n,))(FRAMES[:2])["segments"] > 0
        for n in ("person", "dog")
    ]
    assert (parts[0] | parts[1] == both).all() and not (parts[0] & parts[1]).any()
    with pytest.raises(UserError, match="no class 'cat'"):
        Mask2Former(weights=folder, labels=("cat",)).setup()
