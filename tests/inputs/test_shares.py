"""Weights of modalities and folders hold together, or the table says what is drawn."""

import collections
import itertools
import math

import numpy as np
import pytest
from scipy import optimize

from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.shares import make_mix, table_lines

WEIGHTS = {"depth": 1 / 7, "flow": 1 / 7, "segmentation": 2 / 7, "skeleton": 2 / 7, "dense": 1 / 7}
# UnityVideo's four groups.
GROUPS = (
    ("dense", "depth", "flow", "skeleton"),
    ("segmentation", "skeleton"),
    ("depth", "flow"),
    ("depth", "flow"),
)


def mix_of(streams, folders=None, held=(tuple(WEIGHTS),), weights=WEIGHTS, rgb_alone=1.0):
    folders = folders or [1.0] * len(held)
    return make_mix(held, dict(zip("abcd", folders, strict=False)), weights, streams, rgb_alone)


def counted(mix):
    """What a whole period of draws holds, counted one by one."""
    counts = collections.Counter()
    for n in range(mix.mixture.period):
        folder, names = mix.sources[mix.mixture[n][0]]
        counts.update(names)
        counts["abcd"[folder]] += 1
    return {name: count / mix.mixture.period for name, count in counts.items()}


@pytest.mark.parametrize("streams", [1, 2, 3, 4])
def test_modalities_keep_their_shares_whatever_the_number_of_streams(streams):
    mix = mix_of(streams, rgb_alone=0.25)
    slots = max(1, streams - 1)
    drawn = counted(mix)
    for name, weight in WEIGHTS.items():
        asked = 0.75 * weight if streams == 1 else weight
        assert drawn[name] / slots == pytest.approx(asked, abs=2e-4)
    assert drawn["rgb"] == (0.25 if streams == 1 else 1.0)
    for share in mix.shares:
        assert share.drawn == pytest.approx(drawn[share.what] / slots)
        assert share.asked == pytest.approx(share.drawn, abs=2e-4)
    # Sets of streams are as many as can be, and no stream comes twice.
    sets = {names for _, names in mix.sources}
    if streams > 1:
        expected = itertools.combinations(WEIGHTS, slots)
        assert sets == {("rgb", *names) for names in expected}


def test_pairs_that_must_stay_apart_are_in_no_sample_and_keep_their_shares():
    apart = [("flow", "segmentation"), ("skeleton", "depth")]
    mix = make_mix([tuple(WEIGHTS)], {"a": 1.0}, WEIGHTS, 3, 1.0, apart)
    assert not any(set(pair) <= set(names) for pair in apart for _, names in mix.sources)
    assert len(mix.sources) == math.comb(len(WEIGHTS), 2) - 2
    drawn = counted(mix)
    for name, weight in WEIGHTS.items():
        assert drawn[name] / 2 == pytest.approx(weight, abs=2e-3)
    with pytest.raises(UserError, match="never_together leaves no sample of 3 streams"):
        make_mix([("a", "b")], {"a": 1.0}, {"a": 0.5, "b": 0.5}, 3, 1.0, [("a", "b")])


def test_groups_and_modalities_hold_together_where_they_can():
    """Feasible shares are drawn; a linear programme agrees on what is feasible."""
    rows = [(f, m) for f, names in enumerate(GROUPS) for m in names]
    sums = [[f == g for f, _ in rows] for g in range(4)]
    sums += [[m == name for _, m in rows] for name in WEIGHTS]
    for folders, feasible in (([2.0, 3.0, 1.0, 1.0], True), ([1.0] * 4, False)):
        mix = mix_of(2, folders, GROUPS)
        asked = [*np.divide(folders, sum(folders)), *WEIGHTS.values()]
        found = optimize.linprog(np.zeros(len(rows)), A_eq=np.array(sums, float), b_eq=asked)
        assert (found.status == 0) == feasible
        off = max(abs(share.asked - share.drawn) for share in mix.shares)
        assert off < 5e-4 if feasible else off > 0.05
        drawn = counted(mix)
        for share in mix.shares:
            assert share.drawn == pytest.approx(drawn[share.what])
        for folder, weight in zip("abcd", folders, strict=True):
            assert drawn[folder] == pytest.approx(weight / sum(folders), abs=5e-4)
        lines = table_lines(mix.shares)
        assert len(lines) == 1 + 9 + (not feasible)
        assert feasible or "depth, flow, segmentation, skeleton, dense cannot be" in lines[-1]


def test_a_table_says_what_was_asked_and_is_drawn():
    lines = table_lines(mix_of(6).shares)
    assert lines[0].split()[-2:] == ["asked", "drawn"]
    assert lines[3].split() == ["6", "streams:", "segmentation", "28.6%", "20.0%"]
    assert lines[-1].startswith("the weights contradict each other: depth, flow")


def test_too_many_sets_are_one_line():
    many = {f"m{n}": 1 / 20 for n in range(20)}
    with pytest.raises(UserError, match="184,756 sets of 11 streams"):
        mix_of(11, weights=many, held=(tuple(many),))
