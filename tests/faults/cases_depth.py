"""Depth in other units, of unknown scale, or with values that are none."""

import json
import pathlib
from collections.abc import Callable

import numpy as np

from tests.faults.harness import Case
from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import score_folder
from unityvideo_jax.inputs import pipeline, shards
from unityvideo_jax.inputs.config import DataConfig
from unityvideo_jax.inputs.folder import FolderSource
from unityvideo_jax.metrics import scores
from unityvideo_jax.metrics.depth import ALIGNMENTS
from unityvideo_jax.sampling import files
from unityvideo_jax.sampling.samples import Samples

SHAPE = (5, 16, 32)
METRES = np.linspace(2, 7, 5 * 16 * 32, dtype=np.float32).reshape(SHAPE)
Edit = Callable[[np.ndarray], np.ndarray]


def unit(name: object) -> dict[str, np.ndarray]:
    return {"unit": np.asarray(name)}


def changed(value: float, where: object = (1, 2, 3)) -> np.ndarray:
    depth = METRES.copy()
    depth[where] = value
    return depth


def evaluated(
    folder: pathlib.Path,
    prediction: dict,
    truth: dict,
    *,
    beside: dict | None = None,
    **flags: str,
) -> dict:
    """Numbers of one clip by key; UserError is its one fault."""
    for side, arrays in (("truth", truth), ("predictions", prediction)):
        (folder / side / "clip").mkdir(parents=True)
        np.savez(folder / side / "clip" / "depth.npz", **arrays)
    if beside is not None:
        (folder / "truth" / "clip" / "depth.json").write_text(json.dumps(beside))
    outcome = score_folder.run(
        score_folder.HarnessConfig(
            benchmark=folder / "truth",
            predictions=folder / "predictions",
            output=folder / "output",
            **flags,
        )
    )
    for fault in outcome.faults:
        raise UserError(fault)
    return scores.aggregate([row.score for row in outcome.rows])


def perfect(prediction: dict, truth: dict, *, metric: bool, **more) -> Callable:
    """The estimate has error 0 under every alignment, and in metres if its unit is known."""

    def act(folder: pathlib.Path) -> None:
        found = evaluated(folder, prediction, truth, **more)
        for alignment in (*ALIGNMENTS, *(["metric"] if metric else [])):
            assert found[f"depth/{alignment}/abs_rel"] < 2e-3, (alignment, found)
        assert found["depth/metric/videos"] == int(metric), found

    return act


def refused(prediction: dict, truth: dict, **more) -> Callable:
    return lambda folder: evaluated(folder, prediction, truth, **more)


TRUTH = {"depth": METRES}
MILLIMETRES = {"depth": 1000 * METRES}


def sky_is_counted(folder: pathlib.Path) -> None:
    sky = {"depth": np.full(SHAPE, np.inf, np.float32)}
    assert evaluated(folder, TRUTH, sky)["depth/videos_without_valid_pixels"] == 1


def sky_predicted_is_scored(folder: pathlib.Path) -> None:
    found = evaluated(folder, {"depth": np.full(SHAPE, np.inf, np.float32)}, TRUTH)
    assert all(np.isfinite(v) for v in found.values()) and found["depth/videos"] == 1


def drawn_by_another_version(folder: pathlib.Path) -> None:
    clip = folder / "predictions" / "clip"
    clip.mkdir(parents=True)
    media.write_video(clip / "depth.mp4", np.zeros((5, 16, 32, 3), np.uint8), 8.0)
    (clip / "sample.json").write_text(json.dumps({"codecs": {"depth": "depth-disparity-9"}}))
    (folder / "truth" / "clip").mkdir(parents=True)
    np.savez(folder / "truth" / "clip" / "depth.npz", depth=METRES)
    outcome = score_folder.run(
        score_folder.HarnessConfig(
            benchmark=folder / "truth",
            predictions=folder / "predictions",
            output=folder / "output",
        )
    )
    raise UserError(outcome.faults[0])


def prepared(codec: str, arrays: dict) -> Callable:
    """Reads a folder's clip as `prepare --depth_codec` does."""

    def act(folder: pathlib.Path) -> None:
        media.write_video(folder / "a.mp4", np.zeros((*SHAPE, 3), np.uint8), 8.0)
        (folder / "a.txt").write_text("a wall")
        np.savez(folder / "a.depth.npz", **arrays)
        source = FolderSource(
            folder,
            ("rgb", "depth"),
            num_frames=5,
            height=16,
            width=32,
            codecs={"depth": codec},
        )
        batch = source.load([0], ("depth",))
        side = {key: value[0] for key, value in batch.sides["depth"].items()}
        chosen = modalities.chosen_codec("depth", source.codecs)
        read = chosen.decode(batch.videos["depth"][0], side)["depth"]
        np.testing.assert_allclose(read, METRES, rtol=1e-4)

    return act


