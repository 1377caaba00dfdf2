"""Norms, gates and activations over split arrays: the GPU kernel, emulated, on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from unityvideo_jax.kernels.pointwise import gated_sum, gelu, input_and_norm, rms_norm, sum_and_norm
from unityvideo_jax.kernels.rope import rope_table

B, S, N, D = 4, 2, 24, 48
ROPE = tuple(x.reshape(S, N, -1) for x in rope_table(24, S, (6, 2, 2)))
AXES = ("slice", "data", "fsdp", "context", "tensor")
# Eight parts of the samples, as in the last, do not divide them: each device has them all.
MESHES = [(1, 2, 2, 2, 1), (1, 1, 2, 2, 2), (2, 2, 2, 1, 1)]


def branch(x, vector, modulation):
    """All five of them in one; a sample's modulation differs from another's."""
    skip, y = input_and_norm(x, 1.0 + modulation, modulation, 1e-6)
    y = rms_norm(y, vector, 1.0 + vector, ROPE, 1e-6)
    skip, y = sum_and_norm(skip, y, vector, 1.0 + modulation, modulation, 1e-6)
    return gated_sum(skip, gelu(y, vector), vector, modulation)


def run(mesh_shape):
    rng = np.random.default_rng(0)
    x, weights = (jnp.asarray(rng.standard_normal((B, S, N, D)), jnp.bfloat16) for _ in range(2))
    vector = jnp.asarray(rng.standard_normal(D), jnp.float32)
    modulation = jnp.asarray(rng.standard_normal((B, S, 1, D)), jnp.float32)

    @jax.jit
    def value_and_gradients(*operands):
        value, back = jax.vjp(branch, *operands)
        return value, *back(weights)

    if mesh_shape is None:
        return value_and_gradients(x, vector, modulation)
    mesh = jax.make_mesh(mesh_shape, AXES, axis_types=(AxisType.Auto,) * 5)
    with jax.set_mesh(mesh):
        return value_and_gradients(x, vector, modulation)


def test_a_mesh_changes_nothing(row_kernels):
    alone = run(None)
    assert {shape for _, shape in row_kernels} == {(B, S, N, D)}
    for mesh_shape in MESHES:
        row_kernels.clear()
        equals(alone, run(mesh_shape), mesh_shape, row_kernels)


def equals(alone, over_devices, mesh_shape, row_kernels):
    assert row_kernels, "the kernel is to run on each device's part"
    _, data, fsdp, context, tensor = mesh_shape
    parts = mesh_shape[0] * data * fsdp
    samples = B // parts if B % parts == 0 else B
    # Norms need all features: over split ones XLA has them. So here, where GELU's are.
    widths = {D} | ({D // tensor} if tensor > 1 else set())
    shapes = {shape for _, shape in row_kernels}
    assert shapes == {(samples, S, N // context, width) for width in widths}, mesh_shape
    for one, other in zip(alone, over_devices, strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        assert np.abs(one - other).max() <= 2e-2 * np.abs(one).max(), mesh_shape
