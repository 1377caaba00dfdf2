import re

import made_videos
import numpy as np
import pytest
from made_videos import close, numbers

from unityvideo_jax import media
from unityvideo_jax.curation import cutting, stage
from unityvideo_jax.curation.stage import Job
from unityvideo_jax.errors import UserError

FRAMES = made_videos.moving(40)
CHAIN = (cutting.Probe(), cutting.Scenes(), cutting.Cut(num_frames=9, fps=4))
TIMES = np.cumsum(np.random.default_rng(0).integers(40, 400, len(FRAMES)))
# What makes each fault, and the reason of its rejection.
POISON = {
    "zero_bytes.mp4": (lambda p: p.write_bytes(b""), "empty file"),
    "no_video.mp4": (lambda p: p.write_text("not a video " * 99), "does not decode"),
    "no_index.mp4": (lambda p: made_videos.without_index(p, FRAMES), "does not decode"),
    "truncated.mp4": (lambda p: made_videos.truncated(p, FRAMES, 0.8), "truncated: .* s of 5.00 s"),
    "sound_only.mp4": (made_videos.sound_only, "no video stream"),
    "no_frames.mkv": (made_videos.no_frames, "no frames|End of file"),
    "variable.mp4": (
        lambda p: made_videos.write(p, FRAMES, times=TIMES),
        "variable frame rate",
    ),
    "rotated.mp4": (lambda p: made_videos.rotated(p, FRAMES), "rotated by 270 degrees"),
    "odd.mkv": (
        lambda p: made_videos.write(p, FRAMES[:, :95, :127], pix_fmt="yuv444p"),
        "odd size 127x95",
    ),
    "hdr.mp4": (lambda p: made_videos.write(p, FRAMES, color_trc=16), "high dynamic range"),
    "broken.mp4": (
        lambda p: made_videos.broken_inside(p, FRAMES),
        "broken inside: decodes to|does not decode",
    ),
}


def only(folder):
    (clip,) = cutting.find(str(folder))
    return clip


