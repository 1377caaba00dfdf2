"""Dynamic noising: frequencies, patterns and dropout."""

import jax
import numpy as np
import pytest
from scipy import stats

from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching import TASKS, ObjectiveConfig, draw_noising, noised_streams
from unityvideo_jax.flow_matching.tasks import ANY

COUNT = 8192


def draw(streams=2, seed=0, **fields):
    noising = draw_noising(jax.random.key(seed), COUNT, streams, ObjectiveConfig(**fields))
    return [np.asarray(x) for x in noising]


def test_tasks_are_drawn_with_their_probabilities():
    task, _, _ = draw(p_cond=0.25, p_est=0.15, p_joint=0.6)
    counts = np.bincount(task, minlength=len(TASKS))
    assert stats.chisquare(counts, COUNT * np.array([0.25, 0.15, 0.6])).pvalue > 1e-3


@pytest.mark.parametrize("only", [0, 1, 2])
def test_a_task_of_probability_one_is_always_drawn(only):
    fields = dict(zip(("p_cond", "p_est", "p_joint"), np.eye(3)[only].tolist(), strict=True))
    assert np.all(draw(**fields)[0] == only)


def test_patterns_of_two_and_three_streams():
    tasks = jax.numpy.arange(3)
    assert noised_streams(tasks, 2).tolist() == [[True, False], [False, True], [True, True]]
    assert noised_streams(tasks, 3).tolist() == [
        [True, False, False],
        [False, True, True],
        [True, True, True],
    ]


@pytest.mark.parametrize("streams", [2, 3])
def test_timestep_is_one_per_sample_zero_where_clean_one_where_dropped(streams):
    task, noised, timestep = draw(streams, condition_dropout=0.3)
    joint = task == 2
    assert np.all(timestep[joint] == timestep[joint][:, :1])
    assert np.all((timestep[noised] > 0) & (timestep[noised] < 1))
    assert set(np.unique(timestep[~noised])) == {0.0, 1.0}
    # The clean streams of a sample are dropped together.
    clean = np.where(noised, np.nan, timestep)[~joint]
    dropped = np.nanmax(clean, axis=1)
    np.testing.assert_array_equal(dropped, np.nanmin(clean, axis=1))
    assert stats.binomtest(int(dropped.sum()), len(dropped), 0.3).pvalue > 1e-3


def test_dropout_task_and_timestep_are_independent_draws():
    task, noised, timestep = draw(condition_dropout=0.5)
    t = np.max(np.where(noised, timestep, 0), axis=1)
    dropped = np.max(np.where(noised, 0, timestep), axis=1)
    conditional = task != 2
    assert abs(np.corrcoef(t, task)[0, 1]) < 0.04
    assert abs(np.corrcoef(t[conditional], dropped[conditional])[0, 1]) < 0.06
    assert abs(np.corrcoef(task[conditional], dropped[conditional])[0, 1]) < 0.06


def test_estimation_can_be_shifted_further_and_pure_noise_is_a_share_of_every_task():
    fields = dict(shift=2.0, condition_dropout=0.0)
    task, noised, base = draw(**fields)
    _, _, shifted = draw(estimation_shift=3.0, **fields)
    estimation = noised & (task == 1)[:, None]
    np.testing.assert_array_equal(shifted[~estimation], base[~estimation])
    odds = base / (1 - base)
    np.testing.assert_allclose(
        shifted[estimation], (3 * odds / (1 + 3 * odds))[estimation], rtol=1e-4
    )
    task, noised, timestep = draw(noise_share=0.25, **fields)
    for index in range(len(TASKS)):
        t = timestep[noised & (task == index)[:, None]]
        assert abs((t == 1.0).mean() - 0.25) < 5 * np.sqrt(0.19 / (t.size / 2))
    _, _, timestep = draw(estimation_noise_share=0.25, **fields)
    np.testing.assert_array_equal(timestep[~estimation], base[~estimation])
    t = timestep[estimation]
    assert abs((t == 1.0).mean() - 0.25) < 5 * np.sqrt(0.19 / t.size)
    np.testing.assert_array_equal(t[t < 1], base[estimation][t < 1])


