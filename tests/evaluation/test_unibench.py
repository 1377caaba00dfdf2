"""UniBench at its small size: built, frozen, scored, packed."""

import pathlib
import shutil
import subprocess
import sys
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest
from tiny_pipeline import tiny_parts

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import score_folder, score_run
from unityvideo_jax.evaluation.benchmarks import frozen, unibench
from unityvideo_jax.evaluation.benchmarks.folder import FolderClips
from unityvideo_jax.evaluation.score_run import BenchmarkConfig
from unityvideo_jax.inputs import packing
from unityvideo_jax.inputs.clip_folders import Clip
from unityvideo_jax.inputs.clip_shards import ClipSeries, ClipShardsSource
from unityvideo_jax.metrics import scores
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.samples import Samples

ROOT = pathlib.Path(__file__).parents[2]
SIZE = unibench.CHECK_SIZE
NAMES = ("000_people", "002_people")
STREAMS = ("rgb", *unibench.FILES)


@pytest.fixture(scope="module")
def rendered():
    return {name: unibench.render_clip(name, SIZE) for name in NAMES}


@pytest.fixture(scope="module")
def original(rendered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    for name, clip in rendered.items():
        unibench.write_clip(folder, name, clip, SIZE)
    return folder


@pytest.fixture
def built(original, tmp_path):
    """A copy of the benchmark to damage."""
    return shutil.copytree(original, tmp_path / "unibench")


def test_two_hundred_different_worlds_half_of_them_held_out():
    names = unibench.names()
    assert len(set(names)) == 200
    kinds = Counter(name[4:] for name in names)
    assert kinds == {"people": 100, "animals": 60, "objects": 40}
    placed = [unibench.world_of(name, SIZE) for name in names]
    assert len({(config.split, index) for config, index in placed}) == 200
    assert {config.seed for config, _ in placed} == {251207831}
    size = unibench.Size()
    assert (size.num_frames, size.height, size.width) == (33, 384, 672)


def test_every_clip_is_frozen_at_both_sizes():
    known = unibench.frozen()
    assert list(known) == unibench.names()
    assert len({entry["scene"] for entry in known.values()}) == 200
    for size in (SIZE, unibench.Size()):
        signatures = {entry["signatures"][size.name] for entry in known.values()}
        assert len(signatures) == 200 and {len(s) for s in signatures} == {2 * 7 * 2 * 12}


@pytest.mark.slow
def test_what_this_machine_renders_is_what_was_frozen(rendered):
    known = unibench.frozen()
    for name, clip in rendered.items():
        signed = unibench.signature(clip.arrays)
        unibench.check(name, clip.scene, signed, SIZE, known)
        other = known["004_people"]["signatures"][SIZE.name]
        assert unibench.distance(signed, other) > 10 * unibench.TOLERANCE
    with pytest.raises(UserError, match="its scene hashes to"):
        unibench.check("004_people", clip.scene, signed, SIZE, known)


def test_signature_is_made_of_plain_means():
    """Signatures against means written out by hand, and within the tolerance's steps."""
    rng = np.random.default_rng(0)
    arrays = {
        "rgb": rng.random((2, 6, 8, 3)).astype(np.float32),
        "depth": np.full((2, 6, 8), 4.0, np.float32),
        "flow": np.stack([np.full((2, 6, 8), 0.5), np.full((2, 6, 8), -0.25)], -1),
        "segments": np.zeros((2, 6, 8), np.int32),
    }
    arrays["depth"][0, :2, :2] = np.inf
    arrays["segments"][1, 4:, 6:] = 3
    values = np.frombuffer(bytes.fromhex(unibench.signature(arrays)), np.uint8).reshape(7, 2, 3, 4)
    assert values[0, 0, 0, 0] == round(255 * arrays["rgb"][0, :2, :2, 0].mean())
    assert values[2, 1, 2, 3] == round(255 * arrays["rgb"][1, 4:, 6:, 2].mean())
    assert values[3, 0, 0, 0] == 0 and values[3, 0, 0, 1] == round(255 / 4)
    assert (values[4] == round(255 * (0.5 + 5 * 0.5 / 10))).all()
    assert (values[5] == round(255 * (0.5 - 5 * 0.25 / 10))).all()
    assert values[6].sum() == values[6, 1, 2, 3] == 255


def test_files_hold_every_value(rendered, built):
    for name, clip in rendered.items():
        read = Clip(path=built / name)
        video = read.video()
        assert video.fps == 8.0
        np.testing.assert_array_equal(
            video.frames, np.round(255 * clip.arrays["rgb"]).astype(np.uint8)
        )
        for stream, keys in unibench.FILES.items():
            truth = read.truth(stream)
            assert truth.keys() == set(keys)
            for key in keys:
                np.testing.assert_array_equal(truth[key], clip.arrays[key])
        assert read.caption == clip.caption
        unibench.verify_clip(read, unibench.frozen())
        assert (built / name / "sheet.png").stat().st_size > 1000


def _rewrite(path, **changed):
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **arrays | {key: change(arrays[key]) for key, change in changed.items()})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: _rewrite(c / "depth.npz", depth=lambda d: 1.2 * d), "differ from UniBench v1"),
        (lambda c: _rewrite(c / "flow.npz", flow=lambda f: -f), "differ from UniBench v1"),
        (lambda c: (c / "densepose.npz").unlink(), "lacks part, uv"),
        (lambda c: (c / "depth.npz").write_bytes(b"PK"), "not a readable npz"),
        (
            lambda c: (c / "clip.json").write_text(
                (c / "clip.json").read_text().replace('"version": 1', '"version": 0')
            ),
            "of UniBench v0",
        ),
    ],
)
def test_a_changed_clip_is_refused(built, spoil, message):
    spoil(built / NAMES[0])
    verify = frozen.verifier(built)
    verify(Clip(path=built / NAMES[1]))
    with pytest.raises(UserError, match=message):
        verify(Clip(path=built / NAMES[0]))


