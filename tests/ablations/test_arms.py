"""The arms differ from the full model as they say, and state their work rightly."""

import shutil

import jax
import numpy as np
import pytest

from unityvideo_jax import train
from unityvideo_jax.ablations import arms, frozen, plan
from unityvideo_jax.ablations.truth import MeasureConfig
from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching import ObjectiveConfig
from unityvideo_jax.flow_matching.tasks import ESTIMATION, JOINT, draw_noising
from unityvideo_jax.pretrained import model as pretrained
from unityvideo_jax.settings import presets
from unityvideo_jax.training.resume import differences, flat

# Keys in which each arm differs from `all`.
DIFFERENCES = {
    "all": set(),
    "rgb": {"data.streams"},
    "rgb_equal_compute": {"data.streams", "train.steps"},
    **{m: {"data.streams", "data.modality_weights"} for m in ("flow", "depth", "densepose")},
    "only_control": {"objective.p_cond", "objective.p_est", "objective.p_joint"},
    "only_joint": {"objective.p_cond", "objective.p_est", "objective.p_joint"},
    "only_estimation": {"objective.p_cond", "objective.p_est", "objective.p_joint"},
    "neither": {"model.switcher", "model.in_context"},
    "only_in_context": {"model.switcher"},
    "only_adaln": {"model.in_context"},
    "only_additive": {"model.switcher", "model.in_context"},
    "unseen_pair": {"data.never_together"},
}


@pytest.fixture(scope="module")
def loaded():
    return {name: arms.load(name) for name in arms.ARMS}


def test_every_arm_is_a_preset_that_differs_as_stated(loaded):
    assert {f"ablations/{name}" for name in arms.ARMS} == {
        name for name in presets.names() if name.startswith("ablations/")
    }
    full = flat(loaded["all"].config)
    for name, arm in loaded.items():
        train.check(arm.config)
        keys = differences(full, flat(arm.config))
        found = {".".join(key.split(".")[:2]) for key in keys}
        assert found == DIFFERENCES[name], name
        assert arm.data.size == (17, 64, 64)
        assert arm.facts()["parameters"] <= arms.MOST_PARAMETERS
    assert len({plan.Run(arm=arm, seed=0).config_hash for arm in loaded.values()}) == len(loaded)


def test_equal_compute_is_equal(loaded):
    work = {name: arm.flops * arm.config.train.steps for name, arm in loaded.items()}
    assert work["rgb_equal_compute"] == pytest.approx(work["all"], rel=0.001)
    assert work["rgb"] < 0.5 * work["all"]
    scaled = {name: arms.load(name, steps=100).config.train.steps for name in ("all", "rgb",
              "rgb_equal_compute")}  # fmt: skip
    assert scaled == {"all": 100, "rgb": 100, "rgb_equal_compute": 206}


def test_the_share_of_samples_that_noise_rgb_is_what_the_objective_draws(loaded):
    changed = {"objective.p_joint": 0.2, "objective.p_any": 0.3}
    for arm in (loaded["all"], loaded["only_estimation"], arms.load("all", changed)):
        objective = ObjectiveConfig(**arm.config.objective.to_dict())
        drawn = 0.0
        for streams, share in arm.streams.items():
            noised = draw_noising(jax.random.key(streams), 20_000, streams, objective).noised
            drawn += share * float(np.mean(noised[:, 0]))
        assert arm.rgb_share == pytest.approx(drawn, abs=0.01)
    assert loaded["rgb"].rgb_share == 1.0 and loaded["only_estimation"].rgb_share == 0.25
    assert loaded["only_joint"].trains(JOINT) and not loaded["only_joint"].trains(ESTIMATION)
    assert loaded["rgb"].trained == () and loaded["flow"].trained == ("flow",)


def test_the_plan_has_whole_seeds_and_runs_what_is_the_same_once(loaded):
    again = arms.Arm(name="mine.py", config=loaded["all"].config)
    runs, lines = plan.make_plan([loaded["rgb"], loaded["all"], again], [0, 1])
    assert [run.name for run in runs] == ["rgb_0", "all_0", "rgb_1", "all_1"]
    assert lines == ["mine.py: the same configuration as all, which is run once"]
    assert runs[2].config().seed == 1 and runs[2].config_hash == runs[0].config_hash
    # Of two devices one takes both runs of RGB alone, of 100 s each, the other the longer two.
    flops = loaded["rgb"].flops * loaded["rgb"].config.train.steps / 100
    expected = plan.FIRST_SECONDS + 2 * plan.RUN_SECONDS + 2 * 205.8
    assert plan.minutes(runs, 2, flops) == pytest.approx(expected / 60, rel=0.001)
    table = "\n".join(plan.table(runs, {"rgb_0"}, 2, flops))
    assert "77.5%" in table and "3 of 4 runs to do" in table
    with pytest.raises(UserError, match="--seeds=1,1"):
        plan.make_plan([loaded["rgb"]], [1, 1])


def test_a_model_that_is_too_large_or_a_key_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"all: .*M weights; .* at most 25M"):
        arms.load("all", {"model.num_layers": 12})
    with pytest.raises(UserError, match=r"config\.train\.stepz: no such key"):
        train.check(arms.load("all", {"train.stepz": 12}).config)
    with pytest.raises(UserError, match=r"all: .*give keys of a configuration"):
        arms.load("all", {"train.steps": "many"})


def test_a_grid_freezes_the_estimators_weights_and_not_its_card(tmp_path):
    arm, folder = arms.load("rgb"), tmp_path / "model"
    shutil.copytree(pretrained.find("worlds-mini"), folder)
    before = frozen.record(arm, str(folder), MeasureConfig())
    (folder / pretrained.CARD).write_text("other words")
    assert frozen.record(arm, str(folder), MeasureConfig()) == before
    with open(folder / pretrained.WEIGHTS_FILE, "ab") as weights:
        weights.write(b"0")
    after = frozen.record(arm, str(folder), MeasureConfig())
    assert [key for key in before if before[key] != after[key]] == ["estimator"]
