"""An adapted layer as one operation: value and gradients against the plain sum's, by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

from unityvideo_jax.models import adapter
from unityvideo_jax.models.adapted_product import adapted_product
from unityvideo_jax.models.layers import Linear
from unityvideo_jax.models.quantised import Quantised

AXES = ("slice", "data", "fsdp", "context", "tensor")
SHAPES = [(24, 64), (64, 24)]  # stacked, and added


def layer(inputs, outputs, base="float32"):
    made = Linear(inputs, outputs, ("embed", "heads"), rngs=nnx.Rngs(0))
    made.adapter = adapter.Adapter(made, 4, scale=0.5, rngs=nnx.Rngs(1))
    made.adapter.up.set_value(jax.random.normal(jax.random.key(2), (4, outputs)))
    if base == "int8":
        made.quantised = Quantised(made.kernel, base)
        made.kernel = nnx.Param(jnp.zeros((0,)), logical_axes=(None,))
    return made


def operands(inputs, outputs, dtype, shape=(2, 2, 32)):
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.standard_normal((*shape, n)), dtype) for n in (inputs, outputs))
    return x, jnp.asarray(rng.standard_normal(inputs), jnp.float32), dy


def value_and_gradients(made, x, offset, dy, *, joins, trains_kernel=True):
    """y and the gradients of x, offset, down, up and, if it is trained, the kernel."""
    held = made.kernel[...], made.adapter.down[...], made.adapter.up[...]
    if not joins:
        made = nnx.clone(made)
        made.adapter.joins_base = lambda use: False

    def product(x, offset, down, up, kernel):
        # Without a trained kernel this is frozen, not an argument to differentiate.
        copy = nnx.clone(made)
        copy.adapter.down.set_value(down)
        copy.adapter.up.set_value(up)
        copy.kernel.set_value(held[0] if kernel is None else kernel)
        copy.adapter.joins_base = made.adapter.joins_base
        return copy.product_and_bias(x, x.dtype, None, offset)[0]

    @jax.jit
    def run(*arguments):
        y, back = jax.vjp(product, *arguments)
        return y, *back(dy)

    return run(x, offset, *held[1:], held[0] if trains_kernel else None)


def errors(ours, expected):
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True)
    pairs = [[np.asarray(a, np.float64) for a in pair] for pair in pairs]
    assert all(np.abs(b).max() > 0 for _, b in pairs)
    return [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]


@pytest.mark.parametrize("tokens", [32, 33])  # in parts, and as one product
@pytest.mark.parametrize("base", ["float32", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_all_gradients_are_those_of_the_sum(shape, base, tokens):
    made, trains = layer(*shape, base), base == "float32"
    settings = dict(trains_kernel=trains)
    arrays = operands(*shape, jnp.float32, (2, 2, tokens))
    expected = value_and_gradients(made, *arrays, joins=False, **settings)
    ours = value_and_gradients(made, *arrays, joins=True, **settings)
    assert len(jax.tree.leaves(ours)) == 5 + trains
    assert [a.dtype for a in jax.tree.leaves(ours)] == [a.dtype for a in jax.tree.leaves(expected)]
    assert max(errors(ours, expected)) < 1e-6

    # In bfloat16 it is as near to float32 as the sum is.
    arrays = operands(*shape, jnp.bfloat16, (2, 2, tokens))
    exact = [a.astype(jnp.float32) for a in arrays]
    exact = value_and_gradients(made, *exact, joins=False, **settings)
    bounds = errors(value_and_gradients(made, *arrays, joins=False, **settings), exact)
    found = value_and_gradients(made, *arrays, joins=True, **settings)
    for ours, bound in zip(errors(found, exact), bounds, strict=True):
        assert ours < min(1.25 * bound, 0.02), (errors(found, exact), bounds)


def test_no_product_for_a_frozen_kernel():
    """Within the scan over layers, as trained: one product fewer than with a trained kernel."""
    made = layer(*SHAPES[0])
    x, _, _ = operands(*SHAPES[0], jnp.float32)
    held = dict(kernel=made.kernel[...], down=made.adapter.down[...], up=made.adapter.up[...])

    def products(*trained):
        def loss(given):
            now = held | given

            def add(x, _):
                y = adapted_product(True, x, now["kernel"], now["down"], now["up"], None)
                return x + y[..., : x.shape[-1]], None

            return jnp.sum(jax.lax.scan(add, x, length=3)[0] ** 2)

        given = {name: held[name] for name in trained}
        return jax.jit(jax.grad(loss)).lower(given).compile().as_text().count(" dot(")

    assert products("kernel", "down", "up") == products("down", "up") + 1


def test_what_it_does_not_compute_keeps_the_sum():
    plain = layer(24, 64)
    key = adapter.Use(jnp.ones((2, 2, 1)), jax.random.key(0))
    assert plain.adapter.joins_base(None) and plain.adapter.joins_base(key)
    dropped = adapter.Adapter(plain, 4, dropout=0.5, rngs=nnx.Rngs(0))
    assert dropped.joins_base(None) and not dropped.joins_base(key)
    assert not adapter.Adapter(plain, 4, count=2, rngs=nnx.Rngs(0)).joins_base(None)


@pytest.mark.parametrize("mesh_shape", [(1, 2, 1, 4, 1), (1, 2, 2, 1, 2), (1, 1, 2, 2, 2)])
def test_a_mesh_changes_nothing(mesh_shape):
    mesh = jax.make_mesh(mesh_shape, AXES, axis_types=(AxisType.Auto,) * 5)
    spec = jax.sharding.PartitionSpec
    for shape in SHAPES:
        made, arrays = layer(*shape), operands(*shape, jnp.float32, (4, 2, 32))
        alone = value_and_gradients(made, *arrays, joins=False)
        with jax.set_mesh(mesh):
            for weights in (made.kernel, made.adapter.down, made.adapter.up):
                axes = [{"embed": "fsdp", "heads": "tensor"}.get(a) for a in weights.logical_axes]
                weights.set_value(jax.device_put(weights[...], spec(*axes)))
            tokens = spec(("slice", "data", "fsdp"), None, "context")
            x, offset, dy = arrays
            x, dy = (jax.device_put(a, tokens) for a in (x, dy))
            over_devices = value_and_gradients(made, x, offset, dy, joins=True)
        assert max(errors(over_devices, alone)) < 1e-6, (mesh_shape, shape)