def test_predictions_are_scored_on_it(built, tmp_path):
    """The truth as prediction is perfect; a clip that was tampered with is a fault."""
    predictions = tmp_path / "predictions"
    for name in NAMES:
        (predictions / name).mkdir(parents=True)
        for stream in unibench.FILES:
            shutil.copy(built / name / f"{stream}.npz", predictions / name)
    config = score_folder.HarnessConfig(
        benchmark=built, predictions=predictions, output=tmp_path / "out"
    )
    outcome = score_folder.run(config)
    assert outcome.faults == []
    metrics = scores.aggregate([row.score for row in outcome.rows])
    assert metrics["depth/disparity_scale_shift_video/abs_rel"] < 1e-5
    assert metrics["flow/pooled_all/epe"] == 0
    assert metrics["segmentation/hungarian_clip/mean_iou"] == 1
    assert metrics["skeleton/torso_hungarian/pck_0.2"] == 1
    assert metrics["densepose/clip_mean/part_miou"] == 1
    _rewrite(built / NAMES[0] / "depth.npz", depth=lambda d: 2 * d)
    (fault,) = score_folder.run(config).faults
    assert fault.startswith("000_people: benchmark:") and "differ from UniBench" in fault


class Oracle(Pipeline):
    """A pipeline that answers with the truth of a folder, drawn by the codecs."""

    SIZE: ClassVar = dict(num_frames=5, height=96, width=96)

    def __init__(self, folder):
        super().__init__(**tiny_parts(**self.SIZE))
        clips = FolderClips(folder, **self.SIZE)
        self.rows = {int(b.index[0]): b for b in clips.batches([0, 1], 1)}

    def encode(self, video, modality):
        return video

    def decode(self, latents, modality):
        return latents

    def __call__(self, prompts, *, given, wanted, modality_prompts, sampler, seed, **_):
        (name,) = wanted
        codec = modalities.get(name).codec
        videos = []
        for i, number in enumerate(seed):
            row = self.rows[number]
            np.testing.assert_array_equal(given["rgb"][i], 2 * row.clip["rgb"][0] - 1)
            assert modality_prompts[name][i] == row.prompts[0][name]
            clip = {key: row.clip[key][0] for key in codec.keys}
            videos.append(np.asarray(codec.encode(clip)[0]))
        return Samples(videos={name: np.stack(videos)}, latents={}, streams=("rgb", name))


