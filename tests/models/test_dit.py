"""The transformer as a whole: sizes, base model, samples, precision, memory policies, errors."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_dit import call, inputs, quick_jit, random_model, tiny

from unityvideo_jax.errors import UserError
from unityvideo_jax.models import DiT, DiTConfig, build, model_flops
from unityvideo_jax.models.backbone import adopt, map_weights
from unityvideo_jax.models.config import REMAT_POLICIES
from unityvideo_jax.models.layers import Linear, patchify, timestep_features, unpatchify


def rgb_backbone(**changes) -> DiT:
    return random_model(tiny(switcher="none", modalities=("rgb",), **changes), seed=5)


@pytest.mark.parametrize(
    ("switcher", "heads"),
    [("adaln", "per_modality"), ("additive", "shared"), ("none", "per_modality")],
)
def test_fresh_modality_parts_reproduce_the_rgb_backbone(switcher, heads):
    """Alone, RGB gives the backbone's output; with a second stream, that of the doubled width."""
    backbone = rgb_backbone()
    model = DiT(tiny(switcher=switcher, heads=heads), rngs=nnx.Rngs(0))
    adopt(model, backbone)

    latents, timestep, modality, context = inputs(model.config, [[0], [0]])
    expected = call(backbone, latents, timestep, modality, context)
    ours = call(model, latents, timestep, modality, context)
    assert np.std(expected) > 0.5
    np.testing.assert_array_equal(ours, expected)

    # The second stream stands to the right of the first, for both to see.
    whole, timestep, modality, context = inputs(model.config, [[0], [0]], grid=(2, 4, 12))
    expected = call(backbone, whole, timestep, modality, context)
    streams = jnp.concatenate([whole[..., :6, :], whole[..., 6:, :]], axis=1)
    twice = [jnp.repeat(x, 2, axis=1) for x in (timestep, context)]
    ours = call(model, streams, twice[0], jnp.asarray([[0, 3], [0, 5]]), twice[1])
    ours = jnp.concatenate([ours[:, :1], ours[:, 1:]], axis=-2)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)


def test_a_seventh_modality_starts_as_rgb_and_leaves_the_six_alone():
    six = random_model(tiny(modalities=("rgb", "flow", "depth"), inputs="per_modality"), seed=5)
    seven = DiT(tiny(modalities=("rgb", "depth", "skeleton", "flow"), inputs="per_modality"),
                rngs=nnx.Rngs(0))  # fmt: skip
    adopt(seven, six)
    arguments = inputs(six.config, [[0, 1, 2, 0]])
    renamed = (*arguments[:2], jnp.asarray([[0, 3, 1, 2]]), arguments[3])
    np.testing.assert_array_equal(call(seven, *renamed), call(six, *arguments))
    # Where all but RGB share a head, a new one shares it too.
    shared = random_model(tiny(modalities=("rgb", "depth"), heads="shared"))
    assert map_weights(tiny(heads="shared"), shared.config)["heads", "kernel"] is None
    rows = map_weights(tiny(heads="per_modality"), shared.config)["heads", "kernel"]
    assert rows.rows == (0, 1, 1, 1, 1, 1)
    with pytest.raises(UserError, match=r"heads\.bias has a row for each of depth, flow, .* there"):
        map_weights(tiny(heads="shared"), tiny())
    with pytest.raises(UserError, match=r"modality_embedding\.table has no place in config.model"):
        map_weights(tiny(switcher="none"), tiny())
    with pytest.raises(UserError, match="num_heads is 3 there; set config"):
        map_weights(tiny(num_heads=4), tiny())


def test_adopting_a_backbone_of_another_size_changes_nothing():
    model = random_model(tiny())
    before = jax.tree.map(np.asarray, nnx.state(model))
    with pytest.raises(UserError, match=r"\(2, 80, 48\) there and \(2, 64, 48\)"):
        adopt(model, rgb_backbone(ffn_dim=80))
    chex.assert_trees_all_equal(nnx.state(model), before)


def test_untrained_model_predicts_zero_and_starts_like_wan():
    config = tiny(dim=96, ffn_dim=192)
    model = DiT(config, rngs=nnx.Rngs(1))
    assert not np.any(call(model, *inputs(config, [[0, 1]])))
    table = np.asarray(model.blocks.modulation.table[...])
    assert table.shape == (2, 6, 6, 96)
    np.testing.assert_array_equal(table, np.broadcast_to(table[:, :1], table.shape))
    assert np.std(table[:, 0]) == pytest.approx(96**-0.5, rel=0.1)
    kernel = np.asarray(model.blocks.ffn.up.kernel[...])
    assert np.max(np.abs(kernel)) == pytest.approx((6.0 / (96 + 192)) ** 0.5, rel=0.01)
    assert not np.array_equal(kernel[0], kernel[1])
    assert not np.any(model.modality_embedding.table[...])


