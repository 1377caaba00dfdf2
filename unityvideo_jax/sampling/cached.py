"""Passes of the model that run on a schedule; in between, their outputs are extrapolated.

The schedule is known before sampling starts (`sampling.schedule`), so one compiled loop serves
every schedule, and a pass that it leaves out costs nothing. The passes of an evaluation run one
after the other: the model is compiled once, and needs the memory of one pass.

What is remembered is the model's output, and not what all blocks add to their tokens, as in
MagCache's code (arXiv 2506.09045): on a straight path it is constant, and it needs a sixth of the
memory. Of the pass of everything it is the velocity, of the
others their difference from it, which changes less (FasterCache, arXiv 2410.19355). It is carried
on along the line through its last two values, as TaylorSeer's first order (arXiv 2503.06923).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unityvideo_jax.sampling.guidance import Guided, Pass
from unityvideo_jax.sampling.schedule import Schedule


class Memory(NamedTuple):
    """The last two outputs of each pass.

    The first pass is that of everything; of the others it is the difference from that.

    Attributes:
      last: of the newest evaluation.
      before: of the one before.
    """

    last: Float[Array, "p b n t h w c"]
    before: Float[Array, "p b n t h w c"]


def empty(passes: int, like: Float[Array, "b n t h w c"]) -> Memory:
    """Returns the memory of passes that have not run."""
    zero = jnp.zeros((passes, *like.shape), jnp.float32)
    return Memory(zero, zero)


def outputs(
    guided: Guided,
    passes: Sequence[Pass],
    x: Float[Array, "b n t h w c"],
    sigma: Float[Array, ""],
    memory: Memory,
    row: Schedule,
) -> tuple[Float[Array, "p b n t h w c"], Memory]:
    """Returns the output of every pass at x and this noise level, and the next memory.

    Args:
      guided: how the model is called.
      passes: that of everything first.
      x, sigma: as `Guided` takes them.
      memory: of the evaluation before.
      row: of the schedule, one entry per pass.

    Returns:
      The output of every pass, and the memory.
    """
    inputs = [guided.inputs(one, x, sigma) for one in passes]
    stacked = tuple(jnp.stack(parts) for parts in zip(*inputs, strict=True))
    first = jnp.arange(len(passes)) == 0

    def one(everything: Array, item: tuple) -> tuple[Array, tuple[Array, Memory]]:
        first, own, was, now = item
        base = jnp.where(first, 0.0, everything)

        def run() -> tuple[Array, Memory]:
            output = guided.output(own)
            return output, Memory(output - base, was.last)

        def carry_on() -> tuple[Array, Memory]:
            return base + was.last + now.ahead * (was.last - was.before), was

        output, memory = jax.lax.cond(now.run, run, carry_on)
        return jnp.where(first, output, everything), (output, memory)

    return jax.lax.scan(one, jnp.zeros_like(x), (first, stacked, memory, row))[1]


def changes(now: Memory, was: Memory) -> Float[Array, " p"]:
    """Returns how far each remembered output has moved, relative to the velocity of everything.

    Root mean squares of each sample, averaged over the samples.
    """

    def size(value: Float[Array, "*k n t h w c"]) -> Float[Array, "*k"]:
        return jnp.sqrt(jnp.mean(jnp.square(value), axis=(-5, -4, -3, -2, -1)))

    return jnp.mean(size(now.last - was.last) / size(now.last[0]), axis=1)
