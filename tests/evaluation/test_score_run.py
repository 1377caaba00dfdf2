import dataclasses
import functools

import jax
import numpy as np
import pytest
from tiny_pipeline import (  # noqa: F401
    quick_compile,
    tiny_model,
    tiny_parts,
)

from unityvideo_jax import modalities, worlds
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import score_run
from unityvideo_jax.evaluation.condition_gap import ConditionGapConfig
from unityvideo_jax.evaluation.heldout import HeldoutConfig
from unityvideo_jax.evaluation.row_store import RowStore
from unityvideo_jax.evaluation.score_run import BenchmarkConfig, RunRow
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.samples import Samples

# Large enough for the truth to score well after its codecs.
SIZE = dict(num_frames=5, height=64, width=64)
DEPTH = "depth/disparity_scale_shift_video"
SEGMENTATION = "segmentation/hungarian_clip"


@pytest.fixture(autouse=True)
def renders_single_clips(monkeypatch):
    """Renders the clips of a batch one by one: the renderer is compiled for one batch size."""

    def render(world, scenes, original=worlds.render):
        count = len(jax.tree.leaves(scenes)[0])
        single = (jax.tree.map(lambda x, n=n: x[n : n + 1], scenes) for n in range(count))
        return jax.tree.map(lambda *x: np.concatenate(x), *(original(world, s) for s in single))

    monkeypatch.setattr(worlds, "render", render)


class Oracle(Pipeline):
    """A pipeline that knows the truth: the seed names the clip. Its VAE loses nothing."""

    def __init__(self):
        super().__init__(**tiny_parts(**SIZE))
        self.calls = []
        self.clips = functools.cache(self._render)

    def _render(self, *indices):
        world = worlds.WorldConfig(**SIZE, split="validation")
        return worlds.render(world, worlds.sample_scenes(world, np.array(indices, np.int32)))

    def encode(self, video, modality):
        return video

    def decode(self, latents, modality):
        return latents

    def __call__(self, prompts, *, given, wanted, modality_prompts, sampler, seed, **_):
        index = np.array(seed, np.int32) - 100
        clip = self.clips(*index.tolist())
        np.testing.assert_allclose(given["rgb"], 2 * np.asarray(clip["rgb"]) - 1, atol=1e-5)
        (name,) = wanted
        self.calls.append((name, list(prompts), modality_prompts[name]))
        codec = modalities.get(name).codec
        videos = np.stack(
            [
                np.asarray(codec.encode({key: clip[key][b] for key in codec.keys})[0])
                for b in range(len(index))
            ]
        )
        return Samples(videos={name: videos}, latents={}, streams=("rgb", name))


@pytest.mark.slow
def test_the_truth_scores_perfectly_and_beats_the_trivial():
    oracle = Oracle()
    config = BenchmarkConfig(num_clips=3, batch_size=2, seed=100)
    seen = []
    results = score_run.run(
        oracle, config, oracle.sampler, lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 3), (3, 3)]
    for scores in (results.metrics, results.vae_round_trip):
        assert scores[f"{DEPTH}/abs_rel"] < 1e-3 < results.trivial[f"{DEPTH}/abs_rel"]
        assert scores[f"{DEPTH}/delta_1"] > 0.999
        assert scores[f"{SEGMENTATION}/mean_iou"] > 0.95
        assert results.trivial[f"{SEGMENTATION}/mean_iou"] < 0.5
        # The fourth clip only filled the second batch up.
        assert scores["depth/videos"] + scores["depth/videos_without_valid_pixels"] == 3
    assert [name for name, *_ in oracle.calls] == list(modalities.metrics()) * 2
    assert all(captions == ["", ""] for _, captions, _ in oracle.calls)
    assert all(isinstance(p, str) and p for _, _, prompts in oracle.calls for p in prompts)


@pytest.mark.slow
def test_a_random_model_runs_through_the_whole_path(tmp_path):
    config = BenchmarkConfig(
        num_clips=2,
        batch_size=2,
        heldout=HeldoutConfig(timesteps=4),
        gap=ConditionGapConfig(clips=4, levels=(0.5, 1.0)),
        control=True,
    )
    # Each modality compiles its own sampler and losses; the oracle above is scored on all.
    few = tiny_model(modalities=("rgb", "depth", "flow"))
    pipeline = Pipeline(**tiny_parts(model=few))
    results = score_run.run(pipeline, config, pipeline.sampler)
    assert np.isfinite(list(results.metrics.values())).all()
    assert results.metrics[f"{DEPTH}/abs_rel"] > 0.01
    # Another noise of RGB between the two: another estimate.
    again = results.metrics[f"control_by_itself/{DEPTH}/abs_rel"]
    assert again > 0.01 and again != results.metrics[f"{DEPTH}/abs_rel"]
    for name in pipeline.modalities[1:]:
        assert any(key.startswith(f"control_by_itself/{name}/") for key in results.clips[0].means)
    for task in ("conditional", "estimation", "joint"):
        for name in pipeline.modalities[1:]:
            assert results.metrics[f"heldout_loss/uniform_t4/{task}/{name}"] > 0.1
            assert results.metrics[f"heldout_loss/near_noise/t1.00/{task}/{name}"] > 0.1
    of_pairs = "heldout_loss/uniform_t4/streams_2"
    assert results.metrics[f"{of_pairs}/joint/rgb"] > 0.1
    assert f"{of_pairs}/conditional/depth" not in results.metrics  # it is given
    for name in pipeline.modalities[1:]:
        for level in ("t0.50_own", "t1.00_own", "t1.00_other", "mean_clip"):
            assert results.metrics[f"condition_gap/clean_mse/{name}/{level}"] > 0
    # The same on several devices, clip by clip, stopped after the first and taken up again.
    pipeline.spread(jax.devices()[:2])
    rows = RowStore(folder=tmp_path, kind=RunRow, settings={"seed": 0})
    one = dataclasses.replace(config, batch_size=1)

    def stop(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        score_run.run(pipeline, one, pipeline.sampler, stop, rows=rows)
    assert [p.name for p in tmp_path.iterdir()] == ["0000.json"]
    seen = []
    # All modalities of a clip in one call this time.
    separate = dataclasses.replace(pipeline.sampler, separate=True)
    again = score_run.run(pipeline, one, separate, lambda done, _: seen.append(done), rows=rows)
    assert seen == [2]
    # One step of Weiszfeld's may give all weight to a pixel that happens to fit, so that the L1
    # scales turn rounding into whole percents; all else is stable.
    stable = {k: v for k, v in results.metrics.items() if "/depth_scale_" not in k}
    assert {k: again.metrics[k] for k in stable} == pytest.approx(stable, rel=1e-3, abs=1e-4)
    # Now nothing is sampled at all, and what was written reads as what was measured.
    third = score_run.run(pipeline, one, pipeline.sampler, stop, rows=rows)
    assert third.metrics == again.metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(benchmark="imagenet"), "choose one of worlds_validation, worlds_closeup"),
        (dict(num_clips=0), "num_clips=0"),
        (dict(batch_size=0), "batch_size=0"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        BenchmarkConfig(**arguments)
