import jax
import numpy as np
import pytest
from synthetic_clips import clip, eight_bit, softened

from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities import get, palette
from unityvideo_jax.modalities.densepose import CHAINS, EXTENT, LAYOUT
from unityvideo_jax.modalities.flow import LIMIT
from unityvideo_jax.modalities.segmentation import picture_order

SIZES = [(64, 64), (128, 128), (256, 448)]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)


def test_rgb_floor():
    codec, truth = get("rgb").codec, clip(2, 64, 64)
    video, side = codec.encode(truth)
    for shown, floor in ((video, "rgb"), (eight_bit(video), "rgb_8bit")):
        error = np.abs(codec.decode(shown, side)["rgb"] - truth["rgb"]).max()
        assert error < codec.error_floor[floor]


@sizes
def test_depth_floor(size):
    codec, truth = get("depth").codec, clip(2, *size)
    video, side = codec.encode(truth)
    low, high = side["bounds"]
    surface = np.isfinite(truth["depth"])
    assert 0.1 < surface.mean() < 0.9
    assert high == pytest.approx(1 / truth["depth"].min()) and low > 0
    for shown, floor in (
        (video, "disparity_share"),
        (eight_bit(video), "disparity_share_8bit"),
    ):
        depth = codec.decode(shown, side)["depth"]
        np.testing.assert_array_equal(np.isfinite(depth), surface)
        error = np.abs(1 / depth - 1 / truth["depth"])[surface].max() / (high - low)
        assert error < codec.error_floor[floor]


def test_depth_is_one_scale_for_the_clip_and_near_is_bright():
    codec = get("depth").codec
    depth = np.stack([np.full((16, 16), d, np.float32) for d in (1.0, 2.0, 4.0)])
    video, _ = codec.encode({"depth": depth})
    grey = np.asarray(video)[:, 0, 0]
    np.testing.assert_array_equal(grey[:, 0], grey[:, 2])
    assert grey[0, 0] == 1.0 and grey[0, 0] > grey[1, 0] > grey[2, 0] > -1.0
    # Linear in disparity: 1, 1/2, 1/4.
    assert (grey[0, 0] - grey[1, 0]) / (grey[1, 0] - grey[2, 0]) == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("value", [3.0, np.inf])
def test_depth_constant_and_all_sky(value):
    codec = get("depth").codec
    depth = np.full((2, 16, 16), value, np.float32)
    video, side = codec.encode({"depth": depth})
    assert np.isfinite(video).all() and np.isfinite(side["bounds"]).all()
    np.testing.assert_allclose(codec.decode(eight_bit(video), side)["depth"], depth, rtol=1e-5)


@sizes
def test_flow_floor(size):
    codec = get("flow").codec
    diagonal = np.hypot(*size)
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, (2, *size))
    speed = diagonal * LIMIT * rng.uniform(0, 1, (2, *size)) ** 2
    flow = np.stack([speed * np.cos(angle), speed * np.sin(angle)], -1).astype(np.float32)
    flow[0, :4] = 0.0
    video, side = codec.encode({"flow": flow})
    assert side["clipped"] == 0.0
    for shown, floor in ((video, "diagonal_share"), (eight_bit(video), "diagonal_share_8bit")):
        decoded = codec.decode(shown, side)["flow"]
        assert np.isfinite(decoded).all()
        error = np.linalg.norm(decoded - flow, axis=-1) / diagonal
        assert error.max() < codec.error_floor[floor]
    assert error[0, :4].max() < codec.error_floor["diagonal_share_8bit_rest"]


def test_flow_beyond_the_limit_keeps_its_direction_and_is_counted():
    codec = get("flow").codec
    flow = np.zeros((1, 16, 16, 2), np.float32)
    flow[0, 0] = (-300.0, 400.0)
    video, side = codec.encode({"flow": flow})
    assert side["clipped"] == pytest.approx(1 / 16)
    decoded = codec.decode(video, side)["flow"]
    limit = LIMIT * np.hypot(16, 16)
    np.testing.assert_allclose(decoded[0, 0, 0], (-0.6 * limit, 0.8 * limit), rtol=1e-5)
    np.testing.assert_array_equal(decoded[0, 1:], 0.0)


def test_flow_ignores_a_change_of_brightness():
    codec, truth = get("flow").codec, clip(1, 32, 32)
    video, side = codec.encode(truth)
    decoded = codec.decode(np.asarray(video) * 0.999 + 0.03, side)["flow"]
    np.testing.assert_allclose(decoded, truth["flow"], atol=0.02)


