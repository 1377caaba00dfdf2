"""The autoencoder's training: loss, step, scores and the program, on clips of flat shapes."""

import dataclasses
import functools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unityvideo_jax import train_vae
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.encode import load_encoder
from unityvideo_jax.models.vae.wan_vae import VAEConfig
from unityvideo_jax.pretrained.vae import load_vae, save_vae
from unityvideo_jax.settings import presets
from unityvideo_jax.training import vae_report, vae_step
from unityvideo_jax.training.vae_step import VAELossConfig, VAEOptimizerConfig

sys.path.append(str(pathlib.Path(__file__).parent / "modalities"))
from synthetic_clips import clip

NAMES = ("rgb", "segmentation")
# As that of the preset, but for its widths.
WIDTHS = {"base_dim": 4, "decoder_base_dim": 4, "z_dim": 4}
SMALL = VAEConfig(**presets.load("vae_worlds").model.to_dict() | WIDTHS)


def videos(count):
    """Encoded clips [n, modality, frames, height, width, 3]."""
    clips = [clip(frames=5, height=16, width=16, seed=seed) for seed in range(count)]
    clips = jax.tree.map(lambda *arrays: np.stack(arrays), *clips)
    return jax.jit(lambda clips: vae_step.encode_modalities(NAMES, clips)[0])(clips)


@pytest.fixture
def config():
    return make_config()


def make_config():
    config = presets.load("vae_worlds")
    config.model = dataclasses.asdict(SMALL)
    config.dtype = "float32"
    config.data.modalities = NAMES
    config.data.num_frames = 5
    config.data.sizes = ((16, 16, 8),)
    config.optimizer.warmup_steps = 2
    config.steps = 6
    config.log_every = 2
    config.evaluation = dict(
        height=32, width=32, num_clips=2, statistics_clips=2, batch=2, processes=1
    )
    return config


@pytest.fixture(scope="module")
def vae():
    return train_vae._initial(make_config(), SMALL, jax.random.key(0))


def test_reconstruction_loss_of_known_errors():
    ones = jnp.ones((1, 3, 8, 8, 1))
    config = VAELossConfig(gradient=0.5, coarse=0.25)
    constant = jnp.full((1, 3, 8, 8, 3), -0.2)
    # No differences; each of the two means is the constant.
    expected = 0.2 + 0.25 * 2 * 0.2
    loss = vae_step.reconstruction_loss(constant, ones, config)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # A chequerboard of +-0.2 has mean zero and differences of 0.4 along height and width.
    board = 0.2 * (1.0 - 2.0 * (np.indices((8, 8)).sum(axis=0) % 2))
    board = jnp.broadcast_to(jnp.asarray(board)[None, None, :, :, None], (1, 3, 8, 8, 3))
    loss = vae_step.reconstruction_loss(board.astype(jnp.float32), ones, config)
    np.testing.assert_allclose(loss, 0.2 + 0.5 * (0.4 + 0.4), rtol=1e-5)


def test_foreground_weighs_as_much_as_everything_together():
    video = np.full((1, 2, 3, 16, 16, 3), -1.0, np.float32)
    video[0, 1, :, :4, :4] = 1.0
    config = VAELossConfig(foreground=1.0, background={"segmentation": -1.0})
    weight = vae_step.foreground_weights(jnp.asarray(video), NAMES, config)
    np.testing.assert_allclose(weight.mean(axis=(2, 3, 4, 5)), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(weight[:, 0], 1.0)  # rgb has no background
    share = np.asarray(weight)[0, 1, :, :4, :4].sum() / np.asarray(weight)[0, 1].sum()
    np.testing.assert_allclose(share, 0.5 * (1 + 1 / 16), rtol=1e-5)


def test_divergence_is_zero_at_the_unit_normal_and_gaussian_elsewhere(vae):
    still = nnx.clone(vae)
    # Without the last mixing matrix its bias is the posterior: mean 0.5, log-variance -1.
    z = SMALL.z_dim
    still.conv1.weight[...] = jnp.zeros_like(still.conv1.weight[...])
    video = jnp.zeros((1, 1, 1, 16, 16, 3))
    config, key = VAELossConfig(), jax.random.key(0)
    loss = nnx.jit(lambda model: vae_step.vae_loss(model, video, key, ("rgb",), config))
    for mean, logvar in ((0.0, 0.0), (0.5, -1.0)):
        still.conv1.bias[...] = jnp.concatenate([jnp.full((z,), mean), jnp.full((z,), logvar)])
        _, metrics = loss(still)
        expected = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)
        np.testing.assert_allclose(metrics["kl"], expected, atol=1e-6)