def test_any_noises_every_non_empty_set_of_streams_alike_and_the_paper_s_tasks_as_before():
    fields = dict(condition_dropout=0.3, own_timesteps=True)
    task, noised, timestep = draw(3, p_cond=0.0, p_est=0.0, p_joint=0.0, p_any=1.0, **fields)
    assert np.all(task == ANY)
    sets = np.bincount(noised @ [1, 2, 4], minlength=8)
    assert sets[0] == 0 and stats.chisquare(sets[1:]).pvalue > 1e-3
    several = noised.sum(axis=1) == 3
    assert abs(np.corrcoef(timestep[several].T) - np.eye(3)).max() < 0.1
    assert set(np.unique(timestep[~noised])) == {0.0, 1.0}
    # Unless asked for more, the noised streams of a sample share one timestep.
    mixed = dict(p_cond=0.1, p_est=0.15, p_joint=0.25, p_any=0.5)
    task, noised, timestep = draw(3, condition_dropout=0.0, **mixed)
    counts = np.bincount(task, minlength=4)
    assert stats.chisquare(counts, COUNT * np.array([0.1, 0.15, 0.25, 0.5])).pvalue > 1e-3
    shared = np.where(noised, timestep, timestep.max(axis=1, keepdims=True))
    np.testing.assert_array_equal(shared.min(axis=1), shared.max(axis=1))
    paper = task < ANY
    np.testing.assert_array_equal(noised[paper], noised_streams(jax.numpy.asarray(task), 3)[paper])


def test_one_draw_gives_all_samples_one_task_and_timestep_but_their_own_dropout():
    fields = dict(p_cond=0.25, p_est=0.25, p_joint=0.0, p_any=0.5, condition_dropout=0.5)
    seen = set()
    for seed in range(12):
        task, noised, timestep = draw(3, seed, one_draw=True, own_timesteps=True, **fields)
        assert len(np.unique(task)) == 1 and (noised == noised[0]).all()
        assert (timestep[:, noised[0]] == timestep[0, noised[0]]).all()
        if not noised.all():
            assert 0.4 < timestep[:, ~noised[0]].mean() < 0.6
        seen.add(int(task[0]))
    assert seen == {0, 1, ANY}


def test_no_dropout_leaves_every_condition_clean():
    _, noised, timestep = draw(condition_dropout=0.0)
    assert not np.any(timestep[~noised])


def test_a_single_stream_is_always_generated():
    task, noised, timestep = draw(streams=1, p_cond=0.0, p_est=1.0, p_joint=0.0)
    assert np.all(task == 2) and np.all(noised) and np.all(timestep > 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"p_cond": 0.5}, r"p_cond \+ p_est \+ p_joint \+ p_any = 1.3 must be 1"),
        ({"p_any": 0.1}, "= 1.1 must be 1: got 0.2, 0.3, 0.5, 0.1"),
        ({"p_cond": -0.2, "p_joint": 0.9}, "objective.p_cond=-0.2 is no probability"),
        ({"condition_dropout": 1.5}, "objective.condition_dropout=1.5 is no probability"),
        ({"timestep": "cosine"}, r"'cosine' is unknown: choose one of \['uniform'"),
        ({"shift": 0}, "objective.shift=0.0 must be positive"),
        ({"logit_std": -1.0}, "objective.logit_std=-1.0 must be positive"),
        ({"logit_mean": float("nan")}, "objective.logit_mean=nan must be finite"),
        ({"noise_share": 1.5}, "objective.noise_share=1.5 is no probability"),
        ({"estimation_shift": 0}, "objective.estimation_shift=0.0 must be positive"),
        ({"modality_loss_weights": {"depth": -1}}, r"modality_loss_weights.depth=-1.0 is negative"),
        ({"modality_loss_weights": {"depth": float("inf")}}, "depth=inf must be finite"),
    ],
)
def test_unusable_objective_is_one_clear_error(fields, message):
    with pytest.raises(UserError, match=message):
        ObjectiveConfig(**fields)


def test_defaults_follow_the_paper_and_the_release_is_allowed():
    config = ObjectiveConfig()
    assert config.p_cond < config.p_est < config.p_joint
    ObjectiveConfig(p_cond=0.25, p_est=0.25, p_joint=0.5, shift=5)
