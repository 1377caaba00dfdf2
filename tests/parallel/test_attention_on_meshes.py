"""Attention on eight devices equals a softmax written out on one, forward and backward."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.attention import dot_product_attention
from unityvideo_jax.models.remat import rematerialise
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh

# Compiling takes most of these tests' time; unoptimised code is fast enough at this size.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
BATCH, STREAMS, TOKENS, HEADS, SIZE = 4, 2, 8, 8, 8


def plain(q, k, v, joint):
    """Streams [b, s, n, h, d] to keys [b, g, m, h, d], written out."""
    if joint:
        q_, k, v = (x.reshape(x.shape[0], 1, -1, *x.shape[3:]) for x in (q, k, v))
    else:
        q_ = q.reshape(q.shape[0], k.shape[1], -1, *q.shape[3:])
    scores = jnp.einsum("bgnhd,bgmhd->bghnm", q_, k) / np.sqrt(q.shape[-1])
    out = jnp.einsum("bghnm,bgmhd->bgnhd", jax.nn.softmax(scores, axis=-1), v)
    return out.reshape(q.shape)


def arrays(groups=None, batch=BATCH, heads=HEADS):
    """q, k, v and a cotangent; keys are the streams' tokens, or `groups` of five text tokens."""
    rng = np.random.default_rng(0)
    own = (batch, STREAMS, TOKENS, heads, SIZE)
    keys = own if groups is None else (batch, groups, 5, heads, SIZE)
    return [
        jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in (own, keys, keys, own)
    ]


def with_gradients(attend, q, k, v, weight):
    out, pullback = jax.vjp(attend, q, k, v)
    return out, *pullback(weight)


@functools.partial(quick_jit, static_argnames="joint")
def reference(*values, joint=True):
    return with_gradients(lambda *x: plain(*x, joint=joint), *values)


def on_mesh(sizes, values, **options):
    devices = jax.devices()[: int(np.prod(list(sizes.values())))]
    with jax.set_mesh(make_mesh(MeshConfig(**{"data": 1} | sizes), devices)):
        attend = lambda q, k, v: dot_product_attention(q, k, v, **options)  # noqa: E731
        return quick_jit(lambda *x: with_gradients(attend, *x))(*values)


MESHES = [
    {"context": 4, "data": 2},
    {"context": 2, "data": 2, "tensor": 2},
    {"fsdp": 4, "tensor": 2},
]


@pytest.mark.parametrize(("parallel", "mesh"), itertools.product(("ulysses", "ring"), MESHES))
def test_joint_attention(parallel, mesh):
    values = arrays()
    expected = reference(*values)
    ours = on_mesh(mesh, values, implementation="xla", parallel=parallel, joint=True)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("groups", [1, STREAMS])
@pytest.mark.parametrize("mesh", [{"context": 4, "tensor": 2}, {"context": 2, "data": 2}])
def test_attention_to_text(groups, mesh):
    values = arrays(groups)
    expected = reference(*values, joint=False)
    ours = on_mesh(mesh, values, implementation="xla")
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("parallel", ["ulysses", "ring"])
def test_with_the_tpu_kernel(parallel):
    values = arrays(batch=2, heads=2)
    expected = reference(*values)
    mesh = {"context": 2, "data": 2}
    ours = on_mesh(mesh, values, implementation="splash", parallel=parallel, joint=True)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


def test_ring_takes_any_number_of_heads():
    values = arrays(heads=3)
    expected = reference(*values)
    ours = on_mesh({"context": 4}, values, implementation="xla", parallel="ring", joint=True)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


def test_batch_that_does_not_divide_is_computed_by_all():
    values = arrays(batch=3)
    expected = reference(*values)
    ours = on_mesh({"data": 4, "context": 2}, values, joint=True)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("mesh", "heads", "message"),
    [
        ({"context": 4, "tensor": 2}, 4, r"context=4 does not divide the 2 attention heads"),
        ({"context": 2, "tensor": 4}, 6, r"tensor=4 does not divide the 6 attention heads"),
        ({"context": 3}, 6, r"context=3 does not divide the 8 tokens of a stream"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(mesh, heads, message):
    with pytest.raises(UserError, match=message):
        on_mesh(mesh, arrays(heads=heads), joint=True)


def test_ring_keeps_its_output_when_it_is_saved():
    """Keys and values go round once to attend, and once for the gradient; not a third time."""
    q, k, v, weight = arrays()
    mesh = make_mesh(MeshConfig(data=1, context=4), jax.devices()[:4])

    def rounds(remat):
        def loss(q, k, v):
            out = dot_product_attention(2 * q, k, v, "xla", "ring", joint=True)
            return jnp.sum(weight * out)

        with jax.set_mesh(mesh):
            loss = rematerialise(loss, remat)
            return str(jax.make_jaxpr(jax.grad(loss))(q, k, v)).count("scan[")

    assert rounds("full") == 3
    assert rounds("attention") == 2
