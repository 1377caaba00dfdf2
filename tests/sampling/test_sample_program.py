import dataclasses
import json
from unittest import mock

import in_process
import jax
import numpy as np
import pytest
from PIL import Image
from tiny_pipeline import quick_compile, tiny_pipeline  # noqa: F401

from unityvideo_jax import media, modalities
from unityvideo_jax.files import provenance
from unityvideo_jax.sampling.pipeline import Pipeline


def run(*flags):
    """Samples from the tiny pipeline."""
    with mock.patch.object(Pipeline, "from_workdir", lambda *_, **__: tiny_pipeline()):
        return in_process.run("sample", "--workdir=w", *flags)


def clip(frames, height, width):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (frames, height, width, 3), np.uint8)


def test_batch_file_of_all_modes(tmp_path):
    media.write_video(tmp_path / "film.mp4", clip(12, 40, 64), 16.0)
    photo = clip(1, 48, 32)[0]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(np.repeat(np.uint8([[0, 255]]), 16).reshape(1, 32).repeat(32, 0)).save(
        tmp_path / "kept.png"
    )
    np.savez(tmp_path / "truth.npz", depth=np.full((9, 32, 32), 3.0, np.float32))
    entries = [
        {"mode": "estimation", "modality": "depth", "input": "film.mp4", "name": "estimate"},
        {"mode": "control", "modality": "depth", "input": "truth.npz", "prompt": "a man"},
        {"given": {"rgb": "film.mp4"}, "wanted": ["depth", "flow"], "seed": 9},
        {"mode": "joint", "modality": "depth", "first_frame": "photo.png"},
        {
            "given": {"rgb": "film.mp4"},
            "wanted": "rgb",
            "masks": "kept.png",
            "strength": 0.5,
            "negative_prompt": "grass",
            "sampler": {"steps": 2, "text_guidance": 3.0, "guidance_interval": [0.0, 0.9]},
        },
    ]
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, entries)))
    out = tmp_path / "out"
    done = run(f"--batch_file={tmp_path / 'requests.jsonl'}", f"--output={out}", "--steps=1")
    assert done.returncode == 0, done.stderr
    assert "[3/5] 0002" in done.stdout
    assert sorted(p.name for p in out.iterdir()) == ["0001", "0002", "0003", "0004", "estimate"]
    files = {p.name for p in (out / "0002").iterdir()}
    streams = {f"{s}.mp4" for s in ("rgb", "depth", "flow")}
    assert files == streams | {"depth.npz", "flow.npz", "sheet.png", "sample.json"}
    frames, fps = media.read_video(out / "estimate" / "depth.mp4")
    assert frames.shape == (5, 32, 32, 3) and fps == 8.0
    assert np.load(out / "estimate" / "depth.npz")["depth"].shape == (5, 32, 32)
    # The control's own record brings its constant 3 m back, not the default bounds.
    np.testing.assert_allclose(np.load(out / "0001" / "depth.npz")["depth"], 3.0, rtol=1e-5)

    record = json.loads((out / "estimate" / "sample.json").read_text())
    assert record["sampler"]["steps"] == 1 and record["sampler"]["solver"] == "euler"
    assert record["checkpoint_step"] == 7
    assert record["request"]["seed"] == 0 and record["prompts"]["rgb"] == ""
    assert record["given"]["rgb"]["frames"] == [0, 2, 4, 6, 8]
    assert record["given"]["rgb"]["sha256"] == provenance.file_hash(tmp_path / "film.mp4")
    assert record["config_sha256"] == provenance.config_hash(record["config"])
    assert record["size"] == [5, 32, 32]
    assert {"jax", "flax", "unityvideo_jax"} <= set(record["versions"])
    assert record["first_frame"] is None
    record = json.loads((out / "0003" / "sample.json").read_text())
    assert record["first_frame"]["sha256"] == provenance.file_hash(tmp_path / "photo.png")
    # The photo's centre, through the autoencoder, is what the video starts with.
    start = tiny_pipeline().encode(media.to_float(photo[None, None, 8:40]), "rgb")
    expected = media.to_uint8(tiny_pipeline().decode(start, "rgb")[0])
    frames, _ = media.read_video(out / "0003" / "rgb.mp4")
    assert np.abs(frames[:1].mean(-1) - expected.mean(-1)).mean() < 6

    record = json.loads((out / "0004" / "sample.json").read_text())
    assert (record["strength"], record["negative_prompt"]) == (0.5, "grass")
    assert record["sampler"]["steps"] == 2 and record["sampler"]["guidance_interval"] == [0, 0.9]
    # The white half of the mask holds the film's pixels.
    frames, _ = media.read_video(out / "0004" / "rgb.mp4")
    given, _ = media.read_video(out / "estimate" / "rgb.mp4")
    apart = np.abs(frames.mean(-1) - given.mean(-1))
    assert apart[:, :, 20:].mean() < 6 < apart[:, :, :12].mean()


