"""Ground truth against an independent float64 tracer, against itself over time, and the pixels."""

import dataclasses
import functools
import sys

import jax
import numpy as np
import pytest
import reference_tracer as reference

from unityvideo_jax import worlds
from unityvideo_jax.worlds import people
from unityvideo_jax.worlds.bodies import PARTS
from unityvideo_jax.worlds.stage import set_stage

# The package re-exports a function of the same name, which hides the module.
render_module = sys.modules["unityvideo_jax.worlds.render"]
CONFIG = worlds.WorldConfig(height=48, width=64, num_frames=5, seed=3)
CLIPS = 6


@pytest.fixture(scope="module")
def world():
    """Clips, and the float64 poses that they were rendered from."""
    scenes = worlds.sample_scenes(CONFIG, np.arange(CLIPS))
    clips = {k: np.asarray(v) for k, v in worlds.render(CONFIG, scenes).items()}
    stage = jax.jit(functools.partial(set_stage, CONFIG))(scenes)

    def arrays(tree):
        values = {f.name: np.asarray(getattr(tree, f.name)) for f in dataclasses.fields(tree)}
        return {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in values.items()}

    return scenes, clips, arrays(stage.solids), arrays(stage.cameras), arrays(stage.skin)


def _some_pixels(seed, count=300):
    rng = np.random.default_rng(seed)
    flat = rng.choice(CONFIG.height * CONFIG.width, count, replace=False)
    return np.stack(np.unravel_index(flat, (CONFIG.height, CONFIG.width)), axis=1)


def test_clip_is_what_the_contract_says(world):
    scenes, clips, *_ = world
    b, t, h, w = CLIPS, CONFIG.num_frames, CONFIG.height, CONFIG.width
    expected = {
        "rgb": ((b, t, h, w, 3), np.float32), "depth": ((b, t, h, w), np.float32),
        "normals": ((b, t, h, w, 3), np.float32),
        "flow": ((b, t, h, w, 2), np.float32), "occluded": ((b, t, h, w), np.bool_),
        "instances": ((b, t, h, w), np.int32), "segments": ((b, t, h, w), np.int32),
        "keypoints": ((b, t, 3, 17, 2), np.float32), "visibility": ((b, t, 3, 17), np.int32),
        "part": ((b, t, h, w), np.int32), "uv": ((b, t, h, w, 2), np.float32),
    }  # fmt: skip
    assert {k: (v.shape, v.dtype.type) for k, v in clips.items()} == expected
    assert set(clips) == set(worlds.ARRAYS)
    assert clips["rgb"].min() >= 0 and clips["rgb"].max() <= 1
    assert clips["rgb"].std() > 0.1
    assert (clips["depth"] > 0).all() and np.isfinite(clips["flow"]).all()
    assert set(np.unique(clips["part"])) <= set(range(25)) and clips["part"].max() > 20
    assert (clips["uv"][clips["part"] == 0] == 0).all()
    assert clips["uv"].min() >= 0 and clips["uv"].max() <= 1
    assert ((clips["part"] > 0) <= (clips["instances"] > 0)).all()
    people_count = np.asarray((scenes.actors.kind == 1).sum(1))
    for clip in range(CLIPS):
        # The asked instances keep their order; people come before objects.
        assert clips["segments"][clip].max() <= people_count[clip]
        limb = clips["part"][clip] > 0
        assert clips["instances"][clip][limb].max() <= people_count[clip]


def test_depth_and_ids_are_those_of_an_independent_tracer(world):
    _, clips, solids, cameras, skin = world
    wrong, total = 0, 0
    for clip in range(CLIPS):
        for frame in (0, CONFIG.num_frames - 1):
            y, x = _some_pixels(10 * clip + frame).T
            pixels = np.stack([x + 0.5, y + 0.5], axis=1)
            ray = reference.rays(cameras, clip, frame, pixels, CONFIG.height, CONFIG.width)
            depth, which = reference.trace(solids, clip, frame, *ray)
            mine = clips["depth"][clip, frame, y, x]
            with np.errstate(invalid="ignore"):
                close = (depth == mine) | (np.abs(mine - depth) < 2e-4 * depth)
            instance = np.append(skin["instance"][clip], [0] * 4)[which]
            same = clips["instances"][clip, frame, y, x] == instance
            wrong, total = wrong + (~(close & same)).sum(), total + len(y)
    # Rays that graze a silhouette may go either way in float32.
    assert wrong / total < 2e-3


