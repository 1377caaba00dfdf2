import ml_collections
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.training.curriculum import stage_at, stages

WEIGHTS = {"depth": 1.0, "flow": 2.0, "skeleton": 3.0}
PAPER = (
    {"until": 10, "modalities": ("depth", "flow")},
    {"until": -1, "modalities": ("depth", "flow", "skeleton")},
)


def test_the_two_stages_of_the_paper_cover_every_step_once():
    plan = stages(PAPER, WEIGHTS, 25)
    assert [(s.start, s.until) for s in plan] == [(0, 10), (10, 25)]
    assert plan[0].weights == {"depth": 1.0, "flow": 2.0}
    assert plan[1].weights == WEIGHTS
    assert [stage_at(plan, step).index for step in (0, 9, 10, 24, 25)] == [0, 0, 1, 1, 1]


def test_no_curriculum_is_one_stage_of_every_modality():
    (stage,) = stages((), WEIGHTS, 7)
    assert (stage.start, stage.until, stage.weights) == (0, 7, WEIGHTS)


@pytest.mark.parametrize(
    ("curriculum", "says"),
    [
        (({"until": 10, "modalities": ("sound",)},), "sound.*positive weight"),
        (({"until": -1, "modalities": ()},), "none named"),
        (({"until": 10, "modalities": ("depth",)},), "ends at step 10.*is 25"),
        ((PAPER[0], {"until": 10, "modalities": ("depth",)}, PAPER[1]), "a step after 10"),
        ((PAPER[1], PAPER[0]), "until=-1 must be a step"),
        (({"until": -1, "modalities": ("depth",), "steps": 3},), r"\[0\].steps: no such key"),
        (({"modalities": ("depth",)},), r"curriculum\[0\].until: missing"),
        (({"until": -1},), r"curriculum\[0\].modalities: missing"),
        (({"until": "9", "modalities": ("depth",)},), r"curriculum\[0\].until='9': give a whole"),
        (({"until": -1, "modalities": "depth"},), r"modalities='depth': give a tuple"),
        ((PAPER[0] | {"streams": None}, PAPER[1]), r"curriculum\[0\].streams=None: give a tuple"),
        (ml_collections.ConfigDict(PAPER[0]), "config.curriculum=.*: give a tuple"),
        ("two", "config.curriculum='two': give a tuple"),
        (("two",), r"config.curriculum\[0\]='two': give a dict"),
    ],
)
def test_stages_that_cannot_be(curriculum, says):
    with pytest.raises(UserError, match=says) as caught:
        stages(curriculum, WEIGHTS, 25)
    assert "\n" not in str(caught.value)
