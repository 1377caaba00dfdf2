import numpy as np
import pytest
import tiny_models
import torch
import transformers
from PIL import Image

from unityvideo_jax.annotators.detection import Detector
from unityvideo_jax.curation import stage
from unityvideo_jax.curation.people import People
from unityvideo_jax.curation.stage import Clip, Job
from unityvideo_jax.errors import UserError

FRAMES = tiny_models.frames()


@pytest.mark.parametrize("labels", [(), ("dog",)])
def test_boxes_are_those_of_transformers_pipeline(labels):
    pipe = transformers.pipeline("object-detection", model=tiny_models.detector(), device="cpu")
    found = Detector(weights=tiny_models.detector(), labels=labels, threshold=0.05, batch_size=2)(
        FRAMES
    )
    count = 0
    for frame, boxes in zip(FRAMES, found, strict=True):
        reference = pipe(Image.fromarray(frame), threshold=0.05)
        rows = [
            [min(max(r["box"][k], 0), limit) for k, limit in
             (("xmin", 64), ("ymin", 48), ("xmax", 64), ("ymax", 48))]
            for r in reference if not labels or r["label"] in labels
        ]  # fmt: skip
        # The pipeline cuts to whole pixels, which hides boxes of one.
        sizes = [(r[2] - r[0], r[3] - r[1]) for r in rows]
        rows = [r for r, s in zip(rows, sizes, strict=True) if min(s) > 1]
        for row in rows:
            assert np.abs(boxes - np.asarray(row)).max(axis=1).min() <= 1.0
        count += len(rows)
        assert len(rows) <= len(boxes)
    assert count > 3


def test_text_finds_what_transformers_finds():
    folder = tiny_models.text_detector()
    found = Detector(weights=folder, prompt="a person. dog.", threshold=0.2)(FRAMES[:2])
    model = transformers.OwlViTForObjectDetection.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    for frame, boxes in zip(FRAMES, found, strict=False):
        inputs = processor(text=[["a person", "dog"]], images=frame, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        (result,) = processor.image_processor.post_process_object_detection(
            outputs, threshold=0.2, target_sizes=torch.tensor([[48, 64]])
        )
        limits = torch.tensor([64.0, 48.0, 64.0, 48.0])
        reference = torch.minimum(result["boxes"].clamp(min=0), limits).numpy()
        keep = (reference[:, 2:] - reference[:, :2] >= 1).all(1)
        order = np.argsort(-result["scores"].numpy()[keep], kind="stable")
        np.testing.assert_allclose(boxes, reference[keep][order], atol=1e-3)
        assert len(boxes) > 1


def test_unknown_classes_are_named():
    with pytest.raises(UserError, match="knows no class 'unicorn'"):
        Detector(weights=tiny_models.detector(), labels=("unicorn",)).setup()


def test_people_are_counted_by_the_median(monkeypatch):
    clip = Clip(key="a", video="v", frames=FRAMES)
    job = Job(source="", workdir="")
    counter = People(weights=tiny_models.detector(), threshold=0.05)
    (real,) = stage.run((counter,), clip, job).clips
    assert real.scores["people"] >= 0 and not real.rejected_by
    boxes = [np.zeros((n, 4), np.float32) for n in (2, 2, 0, 5, 2)]
    monkeypatch.setattr(Detector, "__call__", lambda self, frames: boxes)
    (counted,) = stage.run((counter,), clip, job).clips
    assert counted.scores["people"] == 2
    (skipped,) = stage.run((People(),), clip, job).clips
    assert "people" not in skipped.scores and "skipped" in skipped.notes["people"]
