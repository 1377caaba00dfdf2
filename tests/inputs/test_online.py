import collections
import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import stand_ins

from unityvideo_jax import modalities as registry
from unityvideo_jax import train, worlds
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import online
from unityvideo_jax.inputs.buckets import RECORDS
from unityvideo_jax.inputs.encode import LatentEncoder, load_encoder, vae_id_or_none
from unityvideo_jax.inputs.online import OnlineWorlds, group_size
from unityvideo_jax.inputs.sources import WorldsSource
from unityvideo_jax.training.curriculum import Stage

MODALITIES = ("rgb", "depth", "flow")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Config:
    height: int
    width: int
    num_frames: int
    fps: float
    split: str
    seed: int
    closeup: float = 0.0


def _sample(config, indices):
    return {"index": jnp.asarray(indices), "phase": jnp.asarray(indices) * 0.0 + config.seed}


def _render(config, scenes):
    def one(index, start):
        shape = (config.num_frames, config.height, config.width)

        def noise(phase, *tail):  # in [0, 1]; compiles faster than a real generator
            place = jnp.arange(np.prod((*shape, *tail)), dtype=jnp.float32).reshape(*shape, *tail)
            return 0.5 + 0.5 * jnp.sin(place * (0.13 + 0.01 * index) + phase + start)

        return {"rgb": noise(0, 3), "depth": 1 + noise(1), "flow": 4 * noise(2, 2)}

    return jax.vmap(one)(scenes["index"], scenes["phase"])


def _describe(config, scenes):
    return [
        types.SimpleNamespace(caption=f"world {n}", prompts={"depth": f"depth of world {n}"})
        for n in np.asarray(scenes["index"])
    ]


@pytest.fixture
def noise_worlds(monkeypatch):
    """Worlds whose pixels are noise: cheap, and different for every index and seed."""
    monkeypatch.setattr(worlds, "WorldConfig", _Config, raising=False)
    monkeypatch.setattr(worlds, "sample_scenes", _sample, raising=False)
    monkeypatch.setattr(worlds, "render", _render, raising=False)
    monkeypatch.setattr(worlds, "describe", _describe, raising=False)
    monkeypatch.setattr(worlds, "ask_for_all", lambda scenes, chosen: scenes)


def _online(batch_size=4, seed=0, overrides=None, **options):
    config = stand_ins.config(kind="online", **(overrides or {}))
    return OnlineWorlds(
        config,
        MODALITIES,
        batch_size,
        seed,
        encoder=stand_ins.encoder(),
        text_encoder=stand_ins.HashTexts(),
        **options,
    )


def _take(iterator, count):
    return [jax.device_get(batch) for batch in itertools.islice(iterator, count)]


def _assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_batches_hold_the_worlds_of_their_indices(noise_worlds):
    batches = _take(_online(), 3)
    np.testing.assert_array_equal(np.concatenate([b["index"] for b in batches]), np.arange(12))
    texts, encoder = stand_ins.HashTexts(), stand_ins.encoder()
    world = _Config(**stand_ins.SIZE, fps=8.0, split="train", seed=0)
    for batch in batches:
        assert batch["latents"].shape == (4, 2, 2, 2, 2, 4)
        assert batch["latents"].dtype == batch["context"].dtype == np.float32
        assert batch["modality"].dtype == batch["index"].dtype == np.int32
        clips = _render(world, _sample(world, batch["index"]))
        for row, n in enumerate(batch["index"]):
            name = MODALITIES[batch["modality"][row, 1]]
            for stream, drawn in enumerate(("rgb", name)):
                codec = registry.get(drawn).codec
                video, _ = codec.encode({k: clips[k][row] for k in codec.keys})
                np.testing.assert_allclose(
                    batch["latents"][row, stream], encoder(video[None], drawn)[0], atol=1e-4
                )
            prompt = f"depth of world {n}" if name == "depth" else registry.get("flow").prompt
            np.testing.assert_array_equal(batch["context"][row], texts([f"world {n}", prompt]))


