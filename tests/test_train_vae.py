"""The autoencoder's training: loss, step, scores and the program, on clips of flat shapes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import vae_worlds
from unityvideo_jax import train_vae
from unityvideo_jax.errors import UserError
from unityvideo_jax.models.vae_weights import load_vae, save_vae
from unityvideo_jax.models.wan_vae import VAEConfig, WanVAE
from unityvideo_jax.training import vae_report, vae_step
from unityvideo_jax.training.vae_step import VAELossConfig, VAEOptimizerConfig

NAMES = ("rgb", "segmentation")
SMALL = VAEConfig(base_dim=4, z_dim=4, num_res_blocks=1)


def flat_clips(height, width, frames):
    """A renderer of one moving square a clip: a stand-in with exact ground truth."""

    def render(indices):
        y, x = np.mgrid[:height, :width]
        clips = {"rgb": [], "segments": [], "depth": []}
        for index in indices:
            left = int(index) % (width // 2) + np.arange(frames)[:, None, None] // 2
            inside = (x >= left) & (x < left + width // 3) & (y >= height // 4)
            colour = np.array([0.2, 0.9, 0.1 * (int(index) % 10)])
            clips["rgb"].append(np.where(inside[..., None], colour, 0.4).astype(np.float32))
            clips["segments"].append(inside.astype(np.int32))
            clips["depth"].append(np.where(inside, 2.0, 5.0).astype(np.float32))
        return {k: jnp.asarray(np.stack(v)) for k, v in clips.items()}

    return render


@pytest.fixture
def config():
    config = vae_worlds.get_config()
    config.model.base_dim = 4
    config.model.num_res_blocks = 1
    config.dtype = "float32"
    config.data.modalities = NAMES
    config.data.num_frames = 5
    config.data.sizes = ((16, 16, 2), (32, 16, 1))
    config.optimizer.warmup_steps = 2
    config.steps = 6
    config.log_every = 2
    config.evaluation = dict(height=16, width=16, num_clips=2, statistics_clips=2, batch=2)
    return config


@pytest.fixture(scope="module")
def vae():
    return nnx.jit(lambda: WanVAE(SMALL, rngs=nnx.Rngs(0)))()


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
    for mean, logvar in ((0.0, 0.0), (0.5, -1.0)):
        still.conv1.bias[...] = jnp.concatenate([jnp.full((z,), mean), jnp.full((z,), logvar)])
        _, metrics = vae_step.vae_loss(still, video, jax.random.key(0), ("rgb",), VAELossConfig())
        expected = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)
        np.testing.assert_allclose(metrics["kl"], expected, atol=1e-6)


def test_training_lowers_the_loss_and_moves_every_weight(vae):
    render = flat_clips(16, 16, 5)
    video, _ = vae_step.encode_modalities(NAMES, render(np.arange(2)))
    optimizer = VAEOptimizerConfig(learning_rate=3e-3, warmup_steps=1, ema_decay=0.9)
    graph, params = nnx.split(vae)
    copy = nnx.merge(graph, jax.tree.map(jnp.copy, params))
    graph, state = vae_step.init_state(copy, optimizer)
    step = vae_step.make_step(graph, NAMES, VAELossConfig(kl=1e-5), optimizer)
    before = jax.tree.map(np.asarray, state.params)
    losses = []
    for i in range(25):
        state, metrics = step(state, video, jax.random.key(1), optimizer.rate(i, 0.0))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
    assert int(state.step) == 25
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


def test_decoded_errors_of_known_cases():
    depth = np.array([[[2.0, 4.0, np.inf]]], np.float32)
    guess = np.array([[[1.0, 5.0, 3.0]]], np.float32)
    error = vae_report.depth_abs_rel({"depth": guess}, {"depth": depth})
    np.testing.assert_allclose(error, [0.5, 0.25])  # the sky does not count

    flow = np.zeros((1, 1, 2, 2), np.float32)
    error = vae_report.flow_epe({"flow": flow + np.float32([3, 4])}, {"flow": flow})
    np.testing.assert_allclose(error, 5.0)

    true = np.array([[[1, 1, 1, 0, 2]]], np.int32)
    guess = np.array([[[1, 1, 0, 0, 0]]], np.int32)
    error = vae_report.segment_iou({"segments": guess}, {"segments": true})
    np.testing.assert_allclose(error, [2 / 3, 0.0])

    error = vae_report.part_accuracy({"part": guess}, {"part": true})
    np.testing.assert_allclose(error, [1, 1, 0, 0])


def test_pck_matches_people_and_counts_what_is_missing():
    person = np.zeros((17, 2), np.float32)
    person[:, 0] = np.arange(17)
    person[[5, 6], 1], person[[11, 12], 1] = 0.0, 10.0  # a torso of about 12 pixels
    people = np.stack([person, person + 100])[None]
    seen = np.full((1, 2, 17), 2, np.int32)
    truth = {"keypoints": people, "visibility": seen}

    swapped = {"keypoints": people[:, ::-1] + 1.0, "visibility": seen}
    assert vae_report.joint_pck(swapped, truth).mean() == 1.0
    far = {"keypoints": people + 3.0, "visibility": seen}
    assert vae_report.joint_pck(far, truth).mean() == 0.0
    one = {"keypoints": people[:, :1], "visibility": seen[:, :1]}
    assert vae_report.joint_pck(one, truth).mean() == 0.5
    nobody = {
        "keypoints": np.zeros((1, 0, 17, 2), np.float32),
        "visibility": np.zeros((1, 0, 17), np.int32),
    }
    assert vae_report.joint_pck(nobody, truth).mean() == 0.0


def test_statistics_normalise_the_latents(vae):
    video, _ = vae_step.encode_modalities(NAMES, flat_clips(16, 16, 5)(np.arange(2)))
    mean, deviation = vae_report.latent_statistics(vae, [video[:1], video[1:]])
    latents = np.concatenate([np.asarray(vae.encode(clip)) for clip in video])
    normal = (latents - np.float32(mean)) / np.float32(deviation)
    np.testing.assert_allclose(normal.mean(axis=(0, 1, 2, 3)), 0.0, atol=1e-3)
    np.testing.assert_allclose(normal.std(axis=(0, 1, 2, 3)), 1.0, atol=1e-3)


def test_the_program_trains_measures_and_writes(config, tmp_path, capsys):
    output = tmp_path / "vae"

    def source(split, height, width):
        assert split in ("train", "validation")
        return flat_clips(height, width, 5)

    model = train_vae.check(config, output)
    vae, took = train_vae.train(config, model, source)
    assert took["steps"] == 6
    scores = train_vae.finish(config, vae, took, source, output)
    assert sorted(p.name for p in output.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "reconstructions.png",
    ]
    # The codec alone loses nothing on flat colours.
    assert scores["segmentation"].codec_alone == 1.0
    assert 0.0 <= scores["segmentation"].through_vae <= 1.0
    card = (output / "README.md").read_text()
    for said in ("Command", "Seed: 0", "Date", "Device", f"| rgb | {scores['rgb'].psnr:.2f}"):
        assert said in card
    loaded = load_vae(output)
    assert min(loaded.config.latents_std) > 0
    assert json.loads((output / "config.json").read_text())["base_dim"] == 4
    latents = loaded.encode(np.zeros((1, 5, 16, 16, 3), np.float32))
    assert np.isfinite(latents).all()
    assert "PSNR rgb" in capsys.readouterr().out

    with pytest.raises(UserError, match="another --output"):
        train_vae.check(config, output)


def test_a_time_limit_ends_training(config):
    config.max_seconds = 1e-3
    config.steps = 10_000

    def source(split, height, width):
        del split
        return flat_clips(height, width, 5)

    model = VAEConfig(**config.model)
    _, took = train_vae.train(config, model, source)
    assert took["steps"] <= 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data.num_frames": 6}, "6 frames"),
        ({"data.sizes": ((20, 16, 1),)}, "height 20"),
        ({"data.sizes": ((16, 16),)}, "clips"),
        ({"data.modalities": ("rgb", "sound")}, "sound"),
        ({"steps": 0}, "positive"),
    ],
)
def test_configurations_that_cannot_train(config, tmp_path, change, says):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=says):
        train_vae.check(config, tmp_path / "vae")


def test_weights_too_large_to_ship_are_refused(config, monkeypatch):
    monkeypatch.setattr(train_vae, "LARGEST", 1000)
    with pytest.raises(UserError, match="lower base_dim"):
        train_vae.train(config, VAEConfig(**config.model), lambda *_: flat_clips(16, 16, 5))


def test_a_loss_that_is_not_finite_stops_training(config):
    metrics = {"loss": jnp.float32(np.nan)}
    with pytest.raises(UserError, match="step 7: the loss is nan"):
        train_vae._follow(7, metrics, 1e-3, NAMES, config, 0.0)


def test_training_goes_on_from_weights(config, vae, tmp_path):
    save_vae(vae, tmp_path)
    stored = load_vae(tmp_path)
    config.init_from = str(tmp_path)
    config.model.z_dim = SMALL.z_dim
    config.model.dim_mult = SMALL.dim_mult
    config.optimizer.learning_rate = 0.0
    config.steps = 1
    model = VAEConfig(**config.model)
    trained, _ = train_vae.train(config, model, lambda _, h, w: flat_clips(h, w, 5))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(trained), nnx.state(stored))

    config.model.base_dim = 8
    with pytest.raises(UserError, match=r"config\.init_from=.* make the two agree"):
        train_vae.train(config, VAEConfig(**config.model), lambda *_: None)