def stray(folder: pathlib.Path) -> None:
    codec = modalities.get("depth").codec
    clean = np.asarray(codec.encode({"depth": METRES})[0])
    video = np.array(codec.encode({"depth": changed(0.01, (slice(None), 4, 5))})[0])
    video[:, 4, 5] = clean[:, 4, 5]
    assert np.abs(video - clean).max() < 0.05, np.abs(video - clean).max()


def shards_of(codec: str, version: str) -> Callable:
    def act(folder: pathlib.Path) -> None:
        size = dict(num_frames=17, height=64, width=64)
        card = shards.Card(
            count=1,
            fps=8.0,
            latent_shape=(5, 8, 8, 16),
            vae="",
            text_encoder="words",
            text_length=48,
            text_dim=256,
            modalities=("rgb", "depth"),
            codecs={"depth": version},
            settings={},
            **size,
        )
        config = DataConfig(dirs=("shards",), depth_codec=codec, **size)
        pipeline.check_codec(card, config, "shards", "depth")

    return act


def sampled(codec: str, *, wanted: bool, expected: str, arrays: dict | None = None) -> Callable:
    """The unit that a sample states for its depth, which is sampled or given."""

    def act(folder: pathlib.Path) -> None:
        chosen = {"depth": modalities.chosen_codec("depth", {"depth": codec})}
        sides, units = {}, {}
        video = np.asarray(chosen["depth"].encode({"depth": METRES})[0])
        if not wanted:
            path = folder / "depth.npz"
            np.savez(path, **arrays)
            given = files.read_given(
                {"depth": str(path)},
                num_frames=5,
                default_frames=5,
                height=16,
                width=32,
                fps=8.0,
                codecs=chosen,
            )["depth"]
            sides, units, video = {"depth": given.side}, {"depth": given.unit}, given.video
        samples = Samples(
            videos={"depth": video[None]},
            latents={},
            streams=("depth",),
            sides=sides,
            units=units,
            codecs=chosen,
        )
        samples.save(folder / "out")
        with np.load(folder / "out" / "depth.npz") as stored:
            assert str(stored["unit"]) == expected, stored["unit"]
            if expected == "m":
                np.testing.assert_allclose(stored["depth"], METRES, rtol=1e-4)
        record = json.loads((folder / "out" / "sample.json").read_text())
        assert record["units"] == {"depth": expected}, record

    return act


def case(name: str, act: Callable, *says: str) -> Case:
    return Case(kind="depth", name=name, act=act, says=says)