@pytest.mark.parametrize("streams", [1, 3])
def test_any_number_of_streams_of_the_same_world(noise_worlds, streams):
    overrides = {"streams": (1, 0, 1), "rgb_alone": 0.5, "caption_dropout": 0.0}
    iterator = _online(overrides=overrides, streams=streams, first_world=100, batch_size=8)
    batch = _take(iterator, 1)[0]
    np.testing.assert_array_equal(batch["index"], np.arange(100, 108))
    assert batch["latents"].shape == (8, streams, 2, 2, 2, 4)
    world = _Config(**stand_ins.SIZE, fps=8.0, split="train", seed=0)
    clips = _render(world, _sample(world, batch["index"]))
    texts, encoder = stand_ins.HashTexts(), stand_ins.encoder()
    for row, n in enumerate(batch["index"]):
        for stream, m in enumerate(batch["modality"][row]):
            name = MODALITIES[m]
            codec = registry.get(name).codec
            video, _ = codec.encode({k: clips[k][row] for k in codec.keys})
            np.testing.assert_allclose(
                batch["latents"][row, stream], encoder(video[None], name)[0], atol=1e-4
            )
            own = {"rgb": f"world {n}", "depth": f"depth of world {n}"}
            text = own.get(name, registry.get(name).prompt)
            np.testing.assert_array_equal(batch["context"][row, stream], texts([text])[0])
    sets = {tuple(row) for row in batch["modality"].tolist()}
    assert sets == ({(0,), (1,), (2,)} if streams == 1 else {(0, 1, 2)})


def test_modalities_come_by_weight_in_groups(noise_worlds):
    batches = _take(_online(batch_size=8, clips_per_group=2), 6)
    modality = np.concatenate([b["modality"] for b in batches])
    np.testing.assert_array_equal(modality[:, 0], 0)
    # 24 groups at 1/3 and 2/3.
    assert collections.Counter(modality[:, 1].tolist()) == {1: 16, 2: 32}
    np.testing.assert_array_equal(modality[0::2, 1], modality[1::2, 1])


def test_state_goes_on_with_the_very_next_batch(noise_worlds):
    overrides = {"caption_dropout": 0.5}
    iterator = _online(overrides=overrides)
    _take(iterator, 2)
    state = iterator.get_state()
    assert state == {"next_index": 8}
    expected = _take(iterator, 2)
    fresh = _online(overrides=overrides)
    _take(fresh, 1)
    fresh.set_state(state)
    _assert_equal(expected, _take(fresh, 2))


def test_processes_share_out_the_batch(noise_worlds):
    overrides = {"caption_dropout": 0.5}
    whole = _take(_online(overrides=overrides, clips_per_group=1), 3)
    parts = [
        _take(_online(overrides=overrides, clips_per_group=1, process_index=p, process_count=2), 3)
        for p in range(2)
    ]
    joined = [
        {key: np.concatenate([part[step][key] for part in parts]) for key in whole[step]}
        for step in range(3)
    ]
    for a, b in zip(whole, joined, strict=True):
        np.testing.assert_allclose(a.pop("latents"), b.pop("latents"), atol=1e-6)
    _assert_equal(whole, joined)


def test_captions_drop_at_their_rate(noise_worlds):
    null = stand_ins.HashTexts()([""])[0]
    batches = _take(_online(batch_size=50, overrides={"caption_dropout": 0.3}), 8)
    dropped = np.concatenate([(b["context"] == null).all(axis=(2, 3)) for b in batches])
    # 400 draws: four standard deviations are 0.092.
    assert abs(dropped[:, 0].mean() - 0.3) < 0.092
    assert not dropped[:, 1].any()


def test_a_share_of_the_worlds_has_the_registrys_prompts(noise_worlds):
    overrides = {"registry_prompt_rate": 0.4}
    depth = {"stage_weights": {"depth": 1.0}}
    batches = _take(_online(batch_size=50, overrides=overrides, **depth), 8)
    registered = stand_ins.HashTexts()([registry.get("depth").prompt])[0]
    own = stand_ins.HashTexts()([f"depth of world {n}" for n in range(400)])
    context = np.concatenate([b["context"][:, 1] for b in batches])
    general = (context == registered).all(axis=(1, 2))
    np.testing.assert_array_equal(context[~general], own[~general])
    assert abs(general.mean() - 0.4) < 4 * np.sqrt(0.24 / 400)
    # A world's draw is its own: neither batch size nor processes nor a resume change it.
    second = _online(4, overrides=overrides, process_index=1, process_count=2, **depth)
    second.set_state({"next_index": 8})
    np.testing.assert_array_equal(next(second)["context"][:, 1], context[10:12])
    # Prepared worlds draw alike, and captions are left alone.
    source = WorldsSource(_Config(**stand_ins.SIZE, fps=8.0, split="train", seed=0), 12, 0.4)
    texts = source.load(range(12), ("rgb", "depth")).texts
    assert [t == registry.get("depth").prompt for t in texts["depth"]] == list(general[:12])
    assert texts["rgb"] == [f"world {n}" for n in range(12)]


def test_seeds_and_stages_differ(noise_worlds):
    a, b = _take(_online(), 1)[0], _take(_online(seed=1), 1)[0]
    assert not np.allclose(a["latents"], b["latents"])
    flow = _take(_online(stage_weights={"flow": 1.0}), 2)
    assert all((batch["modality"][:, 1] == 2).all() for batch in flow)


