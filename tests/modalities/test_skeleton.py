import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
from synthetic_clips import eight_bit, people, softened

from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities import get
from unityvideo_jax.modalities.skeleton import SkeletonCodec
from unityvideo_jax.modalities.skeleton_drawing import JOINT_COLOURS, LIMBS
from unityvideo_jax.modalities.skeleton_tracking import real_people, stitch

SIZES = [(64, 64), (128, 128), (256, 448)]
codec = get("skeleton").codec


def encode(keypoints, visibility, size, style="codec"):
    rgb = np.zeros((len(keypoints), *size, 3), np.float32)
    clip = {"keypoints": keypoints, "visibility": visibility, "rgb": rgb}
    return SkeletonCodec(style=style).encode(clip)


def match(truth, found):
    """Reorders the people found to those of the truth, over the whole clip."""
    cost = np.linalg.norm(truth[:, :, None] - found[:, None], axis=-1).mean((0, 3))
    return scipy.optimize.linear_sum_assignment(cost)[1]


def test_colours_are_bright_and_apart():
    np.testing.assert_array_equal(JOINT_COLOURS.max(-1), 1.0)
    distance = np.linalg.norm(JOINT_COLOURS[:, None] - JOINT_COLOURS[None], axis=-1)
    assert (distance + 9 * np.eye(17)).min() >= 0.5
    assert len(LIMBS) == 19 and {j for limb in LIMBS for j in limb} == set(range(17))
    body = [(a, b) for a, b in LIMBS if min(a, b) >= 5]
    assert min(distance[a, b] for a, b in body) >= 0.7


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_floor(size, count):
    keypoints, visibility = people(3, *size, count=count, size=0.6, seed=1)
    video, side = encode(keypoints, visibility, size)
    assert side["people"] == count
    for shown, floor in ((np.asarray(video), "joint_px"), (eight_bit(video), "joint_px_8bit")):
        decoded = codec.decode(shown, codec.default_side)
        assert decoded["keypoints"].shape == keypoints.shape
        order = match(keypoints, decoded["keypoints"])
        np.testing.assert_array_equal(decoded["visibility"][:, order], visibility)
        error = np.linalg.norm(decoded["keypoints"][:, order] - keypoints, axis=-1)
        assert error[:, :, 5:].max() < codec.error_floor[floor]
        assert error.max() < codec.error_floor["face_px"]