def job_of(tmp_path):
    return Job(source=str(tmp_path / "in"), workdir=str(tmp_path / "out"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("name", POISON)
def test_poison_is_set_aside_with_its_reason(folder, tmp_path, name):
    make, reason = POISON[name]
    make(folder / name)
    (clip,) = stage.run(CHAIN, only(folder), job_of(tmp_path)).clips
    assert clip.rejected_by in ("probe", "scenes")
    assert re.search(reason, clip.reason), clip.reason
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name,accept,size",
    [
        ("variable.mp4", "variable_frame_rate", (96, 128)),
        ("rotated.mp4", "rotated", (128, 96)),
        ("odd.mkv", "odd_size", (94, 126)),
    ],
)
def test_what_can_be_fixed_is_fixed_if_accepted(folder, tmp_path, name, accept, size):
    POISON[name][0](folder / name)
    chain = (cutting.Probe(accept=(accept,)), *CHAIN[1:])
    clips = stage.run(chain, only(folder), job_of(tmp_path)).clips
    assert clips and not any(clip.rejected_by for clip in clips)
    assert job_of(tmp_path).load(clips[0]).frames.shape == (9, *size, 3)


def test_clips_are_the_frames_at_their_times(folder, tmp_path):
    made_videos.write(folder / "a.mp4", FRAMES, fps=8)
    clips = stage.run(CHAIN, only(folder), job_of(tmp_path)).clips
    # 5 s hold two clips of nine frames at 4 per second.
    assert [(c.start, c.end, c.fps, c.frame_count) for c in clips] == [
        (0.0, 2.25, 4, 9),
        (2.25, 4.5, 4, 9),
    ]
    for clip, first in zip(clips, (0, 18), strict=True):
        frames = job_of(tmp_path).load(clip).frames
        assert numbers(frames, FRAMES) == list(range(first, first + 18, 2))


def test_scenes_end_where_the_picture_changes(folder, tmp_path):
    parts = [made_videos.moving(24, seed=seed) for seed in (1, 2, 3)]
    made_videos.write(folder / "a.mp4", np.concatenate(parts), fps=8)
    clips = stage.run(CHAIN[:2], only(folder), job_of(tmp_path)).clips
    assert [(c.start, c.end) for c in clips] == [(0, 3), (3, 6), (6, 9)]
    wide = stage.run((CHAIN[0], cutting.Scenes(margin=0.25)), only(folder), job_of(tmp_path)).clips
    assert [(c.start, c.end) for c in wide] == [(0, 2.75), (3.25, 5.75), (6.25, 9)]
    clips = stage.run(CHAIN, only(folder), job_of(tmp_path)).clips
    for clip, part in zip(clips, parts, strict=True):
        assert numbers(job_of(tmp_path).load(clip).frames, part) == list(range(0, 18, 2))


def test_large_clips_are_scaled_down_and_small_ones_left(folder, tmp_path):
    made_videos.write(folder / "a.mp4", FRAMES, fps=8)
    for side, size in ((48, (48, 64)), (200, (96, 128))):
        cut = cutting.Cut(num_frames=9, fps=4, short_side=side, max_clips=1)
        (clip,) = stage.run((*CHAIN[:2], cut), only(folder), job_of(tmp_path)).clips
        frames = job_of(tmp_path).load(clip).frames
        assert frames.shape[1:3] == size
        assert close(frames[0], media.fit(FRAMES[:1], height=size[0], width=size[1])[0])


def test_a_scene_too_short_for_one_clip_is_set_aside(folder, tmp_path):
    made_videos.write(folder / "a.mp4", FRAMES[:16], fps=8)
    (clip,) = stage.run(CHAIN, only(folder), job_of(tmp_path)).clips
    assert clip.rejected_by == "cut" and "2.00 s are too short" in clip.reason


def test_keys_tell_equal_names_apart_and_name_files(folder):
    for name in ("one/a b.mp4", "two/a b.mp4", "two/.hidden.part", "c.MKV"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    clips = cutting.find(str(folder))
    assert [c.source for c in clips] == ["one", "two", ""] or len({c.key for c in clips}) == 3
    assert all(c.key.replace("-", "").replace("_", "").isalnum() for c in clips)
    assert cutting.find(str(folder)) == clips


def test_links_are_followed_and_hidden_files_and_lost_texts_listed(folder, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    for name in ("a/one.mp4", "a/one.TXT", "a/lost.txt", ".trash/old.mp4", "a/._one.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    elsewhere.mkdir()
    (elsewhere / "two.mp4").touch()
    for link, target in (
        ("link", elsewhere),
        ("again", elsewhere),
        ("0", folder / "a"),
        ("a/up", folder),
        ("broken.mp4", tmp_path / "none"),
        ("broken", tmp_path / "none"),
    ):
        (folder / link).symlink_to(target)
    clips = {clip.video: clip for clip in cutting.find(str(folder))}
    assert len(clips) == 3 and {"a/one.mp4", "broken.mp4"} < clips.keys()
    assert "again/two.mp4" in clips  # the first of two links
    said = "ignored 4 files: .trash/, a/._one.mp4, a/lost.txt, broken\n"
    assert said in capsys.readouterr().out
    (clip,) = stage.run(CHAIN, clips["broken.mp4"], job_of(tmp_path)).clips
    assert clip.rejected_by == "probe" and "no such video" in clip.reason


def test_bad_folders_and_parameters_are_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        cutting.find(str(tmp_path / "none"))
    with pytest.raises(UserError, match="no videos below it"):
        cutting.find(str(tmp_path))
    with pytest.raises(UserError, match=r"probe.accept: 'hdr'"):
        cutting.Probe(accept=("hdr",))
    with pytest.raises(UserError, match=r"config.cut.num_frames=16"):
        cutting.Cut(num_frames=16)
    with pytest.raises(UserError, match="detector='magic'"):
        cutting.Scenes(detector="magic")
