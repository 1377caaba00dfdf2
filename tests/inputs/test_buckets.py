"""Buckets: their entries, their batch sizes, what fills them, and which step draws which."""

import itertools
import re

import ml_collections
import numpy as np
import pytest
import stand_ins

from unityvideo_jax import media, train
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import assigning, buckets, sized
from unityvideo_jax.inputs.config import as_data_config
from unityvideo_jax.inputs.folder import FolderSource
from unityvideo_jax.training.curriculum import Stage

VIDEO = dict(frames=5, height=16, width=16)
WIDE = dict(frames=1, height=16, width=32)
IMAGE = dict(frames=1, height=32, width=32)


def _data(*dirs, **overrides):
    return stand_ins.config(*dirs, **overrides)


def _experiment(data, batch_size=4):
    config = ml_collections.ConfigDict(dict(seed=0, data=data, train=dict(batch_size=batch_size)))
    config.model = dict(modalities=stand_ins.MODALITIES)
    return config


def _iterator(config, share=(0, 1), **stage):
    stage = Stage(index=0, start=0, until=100, weights={"depth": 1.0, "flow": 1.0}, **stage)
    return train.build_iterator(config, stage, share)


def _shapes(batches):
    return [batch["latents"].shape[:5] for batch in batches]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((3,), r"config.data.buckets[0]=3: give a dict such as dict(frames=17"),
        ((dict(frames=5, height=16),), "config.data.buckets[0].width: missing; set it"),
        ((VIDEO, WIDE | dict(witdh=1)), "buckets[1].witdh: no such key; did you mean 'width'"),
        ((VIDEO | dict(frames=4),), "buckets[0].frames=4: the VAE takes 4n+1 frames; use 1 or 5"),
        ((VIDEO | dict(height=20),), "buckets[0].height=20: must be a multiple of 16 pixels"),
        ((VIDEO | dict(batch_size=-1),), "buckets[0].batch_size=-1: must be at least 0"),
        ((VIDEO | dict(weight="much"),), "buckets[0].weight='much': give a finite number"),
        ((VIDEO, VIDEO), "buckets[1]: 5x16x16 stands there twice"),
        ((VIDEO | dict(weight=0),), "config.data.buckets: every weight is 0"),
        ("(VIDEO,)", "config.data.buckets='(VIDEO,)': give a tuple"),
    ],
)
def test_a_wrong_entry_is_one_line(entries, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        as_data_config(_data("somewhere", buckets=entries))
    assert "\n" not in str(caught.value)


def test_what_two_entries_make_twice_and_too_many_are_one_line():
    twice = as_data_config(_data("a", buckets=(VIDEO, VIDEO | dict(streams=2))))
    with pytest.raises(UserError, match="2 streams of 5x16x16 come of two entries"):
        twice.shapes(4)
    many = tuple(VIDEO | dict(width=16 * n) for n in range(1, 22))
    with pytest.raises(UserError, match="21 shapes, each a step to compile; give at most 20"):
        as_data_config(_data("a", buckets=many)).shapes(4)


@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_steps_have_about_equal_tokens_and_none_more_than_the_largest(multiple):
    entries = (
        dict(frames=17, height=128, width=128),
        dict(frames=17, height=96, width=160),
        dict(frames=1, height=256, width=256),
        dict(frames=1, height=64, width=64, streams=1, batch_size=24),
    )
    size = dict(num_frames=17, height=128, width=128)
    data = as_data_config(_data("a", buckets=entries, batch_multiple=multiple, **size))
    largest, *others, given = data.shapes(32)
    assert largest.batch_size == 32 and given.batch_size == 24
    for bucket in others:
        assert bucket.batch_size % multiple == 0
        tokens = bucket.batch_size * bucket.volume / (32 * largest.volume)
        assert 1 - bucket.volume * multiple / (32 * largest.volume) < tokens <= 1


def test_no_buckets_are_one_of_the_config_for_each_number_of_streams():
    shapes = as_data_config(_data("a", streams=(1, 0, 3))).shapes(4)
    assert [(b.size, b.streams, b.batch_size) for b in shapes] == [
        ((5, 16, 16), 1, 4),
        ((5, 16, 16), 3, 4),
    ]
    assert [b.weight for b in shapes] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("size", "frames", "expected"),
    [
        ((30, 64), 20, (17, 32, 64)),  # nearest aspect
        ((64, 30), 20, (17, 64, 32)),
        ((64, 30), 16, (5, 32, 32)),  # the most frames that it has come first
        ((300, 300), 20, (17, 64, 64)),  # the largest that needs no enlarging
        ((40, 40), 20, (17, 48, 48)),  # or the smallest
        ((300, 300), 1, (1, 32, 32)),
        ((300, 300), 0, None),
    ],
)
def test_clips_go_to_the_nearest_size(size, frames, expected):
    sizes = [
        (17, 32, 64), (17, 64, 32), (17, 48, 48), (17, 64, 64), (5, 32, 32), (1, 32, 32)
    ]  # fmt: skip
    assert buckets.nearest(size, frames, sizes) == expected


