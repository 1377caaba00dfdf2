"""Scenes without pixels: splits, determinism, captions, bad input."""

import dataclasses
import re

import chex
import jax
import numpy as np
import pytest

from unityvideo_jax import worlds
from unityvideo_jax.errors import UserError
from unityvideo_jax.worlds import looks, stage

COUNT = 96


def _scenes(split="train", seed=0, indices=None):
    config = worlds.WorldConfig(split=split, seed=seed)
    indices = np.arange(COUNT) if indices is None else indices
    return config, jax.device_get(worlds.sample_scenes(config, indices))


def _assert_same(left, right):
    """Compares scenes of programs whose sums may round differently in the last bit or two."""
    chex.assert_trees_all_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def splits():
    return {split: _scenes(split) for split in worlds.SPLITS}


def test_a_scene_depends_on_its_index_alone():
    config, many = _scenes()
    alone = worlds.sample_scenes(config, np.asarray([5]))
    _assert_same(jax.tree.map(lambda a: a[5:6], many), jax.device_get(alone))
    larger = dataclasses.replace(config, height=96, width=128, supersample=2)
    _assert_same(many, jax.device_get(worlds.sample_scenes(larger, np.arange(COUNT))))


def test_splits_and_seeds_share_no_scene(splits):
    words = [splits[s][1].words for s in worlds.SPLITS] + [_scenes(seed=1)[1].words]
    everything = np.concatenate(words)
    # 480 draws of 32 bits: a repeat by chance has odds of 3e-5.
    assert len(np.unique(everything)) == len(everything)


def test_close_cameras_leave_the_rest_of_a_scene_alone(splits):
    config, far = splits["train"]
    some = dataclasses.replace(config, closeup=0.5)
    mixed = jax.device_get(worlds.sample_scenes(some, np.arange(COUNT)))
    for name in ("actors", "things", "surroundings", "asked", "words"):
        _assert_same(getattr(far, name), getattr(mixed, name))
    close = ~np.isclose(far.camera.distance, mixed.camera.distance)
    assert 0.3 < close.mean() < 0.7
    # Whom the camera is close to fills about half of the frame's height or more.
    assert np.median(mixed.camera.distance[close]) < 0.75 * np.median(far.camera.distance)
    assert (splits["closeup"][1].camera.distance < 5.5).all()
    with pytest.raises(UserError, match="closeup=2"):
        worlds.WorldConfig(closeup=2.0)


def test_animals_are_held_out(splits):
    for split, (_, scenes) in splits.items():
        kind = scenes.actors.kind
        animals = (kind == looks.QUADRUPED) | (kind == looks.BIRD)
        if split == "heldout_animals":
            assert animals.any(axis=1).all()
            assert (kind == looks.QUADRUPED).any() and (kind == looks.BIRD).any()
            asked = scenes.asked[:, : looks.MAX_ACTORS]
            np.testing.assert_array_equal(asked, animals)
        else:
            assert not animals.any()


def test_training_asks_for_people_and_heldout_objects_for_two_objects(splits):
    for split in ("train", "validation"):
        scenes = splits[split][1]
        assert not scenes.asked[:, looks.MAX_ACTORS :].any()
        assert scenes.asked[:, : looks.MAX_ACTORS].any(axis=1).all()
    scenes = splits["heldout_objects"][1]
    assert not scenes.asked[:, : looks.MAX_ACTORS].any()
    np.testing.assert_array_equal(scenes.asked[:, looks.MAX_ACTORS :].sum(1), 2)


def test_asking_for_all_makes_everything_the_truth_of_segmentation(splits):
    scenes = jax.tree.map(jax.numpy.asarray, splits["train"][1])
    chosen = np.arange(COUNT) % 3 == 0
    skin = stage._skin(worlds.ask_for_all(scenes, chosen), has_animals=False)
    before = stage._skin(scenes, has_animals=False)
    np.testing.assert_array_equal(skin.segment[chosen], skin.instance[chosen])
    np.testing.assert_array_equal(skin.segment[~chosen], before.segment[~chosen])
    assert (skin.segment.max(axis=1) > before.segment.max(axis=1)).sum() > COUNT / 6


def test_content_is_varied(splits):
    actors, things = splits["train"][1].actors, splits["train"][1].things
    counts = (actors.kind == looks.PERSON).sum(axis=1)
    assert set(counts) == {1, 2, 3}
    assert set(actors.motion[actors.kind == looks.PERSON]) == set(range(len(looks.MOTIONS)))
    assert set(things.kind[things.active]) == {looks.BOX, looks.BALL, looks.CYLINDER}
    assert set(things.material[things.active]) == {looks.MATTE, looks.GLOSSY, looks.GLASS}
    assert things.active.sum(axis=1).max() == looks.MAX_OBJECTS
    assert set(splits["train"][1].camera.kind) == set(range(len(looks.CAMERAS)))


_VERBS = {
    looks.WALK: r"walks|strolls", looks.RUN: r"runs|jogs", looks.WAVE: r"waves",
    looks.JUMP: r"jumps|hops", looks.SIT: r"sits|seat", looks.KICK: r"kicks",
}  # fmt: skip


def test_captions_say_what_is_there(splits):
    config, scenes = splits["train"]
    for i, text in enumerate(worlds.describe(config, scenes)):
        actors = jax.tree.map(lambda x, i=i: x[i], scenes.actors)
        for a in np.flatnonzero(actors.kind == looks.PERSON):
            assert re.search(_VERBS[int(actors.motion[a])], text.caption), text.caption
            colour = looks.COLOUR_NAMES[actors.shirt_name[a]]
            assert re.search(rf"{colour} (t-)?shirt", text.caption), text.caption
        named = len(re.findall(r"\b(?:man|woman|child|person)\b", text.caption))
        assert named == (actors.kind == looks.PERSON).sum(), text.caption
        count = int(scenes.asked[i].sum())
        prompt = text.prompts["segmentation"]
        if "people" in prompt:
            assert f"the {('', 'one', 'two', 'three')[count]} people" in prompt
        else:
            assert count == 1 and "the person" in prompt
        assert not re.search(r"dog|cat|horse|sheep|bird", text.caption)
        assert text.caption[0].isupper() and text.caption.endswith(".")
        assert set(text.prompts) == {"depth", "flow", "segmentation", "skeleton", "densepose"}


def test_heldout_prompts_name_what_is_asked(splits):
    for text in worlds.describe(*splits["heldout_objects"]):
        assert text.prompts["segmentation"].endswith("the two objects")
    config, scenes = splits["heldout_animals"]
    for i, text in enumerate(worlds.describe(config, scenes)):
        assert re.search(r"dog|cat|horse|sheep|bird|animals", text.prompts["segmentation"])
        assert "people" not in text.prompts["segmentation"]
        birds = int((scenes.actors.kind[i] == looks.BIRD).sum())
        assert len(re.findall(r"\bbird\b", text.caption)) == birds
    assert len({t.caption for t in worlds.describe(*splits["train"])}) == COUNT


@pytest.mark.parametrize(
    ("change", "named"),
    [({"split": "test"}, "split"), ({"num_frames": 0}, "num_frames"), ({"height": 4}, "height"),
     ({"fps": 0.0}, "fps"), ({"seed": -1}, "seed"), ({"supersample": 0}, "supersample")],
)  # fmt: skip
def test_bad_settings_are_named(change, named):
    with pytest.raises(UserError, match=named):
        worlds.WorldConfig(**change)