@pytest.mark.slow
def test_training_lowers_the_loss_and_moves_every_weight(vae):
    video = videos(2)
    optimizer = VAEOptimizerConfig(learning_rate=1e-2, warmup_steps=1, ema_decay=0.9)
    graph, params = nnx.split(vae)
    copy = nnx.merge(graph, jax.tree.map(jnp.copy, params))
    graph, state = vae_step.init_state(copy, optimizer)
    step = vae_step.make_step(graph, NAMES, VAELossConfig(kl=1e-5), optimizer)
    before = jax.tree.map(np.asarray, state.params)
    losses = []
    for i in range(60):
        state, metrics = step(state, video, jax.random.key(1), optimizer.rate(i, 0.0))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
    assert int(state.step) == 60
    with pytest.raises(AssertionError, match="'step' is traced > 1 times"):
        step(state, video[:1], jax.random.key(1), optimizer.rate(60, 0.0))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != np.asarray(b))), before, state.params)
    assert all(jax.tree.leaves(moved))
    gap = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.ema, state.params)
    assert 0 < max(jax.tree.leaves(gap)) < 0.1


def test_learning_rate_warms_up_and_falls_to_zero():
    config = VAEOptimizerConfig(learning_rate=1.0, warmup_steps=10)
    np.testing.assert_allclose(config.rate(0, 0.0), 0.1)
    np.testing.assert_allclose(config.rate(9, 0.0), 1.0)
    np.testing.assert_allclose(config.rate(500, 0.5), 0.5, atol=1e-12)
    np.testing.assert_allclose(config.rate(500, 1.0), 0.0, atol=1e-12)


def test_statistics_normalise_the_latents_of_each_modality(vae):
    clips = videos(2)
    found = vae_report.latent_statistics(vae, NAMES, [clips[:1], clips[1:]])
    pooled = dataclasses.replace(vae.config, latents_mean=found.mean, latents_std=found.std)
    own = dataclasses.replace(pooled, modality_statistics=found.modalities)
    latents = np.stack([np.asarray(vae.encode(clip)) for clip in clips])

    mean, std = pooled.statistics()
    normal = (latents - mean) / std
    np.testing.assert_allclose(normal.mean(axis=(0, 1, 2, 3, 4)), 0.0, atol=1e-3)
    np.testing.assert_allclose(normal.std(axis=(0, 1, 2, 3, 4)), 1.0, atol=1e-3)
    assert own.statistics("other")[0].tolist() == mean.tolist()
    for place, name in enumerate(NAMES):
        mean, std = own.statistics(name)
        one = (latents[:, place] - mean) / std
        np.testing.assert_allclose(one.mean(axis=(0, 1, 2, 3)), 0.0, atol=1e-3)
        deviation = one.std(axis=(0, 1, 2, 3))
        scaled = np.array(found.modalities[name][1]) > vae_report.LEAST_DEVIATION
        np.testing.assert_allclose(deviation[scaled], 1.0, atol=1e-3)
        assert (deviation[~scaled] <= 1.001).all()


def test_latents_of_a_modality_are_decoded_by_its_statistics(vae, tmp_path):
    statistics = {"depth": ((0.5,) * 4, (2.0,) * 4)}
    vae = nnx.merge(*nnx.split(vae))
    vae.config = dataclasses.replace(SMALL, modality_statistics=statistics)
    save_vae(vae, tmp_path)
    loaded = load_vae(tmp_path)
    video = np.asarray(videos(2)[0])
    pooled, own = loaded.encode(video), loaded.encode(video, "depth")
    np.testing.assert_allclose(own, (pooled - 0.5) / 2.0, atol=1e-5)
    np.testing.assert_array_equal(loaded.encode(video, "flow"), pooled)
    np.testing.assert_allclose(loaded.decode(own, "depth"), loaded.decode(pooled), atol=1e-4)
    encoder = load_encoder(str(tmp_path))
    np.testing.assert_allclose(encoder(video, "depth"), own, atol=1e-5)
    with pytest.raises(UserError, match="modality_statistics"):
        VAEConfig(modality_statistics={"depth": ((0.0,), (1.0,))})


