"""Classifier-free guidance on the text and, separately, on the given streams.

    v = v(c, T) + (g_text - 1) (v(c, T) - v(c, no T)) + (g_cond - 1) (v(c, T) - v(no c, T))

With one scale at 1 this is the usual guidance by the other. Each term costs one more pass, and a
scale of 1 costs none. The condition is dropped the way training drops it (its stream is pure noise
at timestep 1) and with the text kept, since training rarely sees both dropped at once.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unityvideo_jax.flow_matching.path import VelocityFn


def pass_weights(
    text_guidance: float, condition_guidance: float, has_condition: bool
) -> dict[str, float]:
    """Weight of each model pass in the guided velocity; the weights sum to 1.

    Args:
      text_guidance, condition_guidance: scales; 1 means no guidance.
      has_condition: whether any stream is given. Without one there is nothing to drop.

    Returns:
      Weights keyed by "full", "no_text", "no_condition"; passes of weight 0 are left out.
    """
    extra = {"no_text": text_guidance - 1.0}
    if has_condition:
        extra["no_condition"] = condition_guidance - 1.0
    extra = {name: scale for name, scale in extra.items() if scale != 0.0}
    return {"full": 1.0 + sum(extra.values()), **{name: -scale for name, scale in extra.items()}}


def guided_velocity(
    velocity_fn: VelocityFn,
    *,
    given: Float[Array, "b s t h w c"],
    condition_noise: Float[Array, "b s t h w c"],
    wanted: Sequence[bool],
    modality: Int[Array, "b s"],
    context: Float[Array, "b s l d"],
    null_context: Float[Array, "b s l d"],
    weights: dict[str, float],
    batched: bool,
) -> Callable[[Array, Array], Array]:
    """The velocity of the wanted streams as the solvers see it.

    Args:
      velocity_fn: (latents, timestep, modality, context) -> velocity.
      given: clean latents; entries of wanted streams are not read.
      condition_noise: N(0, I), which stands in for given streams in the "no_condition" pass. One
        draw serves the whole trajectory, so that the velocity stays a smooth function of (x, t).
      wanted: per stream, whether it is sampled.
      modality: id per stream.
      context: text embeddings per stream.
      null_context: what replaces them in the "no_text" pass.
      weights: from `pass_weights`.
      batched: one model call over all passes, or one call each at a smaller peak of memory.

    Returns:
      (x [b wanted t h w c], scalar sigma) -> velocity of x's shape, float32.
    """
    passes = tuple(weights)
    chosen = tuple(i for i, is_wanted in enumerate(wanted) if is_wanted)
    batch = given.shape[0]

    def assemble(name: str, x: Array, sigma: Array) -> tuple[Array, Array, Array, Array]:
        held = condition_noise if name == "no_condition" else given
        held_time = 1.0 if name == "no_condition" else 0.0
        latents = jnp.stack(
            [
                x[:, chosen.index(s)] if is_wanted else held[:, s]
                for s, is_wanted in enumerate(wanted)
            ],
            axis=1,
        )
        timestep = jnp.stack([sigma if is_wanted else held_time for is_wanted in wanted])
        timestep = jnp.broadcast_to(timestep.astype(jnp.float32), (batch, len(wanted)))
        text = null_context if name == "no_text" else context
        return latents, timestep, modality, text

    def velocity(x: Array, sigma: Array) -> Array:
        inputs = [assemble(name, x, sigma) for name in passes]
        if batched:
            stacked = [jnp.concatenate(parts) for parts in zip(*inputs, strict=True)]
            outputs = jnp.split(velocity_fn(*stacked), len(passes))
        else:
            outputs = [velocity_fn(*one) for one in inputs]
        total = sum(
            weights[name] * output.astype(jnp.float32)
            for name, output in zip(passes, outputs, strict=True)
        )
        return total[:, jnp.array(chosen)]

    return velocity
