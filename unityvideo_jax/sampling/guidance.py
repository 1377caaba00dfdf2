"""Classifier-free guidance on the text and, separately, on the given streams.

    v = v(c, T) + (g_text - 1) (v(c, T) - v(c, no T)) + (g_cond - 1) (v(c, T) - v(no c, T))

With one scale at 1 this is the usual guidance by the other. Each term costs one more pass, and a
scale of 1 costs none. The condition is dropped the way training drops it (its stream is pure noise
at timestep 1) and with the text, since training rarely sees both dropped at once.
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
    first_frame: Sequence[bool],
    modality: Int[Array, "b s"],
    context: Float[Array, "b s l d"],
    null_context: Float[Array, "b s l d"],
    weights: dict[str, float],
    batched: bool,
) -> Callable[[Array, Array], Array]:
    """The velocity of the wanted streams as the solvers see it.

    Args:
      velocity_fn: (latents, timestep, modality, context) -> velocity.
      given: clean latents; of wanted streams at most the first frame is read.
      condition_noise: N(0, I), which stands in for given streams in the "no_condition" pass. One
        draw serves the whole trajectory, so that the velocity stays a smooth function of (x, t).
      wanted: per stream, whether it is sampled.
      first_frame: per stream, whether its first latent frame is that of `given` in every pass and
        at timestep 0, whatever the solver has there (Wan 2.2 TI2V-5B).
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
    batch, _, frames = given.shape[:3]
    held = jnp.array(first_frame)[:, None] & (jnp.arange(frames) == 0)
    clean = jnp.broadcast_to(held, (batch, *held.shape))

    def assemble(name: str, x: Array, sigma: Array) -> tuple[Array, Array, Array, Array]:
        fixed = condition_noise if name == "no_condition" else given
        fixed_time = 1.0 if name == "no_condition" else 0.0
        latents = jnp.stack(
            [
                x[:, chosen.index(s)] if is_wanted else fixed[:, s]
                for s, is_wanted in enumerate(wanted)
            ],
            axis=1,
        )
        if any(first_frame):
            latents = jnp.where(clean[..., None, None, None], given, latents)
        timestep = jnp.stack([sigma if is_wanted else fixed_time for is_wanted in wanted])
        timestep = jnp.broadcast_to(timestep.astype(jnp.float32), (batch, len(wanted)))
        text = null_context if name == "no_text" else context
        return latents, timestep, modality, text

    def call(latents: Array, timestep: Array, modality: Array, text: Array) -> Array:
        if not any(first_frame):
            return velocity_fn(latents, timestep, modality, text)
        every_pass = jnp.tile(clean, (latents.shape[0] // batch, 1, 1))
        return velocity_fn(latents, timestep, modality, text, clean=every_pass)

    def velocity(x: Array, sigma: Array) -> Array:
        inputs = [assemble(name, x, sigma) for name in passes]
        if batched:
            stacked = [jnp.concatenate(parts) for parts in zip(*inputs, strict=True)]
            outputs = jnp.split(call(*stacked), len(passes))
        else:
            outputs = [call(*one) for one in inputs]
        total = sum(
            weights[name] * output.astype(jnp.float32)
            for name, output in zip(passes, outputs, strict=True)
        )
        return total[:, jnp.array(chosen)]

    return velocity
