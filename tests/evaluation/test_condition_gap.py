"""The condition gap of models whose use of their condition is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import condition_gap
from unityvideo_jax.evaluation.benchmarks.folder import Batch, filled
from unityvideo_jax.evaluation.condition_gap import ConditionGapConfig, clean_errors
from unityvideo_jax.evaluation.latent_pairs import Pair

CLIPS, SHAPE = 6, (2, 4, 4, 3)
CONFIG = ConditionGapConfig(clips=CLIPS)
# Depth is half of RGB, and one more; clips differ, so that another's RGB is a wrong condition.
RGB = jax.random.normal(jax.random.key(0), (CLIPS, *SHAPE))
DEPTH = 0.5 * RGB + 1.0


def pairs(batch, captions):
    assert captions == [""] * len(batch.index)
    count = len(batch.index)
    latents = jnp.stack([RGB[batch.index], DEPTH[batch.index]], axis=1)
    ids = jnp.tile(jnp.array([0, 1], jnp.int32), (count, 1))
    yield "depth", Pair(latents, ids, jnp.zeros((count, 2, 1, 1)))


def batches(size):
    for first in range(0, CLIPS, size):
        index = range(CLIPS)[first : first + size]
        yield Batch(
            index=filled(index, size), count=len(index), clip={}, captions=[""] * size, prompts=[]
        )


def measure(estimate, size=4):
    """The gap of a model whose velocity always implies the clean latents `estimate(rgb)`."""

    def velocity(x, t, modality, context):
        t = jnp.maximum(t, 1e-6)[..., None, None, None, None]
        return (x - estimate(x[:, :1])) / t

    results = condition_gap.measure(lambda _: velocity, None, pairs, batches(size), CONFIG)
    return {k.removeprefix("condition_gap/clean_mse/depth/"): v for k, v in results.items()}


def test_a_model_that_reads_its_condition_errs_with_a_wrong_one():
    found = measure(lambda rgb: 0.5 * rgb + 1.0)
    wrong = np.square(DEPTH - jnp.roll(DEPTH, -1, axis=0)).mean()
    assert len(found) == 2 * len(CONFIG.levels) + 1
    for level in ("0.50", "0.85", "0.97", "1.00"):
        assert found[f"t{level}_own"] < 1e-9
        assert found[f"t{level}_other"] == pytest.approx(wrong, rel=1e-4)
    assert found["mean_clip"] == pytest.approx(np.var(np.asarray(DEPTH), axis=0, ddof=1).mean())


def test_a_model_that_ignores_its_condition_has_no_gap():
    found = measure(lambda rgb: jnp.ones_like(rgb))
    for level in ("0.50", "1.00"):
        assert found[f"t{level}_own"] == found[f"t{level}_other"]
        assert found[f"t{level}_own"] == pytest.approx(0.25, rel=0.2)


def test_batches_do_not_change_it_and_noise_is_fixed_by_clip_modality_and_seed():
    def velocity(x, t, modality, context):
        return 0.3 * x

    one, four = (
        condition_gap.measure(lambda _: velocity, None, pairs, batches(size), CONFIG)
        for size in (CLIPS, 4)
    )
    assert four == pytest.approx(one, rel=1e-6)
    index = jnp.arange(CLIPS)
    ((_, pair),) = pairs(next(batches(CLIPS)), [""] * CLIPS)
    first = np.asarray(clean_errors(velocity, pair, RGB, index, CONFIG))
    assert len(np.unique(first)) == first.size
    other = ConditionGapConfig(seed=1)
    assert (first != np.asarray(clean_errors(velocity, pair, RGB, index, other))).all()
    flow = pair._replace(modality=2 * pair.modality)
    assert (first != np.asarray(clean_errors(velocity, flow, RGB, index, CONFIG))).all()


def test_bad_input_is_named():
    with pytest.raises(UserError, match="clips=1: the condition gap compares at least 2"):
        ConditionGapConfig(clips=1)
    with pytest.raises(UserError, match=r"clean_mse/depth: the error is not finite"):
        measure(lambda rgb: jnp.nan * rgb)