@pytest.mark.slow
def test_the_program_trains_measures_and_writes(config, tmp_path, capsys):
    output = tmp_path / "vae"
    model = train_vae.check(config, output)
    vae, took = train_vae.train(config, model)
    assert took["steps"] == 6
    found = train_vae.finish(config, vae, took, output)
    assert sorted(p.name for p in output.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
        "reconstructions.png",
    ]
    validation = found["validation"]
    # The codec alone loses nothing of large masks; the trivial prediction is one instance.
    codec, through, trivial = (
        found["closeup"].scores[system]["segmentation/hungarian_clip/mean_iou"]
        for system in ("codec", "vae", "trivial")
    )
    assert codec == 1.0
    assert 0.0 <= through < 1.0 > trivial
    assert len(validation.people) == 2 * 5
    # People are larger where the camera is close to them.
    assert np.median(found["closeup"].heights) > np.median(validation.heights)
    card = (output / "README.md").read_text()
    for said in ("Command", "Seed: 0", "Date", "Device", f"| rgb | {validation.psnr['rgb']:.2f}"):
        assert said in card
    loaded = load_vae(output)
    assert min(loaded.config.latents_std) > 0
    assert dict((n, len(m)) for n, m, _ in loaded.config.modality_statistics) == {
        name: model.z_dim for name in NAMES
    }
    assert json.loads((output / "config.json").read_text())["base_dim"] == 4
    assert "PSNR rgb" in capsys.readouterr().out

    with pytest.raises(UserError, match="another --output"):
        train_vae.check(config, output)


def test_a_time_limit_ends_training(config):
    config.max_seconds = 1e-3
    config.steps = 10_000
    _, took = train_vae.train(config, VAEConfig(**config.model))
    assert took["steps"] <= 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data.num_frames": 6}, "6 frames"),
        ({"data.sizes": ((20, 16, 1),)}, "height 20"),
        ({"data.sizes": ((16, 16),)}, "clips"),
        ({"data.sizes": ((16, 16, 3),)}, "multiple of 8"),
        ({"data.modalities": ("rgb", "sound")}, "sound"),
        ({"steps": 0}, "positive"),
        ({"steps": 1.5}, "config.steps=1.5: give a whole number"),
        ({"dtype": "half"}, "config.dtype='half': use one of"),
        ({"evaluation.batch": 0}, "config.evaluation.batch=0: give 1 or more"),
        ({"evaluation.clips": 2}, "config.evaluation.clips: no such key; did you mean"),
        ({"data.closeup": 2.0}, "closeup=2.0: is a share"),
        ({"loss.background.sound": 0.0}, "config.loss.background.sound: no such key"),
        ({"step": 5}, "config.step: no such key; did you mean 'steps'"),
    ],
)
def test_configurations_that_cannot_train(config, tmp_path, change, says):
    with config.ignore_type():
        config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=says):
        train_vae.check(config, tmp_path / "vae")


def test_a_runs_folder_is_not_written_over(config, tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(UserError, match=r"holds config\.json already; give another --output"):
        train_vae.check(config, tmp_path)


def test_weights_too_large_to_ship_are_refused(config, monkeypatch):
    monkeypatch.setattr(train_vae, "LARGEST", 1000)
    with pytest.raises(UserError, match="lower base_dim"):
        train_vae.train(config, VAEConfig(**config.model))


def test_a_loss_that_is_not_finite_stops_training(config):
    metrics = {"loss": jnp.float32(np.nan)}
    with pytest.raises(UserError, match="step 7: the loss is nan"):
        train_vae._follow(7, metrics, 1e-3, NAMES, config, 0.0)


@pytest.mark.slow
def test_training_starts_from_weights(config, vae, tmp_path):
    save_vae(vae, tmp_path)
    stored = load_vae(tmp_path)
    config.init_from = str(tmp_path)
    config.optimizer.learning_rate = 1e-12
    config.steps = 1
    model = VAEConfig(**config.model)
    trained, _ = train_vae.train(config, model)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-9),
        nnx.state(trained),
        nnx.state(stored),
    )

    config.model.base_dim = config.model.decoder_base_dim = 8
    with pytest.raises(UserError, match=r"config\.init_from=.* make the two agree"):
        train_vae.train(config, VAEConfig(**config.model))