@pytest.mark.parametrize(
    "rows, modalities, expected", [(128, 5, 8), (256, 5, 16), (8, 5, 1), (48, 3, 8), (7, 1, 1)]
)
def test_groups_divide_the_rows_and_leave_room_for_every_modality(rows, modalities, expected):
    assert group_size(rows, modalities) == expected


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(batch_size=3, process_count=2), "multiple of the 2 processes"),
        (dict(clips_per_group=3), "clips_per_group=3"),
        (dict(stage_weights={"normals": 1.0}), "unknown modality 'normals'"),
    ],
)
def test_bad_options_are_named(noise_worlds, options, message):
    with pytest.raises(UserError, match=message):
        _online(**options)


def test_a_state_of_another_batch_size_goes_on_with_the_due_world(noise_worlds):
    iterator = _online()
    iterator.set_state({"next_index": 6})
    np.testing.assert_array_equal(next(iterator)["index"], [6, 7, 8, 9])
    with pytest.raises(ValueError, match=r"next_index=-1"):
        iterator.set_state({"next_index": -1})


@pytest.fixture(scope="module")
def tiny_vae(tmp_path_factory):
    return stand_ins.save_tiny_vae(tmp_path_factory.mktemp("vae"))


def test_the_vae_of_a_folder_encodes_inside_jit(tiny_vae):
    from unityvideo_jax.pretrained.vae import load_vae

    encoder = load_encoder(str(tiny_vae))
    assert isinstance(encoder, LatentEncoder)
    assert encoder.id == vae_id_or_none(str(tiny_vae))
    assert encoder.latent_shape(5, 16, 32) == (2, 2, 4, 16)
    video = np.random.default_rng(0).uniform(-1, 1, (2, 5, 16, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(
        encoder(video, "rgb"), load_vae(tiny_vae).encode(jnp.asarray(video)), atol=1e-5
    )


def test_a_folder_without_a_vae_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no autoencoder.*--vae=FOLDER"):
        load_encoder(str(tmp_path))


def test_fingerprints_follow_the_weights(tiny_vae, tmp_path):
    before = vae_id_or_none(str(tiny_vae))
    for file in tiny_vae.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert vae_id_or_none(str(tmp_path)) == before
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert vae_id_or_none(str(tmp_path)) != before


def test_prepared_and_online_worlds_agree(noise_worlds):
    world = _Config(**stand_ins.SIZE, fps=8.0, split="train", seed=0)
    source = WorldsSource(world, 4)
    assert list(source.keys) == [f"train-0-{n:08d}" for n in range(4)]
    batch = source.load([0, 1, 2, 3], MODALITIES)
    online = _take(_online(stage_weights={"depth": 1.0}), 1)[0]
    encoder = stand_ins.encoder()
    for stream, name in enumerate(("rgb", "depth")):
        np.testing.assert_allclose(
            online["latents"][:, stream], encoder(batch.videos[name], name), atol=1e-4
        )
    assert batch.texts["rgb"][2] == "world 2"
    assert batch.texts["depth"][3] == "depth of world 3"


def test_each_bucket_renders_worlds_of_its_own_in_its_size(noise_worlds, monkeypatch):
    monkeypatch.setattr(online, "load_encoder", lambda *_: stand_ins.encoder())
    monkeypatch.setattr(online, "load_text_encoder", lambda *_: stand_ins.HashTexts())
    image = dict(frames=1, height=16, width=32, streams=1)
    data = stand_ins.config(kind="online", buckets=(dict(frames=5, height=16, width=16), image))
    config = ml_collections.ConfigDict(dict(seed=0, data=data, train=dict(batch_size=4)))
    config.model = dict(modalities=MODALITIES)
    stage = Stage(index=0, start=0, until=9, weights={"depth": 1.0, "flow": 1.0})
    iterator = train.build_iterator(config, stage, (0, 1))
    first = _take(iterator, 2)
    shapes = [batch["latents"].shape for batch in first]
    assert shapes == [(4, 2, 2, 2, 2, 4), (8, 1, 1, 2, 4, 4)] == list(iterator.shapes)
    np.testing.assert_array_equal(first[1]["index"], RECORDS + np.arange(8))
    assert iterator.describe(RECORDS + 1).startswith(f"world {RECORDS + 1} of")
    state = iterator.get_state()
    then = _take(iterator, 2)
    resumed = train.build_iterator(config, stage, (0, 1))
    resumed.set_state(state)
    _assert_equal(then, _take(resumed, 2))