def test_a_long_video_goes_from_file_to_file(tmp_path):
    media.write_video(tmp_path / "film.mp4", clip(11, 40, 64), 8.0)
    out = tmp_path / "out"
    done = run(
        *("--mode=estimation", "--modality=depth", f"--input={tmp_path / 'film.mp4'}"),
        *("--long=joined", "--overlap=1", f"--output={out}", "--steps=1"),
    )
    assert done.returncode == 0, done.stderr
    assert "sample: 11 frames" in done.stdout and "2 overlaps: mean" in done.stdout
    assert np.load(out / "depth.npz")["depth"].shape == (11, 32, 32)
    record = json.loads((out / "sample.json").read_text())
    assert record["long"] == {"way": "joined", "window": 5, "overlap": 1}
    assert record["seams"]["depth"]["count"] == 2
    refused = run(
        *("--given=rgb=film.mp4", "--wanted=rgb", "--strength=0.5", "--long=joined"),
        f"--output={out}",
    )
    assert refused.returncode == 2 and "error: --long=joined: strength is of one" in refused.stderr


def test_flags_do_what_the_call_does(tmp_path):
    done = run(
        "--mode=joint",
        "--modality=depth",
        "--prompt=a red ball",
        "--modality_prompt=distance",
        "--seed=3",
        "--solver=heun",
        "--profile",
        f"--output={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(trace)).planes
    names = {event.name for plane in planes for line in plane.lines for event in line.events}
    assert "sample" in {name.split("#")[0] for name in names}
    pipeline = tiny_pipeline()
    samples = pipeline(
        "a red ball",
        wanted=("rgb", "depth"),
        modality_prompts={"depth": "distance"},
        seed=3,
        sampler=dataclasses.replace(pipeline.sampler, solver="heun"),
    )
    frames, _ = media.read_video(tmp_path / "rgb.mp4")
    expected = media.to_uint8(samples.videos["rgb"][0])
    # H.264 halves the colour resolution, so compare brightness.
    assert np.abs(frames.mean(-1) - expected.mean(-1)).mean() < 6
    codec = modalities.get("depth").codec
    depth = codec.decode(samples.videos["depth"][0], codec.default_side)["depth"]
    np.testing.assert_allclose(np.load(tmp_path / "depth.npz")["depth"], depth, rtol=1e-2)
    record = json.loads((tmp_path / "sample.json").read_text())
    assert record["prompts"] == {"rgb": "a red ball", "depth": "distance"}
    assert record["sampler"]["solver"] == "heun" and record["request"]["seed"] == 3


def test_an_input_is_never_written_over(tmp_path):
    film = tmp_path / "rgb.mp4"
    film.write_bytes(b"a film")
    done = run("--mode=estimation", "--modality=depth", f"--input={film}", f"--output={tmp_path}")
    assert done.returncode == 2
    assert f"{film} is read and would be written over" in done.stderr
    assert film.read_bytes() == b"a film"


def test_a_bad_flag_is_one_line_and_writes_nothing(tmp_path):
    out = tmp_path / "out"
    done = run("--mode=joint", "--modality=depth", "--num_frames=6", f"--output={out}")
    assert done.returncode == 2
    assert "error: num_frames=6: the VAE takes 4n+1 frames; use 5 or 9" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    both = run("--pretrained=m", "--mode=joint", "--modality=depth", f"--output={out}")
    assert "error: give either --workdir=RUN or --pretrained=FOLDER_OR_NAME" in both.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--guidance_interval=0.2,0.8",), "--guidance_interval: nothing is guided here"),
        (("--condition_guidance=2",), "--condition_guidance: guides by given streams"),
        (("--overlap=1",), "--overlap: is of windows"),
        (("--depth_unit=cm",), "--depth_unit=cm: no depth is given"),
        (("--batch_file=r.jsonl",), "--wanted: not with --batch_file"),
    ],
)
def test_a_flag_that_nothing_reads_is_refused(tmp_path, flags, says):
    done = run("--wanted=rgb", f"--output={tmp_path / 'out'}", *flags)
    assert done.returncode == 2 and f"error: {says}" in done.stderr, done.stderr


def test_all_requests_are_checked_before_the_first_sample(tmp_path):
    good = {"wanted": "rgb", "prompt": "a man"}
    file, out = tmp_path / "requests.jsonl", tmp_path / "out"
    for changes, says in (
        ({"strength": 0.5}, "request 0001: strength=0.5: is of the given video"),
        ({"negative_prompt": "grass"}, "request 0001: negative_prompt: text guidance is off"),
        ({"wanted": "normals"}, "request 0001: modality 'normals'"),
        ({"sampler": {"guidance_rescale": 0.5}}, "request 0001: guidance_rescale=0.5: nothing is"),
    ):
        file.write_text("\n".join(map(json.dumps, (good, good | changes))))
        for flags in ((), ("--long=continued", "--window=5", "--overlap=1", "--num_frames=9")):
            done = run(f"--batch_file={file}", f"--output={out}", "--steps=1", *flags)
            assert done.returncode == 2 and says in done.stderr, done.stderr
            assert not out.exists()
