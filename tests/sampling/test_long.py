"""Windows over the model, and window after window over files of any length."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_pipeline import quick_compile, tiny_pipeline  # noqa: F401

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.files.npz import read_npz
from unityvideo_jax.sampling import SamplerConfig
from unityvideo_jax.sampling.long import Chunk, sample_long
from unityvideo_jax.sampling.long_files import write_chunks
from unityvideo_jax.sampling.samples import Samples
from unityvideo_jax.sampling.windows import ramps, starts, windowed

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.mark.parametrize(
    ("length", "size", "overlap"), [(5, 5, 2), (21, 5, 2), (22, 5, 1), (6, 5, 4)]
)
def test_windows_cover_a_video_and_their_weights_sum_to_one(length, size, overlap):
    total = np.zeros(length)
    for begin, weight in zip(
        starts(length, size, overlap), ramps(length, size, overlap), strict=True
    ):
        total[begin : begin + size] += weight
        assert (weight > 0).all()
    np.testing.assert_allclose(total, 1.0)


def test_windows_of_a_model_that_looks_at_each_frame_are_the_model():
    x = jnp.asarray(RNG.normal(size=(2, 2, 11, 2, 2, 3)), jnp.float32)
    clean = jnp.zeros(x.shape[:3], bool).at[:, 0, 0].set(True)
    seen = []

    def local(latents, timestep, modality, context, clean=None):
        seen.append(latents.shape[2])
        return (
            jnp.tanh(latents) + timestep[..., None, None, None, None] + clean[..., None, None, None]
        )

    rest = (jnp.full((2, 2), 0.5), jnp.zeros((2, 2), jnp.int32), jnp.zeros((2, 2, 1, 1)))
    ours = windowed(local, 5, 2)(x, *rest, clean=clean)
    assert set(seen) == {5}
    np.testing.assert_allclose(ours, local(x, *rest, clean=clean), atol=1e-6)


def test_a_long_video_is_sampled_through_windows(pipeline):
    long = pipeline("a man", wanted=("rgb", "depth"), num_frames=17, window=5, overlap=1)
    assert long.videos["depth"].shape == (1, 17, 32, 32, 3)
    short = dict(prompts="a man", wanted=("rgb",), num_frames=5)
    np.testing.assert_array_equal(
        pipeline(**short, window=5, overlap=1).latents["rgb"], pipeline(**short).latents["rgb"]
    )
    for window, overlap, message in ((6, 1, "window=6: the VAE"), (5, 5, "less than window=5")):
        with pytest.raises(UserError, match=message):
            SamplerConfig(window=window, overlap=overlap)


def film(count):
    return iter(RNG.integers(0, 256, (count, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(("count", "num_frames"), [(3, None), (9, None), (23, None), (40, 14)])
def test_estimates_of_any_length_are_as_long_as_the_film(pipeline, tmp_path, count, num_frames):
    chunks = sample_long(
        pipeline,
        "",
        given={"rgb": film(count)},
        wanted=("depth", "segmentation"),
        num_frames=num_frames,
        continued=False,
        window=5,
        overlap=1,
        steps=1,
    )
    said = write_chunks(tmp_path, chunks, fps=8.0, record={"name": "x"})
    length = num_frames or count
    assert said["num_frames"] == length and said["name"] == "x"
    assert set(said["files"]) == {
        *("rgb.mp4", "depth.mp4", "segmentation.mp4", "depth.npz", "segmentation.npz")
    }
    for name in ("rgb", "depth", "segmentation"):
        assert media.video_info(tmp_path / f"{name}.mp4").num_frames == length
    assert read_npz(tmp_path / "depth.npz", ("depth",))["depth"].shape == (length, 32, 32)
    windows = -(-(length - 1) // 4)
    assert said["seams"].get("depth", {"count": 0})["count"] == windows - 1


def test_files_of_an_earlier_sample_are_named(tmp_path, capsys):
    def write(*streams):
        frames = np.zeros((1, 32, 32, 3), np.uint8)
        chunk = Chunk(arrays={}, videos=dict.fromkeys(streams, frames))
        write_chunks(tmp_path, iter([chunk]), fps=8.0, record={})

    write("rgb", "depth")
    write("rgb", "depth")
    assert "earlier" not in capsys.readouterr().out
    (tmp_path / "sheet.png").touch()
    write("rgb")
    says = f"{tmp_path}: depth.mp4, sheet.png stay from an earlier sample"
    assert says in capsys.readouterr().out


class Stretching:
    """Estimates depth as the brightness of RGB, of another range in every window."""

    def __init__(self):
        self.given = []

    def codec(self, name):
        return modalities.get(name).codec

    def __call__(self, prompt, *, given, wanted, **_):
        self.given.append(given["rgb"])
        scale = RNG.uniform(0.3, 0.9)
        videos = {"rgb": given["rgb"][None], "depth": scale * given["rgb"][None] + (1.0 - scale)}
        return Samples(videos=videos, latents={}, streams=("rgb", "depth"), wanted=wanted)


def test_windows_of_relative_depth_share_the_first_frame():
    model = Stretching()
    grey = RNG.integers(50, 250, (43, 8, 8, 1), np.uint8).repeat(3, axis=-1)
    call = dict(wanted=("depth",), num_frames=None, continued=False, window=17, overlap=5)
    chunks = list(sample_long(model, "", given={"rgb": iter(grey)}, **call))
    for number, clip in enumerate(model.given):
        places = [*range(17)] if not number else [0, *range(12 * number + 1, 12 * number + 17)]
        np.testing.assert_allclose(clip, grey[np.minimum(places, 42)] / 127.5 - 1.0, atol=1e-6)
    film = np.concatenate([chunk.videos["rgb"] for chunk in chunks])
    np.testing.assert_array_equal(film, grey)
    disparity = np.concatenate([1.0 / chunk.arrays["depth"]["depth"] for chunk in chunks])
    line = np.polynomial.Polynomial.fit(grey[:12, ..., 0].ravel(), disparity[:12].ravel(), 1)
    np.testing.assert_allclose(disparity, line(grey[..., 0]), rtol=1e-3)


def test_a_continued_video_starts_from_its_last_frames(pipeline):
    chunks = list(
        sample_long(
            pipeline,
            "a man",
            given={},
            wanted=("rgb", "depth"),
            num_frames=13,
            continued=True,
            window=9,
            overlap=5,
            steps=1,
        )
    )
    assert [len(chunk.videos["rgb"]) for chunk in chunks] == [4, 9]
    first = pipeline("a man", wanted=("rgb", "depth"), num_frames=9, steps=1, seed=[0])
    film = np.concatenate([chunk.videos["rgb"] for chunk in chunks])
    # The second window holds the frames that it shares as they were.
    assert np.abs(film[:9].astype(int) - first.video("rgb")).max() <= 1
    assert np.abs(film[9:].astype(int) - film[8].astype(int)).max() > 1


def test_the_largest_seed_is_followed_by_the_first(pipeline):
    options = dict(given={}, wanted=("rgb",), num_frames=9, continued=True, window=5, overlap=1)
    chunks = list(sample_long(pipeline, "a man", **options, seed=2**32 - 1, steps=1))
    assert sum(len(chunk.videos["rgb"]) for chunk in chunks) == 9


def test_what_has_no_length_is_named(pipeline):
    call = dict(given={}, wanted=("rgb",), num_frames=None, continued=True, window=5, overlap=1)
    with pytest.raises(UserError, match="say how many frames"):
        next(sample_long(pipeline, "", **call))
    with pytest.raises(UserError, match="given rgb: no frame"):
        next(sample_long(pipeline, "", **(call | {"given": {"rgb": film(0)}})))