def test_palette_is_well_spaced_and_stable():
    colours = palette.instance_palette()
    assert colours.shape == (27, 3)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert [distance[:n, :n].min() for n in (8, 14, 27)] == pytest.approx([2.0, 2**0.5, 1.0])
    assert colours[:4].tolist() == [[-1, -1, -1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]


@sizes
def test_segmentation_floor(size):
    codec = get("segmentation").codec
    height, width = size
    # All 26 ids as blocks; with and without a record of how many there are.
    row, column = np.mgrid[:height, :width]
    block = (row * 3 // height) + column * 9 // width * 3  # in the order of the picture
    segments = np.stack([block + 1, block[::-1] + 1]).astype(np.int32) % 27
    video, side = codec.encode({"segments": segments})
    assert side["count"] == 26
    for record in (side, codec.default_side):
        for shown in (np.asarray(video), eight_bit(video)):
            decoded = codec.decode(shown, record)["segments"]
            assert (decoded != segments).mean() <= codec.error_floor["pixel_share_8bit"]


@sizes
def test_segmentation_blur_makes_no_new_instances(size):
    codec, truth = get("segmentation").codec, clip(2, *size)
    # Yellow on black: the middle of the border has exactly another instance's colour.
    mask = truth["segments"] == 1
    video = palette.instance_palette()[np.where(mask, 4, 0)]
    decoded = codec.decode(softened(video), codec.default_side)["segments"]
    assert set(np.unique(decoded)) == {0, 4}
    assert ((decoded == 4) & mask).sum() / ((decoded == 4) | mask).sum() > 0.93


def test_segmentation_colours_do_not_depend_on_the_numbers_of_the_instances():
    """Nothing in the picture shows a renderer's slots, so they must not choose a colour."""
    codec, rng = get("segmentation").codec, np.random.default_rng(0)
    # Blocks of 8 x 8 of random ids, of which some appear late and some never.
    segments = rng.integers(0, 9, (3, 6, 8)) * (rng.random((3, 6, 8)) < 0.4)
    segments[:2][segments[:2] > 5] = 0
    segments = segments.repeat(8, 1).repeat(8, 2).astype(np.int32)
    encode = jax.jit(jax.vmap(codec.encode))
    relabelled = [segments]
    for _ in range(3):
        names = np.concatenate([[0], 1 + rng.permutation(26)])
        relabelled.append(names[segments].astype(np.int32))
    videos, sides = encode({"segments": np.stack(relabelled)})
    for video in videos[1:]:
        np.testing.assert_array_equal(video, videos[0])
    assert set(np.asarray(sides["count"])) == {len(np.unique(segments)) - 1}
    # Only names change: the same pixels share a colour as shared an id.
    decoded = codec.decode(np.asarray(videos[0]), codec.default_side)["segments"]
    pairs = set(zip(segments.ravel().tolist(), decoded.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(segments))


def test_segmentation_order_is_first_sight_then_left_to_right():
    segments = np.zeros((3, 16, 32), np.int32)
    segments[:, 4:8, 20:24] = 5
    segments[:, 4:8, 2:6] = 9
    segments[:, 10:14, 2:6] = 3  # below 9, the same centre in x
    segments[1:, 0:2, 0:2] = 1  # leftmost of all, later
    segments[2] = np.roll(segments[2], 8, axis=1)  # what happens later does not matter
    place = np.asarray(picture_order(segments))
    assert {n: int(k) for n, k in enumerate(place) if k} == {9: 1, 3: 2, 5: 3, 1: 4}
    around = np.zeros((1, 9, 9), np.int32)  # one centre: the larger first
    around[0, 3:6, 3:6] = 7
    around[0, 4, 4] = 2
    assert list(np.asarray(picture_order(around))[[7, 2]]) == [1, 2]


def test_segmentation_rejects_far_colours_and_survives_an_empty_mask():
    codec = get("segmentation").codec
    empty = np.zeros((2, 16, 16), np.int32)
    video, side = codec.encode({"segments": empty})
    assert side["count"] == 0
    np.testing.assert_array_equal(codec.decode(video, side)["segments"], empty)
    odd = np.full((1, 16, 16, 3), 0.5, np.float32)  # 0.87 from white and from grey
    assert (codec.decode(odd, codec.default_side)["segments"] == 0).all()
    near = np.broadcast_to(np.float32([0.8, -0.8, -0.9]), (1, 16, 16, 3))
    assert (codec.decode(near, codec.default_side)["segments"] == 1).all()
    assert (codec.decode(near, codec.default_side, reject=0.1)["segments"] == 0).all()


def test_densepose_layout_keeps_parts_apart():
    assert sorted(p for chain in CHAINS for p in chain) == list(range(1, 25))
    top = LAYOUT + EXTENT
    gap = np.maximum(np.maximum(LAYOUT[:, None] - top[None], LAYOUT[None] - top[:, None]), 0)
    distance = np.linalg.norm(gap, axis=-1) + 9 * np.eye(25)
    assert distance.min() == pytest.approx(0.3, abs=1e-5)
    assert distance[0, 1:].min() == pytest.approx(0.5, abs=1e-5)


@sizes
def test_densepose_floor(size):
    codec, truth = get("densepose").codec, clip(2, *size)
    assert len(np.unique(truth["part"])) == 25
    video, side = codec.encode(truth)
    for shown, part_floor, uv_floor in (
        (video, "part_share", "uv"),
        (eight_bit(video), "part_share_8bit", "uv_8bit"),
    ):
        decoded = codec.decode(shown, side)
        assert (decoded["part"] != truth["part"]).mean() <= codec.error_floor[part_floor]
        assert np.abs(decoded["uv"] - truth["uv"]).max() <= codec.error_floor[uv_floor]


def test_densepose_without_people():
    codec = get("densepose").codec
    empty = {"part": np.zeros((1, 16, 16), np.int32), "uv": np.zeros((1, 16, 16, 2), np.float32)}
    video, side = codec.encode(empty)
    decoded = codec.decode(video, side)
    assert not decoded["part"].any() and not decoded["uv"].any()


def test_stray_pixels_do_not_darken_a_clip():
    codec = get("depth").codec
    y, x = np.mgrid[0:32, 0:32]
    depth = np.stack([2.0 + (x + y + t) / 8.0 for t in range(5)]).astype(np.float32)
    clean, _ = codec.encode({"depth": depth})
    stray = depth.copy()
    stray[:, 3, 4] = 0.01  # in every frame
    stray[0, 0, 1] = 1e-40  # has no finite inverse
    stray[2, 9, 9] = 1e9
    video, side = codec.encode({"depth": stray})
    same = stray == depth
    assert np.abs(np.asarray(video) - np.asarray(clean))[same].max() < 1e-5
    assert np.isfinite(side["bounds"]).all()
    decoded = codec.decode(video, side)["depth"]
    np.testing.assert_allclose(decoded[same], depth[same], rtol=1e-4)
    # A near object is no stray, however small the rest of the range.
    wall = np.full((5, 32, 32), 5.0, np.float32)
    wall[:, :4, :4] = 1.0
    np.testing.assert_allclose(codec.decode(*codec.encode({"depth": wall}))["depth"], wall, 1e-5)


def test_metric_depth_floor():
    codec = get("depth").variants["metric"]
    depth = np.geomspace(0.1, 100.0, 2 * 32 * 32).reshape(2, 32, 32).astype(np.float32)
    depth[0, 0] = np.inf
    surface = np.isfinite(depth)
    video, side = codec.encode({"depth": depth})
    for shown, floor in ((video, "relative"), (eight_bit(video), "relative_8bit")):
        for record in (side, codec.default_side):  # a model's video needs no record
            decoded = codec.decode(shown, record)["depth"]
            np.testing.assert_array_equal(np.isfinite(decoded), surface)
            error = np.abs(decoded[surface] / depth[surface] - 1).max()
            assert error < codec.error_floor[floor]


def test_metric_depth_is_the_same_grey_in_every_clip():
    codec = get("depth").variants["metric"]

    def grey(*metres):
        video, _ = codec.encode({"depth": np.asarray(metres, np.float32).reshape(1, 1, -1)})
        return np.asarray(video)[0, 0, :, 0]

    assert grey(4.0, 12.0)[0] == grey(4.0, 90.0)[0]
    np.testing.assert_allclose(grey(0.1, 0.01, 100.0, 1000.0), [1.0, 1.0, -0.84, -0.84], atol=1e-6)
    # Logarithmic: equal factors are equal steps.
    np.testing.assert_allclose(np.diff(grey(1.0, 3.0, 9.0, 27.0), n=2), 0.0, atol=1e-6)


def test_shards_of_earlier_versions_are_read_as_before():
    depth = get("depth")
    old = depth.codec_of("depth-disparity-1", "shards")
    assert old is depth.codec and depth.codec_of(None, "shards") is depth.codec
    assert depth.codec_of("depth-metric-log-1", "shards") is depth.variants["metric"]
    with pytest.raises(UserError, match=r"a\.mp4: depth was drawn by codec 'depth-9'"):
        depth.codec_of("depth-9", "a.mp4")
    # Bounds of the first version, by hand: grey 0.54 is half way between 1/10 and 1/2.
    video = np.full((1, 1, 1, 3), 2 * 0.54 - 1, np.float32)
    decoded = old.decode(video, {"bounds": np.array([0.1, 0.5], np.float32)})
    np.testing.assert_allclose(decoded["depth"], 1 / 0.3, rtol=1e-5)