def test_every_parameter_names_its_dimensions():
    names = {"layers", "embed", "mlp", "heads", "text", "patch", "modality", None}
    for switcher in ("adaln", "additive"):
        model = nnx.eval_shape(lambda s=switcher: DiT(tiny(switcher=s), rngs=nnx.Rngs(0)))
        for path, weight in nnx.to_flat_state(nnx.state(model)):
            axes = weight.get_metadata("logical_axes")
            assert weight.dtype == jnp.float32
            assert len(axes) == len(weight.shape), path
            assert set(axes) <= names, path
            assert (axes[0] == "layers") == (path[0] == "blocks"), path
            # One mesh axis cannot split two dimensions of the same array.
            used = [axis for axis in axes if axis is not None]
            assert len(used) == len(set(used)), path


def test_permuting_samples_permutes_outputs():
    model = random_model(tiny())
    arguments = inputs(model.config, [[0, 1], [0, 4], [0, 5]])
    order = jnp.asarray([2, 0, 1])
    ours = call(model, *(x[order] for x in arguments))
    np.testing.assert_allclose(ours, call(model, *arguments)[order], rtol=0, atol=1e-5)


def test_each_sample_uses_its_own_modality_timestep_and_context():
    model = random_model(tiny())
    latents, timestep, modality, context = inputs(model.config, [[0, 1], [0, 1]])
    base = call(model, latents, timestep, modality, context)
    for changed in (
        (latents, timestep.at[0, 1].add(0.1), modality, context),
        (latents, timestep, modality.at[0, 1].set(2), context),
        (latents, timestep, modality, context.at[0, 1].add(1.0)),
    ):
        moved = jnp.max(jnp.abs(call(model, *changed) - base), axis=(2, 3, 4, 5))
        assert np.all(moved[0] > 1e-4)
        assert np.all(moved[1] < 1e-5)


def test_shorter_context_equals_zero_padding():
    model = random_model(tiny())
    latents, timestep, modality, context = inputs(model.config, [[0, 1]])
    padded = context.at[:, :, 3:].set(0.0)
    np.testing.assert_allclose(
        call(model, latents, timestep, modality, context[:, :, :3]),
        call(model, latents, timestep, modality, padded),
        rtol=0,
        atol=1e-6,
    )


