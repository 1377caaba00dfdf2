"""What the numbers of a run are of, on models whose samples and errors are known."""

import dataclasses

import numpy as np
import pytest
from synthetic_clips import clip, people
from tiny_pipeline import quick_compile, tiny_parts  # noqa: F401

from unityvideo_jax import modalities
from unityvideo_jax.ablations import arms, measure
from unityvideo_jax.ablations.model import Model
from unityvideo_jax.ablations.truth import MeasureConfig, Truth
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.evaluation.physics.run import EncodedPairs, PhysicsRow, PhysicsScorer
from unityvideo_jax.sampling.pipeline import Pipeline

SIZE = dict(frames=9, height=32, width=32)
NAMES = ("rgb", "depth", "flow", "segmentation", "densepose")


def _batch(first: int, count: int) -> Batch:
    clips = [clip(**SIZE, seed=n) for n in range(first, first + 2)]
    index = np.arange(first, first + 2)
    return Batch(
        index=index,
        count=count,
        clip={key: np.stack([c[key] for c in clips]) for key in clips[0]},
        captions=[f"clip {n}" for n in index],
        prompts=[{"segmentation": f"people of {n}"} for n in index],
    )


class _Lossless:
    """An autoencoder whose latents are the video."""

    def encode(self, video, modality):
        return video

    decode = encode


@pytest.fixture(scope="module")
def truth():
    settings = MeasureConfig(
        clips=3, estimated=3, skeletons=1, joint=2, zero_shot=2, animals=0, batch_size=2
    )
    found = Truth(_Lossless(), lambda name: modalities.get(name).codec, {}, NAMES, settings)
    found.people, found.objects = [_batch(0, 2), _batch(2, 1)], [_batch(10, 2)]
    return found


class _Knows(Model):
    """Samples the truth, and has errors that say of which stream and task they are."""

    def __init__(self, truth):
        self.truth, self.settings, self.sampler, self.asked = truth, truth._settings, None, []

    def errors(self, names, batch, latents):
        tasks = 1 if len(names) == 1 else 3
        errors = np.zeros((batch.count, tasks, 8, len(names)))
        for task in range(tasks):
            errors[:, task] = (
                task + 10 * np.arange(len(names)) + batch.index[: batch.count, None, None]
            )
        return errors

    def sample(self, names, wanted, batch, given, sampler):
        assert set(given) == set(names) - set(wanted)
        return {name: self.truth.drawn(batch, name) for name in wanted}

    def estimate(self, name, batch, rgb, **texts):
        self.asked.append(texts.get("prompts", {}).get(name))
        return self.truth.drawn(batch, name)


def _arm(name):
    arm = arms.load(name)
    weights = {n: w for n, w in arm.config.data.modality_weights.items() if n in NAMES}
    arm.config.model.modalities = NAMES
    with arm.config.unlocked():
        arm.config.data.modality_weights = weights
    return arm


def test_losses_are_those_of_the_tasks_that_an_arm_trains(truth):
    # Clips 0, 1, 2 have the mean 1; tasks are control, estimation, joint; RGB is the first stream.
    found = measure.losses(_Knows(truth), _arm("flow"), truth)
    assert found == {
        "rgb_loss/alone": 1.0,
        "rgb_loss/control+flow": 1.0,
        "estimation_loss/flow": 12.0,
        "rgb_loss/joint+flow": 3.0,
        "rgb_loss/control": 1.0,
        "estimation_loss": 12.0,
        "rgb_loss/joint": 3.0,
    }
    only = measure.losses(_Knows(truth), _arm("only_joint"), truth)
    assert {key.partition("+")[0] for key in only} == {"rgb_loss/alone", "rgb_loss/joint"}
    assert measure.losses(_Knows(truth), arms.load("rgb"), truth) == {"rgb_loss/alone": 1.0}


def test_the_truth_has_perfect_scores_and_no_distance_from_itself(truth):
    model, drawn = _Knows(truth), {}
    controlled = []

    def control(name, batch, rgb):
        controlled.append((name, len(rgb)))
        return []

    numbers = measure.sampled(model, _arm("all"), truth, control, drawn.__setitem__)
    ways = {key.partition("/")[2] for key in numbers if key.startswith("frechet_proxy/")}
    singles = {f"{way}+{m}" for way in ("joint", "control") for m in measure.SAMPLED}
    assert ways == singles | {"alone", "joint", "control", "control+segmentation"}
    assert all(numbers[f"frechet_proxy/{way}"] < 1e-9 for way in ways)
    assert [name for name, _ in controlled] == ["depth"] * 2 + ["segmentation"] * 2
    assert set(drawn) == {f"samples/{way}" for way in ways - {"joint", "control"}}

    scores = measure.estimates(model, _arm("all"), truth, drawn.__setitem__)
    assert scores[modalities.get("segmentation").metric.headline] > 0.95
    assert scores[f"zero_shot/objects/{modalities.get('segmentation').metric.headline}"] > 0.95
    assert scores[modalities.get("depth").metric.headline] < 0.02
    # Objects are asked for by their own prompts, then by those of the validation worlds.
    assert model.asked[-2:] == [None, ["people of 1", "people of 2"]]
    assert measure.estimates(model, _arm("only_joint"), truth, drawn.__setitem__) == {}