def test_colours_do_not_depend_on_the_order_of_people():
    keypoints, visibility = people(2, 64, 64, count=3, size=0.7, seed=4)
    keypoints[:, :, :, 0] = 32 + 0.5 * (keypoints[:, :, :, 0] - 32)  # they overlap
    video, _ = encode(keypoints, visibility, (64, 64))
    order = [2, 0, 1]
    shuffled, _ = encode(keypoints[:, order], visibility[:, order], (64, 64))
    np.testing.assert_allclose(shuffled, video, atol=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_survives_blur_and_noise(size):
    keypoints, visibility = people(3, *size, count=2, size=0.7, seed=2)
    video, _ = encode(keypoints, visibility, size)
    decoded = codec.decode(softened(video), codec.default_side)
    assert decoded["keypoints"].shape[1] == 2
    order = match(keypoints, decoded["keypoints"])
    seen = decoded["visibility"][:, order] > 0
    error = np.linalg.norm(decoded["keypoints"][:, order] - keypoints, axis=-1)
    assert seen.mean() > 0.98 and seen[:, :, 5:].all()
    assert np.median(error[seen]) < 0.25 and error[:, :, 5:].max() < 0.6


def test_survives_smeared_motion():
    keypoints, visibility = people(7, 128, 128, count=2, size=0.6, seed=3)
    keypoints[..., 0] += 3.0 * (np.arange(7)[:, None, None] - 3)
    video, _ = encode(keypoints, visibility, (128, 128))
    smeared = scipy.ndimage.convolve1d(np.asarray(video), [0.25, 0.5, 0.25], axis=0)
    decoded = codec.decode(softened(smeared, sigma=0.8), codec.default_side)
    assert decoded["keypoints"].shape[1] == 2
    order = match(keypoints, decoded["keypoints"])
    seen = decoded["visibility"][:, order] > 0
    error = np.linalg.norm(decoded["keypoints"][:, order] - keypoints, axis=-1)
    assert seen.mean() > 0.97 and (error[seen] < 5).mean() > 0.97


def test_limbs_that_lost_their_hue_still_connect():
    keypoints, visibility = people(3, 128, 128, count=2)
    image = (np.asarray(encode(keypoints, visibility, (128, 128))[0]) + 1) / 2
    light = image.max(axis=-1, keepdims=True)
    video = 2 * np.where(light < 0.4, 0.6 * light, image) - 1
    decoded = codec.decode(video, codec.default_side)
    order = match(keypoints, decoded["keypoints"])
    np.testing.assert_array_equal(decoded["visibility"][:, order], visibility)
    error = np.linalg.norm(decoded["keypoints"][:, order] - keypoints, axis=-1)
    assert error[:, :, 5:].max() < 0.6


def test_a_joint_between_sightings_needs_a_lit_place():
    keypoints, visibility = people(5, 128, 128, count=1)
    video = np.array(encode(keypoints, visibility, (128, 128))[0])
    x, y = keypoints[2, 0, 9].astype(int)
    patch = video[2, y - 4 : y + 5, x - 4 : x + 5]
    for light, expected in ((-0.4, 1), (-1.0, 0)):  # a blend of colours, and nothing at all
        patch[:] = light
        decoded = codec.decode(video, codec.default_side)
        visibility[2, 0, 9] = expected
        np.testing.assert_array_equal(decoded["visibility"], visibility)
    patch[:] = -0.4
    decoded = codec.decode(video, codec.default_side)
    np.testing.assert_allclose(decoded["keypoints"][2, 0, 9], keypoints[2, 0, 9], atol=1.5)


def test_occluded_and_absent_joints():
    keypoints, visibility = people(3, 128, 128, count=2)
    visibility[:, 0, [9, 13]] = 1  # a wrist and a knee behind something
    visibility[:, 1, [15, 16]] = 0  # feet out of the frame
    keypoints[:, 1, [15, 16]] = np.nan
    visibility[:, 1, 13] = 0  # a knee missing between a hip and nothing
    video, side = encode(keypoints, visibility, (128, 128))
    assert np.isfinite(video).all()
    for shown in (np.asarray(video), eight_bit(video)):
        decoded = codec.decode(shown, side)
        order = match(np.nan_to_num(keypoints), decoded["keypoints"])
        np.testing.assert_array_equal(decoded["visibility"][:, order], visibility)


def test_a_part_without_its_connecting_joint_stays_with_its_person():
    keypoints, visibility = people(2, 128, 192, count=2)
    visibility[:, :, [7, 13]] = 0  # no left elbow, no left knee: wrist and ankle hang on nothing
    video, _ = encode(keypoints, visibility, (128, 192))
    decoded = codec.decode(video, codec.default_side)
    order = match(keypoints, decoded["keypoints"])
    np.testing.assert_array_equal(decoded["visibility"][:, order], visibility)


def test_people_keep_their_place_when_they_pass_each_other():
    frames = 9
    keypoints, visibility = people(frames, 128, 192, count=2, size=0.5)
    for t in range(frames):
        keypoints[t, 0, :, 0] += 12 * t
        keypoints[t, 1, :, 0] -= 12 * t
        keypoints[t, 1, :, 1] += 44  # the second walks in front, lower in the frame
        keypoints[t, 0, :, 1] -= 20
    video, _ = encode(keypoints, visibility, (128, 192))
    decoded = codec.decode(video, codec.default_side)
    assert decoded["keypoints"].shape[1] == 2
    error = np.linalg.norm(decoded["keypoints"] - keypoints, axis=-1)[decoded["visibility"] > 0]
    assert np.median(error) < 0.2 and error.max() < 10


def test_nobody():
    keypoints, visibility = people(2, 32, 32, count=1)
    for k, v in ((keypoints, np.zeros_like(visibility)), (keypoints[:, :0], visibility[:, :0])):
        video, side = encode(k, v, (32, 32))
        np.testing.assert_array_equal(video, -1.0)
        assert side["people"] == 0
        assert codec.decode(video, side)["keypoints"].shape == (2, 0, 17, 2)


def test_max_people_keeps_the_best_seen():
    keypoints, visibility = people(2, 128, 192, count=2)
    visibility[:, 0, :11] = 0
    video, _ = encode(keypoints, visibility, (128, 192))
    decoded = codec.decode(video, codec.default_side, max_people=1)
    assert decoded["keypoints"].shape[1] == 1
    np.testing.assert_allclose(decoded["keypoints"][:, 0], keypoints[:, 1], atol=0.5)


def test_openpose_is_an_option_that_does_not_decode():
    assert codec.style == "codec"
    keypoints, visibility = people(1, 128, 128, count=1)
    video, side = encode(keypoints, visibility, (128, 128), style="openpose")
    assert SkeletonCodec(style="openpose").version != codec.version
    with pytest.raises(UserError, match="no decoder"):
        SkeletonCodec(style="openpose").decode(video, side)
    # RGB order: nose red, right shoulder (OpenPose's keypoint 2) orange, left ankle (13) violet.
    image = (np.asarray(video) + 1) / 2
    for joint, colour in ((0, (1, 0, 0)), (6, (1, 2 / 3, 0)), (15, (1 / 3, 0, 1))):
        x, y = keypoints[0, 0, joint].astype(int)
        np.testing.assert_allclose(image[0, y, x], colour, atol=0.35)


def test_broken_tracks_are_joined_and_fragments_dropped():
    keypoints, visibility = people(6, 64, 64, count=1)
    tracks = np.repeat(keypoints, 3, axis=1)
    seen = np.repeat(visibility, 3, axis=1)
    seen[3:, 0] = 0  # the same person, as one track until frame 3 and another from there
    seen[:3, 1] = 0
    seen[:, 2] = 0
    seen[2, 2, :2] = 2  # two joints read twice: they conflict with the first track
    assert stitch(tracks, seen) == [0, 0, 2]
    np.testing.assert_array_equal(seen[:, 0], visibility[:, 0])
    np.testing.assert_array_equal(tracks[:, 0], keypoints[:, 0])
    assert real_people(seen).tolist() == [0]