def test_normals_are_the_slopes_of_an_independent_tracer(world):
    """The cross product of two tangents, from rays a ten-thousandth of a pixel apart."""
    _, clips, solids, cameras, _ = world
    step, errors, sky = 1e-4, [], []
    for clip in range(CLIPS):
        y, x = _some_pixels(clip).T
        points, hits = [], []
        for aside in ((0, 0), (step, 0), (0, step)):
            pixels = np.stack([x + 0.5 + aside[0], y + 0.5 + aside[1]], axis=1)
            ray = reference.rays(cameras, clip, 1, pixels, CONFIG.height, CONFIG.width)
            depth, which = reference.trace(solids, clip, 1, *ray)
            seen = ray[1] @ cameras["axes"][clip, 1].T
            points.append(np.where(np.isfinite(depth), depth, 0.0)[:, None] * seen)
            hits.append(which)
        normal = np.cross(points[2] - points[0], points[1] - points[0])
        length = np.linalg.norm(normal, axis=1)
        surface = np.isfinite(depth) & (hits[0] == hits[1]) & (hits[0] == hits[2]) & (length > 0)
        mine = clips["normals"][clip, 1, y, x]
        normal, mine = normal[surface] / length[surface, None], mine[surface]
        errors.append(np.linalg.norm(mine - normal, axis=1))
        sky.append(clips["normals"][clip][np.isinf(clips["depth"][clip])])
    errors = np.concatenate(errors)
    assert len(errors) > 1000
    assert np.median(errors) < 1e-4
    assert np.percentile(errors, 98) < 0.01  # edges of boxes lie between two rays
    assert (np.concatenate(sky) == 0).all()


def test_flow_leads_back_to_where_it_came_from(world):
    """The surface seen at the flow's target, moved back by its pose, must be the pixel's."""
    _, clips, solids, cameras, _ = world
    count = solids["centre"].shape[2]
    errors = []
    for clip in range(CLIPS):
        frame = 1 + clip % 3
        y, x = _some_pixels(clip, 500).T
        seen = ~clips["occluded"][clip, frame, y, x] & np.isfinite(
            clips["depth"][clip, frame, y, x]
        )
        y, x = y[seen], x[seen]
        start = np.stack([x + 0.5, y + 0.5], axis=1)
        target = start + clips["flow"][clip, frame, y, x]
        origin, way = reference.rays(cameras, clip, frame + 1, target, CONFIG.height, CONFIG.width)
        depth, which = reference.trace(solids, clip, frame + 1, origin, way)
        points = origin + np.where(np.isfinite(depth), depth, 0.0)[:, None] * way
        for n in np.unique(which[which < count]):
            mine = which == n
            then, now = (
                (solids["inverse"][clip, f, n], solids["centre"][clip, f, n])
                for f in (frame + 1, frame)
            )
            local = (points[mine] - then[1]) @ then[0].T
            points[mine] = np.linalg.solve(now[0], local.T).T + now[1]
        back = reference.project(cameras, clip, frame, points, CONFIG.height, CONFIG.width)
        errors.append(np.linalg.norm(back - start, axis=1))
    errors = np.concatenate(errors)
    assert len(errors) > 1000
    assert np.median(errors) < 1e-3
    assert np.percentile(errors, 98) < 0.02


def _bilinear(image, place):
    height, width = image.shape[:2]
    x = np.clip(place[..., 0] - 0.5, 0, width - 1.001)
    y = np.clip(place[..., 1] - 0.5, 0, height - 1.001)
    x0, y0 = x.astype(int), y.astype(int)
    u, v = (x - x0)[..., None], (y - y0)[..., None]
    top = image[y0, x0] * (1 - u) + image[y0, x0 + 1] * u
    return top * (1 - v) + (image[y0 + 1, x0] * (1 - u) + image[y0 + 1, x0 + 1] * u) * v


def test_next_frame_warped_by_flow_is_this_frame(world):
    _, clips, *_ = world
    y, x = np.meshgrid(np.arange(CONFIG.height), np.arange(CONFIG.width), indexing="ij")
    centres = np.stack([x + 0.5, y + 0.5], axis=-1)
    warped_error, still_error = [], []
    for clip in range(CLIPS):
        for frame in range(CONFIG.num_frames - 1):
            flow = clips["flow"][clip, frame]
            now, then = clips["rgb"][clip, frame], clips["rgb"][clip, frame + 1]
            moves = np.linalg.norm(flow, axis=-1) > 0.7
            use = moves & ~clips["occluded"][clip, frame]
            warped_error.append(np.abs(_bilinear(then, centres + flow) - now)[use])
            still_error.append(np.abs(then - now)[use])
    warped, still = np.concatenate(warped_error), np.concatenate(still_error)
    assert len(warped) > 3000
    assert np.median(warped) < 0.012
    assert warped.mean() < 0.5 * still.mean()