def test_a_run_is_scored_on_it_at_its_own_size(built):
    config = BenchmarkConfig(benchmark=str(built), num_clips=2, batch_size=2)
    results = score_run.run(Oracle(built), config, SamplerConfig())
    # Bounds that the codecs themselves keep; the model's side record is not used.
    assert results.metrics["depth/disparity_scale_shift_video/abs_rel"] < 1e-3
    assert results.metrics["flow/pooled_all/epe"] < 1e-2
    # One of four people has five pixels per frame here, fewer than the codec keeps: (1 + 2/3) / 2.
    iou = results.metrics["segmentation/hungarian_clip/mean_iou"]
    np.testing.assert_allclose(iou, 5 / 6, atol=1e-3)
    assert results.trivial["flow/pooled_all/epe"] > 0.1
    with pytest.raises(UserError, match="--num_clips=3: the benchmark has 2"):
        score_run.run(
            Oracle(built), BenchmarkConfig(benchmark=str(built), num_clips=3), SamplerConfig()
        )


def test_folder_clips_are_the_files_cropped(rendered, built):
    """Fits 48 x 80 to 24 x 24: half size, then eight columns off either side."""
    clips = FolderClips(built, num_frames=5, height=24, width=24)
    (batch,) = clips.batches([0, 1], 2)
    for b, name in enumerate(NAMES):
        arrays = rendered[name].arrays
        picked = (slice(5), slice(1, None, 2), slice(17, 65, 2))
        np.testing.assert_array_equal(batch.clip["depth"][b], arrays["depth"][picked])
        np.testing.assert_array_equal(batch.clip["segments"][b], arrays["segments"][picked])
        np.testing.assert_allclose(batch.clip["flow"][b], arrays["flow"][picked] / 2, atol=1e-6)
        expected = arrays["keypoints"][:5] / 2 - [8, 0]
        np.testing.assert_allclose(batch.clip["keypoints"][b], expected, atol=1e-4)
        assert batch.captions[b] == rendered[name].caption


def test_a_unit_beside_a_file_is_not_lost_in_a_record(built, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(built / NAMES[0], folder / "clip")
    (folder / "clip" / "depth.json").write_text('{"unit": "mm"}')
    with pytest.raises(UserError, match=r"clip: depth\.json: states the unit beside depth\.npz"):
        packing.pack_benchmark(folder, tmp_path / "packed")


def test_packed_it_is_a_tfds_dataset_that_grain_reads(rendered, built, tmp_path):
    workdir = tmp_path / "packed"
    card = packing.pack_benchmark(built, workdir)
    assert card.counts == {"test": 2} and card.modalities == STREAMS
    for stream in STREAMS:
        series = ClipSeries(workdir, "unibench", stream, "test")
        for n, name in enumerate(NAMES):
            assert series[n].key == name
            assert series[n].data == Clip(path=built / name).source(stream).read_bytes()
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"s = tfds.data_source('unibench/flow', split='test', data_dir={str(workdir)!r})\n"
        "print(len(s), s[1]['key'].decode())\n"
        "assert not {'tensorflow', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "002_people"]
    source = ClipShardsSource(workdir, STREAMS, split="test", num_frames=33, height=48, width=80)
    batch = source.load([1], STREAMS)
    clip = rendered[NAMES[1]]
    assert batch.texts["rgb"] == [clip.caption]
    assert batch.texts["segmentation"] == [clip.prompts["segmentation"]]
    side = {key: np.asarray(value[0]) for key, value in batch.sides["flow"].items()}
    decoded = modalities.get("flow").codec.decode(batch.videos["flow"][0], side)["flow"]
    limit = 0.2 * np.hypot(48, 80)
    known = np.linalg.norm(clip.arrays["flow"], axis=-1) < limit
    np.testing.assert_allclose(decoded[known], clip.arrays["flow"][known], atol=1e-3)


def test_the_program_names_bad_requests(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "unityvideo_jax.unibench", f"--workdir={tmp_path}", "--first=200"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert "error: --first=200: there are 200 clips" in done.stderr


def test_lossless_video_comes_back_bit_for_bit(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 17, 23, 3), dtype=np.uint8)
    media.write_lossless(tmp_path / "noise.mkv", frames, 8.0)
    read, fps = media.read_video(tmp_path / "noise.mkv")
    np.testing.assert_array_equal(read, frames)
    assert fps == 8.0
    info = media.video_info(tmp_path / "noise.mkv")
    assert (info.fps, info.num_frames, info.height, info.width) == (8.0, 3, 17, 23)