def test_steps_draw_buckets_by_weight_alike_on_all_hosts_and_resume(sizes_dir):
    entries = (VIDEO | dict(weight=2, streams=3), WIDE | dict(streams=1), IMAGE)
    config = _experiment(_data(sizes_dir, buckets=entries, batch_multiple=2))
    iterator = _iterator(config)
    first = list(itertools.islice(iterator, 8))
    state = iterator.get_state()
    then = list(itertools.islice(iterator, 8))

    kinds = {(2, 3, 2, 2, 2): 4, (8, 1, 1, 2, 4): 2, (2, 2, 1, 4, 4): 2}
    shapes = _shapes(first)
    assert {shape: shapes.count(shape) for shape in shapes} == kinds
    assert {shape[:5] for shape in iterator.shapes} == set(kinds)
    shares = {s.what: (s.asked, s.drawn) for s in iterator.shares if not s.streams}
    assert shares["3 streams of 5x16x16"] == (0.5, 0.5)

    resumed = _iterator(config)
    resumed.set_state(state)
    for left, right in zip(then, itertools.islice(resumed, 8), strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
    halves = [_iterator(config, (n, 2)) for n in range(2)]
    for whole in first:
        parts = [next(half)["index"] for half in halves]
        np.testing.assert_array_equal(np.concatenate(parts), whole["index"])
    assert re.search(r"record 0 of .*/5x16x16", iterator.describe(0))
    assert re.search(r"record 5 of .*/1x16x32", iterator.describe(buckets.RECORDS + 5))


def test_a_stage_has_buckets_of_its_own(sizes_dir):
    config = _experiment(_data(sizes_dir, buckets=(VIDEO,)))
    stage = _iterator(config, buckets=buckets.parse((IMAGE,), "here"))
    assert _shapes([next(stage)]) == [(2, 2, 1, 4, 4)]
    # Without buckets the folder's size is the config's.
    assert _shapes([next(_iterator(_experiment(_data(sizes_dir))))]) == [(4, 2, 2, 2, 2)]


def test_what_nothing_fills_is_refused_and_what_fills_nothing_is_listed(sizes_dir, noise_dir):
    entries = (VIDEO, WIDE)
    data = as_data_config(_data(sizes_dir, noise_dir, buckets=entries))
    lines = sized.table(data, data.shapes(4), [1600, 8])
    assert lines[1].split()[-4:] == ["4", "1,600", "16", "0.0%"]  # 6 clips and 10
    assert lines[2].split()[-4:] == ["4", "8", "6", "0.0%"]
    left = [f"{sizes_dir}/1x32x32: 6 clips of 1x32x32 fit no bucket and are not drawn"]
    assert sized.unused(data, data.shapes(4)) == left
    lacking = _experiment(_data(sizes_dir, buckets=(VIDEO, dict(frames=9, height=16, width=16))))
    with pytest.raises(UserError, match=r"nothing fills 9x16x16: .* hold 1x16x32, 1x32x32, 5x16"):
        _iterator(lacking)
    with pytest.raises(UserError, match=r"num_frames, height, width: nothing fills 9x16x16"):
        _iterator(_experiment(_data(sizes_dir, num_frames=9)))


def _write(folder, key, frames, height, width):
    folder.mkdir(exist_ok=True)
    if frames == 1:
        from PIL import Image

        Image.new("RGB", (width, height)).save(folder / f"{key}.png")
    else:
        video = np.zeros((frames, height, width, 3), np.uint8)
        media.write_video(folder / f"{key}.mp4", video, 8)
    (folder / f"{key}.txt").write_text(f"Caption of {key}.")


def test_each_clip_is_assigned_once_and_what_is_cut_is_counted(tmp_path):
    clips = tmp_path / "clips"
    _write(clips, "wide", 9, 32, 64)
    _write(clips, "tall", 7, 64, 40)
    _write(clips, "short", 3, 32, 32)
    _write(clips, "still", 1, 32, 32)
    source = FolderSource(clips, ("rgb",), num_frames=5, height=16, width=16, fps=8.0)
    assert sorted(source.keys) == ["short", "still", "tall", "wide"]  # a captioned image is a clip

    parts = assigning.assign(source, [(5, 64, 32), (9, 32, 64)], every=False)
    tall, wide = parts[5, 64, 32], parts[9, 32, 64]
    assert (tall.source.keys, wide.source.keys) == (["tall"], ["wide"])
    assert tall.cropped == pytest.approx(1 - 32 / 40) and tall.unused == pytest.approx(2 / 7)
    assert (wide.cropped, wide.unused) == (0, 0)
    assert tall.source.load([0], ("rgb",)).videos["rgb"].shape == (1, 5, 64, 32, 3)
    # Too short for all: counted and named, as other clips that cannot be read.
    reasons = {fault.what: fault.reason for fault in wide.source.faults}
    assert set(reasons) == {"short", "still"} and not tall.source.faults
    assert reasons["short"] == "fits no size: 3 frames, and the shortest of --sizes has 5"

    every = assigning.assign(source, [(5, 64, 32), (9, 32, 64), (1, 32, 32)], every=True)
    assert {len(part.source.keys) for part in every.values()} == {1, 2, 4}
    with pytest.raises(UserError, match="none of the 4 clips goes to 5x32x32; leave it out"):
        assigning.assign(source, [(5, 32, 32), (5, 64, 32), (9, 32, 64)], every=False)


@pytest.mark.parametrize(
    ("text", "says"), [("17x64", "give FRAMESxHEIGHTxWIDTH"), ("4x64x64", "use 1 or 5")]
)
def test_a_size_with_a_slip_is_one_line(text, says):
    with pytest.raises(UserError, match=f"--sizes={text}.*{says}"):
        assigning.parse_sizes([text], "--sizes")