def test_visible_keypoints_lie_on_their_parts(world):
    scenes, clips, solids, cameras, _ = world
    kinds = np.asarray(scenes.actors.kind)
    on_limb, near_part, checked = 0, 0, 0
    for clip in range(CLIPS):
        for frame in range(CONFIG.num_frames):
            person, k = np.nonzero(clips["visibility"][clip, frame] == 2)
            if not len(k):
                continue
            assert (kinds[clip, person] == 1).all()
            place = clips["keypoints"][clip, frame, person, k]
            ray = reference.rays(cameras, clip, frame, place, CONFIG.height, CONFIG.width)
            _, which = reference.trace(solids, clip, frame, *ray)
            for p, joint, (x, y), solid in zip(person, k, place.astype(int), which, strict=True):
                limbs = people.KEYPOINT_LIMBS[joint]
                on_limb += solid in [PARTS * p + limb for limb in limbs]
                # The pixel's centre may fall off the limb that the keypoint is on.
                around = np.s_[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                mine = clips["instances"][clip, frame][around] == p + 1
                parts = clips["part"][clip, frame][around][mine]
                near_part += np.isin(parts, people.DENSEPOSE[list(limbs)]).any()
                checked += 1
        absent = clips["visibility"][clip] == 0
        assert (clips["keypoints"][clip][absent] == 0).all()
        assert absent[:, kinds[clip] != 1].all()
    assert checked > 200
    # A face's points lie on its surface: at a silhouette float32 may see past them.
    assert on_limb / checked > 0.97
    assert near_part / checked > 0.97


def test_nothing_sinks_into_the_ground(world):
    scenes, _, solids, *_ = world
    rotation_rows = solids["inverse"]
    limbs = slice(0, solids["centre"].shape[2] - solids["shape"].shape[1])
    # Half the height of a solid: the support function of its ellipsoid, plus the inner segment.
    radii = 1.0 / np.linalg.norm(rotation_rows, axis=-1)
    axes_z = rotation_rows[..., 2] * radii
    reach = np.sqrt(((axes_z * radii) ** 2).sum(-1))
    segment = np.abs(axes_z[..., 2]) * radii[..., 2] * solids["half"]
    low = (solids["centre"][..., 2] - reach - segment)[:, :, limbs]
    low = low.reshape(*low.shape[:2], -1, PARTS).min(-1)  # clip, frame, actor
    present = np.asarray(scenes.actors.kind) != 0
    lowest = low.min(axis=1)[present]
    assert lowest.min() > -0.03
    assert lowest.max() < 0.03  # everyone's feet touch the ground at some time
    active = solids["active"]
    things = solids["centre"][:, :, limbs.stop :, 2].min(axis=1)
    assert things[active].min() > 0.05


def test_the_same_index_gives_the_same_clip(world):
    _, clips, *_ = world
    again = worlds.render(CONFIG, worlds.sample_scenes(CONFIG, np.arange(CLIPS)))
    for key, value in clips.items():
        np.testing.assert_array_equal(value, np.asarray(again[key]), err_msg=key)


@pytest.mark.slow
def test_supersampling_changes_rgb_alone_and_chunks_change_nothing(world, monkeypatch):
    scenes, clips, *_ = world
    finer = dataclasses.replace(CONFIG, supersample=2)
    rays = CONFIG.num_frames * CONFIG.height * CONFIG.width * 4
    # Four clips at a time: six clips then take two rounds, the second of them padded.
    monkeypatch.setitem(render_module._RAYS, "cpu", 4 * rays)
    fine = {k: np.asarray(v) for k, v in worlds.render(finer, scenes).items()}
    difference = np.abs(fine["rgb"] - clips["rgb"])
    assert 1e-4 < difference.mean() < 0.03
    for key in set(clips) - {"rgb"}:
        if clips[key].dtype == np.float32:
            with np.errstate(invalid="ignore"):
                close = (fine[key] == clips[key]) | (np.abs(fine[key] - clips[key]) < 1e-3)
        else:
            close = fine[key] == clips[key]
        # Another compilation may round the rays of silhouettes another way.
        assert close.mean() > 0.9995, key


@pytest.mark.slow
def test_animals_are_rendered_without_parts_or_keypoints():
    config = dataclasses.replace(CONFIG, split="heldout_animals")  # of the shapes compiled above
    scenes = worlds.sample_scenes(config, np.arange(CLIPS))
    clips = {k: np.asarray(v) for k, v in worlds.render(config, scenes).items()}
    kinds = np.asarray(scenes.actors.kind)
    shown = 0
    for clip in range(CLIPS):
        for actor in np.flatnonzero(kinds[clip] > 1):
            mine = clips["instances"][clip] == actor + 1
            shown += mine.sum() > 10
            assert (clips["part"][clip][mine] == 0).all()
            assert (clips["visibility"][clip, :, actor] == 0).all()
            assert (clips["segments"][clip][mine] > 0).all()
    assert shown > 6
