"""Agreement of joint samples: which sets are sampled, and what stands beside the model."""

import numpy as np
import pytest

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import joint
from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.samples import Samples

SIZE = dict(num_frames=3, height=64, width=64)
SEED = 100


def clip(number: int) -> dict[str, np.ndarray]:
    """A square that stands nearer than the wall behind it and moves right; a place per clip."""
    frames, height, width = SIZE.values()
    segments = np.zeros((frames, height, width), np.int32)
    top, left = 8 + 24 * (number % 2), 4 + 8 * number
    for t in range(frames):
        segments[t, top : top + 20, left + 4 * t : left + 4 * t + 20] = 1
    body = segments > 0
    return {
        "rgb": np.zeros((*body.shape, 3), np.float32),
        "segments": segments,
        "depth": np.where(body, 2.0, 6.0).astype(np.float32),
        "flow": np.where(body[..., None], np.float32([4.0, 0.0]), np.float32(0)),
        "part": 2 * body.astype(np.int32),
        "uv": np.full((*body.shape, 2), 0.5, np.float32),
    }


class Oracle(Pipeline):
    """Samples the truth of clip `seed - SEED`. Its VAE loses nothing."""

    def __init__(self):
        self.modalities = ("rgb", "depth", "flow", "segmentation", "densepose")
        self.config = {"data": SIZE}

    def codec(self, name):
        return modalities.get(name).codec

    def encode(self, video, name):
        return video

    def decode(self, latents, name):
        return latents

    def __call__(self, prompts, *, given, wanted, modality_prompts, sampler, seed, **size):
        assert size == SIZE and not given and set(modality_prompts) == set(wanted) - {"rgb"}
        clips = [clip(one - SEED) for one in seed]
        videos = {
            name: np.stack([np.asarray(self.codec(name).encode(c)[0]) for c in clips])
            for name in wanted
        }
        return Samples(videos=videos, latents={}, streams=tuple(wanted))


def batches():
    rows = [clip(number) for number in range(3)]
    # The truth's masks of the last clip show another thing than its bodies.
    rows[2] = rows[2] | {"segments": np.roll(rows[2]["segments"], 32, axis=1)}
    for index in ([0, 1], [2, 2]):
        yield Batch(
            index=np.array(index, np.int32),
            count=2 - (index[0] == index[1]),
            clip={key: np.stack([rows[i][key] for i in index]) for key in rows[0]},
            captions=[f"clip {i}" for i in index],
            prompts=[{"segmentation": "segment it"} for _ in index],
        )


def test_the_truth_agrees_and_shuffled_clips_do_not():
    oracle, drawn = Oracle(), []
    sets = joint.stream_sets(oracle.modalities, 4)
    assert sets == [
        ("rgb", "depth", "segmentation"),
        ("rgb", "flow", "segmentation"),
        ("rgb", "segmentation", "densepose"),
        ("rgb", "depth", "flow", "segmentation"),
        ("rgb", "depth", "segmentation", "densepose"),
    ]
    found = joint.measure(
        oracle,
        batches(),
        sets,
        SamplerConfig(steps=1),
        joint.JointConfig(clips=3, seed=SEED),
        lambda number, caption, rows: drawn.append((number, caption, [name for name, _ in rows])),
    )
    assert drawn == [(i, f"clip {i}", [*sets[3], *sets[4]]) for i in range(3)]
    assert found.captions == {i: f"clip {i}" for i in range(3)}
    keys = {
        f"agreement/{name}/joint_{s}"
        for name in ("depth_edge_auc", "moved_mask_iou", "body_mask_iou")
        for s in (3, 4)
    }
    means = {
        system: [getattr(found, system)[i].means for i in range(3)]
        for system in ("model", "ceiling", "floor")
    }
    for key in keys:
        for i in range(2):
            assert means["model"][i][key] == means["ceiling"][i][key]
            assert means["model"][i][key][0] > 0.8 > means["floor"][i][key][0] + 0.1
            assert found.model[i].counts[f"{key}/clips"] == 1
    assert means["model"][0]["agreement/moved_mask_iou/joint_3/still"][0] == pytest.approx(2 / 3)
    # What the truth's own streams do not share is not asked of the model.
    assert "agreement/body_mask_iou/joint_3" not in means["model"][2]


def test_sets_hold_every_pair_and_no_more_streams_than_asked_for():
    names = ("rgb", "depth", "flow", "segmentation", "skeleton", "densepose")
    for streams in (3, 4, 5, 6):
        sets = joint.stream_sets(names, streams)
        assert {len(one) for one in sets} == {3, streams}
        largest = [one for one in sets if len(one) == streams]
        for pair in modalities.agreements():
            assert any(set(pair) <= set(one) for one in largest)
    assert len(joint.stream_sets(names, 4)) == 4 + 2 and len(joint.stream_sets(names, 6)) == 4 + 1
    # Fewer than three streams cannot hold a pair beside RGB: they are only looked at.
    assert joint.stream_sets(names, 2) == [("rgb", name) for name in names[1:]]
    assert joint.stream_sets(names, 1) == joint.stream_sets(("rgb",), 4) == [("rgb",)]


def test_one_sample_has_no_other_to_be_shuffled_with():
    with pytest.raises(UserError, match="at least 2 joint samples"):
        joint.JointConfig(clips=1)
