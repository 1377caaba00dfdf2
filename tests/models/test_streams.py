"""Any number of streams: what changes with their number, their order and their columns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_dit import call, inputs, quick_jit, random_model, tiny

from unityvideo_jax.flow_matching import ObjectiveConfig, flow_matching_loss
from unityvideo_jax.kernels.rope import apply_rope, column_table, rope_table

IDS = [[0, 1, 3, 5], [0, 2, 4, 1]]
ORDER = np.array([0, 3, 1, 2])


def test_the_order_of_the_others_matters_neither_to_a_stream_s_error_nor_its_gradient():
    graphdef, params = nnx.split(random_model(tiny(rope_columns="modality")))
    arguments = inputs(tiny(), IDS)
    target = jnp.asarray(np.random.default_rng(1).normal(size=arguments[0].shape), jnp.float32)

    @quick_jit
    @jax.value_and_grad
    def error(params, arguments, target, stream):
        velocity = nnx.merge(graphdef, params)(*arguments)
        return jnp.mean(jnp.square(velocity - target)[:, stream])

    turned = tuple(x[:, ORDER] for x in arguments)
    for place, stream in enumerate(ORDER):
        before = error(params, arguments, target, stream)
        after = error(params, turned, target[:, ORDER], place)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), before, after)


def test_columns_by_modality_are_places_where_the_two_agree():
    place, modality = (random_model(tiny(rope_columns=c)) for c in ("place", "modality"))
    arguments = inputs(place.config, [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_allclose(call(modality, *arguments), call(place, *arguments), atol=2e-5)
    # By place the order matters, on the columns of RGB it does not.
    order = np.array([0, 2, 1])
    rgb = random_model(tiny(rope_columns="rgb"))
    for model, matters in ((place, True), (rgb, False)):
        turned = call(model, *(x[:, order] for x in arguments))
        off = np.abs(turned - call(model, *arguments)[:, order]).max()
        assert off > 1e-3 if matters else off < 2e-5
    # Elsewhere the columns are those of the place that the id names.
    head, grid, row = 16, (1, 1, 4), jnp.ones((4, 16))
    whole = tuple(part.reshape(6, 4, -1)[5] for part in rope_table(head, 6, grid))
    own, first = rope_table(head, 1, grid), column_table(head, np.array([20]))
    np.testing.assert_allclose(
        apply_rope(apply_rope(row, own), first), apply_rope(row, whole), atol=1e-5
    )


def test_each_modality_may_have_an_input_layer_of_its_own():
    model = random_model(tiny(inputs="per_modality"))
    assert model.patch_embedding.kernel.shape[0] == len(model.config.modalities)
    arguments = inputs(model.config, [[0, 2]])

    def velocity(kernel):
        model.patch_embedding.kernel[...] = kernel
        return call(model, *arguments)

    kernel = model.patch_embedding.kernel[...]
    base = velocity(kernel)
    np.testing.assert_array_equal(velocity(kernel.at[jnp.array([1, 3, 4, 5])].multiply(2.0)), base)
    for row in (0, 2):
        assert np.abs(velocity(kernel.at[row].multiply(2.0)) - base).max() > 1e-3


def test_two_streams_are_what_they_were():
    """The loss that the model of exactly two streams gave for these weights, batch and seed."""
    model = random_model(tiny())
    latents, _, modality, context = inputs(model.config, [row[:2] for row in IDS] * 4)
    batch = {"latents": latents, "modality": modality, "context": context}
    graphdef, params = nnx.split(model)

    @quick_jit
    def loss(params):
        velocity = nnx.merge(graphdef, params)
        return flow_matching_loss(velocity, batch, jax.random.key(3), ObjectiveConfig())[0]

    assert float(loss(params)) == pytest.approx(3.555853843688965, rel=1e-5)
