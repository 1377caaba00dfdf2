import collections

import pytest

from unityvideo_jax.curation.groups import Groups
from unityvideo_jax.curation.stage import Clip
from unityvideo_jax.errors import UserError

FOUR = {
    "single_person": {"people": 1, "modalities": ["densepose", "depth", "flow", "skeleton"]},
    "two_persons": {"people": 2, "modalities": ["segmentation", "skeleton"]},
    "koala36m": {"source": "koala36m", "modalities": ["depth", "flow"]},
    "opens2v": {"source": "opens2v", "modalities": ["depth", "flow"]},
}


def clip(n, source, people):
    return Clip(key=f"{source}-{n:03d}", video=f"{source}/v", source=source).score(people=people)


def counts(clips):
    return collections.Counter(c.group for c in clips if not c.rejected_by)


def test_the_papers_four_groups_take_each_clip_once():
    clips = [clip(n, s, n % 4) for n in range(20) for s in ("koala36m", "opens2v", "other")]
    found = Groups(groups=FOUR)(clips)
    assert counts(found) == {
        "single_person": 15, "two_persons": 15, "koala36m": 10, "opens2v": 10,
    }  # fmt: skip
    lost = [c for c in found if c.rejected_by]
    assert len(lost) == 10 and all(c.source == "other" for c in lost)
    assert "no group takes it (source 'other', people 0)" in lost[0].reason
    assert next(c for c in found if c.group == "two_persons").wanted == ("segmentation", "skeleton")


def test_large_groups_and_sources_are_thinned_alike_in_any_order():
    clips = [clip(n, "koala36m", 0) for n in range(40)]
    clips += [clip(n, "opens2v", 0) for n in range(10)]
    clips += [clip(n, "other", 1) for n in range(30)] + [clip(n, "more", 1) for n in range(5)]
    groups = Groups(groups=FOUR, max_ratio=2.0, max_per_source=15)
    found = groups(clips)
    assert counts(found) == {"koala36m": 15, "opens2v": 10, "single_person": 20}
    again = {c.key: c for c in groups(clips[::-1])}
    assert all(again[c.key] == c for c in found)
    assert all("has enough clips" in c.reason for c in found if c.rejected_by)


def test_bad_groups_are_named():
    with pytest.raises(UserError, match="is empty"):
        Groups()
    with pytest.raises(UserError, match="no key 'persons'"):
        Groups(groups={"a": {"persons": 1, "modalities": ["flow"]}})
    with pytest.raises(UserError, match="list its modalities"):
        Groups(groups={"a": {"people": 1}})
    with pytest.raises(UserError, match="unknown modality 'normals'"):
        Groups(groups={"a": {"modalities": ["normals"]}})