def test_a_bias_gets_its_gradient_summed_in_float32():
    """In bfloat16 a sum of many equal terms goes astray: it rounds each partial sum."""
    linear = Linear(8, 4, (None, None), rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(linear)
    x = jnp.zeros((4096, 8), jnp.bfloat16)
    weight = jnp.full((4096, 4), 0.1, jnp.bfloat16)

    def loss(state):
        y = nnx.merge(graphdef, state)(x, jnp.dtype("bfloat16"))
        assert y.dtype == jnp.bfloat16
        return jnp.sum((y * weight).astype(jnp.float32))

    gradient = quick_jit(jax.grad(loss))(state)
    np.testing.assert_allclose(gradient["bias"][...], 4096 * float(weight[0, 0]), rtol=1e-5)


def test_bfloat16_compute_stays_near_float32():
    config = tiny()
    half = random_model(tiny(dtype="bfloat16"))
    arguments = inputs(config, [[0, 1], [0, 2]])
    exact, rounded = call(random_model(config), *arguments), call(half, *arguments)
    assert rounded.dtype == jnp.float32
    assert 0 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.03


def test_activations_can_be_laid_out_before_every_block():
    model = random_model(tiny())
    seen = []

    def constrain(x, axes):
        seen.append((x.shape, axes))
        return x

    jax.eval_shape(lambda *a: model(*a, constrain=constrain), *inputs(model.config, [[0, 1]]))
    assert seen == [((1, 2, 12, 48), ("batch", None, "tokens", None))]


def count_dots(jaxpr) -> int:
    """Matrix products in a program and in the programs inside it."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "dot_general"
        for value in jax.tree.leaves(
            tuple(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            count += count_dots(inner) if hasattr(inner, "eqns") else 0
    return count


def test_remat_policies_recompute_more_and_more_for_the_same_gradient():
    gradients, dots = {}, {}
    for remat in REMAT_POLICIES:
        model = random_model(tiny(remat=remat, attention="xla"))
        graphdef, state = nnx.split(model)
        arguments = inputs(model.config, [[0, 1]])

        def loss(state, graphdef=graphdef, arguments=arguments):
            return jnp.mean(jnp.square(nnx.merge(graphdef, state)(*arguments)))

        dots[remat] = count_dots(jax.make_jaxpr(jax.grad(loss))(state).jaxpr)
        if remat != "full":
            gradients[remat] = quick_jit(jax.grad(loss))(state)
    counts = list(dots.values())
    assert counts == sorted(set(counts))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradients["attention"],
        gradients["none"],
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"switcher": "additive", "heads": "shared"}, {"switcher": "none", "in_context": False}],
)
def test_flops_agree_with_the_compiled_program(changes):
    """One layer, since the compiler counts the body of a loop once."""
    config = tiny(dim=192, ffn_dim=384, num_layers=1, freq_dim=64, text_dim=32, **changes)
    grid = (3, 8, 8)
    graphdef, state = build.abstract_transformer(config)
    arguments = jax.eval_shape(lambda: inputs(config, [[0, 1]], grid=grid))
    compiled = quick_jit(lambda s, *a: nnx.merge(graphdef, s)(*a)).lower(state, *arguments)
    counted = compiled.compile().cost_analysis()["flops"]
    assert model_flops(config, grid, 2) == pytest.approx(counted, rel=0.05)


def test_flops_of_wan_at_the_measured_shape():
    """The block formula of the 1.3B at 40,560 tokens, written out with its numbers."""
    config = DiTConfig(
        dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096, text_len=512,
        switcher="none", in_context=False,
    )  # fmt: skip
    tokens, d, f = 40_560, 1536, 8960
    block = tokens * (12 * d * d + 4 * d * f) + 4 * d * d * 512
    block += 4 * tokens**2 * d + 4 * tokens * 512 * d
    assert model_flops(config, (13, 60, 104), 2) == pytest.approx(30 * block, rel=0.002)


def test_parameter_count_of_wan():
    """1,418,996,800 parameters in the released 1.3B."""
    config = DiTConfig(
        dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096, text_len=512,
        switcher="none", modalities=("rgb",),
    )  # fmt: skip
    model = nnx.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0)))
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model))) == 1_418_996_800


def test_timestep_features_are_cos_then_sin_of_a_thousandfold():
    features = timestep_features(jnp.asarray([0.0, 0.25, 1.0]), 8)
    angles = np.asarray([0.0, 250.0, 1000.0])[:, None] * 10_000.0 ** (-np.arange(4) / 4)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    np.testing.assert_allclose(features, expected, rtol=0, atol=2e-4)


def test_patches_hold_time_height_width_channel_and_go_back():
    latents = jnp.arange(2 * 3 * 4 * 6 * 4 * 5, dtype=jnp.float32).reshape(2, 3, 4, 6, 4, 5)
    patches = patchify(latents, (2, 3, 2))
    assert patches.shape == (2, 3, 2 * 2 * 2, 2 * 3 * 2 * 5)
    np.testing.assert_array_equal(patches[1, 2, 3], latents[1, 2, :2, 3:, 2:].ravel())
    np.testing.assert_array_equal(unpatchify(patches, (2, 3, 2), (2, 2, 2)), latents)


def test_config_survives_json():
    config = tiny()
    assert DiTConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "not divisible by model.num_heads=5"),
        ({"dim": 45}, "choose an even head size"),
        ({"modalities": ("rgb", "sonar")}, r"unknown \['sonar'\]: known are \['rgb', 'depth'"),
        ({"modalities": ("depth", "rgb")}, "must start with 'rgb'"),
        ({"modalities": ("rgb", "depth", "depth")}, "names a modality twice"),
        ({"modalities": "rgb"}, "must be a tuple"),
        ({"switcher": "adalin"}, r"model.switcher='adalin' is unknown: choose one of \['adaln'"),
        ({"heads": "two"}, "model.heads='two' is unknown"),
        ({"remat": "some"}, "model.remat='some' is unknown"),
        ({"dtype": "int8"}, "model.dtype='int8' is unknown"),
        ({"attention": "fast"}, "model.attention='fast' is unknown"),
        ({"attention": "flash"}, "model.attention='flash' needs heads of 128"),
        ({"num_layers": 0}, "model.num_layers=0 must be a positive whole number"),
        ({"patch_size": (2, 2)}, "needs .time, height, width."),
        ({"freq_dim": 7}, "model.freq_dim=7 must be even"),
        ({"rope_theta": -1.0}, "model.rope_theta=-1.0 must be a positive number"),
    ],
)
def test_unusable_configuration_is_one_clear_error(changes, message):
    with pytest.raises(UserError, match=message):
        tiny(**changes)


def test_unusable_inputs_are_one_clear_error():
    model = random_model(tiny())
    latents, timestep, modality, context = inputs(model.config, [[0, 1]])
    for arguments, message in (
        ((latents[..., :5, :], timestep, modality, context), "width 5 is not a .*patch size 2"),
        ((latents[..., :3], timestep, modality, context), "3 channels but model.in_channels=4"),
        ((latents, timestep, modality, context[..., :7]), "size 7 but model.text_dim=8"),
        (
            (latents, timestep, modality, jnp.tile(context, (1, 1, 2, 1))),
            "10 tokens long but model.text_len=5",
        ),
    ):
        with pytest.raises(UserError, match=message):
            model(*arguments)
