"""Runs formulas over rows of activations: by XLA, or in one kernel on NVIDIA GPUs.

A row holds the features of one token. A formula states what a norm, a gate or an activation
computes from each row, and which terms its gradient sums over all rows. On a GPU, XLA makes three
kernels of it (the sums within rows, what follows from them, the sums over rows), and each reads the
arrays again. The Pallas kernel here (for Triton) reads them once. A TPU's compiler fuses more.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from unityvideo_jax.kernels import target
from unityvideo_jax.kernels.rope import RopeTable, apply_rope
from unityvideo_jax.parallel import rules

# Maps float32 rows to the rows it returns and the terms to be summed over rows.
Formula = Callable[..., tuple[Sequence[Array], Sequence[Array]]]

# The warps of a kernel with 128 registers per thread that a Hopper GPU runs at once: 16 on each of
# its 132 multiprocessors. That many programs leave none of them idle at the end.
_RESIDENT_WARPS = 16 * 132
_FEATURES_PER_WARP = 512


@dataclasses.dataclass(frozen=True)
class Row:
    """The row, or rows, that a formula works on.

    Attributes:
      size: features.
      rope: angles of the row's token, if it has any.
    """

    size: int
    rope: RopeTable | None

    def mean(self, x: Float[Array, "*n d"]) -> Float[Array, "*n 1"]:
        """Returns the mean of a row's features."""
        return jnp.sum(x, axis=-1, keepdims=True) / self.size

    def centre(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """Returns the features minus their mean."""
        return x - self.mean(x)

    def turn(self, x: Float[Array, "*n d"], direction: int = 1) -> Float[Array, "*n d"]:
        """Rotates the features by the row's angles, or back (-1); without angles, returns them."""
        if self.rope is None:
            return x
        cos, sin = self.rope
        return apply_rope(x, (cos, direction * sin))


def over_rows(
    formula: Formula,
    arrays: Sequence[Float[Array, "*n d"]],
    vectors: Sequence[Float[Array, "..."]],
    rope: RopeTable | None = None,
    *,
    outputs: int = 1,
    sums: Sequence[Float[Array, "..."]] = (),
    whole: bool = True,
    features: str | None = None,
) -> list[Array]:
    """Runs a formula over all rows, over the ambient mesh (`jax.set_mesh`) if any.

    Args:
      formula: called with a `Row`, the arrays and the vectors, all float32; returns `outputs`
        arrays of rows, which are rounded to the type of `arrays`, and a term for each of `sums`.
      arrays: activations of one shape and type; of rank 4, (batch, streams, tokens, features).
      vectors: at least one, float32, each of a shape that broadcasts to that of `arrays`.
      rope: angles of the tokens.
      outputs: how many arrays the formula returns.
      sums: arrays with the shapes that the terms are to be summed to.
      whole: whether the formula needs all of a row, or could work on each feature alone.
      features: logical axis of the features, if a mesh may split them.

    Returns:
      The arrays, and the sums in float32.
    """
    layout = _layout(arrays[0], vectors, whole, features)
    if layout is None:
        row = Row(arrays[0].shape[-1], rope)
        made, terms = formula(row, *(x.astype(jnp.float32) for x in (*arrays, *vectors)))
        made = [x.astype(arrays[0].dtype) for x in made]
        return made + [_sum_to(term, like) for term, like in zip(terms, sums, strict=True)]
    counts = (outputs, len(sums))
    run = functools.partial(_kernel, formula=formula, counts=counts, whole=whole)
    if layout:
        like, per_vector, table = layout
        # Partial sums are sharded like rows: one entry per device on the token axis.
        terms_spec = PartitionSpec(None, *like)
        run = jax.shard_map(
            run, in_specs=(like, per_vector, table), out_specs=(like, terms_spec), check_vma=False
        )
    made, terms = run(tuple(arrays), tuple(vectors), rope)
    if terms is None:
        return made
    if all(like.shape == sums[0].shape for like in sums):  # in one kernel
        return [*made, *jax.vmap(functools.partial(_sum_to, like=sums[0]))(terms)]
    return made + [_sum_to(term, like) for term, like in zip(terms, sums, strict=True)]


def has_kernel(
    x: Float[Array, "*n d"],
    vectors: Sequence[Float[Array, "..."]],
    features: str | None = None,
) -> bool:
    """Whether `over_rows` would run the kernel for whole rows of `x`, or leave them to XLA."""
    return _layout(x, vectors, True, features) is not None


def _sum_to(x, like):
    """Sums `x` over the axes along which `like` was broadcast to the shape of `x`."""
    lead = x.ndim - like.ndim
    axes = [lead + i for i, size in enumerate(like.shape) if size != x.shape[lead + i]]
    return jnp.sum(x, axis=(*range(lead), *axes), keepdims=True).reshape(like.shape)


def _layout(x, vectors, whole, features):
    """Partition specs of rows, vectors and angles; () without a mesh; None for XLA."""
    platform, kind = target.target_device()
    # Float32 stays with XLA, as in `attention.pick_implementation`.
    if not is_supported(platform, kind) or x.dtype.itemsize != 2 or x.ndim < 2:
        return None
    # With one vector per token it would be another array of rows.
    if any(v.ndim > 1 and v.shape[:-1] != (*x.shape[:-2], 1) for v in vectors):
        return None
    mesh = rules.ambient_mesh()
    if mesh is None:
        return ()
    if x.ndim != 4:
        return None
    axes = ("batch", None, "tokens", features)
    like = rules.divisible_spec(x.shape, axes, mesh)
    if whole and like[-1]:
        return None
    per_vector = tuple(
        PartitionSpec(like[-1]) if v.ndim == 1 else PartitionSpec(like[0], None, None, like[-1])
        for v in vectors
    )
    return like, per_vector, PartitionSpec(None, like[2])


def is_supported(platform: str, kind: str) -> bool:
    """Returns whether the kernel is made for a device of this platform and kind."""
    return platform == "gpu" and "NVIDIA" in kind


@dataclasses.dataclass(frozen=True)
class _LoadedRow(Row):
    """Features up to the next power of two, which is what Triton takes; `inside` are the row's."""

    inside: Array

    def centre(self, x):
        return jnp.where(self.inside, x - self.mean(x), 0.0)

    def turn(self, x, direction=1):
        if self.rope is None:
            return x
        cos, sin = self.rope[0], direction * self.rope[1]
        pairs = jax.lax.split(x.reshape(len(x), -1, 2), (1, 1), axis=2)
        even, odd = (part.reshape(cos.shape) for part in pairs)
        turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
        return turned.reshape(x.shape)


# Compiled once for all layers that call it with the same formula and shapes.
@functools.partial(jax.jit, static_argnames=("formula", "counts", "whole"))
def _kernel(arrays, vectors, rope, *, formula, counts, whole):
    """Returns the outputs, and the partial sums [sum, ..., program, features] or None."""
    outputs, num_sums = counts
    *lead, n, d = shape = arrays[0].shape
    dtype = arrays[0].dtype
    groups = math.prod(lead)
    arrays = tuple(x.reshape(groups, n, d) for x in arrays)
    # One array of all vectors takes XLA one kernel; separately, each would be copied out of the
    # stack of all layers.
    vectors = [x.reshape(-1, d) for x in vectors]
    sets = max(len(x) for x in vectors)
    vectors = jnp.stack([jnp.broadcast_to(x, (sets, d)) for x in vectors])
    # `height` rows at a time, `tokens` per program: the fastest of those tried on an H200.
    if not whole:
        width, warps, height, tokens = 1024, 4, 2, 64 if num_sums else 4
    else:
        width = pl.next_power_of_2(d)
        warps = max(width // _FEATURES_PER_WARP, 1)
        height, tokens = 1, 4
        if num_sums:
            tokens = pl.cdiv(n, max(_RESIDENT_WARPS // (warps * groups), 1))
    grid = (groups, pl.cdiv(n, tokens), pl.cdiv(d, width))

    def program(arrays, vectors, rope, made, totals):
        group, part, block = (pl.program_id(axis) for axis in range(3))
        # Rows and vectors are all [1, width], so that Triton spreads them over threads alike and no
        # thread passes values to another.
        feature = (block * width + jnp.arange(width))[None]
        is_feature = feature < d

        def load(ref, where, mask):
            return triton.load(ref.at[where], mask=mask, other=0.0)

        def inside(token):
            return is_feature & (token < n)

        def load_row(token):
            row = [load(ref, (group, token, feature), inside(token)) for ref in arrays]
            if rope is None:
                return row, None
            streams, _, half = rope[0].shape
            # `lax.rem`, not `%`: with `%` Triton cannot prove contiguous addresses.
            pair = jax.lax.rem(jnp.arange(width // 2), half)[None]
            is_token = jnp.broadcast_to(token < n, pair.shape)
            where = (jax.lax.rem(group, streams), token, pair)
            return row, tuple(load(ref, where, is_token) for ref in rope)

        def load_vectors():
            which = jnp.minimum(group, sets - 1)
            return [load(vectors, (i, which, feature), is_feature) for i in range(len(vectors))]

        # Beside a norm's sums, the vectors would take the registers of other programs. There every
        # row loads them again, from the cache.
        held = None if whole and num_sums else load_vectors()

        def step(i, sums):
            first = part * tokens + i * height
            loaded = [load_row(first + j) for j in range(height)]
            values = load_vectors() if held is None else held
            for j, (row, angles) in enumerate(loaded):
                token = first + j
                row = [x.astype(jnp.float32) for x in row]
                rows, terms = formula(_LoadedRow(d, angles, is_feature), *row, *values)
                for ref, value in zip(made, rows, strict=True):
                    where = ref.at[group, token, feature]
                    triton.store(where, value.astype(ref.dtype), mask=inside(token))
                sums = tuple(x + term for x, term in zip(sums, terms, strict=True))
            return sums

        nothing = (jnp.zeros((1, width), jnp.float32),) * num_sums
        sums = jax.lax.fori_loop(0, pl.cdiv(tokens, height), step, nothing)
        for i, value in enumerate(sums):
            triton.store(totals.at[i, group, part, feature], value, mask=is_feature)

    like = jax.ShapeDtypeStruct((groups, n, d), dtype)
    terms = jax.ShapeDtypeStruct((num_sums, groups, grid[1], d), jnp.float32) if num_sums else None
    made, totals = pl.pallas_call(
        program,
        grid=grid,
        out_shape=([like] * outputs, terms),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=target.target_device()[0] != "gpu",
        name=getattr(formula, "func", formula).__name__.strip("_"),
    )(arrays, vectors, rope)
    if totals is not None:
        totals = totals.reshape(num_sums, *lead, grid[1], d)
    return [x.reshape(shape) for x in made], totals
