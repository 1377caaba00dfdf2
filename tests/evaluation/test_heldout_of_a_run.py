"""Which streams of a run the held-out loss measures."""

import numpy as np
from tiny_pipeline import CONFIG, quick_compile, tiny_parts  # noqa: F401

from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.evaluation.heldout import HeldoutConfig, HeldoutLoss
from unityvideo_jax.evaluation.latent_pairs import HeldoutErrors, LatentPairs
from unityvideo_jax.evaluation.score_run import RunRow
from unityvideo_jax.sampling.pipeline import Pipeline


def test_a_run_is_measured_at_pairs_and_the_numbers_of_streams_that_it_trains():
    config = CONFIG | {"data": CONFIG["data"] | {"streams": [1.0, 0.0, 1.0]}}
    pipeline = Pipeline(**tiny_parts(config=config))
    rng = np.random.default_rng(0)
    shape = (2, 5, 32, 32)
    clip = {
        "rgb": rng.random((*shape, 3), np.float32),
        "depth": 1 + rng.random(shape, np.float32),
        "flow": rng.random((*shape, 2), np.float32),
        "occluded": np.zeros(shape, bool),
    }
    batch = Batch(
        index=np.array([3, 5], np.int32), count=2, clip=clip, captions=["a", "b"], prompts=[{}, {}]
    )
    rows = {3: RunRow(), 5: RunRow()}
    config = HeldoutConfig(timesteps=4, near_noise=())
    rows_of = {n: row.heldout for n, row in rows.items()}
    HeldoutErrors(pipeline, LatentPairs(pipeline), config).measure(batch, rows_of)
    # What the clips have no truth of is in no set.
    assert list(rows[3].heldout) == [
        *("rgb", "depth", "flow", "rgb+depth", "rgb+flow", "rgb+depth+flow")
    ]
    loss = HeldoutLoss(config)
    for n, row in rows.items():
        for names, errors in row.heldout.items():
            loss.update(names.split("+"), np.asarray([errors], np.float32), f"clip {n}")
    results = loss.compute()
    prefix = "heldout_loss/uniform_t4"
    measured = {key.removeprefix(f"{prefix}/") for key in results}
    assert {"streams_1/joint/depth", "streams_2/joint/rgb", "streams_3/estimation/flow"} <= measured
    # A stream alone has no other to attend to: its error is of another kind.
    assert results[f"{prefix}/streams_1/joint/rgb"] != results[f"{prefix}/streams_2/joint/rgb"]
