"""Rotary embedding against complex numbers, written down independently."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unityvideo_jax.kernels.rope import apply_rope, axis_sizes, rope_table


def rotate_by_complex_numbers(x, streams, grid, theta):
    """x [b, n, heads, d] in float64, tokens ordered (stream, time, height, width)."""
    frames, height, width = grid
    d = x.shape[-1]
    sizes = [d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6)]
    pairs = x[..., 0::2] + 1j * x[..., 1::2]
    token = 0
    for s in range(streams):
        for t in range(frames):
            for h in range(height):
                for w in range(width):
                    phases = [
                        position * theta ** (-2.0 * i / size)
                        for position, size in zip((t, h, s * width + w), sizes, strict=True)
                        for i in range(size // 2)
                    ]
                    pairs[:, token] *= np.exp(1j * np.array(phases))
                    token += 1
    out = np.empty_like(x)
    out[..., 0::2], out[..., 1::2] = pairs.real, pairs.imag
    return out


def test_wan_head_is_split_44_42_42():
    assert axis_sizes(128) == (44, 42, 42)


@pytest.mark.parametrize("head_dim", [2, 8, 20, 64, 128])
def test_axis_sizes_are_even_and_fill_the_head(head_dim):
    sizes = axis_sizes(head_dim)
    assert sum(sizes) == head_dim
    assert all(size % 2 == 0 and size >= 0 for size in sizes)


@pytest.mark.parametrize(
    ("streams", "head_dim", "theta"), [(1, 20, 1e4), (3, 16, 1e4), (2, 6, 50.0)]
)
def test_equals_complex_rotation_on_one_wide_grid(streams, head_dim, theta):
    grid = (3, 2, 4)
    n = streams * 3 * 2 * 4
    x = np.random.default_rng(0).standard_normal((2, n, 2, head_dim))
    heads = jnp.asarray(x.reshape(2, n, -1), jnp.float32)
    ours = apply_rope(heads, rope_table(head_dim, streams, grid, theta))
    theirs = rotate_by_complex_numbers(x, streams, grid, theta)
    np.testing.assert_allclose(ours.reshape(x.shape), theirs, rtol=0, atol=2e-6)


def test_positions_as_far_as_wan_reaches_stay_exact():
    cos, sin = rope_table(128, 1, (1024, 1, 1))
    angles = np.arange(1024)[:, None] * 1e4 ** (-np.arange(22) / 22.0)
    np.testing.assert_allclose(cos[:, :22], np.cos(angles), rtol=0, atol=1e-7)
    np.testing.assert_allclose(sin[:, :22], np.sin(angles), rtol=0, atol=1e-7)


def test_scores_depend_on_relative_positions_only():
    """Two streams of width 3 see each other exactly as the halves of one stream of width 6 do."""
    rng = np.random.default_rng(1)
    q, k = (jnp.asarray(rng.standard_normal((1, 1, 12)), jnp.float32) for _ in range(2))

    def score(table, i, j):
        row = [tuple(part[at : at + 1] for part in table) for at in (i, j)]
        return jnp.sum(apply_rope(q, row[0]) * apply_rope(k, row[1]))

    wide, paired = rope_table(12, 1, (1, 1, 6)), rope_table(12, 2, (1, 1, 3))
    np.testing.assert_allclose(score(wide, 1, 4), score(wide, 0, 3), rtol=1e-5)
    np.testing.assert_allclose(score(wide, 1, 4), score(paired, 1, 4), rtol=1e-6)
    assert abs(score(wide, 1, 4) - score(wide, 1, 3)) > 1e-3


def test_keeps_lengths_and_is_undone_by_the_opposite_angles():
    x = jax.random.normal(jax.random.key(0), (1, 8, 24), jnp.bfloat16)
    cos, sin = rope_table(12, 1, (2, 2, 2))
    turned = apply_rope(x, (cos, sin))
    norms = [np.linalg.norm(np.asarray(a, np.float32), axis=-1) for a in (x, turned)]
    np.testing.assert_allclose(*norms, rtol=1e-6)
    np.testing.assert_allclose(apply_rope(turned, (cos, -sin)), x.astype(jnp.float32), atol=1e-6)