def test_skeletons_of_animals_are_scored_by_masks_where_there_are_no_people(truth, monkeypatch):
    animals, person = _batch(20, 2), people(SIZE["frames"], 64, 64, count=1)
    skeleton = modalities.get("skeleton").codec.encode(
        {**clip(**SIZE), "rgb": np.zeros((SIZE["frames"], 64, 64, 3), np.float32),
         "keypoints": person[0], "visibility": person[1]}
    )[0]  # fmt: skip
    # The first clip has a person, so that only the second counts; a mask covers its left half.
    animals.clip["visibility"] = np.stack([person[1], 0 * person[1]])
    segments = np.zeros((2, SIZE["frames"], 64, 64), np.int32)
    segments[1, :, :, :32] = 1
    animals.clip["segments"] = segments
    animals = dataclasses.replace(animals, prompts=[{"segmentation": "mask the two dogs"}] * 2)
    truth.animals = [animals]
    model = _Knows(truth)
    monkeypatch.setattr(
        model, "estimate",
        lambda name, batch, rgb, prompts: (
            model.asked.append(prompts[name]), np.stack([np.asarray(skeleton)] * 2)
        )[1],
    )  # fmt: skip
    found = measure._animals(model, truth, lambda title, rows: None)
    assert model.asked == [["the skeleton of the two dogs"] * 2]
    assert found["zero_shot/animals/clips"] == 1 and found["zero_shot/animals/found"] == 1.0
    left = (person[0][..., 0] < 32).mean()
    assert found["zero_shot/animals/keypoints_in_masks"] == pytest.approx(left, abs=0.15)


def test_outcomes_of_pairs_are_kept_one_by_one(truth):
    losses = {"vanishing_00": [1.0, 2.0], "shadow_00": [2.0, 1.0], "shape_00": [1.0, 1.0]}

    class Scorer(PhysicsScorer):
        names = ("depth", "flow")
        config = dataclasses.make_dataclass("Config", ["batch_size"])(8)

        def __init__(self):
            pass

        def encode(self, jobs):
            return object.__new__(EncodedPairs)

        def score(self, encoded, names):
            assert names == ["flow"]
            both = {"likephys_t5": lambda v: {"rgb": v, "rgb+flow": v[::-1]},
                    "likephys_t5_shuffled": lambda v: {"rgb": [1.0, 1.0]}}  # fmt: skip
            return {
                name: PhysicsRow(losses={p: make(v) for p, make in both.items()})
                for name, v in losses.items()
            }

    model = _Knows(truth)
    model.physics = Scorer()
    _, outcomes = measure.plausibility(model, _arm("flow"), truth)
    assert outcomes == {"rgb": "01=", "rgb+flow": "10=", "rgb_shuffled": "==="}


@pytest.mark.slow
def test_samples_are_the_pipelines_own():
    pipeline = Pipeline(**tiny_parts(num_frames=9))
    settings = MeasureConfig(clips=2, estimated=2, skeletons=2, joint=2, batch_size=2, steps=2)
    model = Model(pipeline, settings)
    batch = _batch(4, 2)
    rng = np.random.default_rng(0)
    given = rng.uniform(-1, 1, (2, 9, 32, 32, 3)).astype(np.float32)
    ours = model.sample(
        ("rgb", "depth"), ("rgb",), batch,
        {"depth": np.asarray(pipeline.encode(given, "depth"))}, model.sampler,
    )  # fmt: skip
    theirs = pipeline(
        batch.captions, given={"depth": given}, wanted=("rgb",), seed=[4, 5],
        sampler=model.sampler,
    )  # fmt: skip
    assert set(ours) == {"rgb"}
    np.testing.assert_allclose(ours["rgb"], theirs.videos["rgb"], atol=1e-5)
    with pytest.raises(UserError, match="--measure=joint=9: give at most clips"):
        MeasureConfig(clips=4, estimated=2, skeletons=1, joint=9)
