"""Pairs of the physics benchmark, the plausibility error, and paths that are followed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_pipeline import quick_compile, tiny_parts  # noqa: F401

from unityvideo_jax import worlds
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.physics import frozen, kinds, plausibility, prediction, run, scenes
from unityvideo_jax.evaluation.physics.kinds import BALL, KINDS, RAISING
from unityvideo_jax.evaluation.physics.plausibility import PlausibilityConfig
from unityvideo_jax.evaluation.row_store import RowStore
from unityvideo_jax.flow_matching import path
from unityvideo_jax.metrics.scores import bootstrap
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.worlds.camera import cameras, project
from unityvideo_jax.worlds.objects import GRAVITY

FRAMES, FPS = 17, 8.0
# Kinds whose second clip shows something else at the same place.
LOOKS = {"vanishing", "appearing", "colour", "shape"}


@pytest.fixture(scope="module")
def pairs():
    return [kinds.draw(kind, number, FRAMES, FPS) for kind in KINDS for number in (0, 1)]


def test_the_clips_of_a_pair_are_one_until_they_part(pairs):
    assert len(RAISING) * 2 == len(KINDS) >= 8
    for pair in pairs:
        first, second = pair.valid, pair.invalid
        assert kinds.BEFORE <= pair.begins <= FRAMES - kinds.AFTER
        before, at = slice(0, pair.begins), pair.begins
        for ours, theirs in ((first.centre, second.centre), (first.caster, second.caster)):
            np.testing.assert_array_equal(ours[before], theirs[before])
        moved = np.abs(first.centre - second.centre)[at] + np.abs(first.caster - second.caster)[at]
        same = [np.array_equal(getattr(first, k), getattr(second, k))
                for k in ("active", "shape", "colour", "half")]  # fmt: skip
        assert (pair.kind in LOOKS) == (not all(same)) == (moved.max() < 1e-3)


def test_half_of_the_kinds_raise_the_ways_that_balls_go(pairs):
    """Amounts of motion of kinds whose ball moves otherwise; others go by energy of frames."""
    for pair in pairs:
        if pair.kind in {*LOOKS, "shadow", "gravity_reversed", "through_ground"}:
            continue
        ways = [
            np.abs(np.diff(side.centre[pair.begins - 1 : FRAMES, BALL], axis=0)).sum()
            for side in (pair.valid, pair.invalid)
        ]
        assert (ways[1] > ways[0]) == (pair.kind in RAISING), pair.name


def test_pairs_are_those_that_were_frozen(pairs, tmp_path, monkeypatch):
    chosen = pairs[::2]
    config = worlds.WorldConfig(num_frames=FRAMES, fps=FPS)
    shown = [scenes.sides(pair)[0] for pair in chosen]
    texts = worlds.describe(config, scenes.scenes_of(config, shown)[0])
    captions = [text.caption for text in texts]
    assert all("ball" in text for text, pair in zip(captions, chosen, strict=True)
               if pair.kind != "appearing")  # fmt: skip
    assert len(frozen.known()[frozen.length(FRAMES, FPS)]) == kinds.PAIRS * len(KINDS)
    assert frozen.verify(chosen, captions, FRAMES, FPS)
    assert not frozen.verify(chosen, captions, FRAMES + 4, FPS)
    with pytest.raises(UserError, match=f"{chosen[0].name}: its scene hashes to"):
        frozen.verify(chosen, ["a cube", *captions[1:]], FRAMES, FPS)
    # The benchmark's own folder, altered.
    altered = tmp_path / frozen.FROZEN.name
    altered.write_text(frozen.FROZEN.read_text().replace("a", "b", 1))
    (tmp_path / "SHA256SUMS").write_bytes((frozen.FROZEN.parent / "SHA256SUMS").read_bytes())
    monkeypatch.setattr(frozen, "FROZEN", altered)
    frozen.known.cache_clear()
    with pytest.raises(UserError, match=r"v1\.json.*reinstall"):
        frozen.known()
    frozen.known.cache_clear()


def test_the_loss_of_both_clips_is_taken_at_equal_noise():
    rng = np.random.default_rng(0)
    valid = rng.standard_normal((2, 1, 2, 3, 4, 4, 2)).astype(np.float32)
    latents = jnp.asarray(np.concatenate([valid, valid + 0.5], axis=1))

    def knows(noised, timestep, modality, context):
        """The exact velocity of the valid clips, whatever it is shown."""
        clean = jnp.repeat(latents[:, 0], 2, axis=0)
        return (noised - clean) / path.expand(timestep, noised)

    config = PlausibilityConfig(timesteps=4)
    ids, texts = jnp.zeros((2, 2), int), jnp.zeros((2, 2, 1, 1))
    index = jnp.array([3, 5])
    errors = plausibility.denoising_errors(knows, latents, ids, texts, index, config)
    assert errors.shape == (2, 2, 4, 2)
    np.testing.assert_allclose(errors[:, 0], 0.0, atol=1e-9)
    # x_t of the other clip lies (1 - t) / 2 away: its velocity is wrong by that over t, less 1/2.
    t = config.levels
    expected = np.square(0.5 * (1 - t) / t + 0.5)
    np.testing.assert_allclose(errors[:, 1], np.tile(expected[:, None], (2, 1, 2)), rtol=1e-4)
    same = jnp.concatenate([latents[:, :1]] * 2, axis=1)
    blind = lambda noised, *_: jnp.zeros_like(noised)  # noqa: E731
    both = plausibility.denoising_errors(blind, same, ids, texts, index, config)
    np.testing.assert_array_equal(both[:, 0], both[:, 1])
    assert not np.array_equal(both[0], both[1])


def test_the_error_is_a_share_of_pairs_with_an_interval():
    protocol = PlausibilityConfig().protocol
    scores = [
        plausibility.score("colour", {protocol: {"rgb": (1.0, loss)}}, (1.0, 1.0))
        for loss in (0.5, 2.0, 2.0, 2.0)
    ] + [plausibility.score("shadow", {protocol: {"rgb": (1.0, 1.0)}}, (2.0, 1.0))]
    numbers = run.results([run.PhysicsRow(scores={"model": score}) for score in scores])[0]
    prefix = f"plausibility_error/{protocol}"
    assert numbers[f"{prefix}/colour/rgb"] == numbers[f"{prefix}/raising/rgb"] == 0.25
    assert numbers[f"{prefix}/shadow/rgb"] == 0.5
    assert numbers[f"{prefix}/all/rgb"] == pytest.approx(1.5 / 5)
    assert numbers["plausibility_error/frame_differences/colour"] == 0.5
    assert numbers["plausibility_error/frame_differences/shadow"] == 1.0
    assert numbers["pairs/colour"] == 4
    low, high = bootstrap(scores)[f"{prefix}/all/rgb"]
    assert low < 0.3 < high


def test_a_ball_is_found_and_its_gravity_measured():
    size = 96
    for group, number in (("in_distribution", 0), ("gravity", 0), ("gravity", 1)):
        throw = prediction.draw(group, number, FRAMES, FPS, 5)
        centre = throw.side.centre[:FRAMES, BALL]
        # Our projection is that of worlds, and reading a place from it is its inverse.
        config = worlds.WorldConfig(height=size, width=size, num_frames=FRAMES, fps=FPS)
        shown = scenes.Shown(side=throw.side, rolls=False, camera=throw.camera, place=0)
        camera = jax.tree.map(lambda x: x[0], scenes.scenes_of(config, [shown])[0].camera)
        views = cameras(config, camera, jnp.arange(FRAMES) / FPS)
        pixels = np.asarray(project(views, jnp.asarray(centre)[:, None], size, size)[0])[:, 0]
        np.testing.assert_allclose(
            throw.camera.project(centre) * size + size / 2, pixels, atol=1e-2
        )
        np.testing.assert_allclose(
            prediction.to_metres(pixels, throw, size, size), centre, atol=2e-3
        )
        # Drawn as a disc before a wall; frame 13 shows none.
        y, x = np.mgrid[:size, :size] + 0.5
        empty = np.full((size, size, 3), 0.6)
        rgb = np.repeat(empty[None], FRAMES, axis=0)
        for t in set(range(FRAMES)) - {13}:
            disc = np.square(x - pixels[t, 0]) + np.square(y - pixels[t, 1]) < 36
            rgb[t][disc] = (0.9, 0.1, 0.1)
        rgb += np.random.default_rng(0).normal(0, 0.01, rgb.shape)
        places = prediction.find_ball(rgb, empty, np.array([0.9, 0.1, 0.1]), 113.0)
        assert np.isnan(places[13]).all() and np.isfinite(np.delete(places, 13, axis=0)).all()
        path = prediction.to_metres(places, throw, size, size)
        score = prediction.score(throw, path, 5, FPS, np.ones(FRAMES, bool))
        key = f"prediction/continued_5/{group}"
        assert score.means[f"{key}/found"] == (pytest.approx(11 / 12), 12.0)
        assert score.means[f"{key}/position_error"][0] < 0.03
        assert score.means[f"{key}/gravity_error"][0] < 0.1
        assert throw.gravity == (GRAVITY if group != "gravity" else (4.0, 16.0)[number])


def test_continuing_keeps_what_is_given():
    rng = np.random.default_rng(0)
    given = jnp.asarray(rng.standard_normal((2, 2, 3, 2, 2, 4)), jnp.float32)

    def velocity(latents, timestep, modality, context):
        return latents

    for solver in ("euler", "unipc"):
        sampled = prediction.continued(
            velocity,
            given,
            2,
            modality=jnp.zeros((2, 2), int),
            context=jnp.ones((2, 2, 1, 1)),
            null_context=jnp.zeros((2, 2, 1, 1)),
            key=jax.random.key(0),
            config=SamplerConfig(steps=4, solver=solver, text_guidance=3.0),
        )
        np.testing.assert_array_equal(sampled[:, 0, :2], given[:, 0, :2])
        assert not np.isclose(sampled[:, 0, 2], given[:, 0, 2]).any()
        assert not np.isclose(sampled[:, 1], given[:, 1]).any()


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        ({}, (), "num_frames=5: the physics benchmark takes 9 frames or more"),
        (dict(num_frames=9), ("skeleton",), "the model has depth, flow, segmentation"),
        (dict(num_frames=9), ("normals",), "--physics_modalities=normals: the model has depth"),
    ],
)
def test_a_model_that_cannot_be_asked_is_named(changes, names, message):
    pipeline = Pipeline(**tiny_parts(**changes))
    with pytest.raises(UserError, match=message):
        run.run(pipeline, run.PhysicsConfig(names=names), pipeline.sampler)
    with pytest.raises(UserError, match="pairs=65: give 1 to 64"):
        run.PhysicsConfig(pairs=65)


@pytest.mark.slow
def test_a_random_model_runs_through_the_whole_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "KINDS", {k: KINDS[k] for k in ("vanishing", "shadow")})
    monkeypatch.setattr(prediction, "SETS", ("in_distribution",))
    pipeline = Pipeline(**tiny_parts(num_frames=17))
    config = run.PhysicsConfig(
        pairs=1,
        predictions=1,
        batch_size=1,
        names=("depth",),
        plausibility=PlausibilityConfig(timesteps=2),
    )
    rows = RowStore(folder=tmp_path, kind=run.PhysicsRow, settings={})
    drawn = {}
    found = run.run(pipeline, config, pipeline.sampler, rows, draw=drawn.__setitem__)
    assert list(found) == ["vanishing_00", "shadow_00", "in_distribution_00"] == list(drawn)
    losses = found["vanishing_00"].losses["likephys_t2"]
    assert set(losses) == {"rgb", "rgb+depth", "rgb_of_rgb+depth"}
    assert all(valid != invalid and valid > 0 for valid, invalid in losses.values())
    model, round_trip, trivial = run.results(found.values())
    assert model["pairs/shadow"] == 1 and model["plausibility_error/frame_differences/all"] == 1.0
    key = "prediction/continued_5/in_distribution"
    assert trivial[f"{key}/found"] == 1.0 and trivial[f"{key}/position_error"] > 0.1
    assert model[f"{key}/clips"] == round_trip[f"{key}/clips"] == 1
    assert [label for label, _ in drawn["shadow_00"]] == [
        f"{side} from frame {kinds.draw('shadow', 0, 17, 8.0).begins - 2}"
        for side in ("valid", "invalid")
    ]
    # What was written reads as what was measured.
    assert run.run(pipeline, config, pipeline.sampler, rows) == found
