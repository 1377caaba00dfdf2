"""Who can reach whom, read off gradients: zero must be exactly zero."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_dit import inputs, quick_jit, random_model, tiny

MODALITY = [[0, 2], [0, 4]]
RGB, OTHER = 0, 1


@functools.cache
def compiled(**changes):
    """Gradients of a loss on one stream's velocity, and what they are taken at."""
    model = random_model(tiny(**changes))
    graphdef, state = nnx.split(model)
    latents, timestep, modality, context = inputs(model.config, MODALITY)

    def loss(state, latents, context, stream):
        out = nnx.merge(graphdef, state)(latents, timestep, modality, context)
        return jnp.mean(jnp.square(out[:, stream]))

    return quick_jit(jax.grad(loss, argnums=(0, 1, 2))), (state, latents, context)


def gradients(stream: int, **changes):
    """By weights, latents and contexts, of the given stream's loss."""
    run, arguments = compiled(**changes)
    by_weight, by_latents, by_context = run(*arguments, jnp.asarray(stream))
    return nnx.to_pure_dict(by_weight), by_latents, by_context


def rows(weight, axis: int = 0) -> list[int]:
    """Indices along `axis` that receive a gradient."""
    other = tuple(i for i in range(weight.ndim) if i != axis)
    return np.flatnonzero(np.any(np.asarray(weight) != 0, axis=other)).tolist()


def test_rgb_loss_reaches_the_rgb_head_only():
    by_weight, _, _ = gradients(RGB)
    for name in ("kernel", "bias"):
        assert rows(by_weight["heads"][name]) == [0]
    assert rows(by_weight["heads"]["modulation"]["table"]) == [0]


def test_modality_loss_reaches_the_heads_of_its_modalities_only():
    by_weight, _, _ = gradients(OTHER)
    for name in ("kernel", "bias"):
        assert rows(by_weight["heads"][name]) == [2, 4]
    assert rows(by_weight["heads"]["modulation"]["table"]) == [2, 4]


@pytest.mark.parametrize("stream", [RGB, OTHER])
def test_both_streams_train_the_tables_of_present_modalities_only(stream):
    """Through joint attention an RGB loss also trains how the modality's tokens are modulated."""
    by_weight, _, _ = gradients(stream)
    assert rows(by_weight["blocks"]["modulation"]["table"], axis=1) == [0, 2, 4]
    assert rows(by_weight["modality_embedding"]["table"]) == [0, 2, 4]


@pytest.mark.parametrize("stream", [RGB, OTHER])
def test_additive_switch_trains_present_modalities_only(stream):
    by_weight, _, _ = gradients(stream, switcher="additive", heads="shared")
    assert rows(by_weight["additive_switch"]["vectors"]) == [0, 2, 4]
    assert rows(by_weight["patch_embedding"]["kernel"]) == [0, 1]
    assert rows(by_weight["heads"]["kernel"]) == [stream]


@pytest.mark.parametrize("stream", [RGB, OTHER])
def test_latents_of_either_stream_reach_both_outputs(stream):
    _, by_latents, _ = gradients(stream)
    assert np.all(np.max(np.abs(by_latents), axis=(2, 3, 4, 5)) > 1e-6)


@pytest.mark.parametrize("stream", [RGB, OTHER])
def test_prompts_reach_the_other_stream_through_joint_attention_only(stream):
    """In one block self-attention comes first, so nothing has yet read the other's prompt."""
    _, _, one = gradients(stream, num_layers=1)
    assert np.any(one[:, stream])
    assert not np.any(one[:, 1 - stream])
    _, _, two = gradients(stream)
    assert np.any(two[:, stream]) and np.any(two[:, 1 - stream])


def test_without_in_context_only_the_first_prompt_is_read():
    for stream in (RGB, OTHER):
        _, _, by_context = gradients(stream, in_context=False)
        assert np.any(by_context[:, 0])
        assert not np.any(by_context[:, 1])


def test_samples_do_not_reach_each_other():
    model = random_model(tiny(num_layers=1))
    graphdef, state = nnx.split(model)
    latents, timestep, modality, context = inputs(model.config, MODALITY)

    def first(latents, timestep, context):
        out = nnx.merge(graphdef, state)(latents, timestep, modality, context)
        return jnp.sum(jnp.square(out[0]))

    for gradient in quick_jit(jax.grad(first, argnums=(0, 1, 2)))(latents, timestep, context):
        assert np.any(gradient[0])
        assert not np.any(gradient[1])