CASES = [
    case("estimate in mm, unstated", perfect(MILLIMETRES, TRUTH, metric=False)),
    case("estimate times 1e-6", perfect({"depth": 1e-6 * METRES}, TRUTH, metric=False)),
    case("estimate times 1e30", perfect({"depth": 1e30 * METRES}, TRUTH, metric=False)),
    case(
        "estimate in mm by flag",
        perfect(MILLIMETRES, TRUTH, metric=True, prediction_unit="mm"),
    ),
    case("estimate in mm by npz", perfect(MILLIMETRES | unit("mm"), TRUTH, metric=True)),
    case(
        "estimate in cm as integers",
        perfect({"depth": (100 * METRES).round().astype(np.uint16)} | unit("cm"), TRUTH, metric=1),
    ),
    case(
        "estimate in disparity",
        perfect({"depth": 1 / METRES} | unit("disparity"), TRUTH, metric=False),
    ),
    case(
        "truth in mm, unstated",
        refused(TRUTH, MILLIMETRES),
        "2000 to 7000",
        "no unit is stated",
        "--truth_unit",
    ),
    case("truth in mm by flag", perfect(TRUTH, MILLIMETRES, metric=False, truth_unit="mm")),
    case(
        "truth in mm by the file beside it",
        perfect(TRUTH | unit("m"), MILLIMETRES, metric=True, beside={"unit": "mm"}),
    ),
    case("truth in mm by npz", perfect(TRUTH, MILLIMETRES | unit("mm"), metric=False)),
    case(
        "truth in mm as float16",
        perfect(TRUTH, {"depth": (1000 * METRES).astype(np.float16)} | unit("mm"), metric=False),
    ),
    case(
        "truth relative", perfect(TRUTH | unit("m"), MILLIMETRES | unit("relative"), metric=False)
    ),
    case(
        "units contradict each other",
        refused(TRUTH, MILLIMETRES | unit("mm"), beside={"unit": "cm"}),
        "in mm",
        "says cm",
        "truth/clip/depth.npz",
    ),
    case("unit is no unit", refused(TRUTH | unit("feet"), TRUTH), "'feet'", "use one of"),
    case("unit is two texts", refused(TRUTH | unit(["m", "m"]), TRUTH), "is no unit of depth"),
    case("a text beside it", refused(TRUTH, TRUTH, beside="mm"), "depth.json", '"unit"'),
    case("a number beside it", refused(TRUTH, TRUTH, beside={"unit": 1}), "depth.json", "no unit"),
    case(
        "truth in steps of 5 mm",
        perfect(TRUTH, {"depth": 200 * METRES}, metric=False, beside={"unit": "mm", "scale": 5}),
    ),
    case("NaN in estimate", refused({"depth": changed(np.nan)}, TRUTH), "predicted", "(1, 2, 3)"),
    case("0 in estimate", refused({"depth": changed(0)}, TRUTH), "values <= 0", "1 pixels"),
    case("negative estimate", refused({"depth": -METRES}, TRUTH), "values <= 0", "least -7"),
    case("-inf in estimate", refused({"depth": changed(-np.inf)}, TRUTH), "values <= 0"),
    case("denormal estimate", refused({"depth": changed(0).astype(float) + 1e-310}, TRUTH), "<= 0"),
    case("+inf everywhere in estimate", sky_predicted_is_scored),
    case("NaN in truth", refused(TRUTH, {"depth": changed(np.nan)}), "true depth", "(1, 2, 3)"),
    case("negative truth", refused(TRUTH, {"depth": changed(-1)}), "values < 0", "0 where nothing"),
    case("0 in truth", perfect(TRUTH, {"depth": changed(0, np.s_[:, :8])}, metric=False)),
    case("+inf everywhere in truth", sky_is_counted),
    case(
        "a channel axis", refused({"depth": METRES[..., None]}, {"depth": METRES[..., None]}), "[T"
    ),
    case("masks for depth", refused({"depth": METRES > 3}, {"depth": METRES > 3}), "dtype bool"),
    case("no frames", refused({"depth": METRES[:0]}, {"depth": METRES[:0]}), "shape (0, 16, 32)"),
    case("drawn by another version", drawn_by_another_version, "'depth-disparity-9'", "depth.mp4"),
    case("a stray pixel in every frame", stray),
    case("metric data", prepared("metric", TRUTH)),
    case("metric data in mm", prepared("metric", MILLIMETRES | unit("mm"))),
    case("metric data in mm, unstated", prepared("metric", MILLIMETRES), "a.depth.npz", "its unit"),
    case(
        "metric codec for relative data",
        prepared("metric", TRUTH | unit("relative")),
        "a.depth.npz",
        "unknown scale",
    ),
    case("relative data in mm", prepared("relative", MILLIMETRES | unit("mm"))),
    case("0 in data", prepared("relative", {"depth": changed(0)}), "a.depth.npz", "values <= 0"),
    case("-inf in data", prepared("metric", {"depth": changed(-np.inf)}), "a.depth.npz", "<= 0"),
    case(
        "metric shards, relative run",
        shards_of("relative", "depth-metric-log-1"),
        "--config.data.depth_codec=metric",
    ),
    case(
        "relative shards, metric run",
        shards_of("metric", "depth-disparity-1"),
        "--config.data.depth_codec=relative",
    ),
    case("shards of the first version", shards_of("relative", "depth-disparity-1")),
    case("codec of no such name", shards_of("log", "depth-disparity-1"), "depth_codec='log'"),
    case("sampled, relative", sampled("relative", wanted=True, expected="relative")),
    case("sampled, metric", sampled("metric", wanted=True, expected="m")),
    case("given in metres", sampled("relative", wanted=False, expected="m", arrays=TRUTH)),
    case(
        "given in mm",
        sampled("metric", wanted=False, expected="m", arrays=MILLIMETRES | unit("mm")),
    ),
    case(
        "given from another sample",
        sampled("relative", wanted=False, expected="relative", arrays=TRUTH | unit("relative")),
    ),
    case(
        "given relative to a metric run",
        sampled("metric", wanted=False, expected="", arrays=TRUTH | unit("relative")),
        "depth.npz",
        "unknown scale",
    ),
]
