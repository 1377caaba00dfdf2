"""Any-to-any sampling: some streams are given, the others are sampled, in one call.

Joint generation wants every stream, control is given a modality and wants RGB, estimation is given
RGB and wants a modality (UnityVideo sec. 3.1). More than two streams work the same way.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching.path import VelocityFn
from unityvideo_jax.sampling import solvers
from unityvideo_jax.sampling.guidance import guided_velocity, pass_weights
from unityvideo_jax.settings.sections import check_keys, check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How to integrate from noise to data. The defaults are Wan 2.1's for text to video.

    Attributes:
      steps: solver steps. Heun evaluates the model 2 * steps - 1 times, the others `steps` times.
      solver: "euler", "heun", "unipc" or "dpm++".
      text_guidance: classifier-free guidance scale of the text; 1 switches it off.
      condition_guidance: the same for the given streams; 1 switches it off.
      shift: timestep shift of the sigma grid; 1 is none.
      grid: "linear", "wan" or "diffusers"; see `solvers.sigma_grid`.
      batched_guidance: run all guidance passes as one larger batch; else one after the other.
    """

    steps: int = 50
    solver: str = "unipc"
    text_guidance: float = 5.0
    condition_guidance: float = 1.0
    shift: float = 5.0
    grid: str = "linear"
    batched_guidance: bool = True

    def __post_init__(self):
        for name in ("text_guidance", "condition_guidance"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name}={getattr(self, name)}: a guidance scale must be finite")
        self.table()

    def table(self) -> solvers.SolverTable:
        """The solver's coefficients; UserError on an unknown solver, grid, steps or shift."""
        sigmas = solvers.sigma_grid(self.steps, self.shift, self.grid)
        return solvers.solver_table(self.solver, sigmas)

    def changed(self, **settings: Any) -> "SamplerConfig":
        """These settings with some others; None keeps what is.

        Raises:
          UserError: no such setting, or a value that cannot be.
        """
        check_keys(settings, [field.name for field in dataclasses.fields(self)], "")
        wanted = {key: value for key, value in settings.items() if value is not None}
        check_values(type(self), wanted, "")
        return dataclasses.replace(self, **wanted)

    def for_texts(
        self,
        context: Float[np.ndarray, "b s l d"],
        null_context: Float[np.ndarray, "b s l d"],
    ) -> "SamplerConfig":
        """Drops text guidance if there is no text: its term would be zero and its pass wasted."""
        if np.array_equal(context, null_context):
            return dataclasses.replace(self, text_guidance=1.0)
        return self

    def passes(self, has_condition: bool) -> dict[str, float]:
        """Model passes of one evaluation and their weights; see `guidance.pass_weights`."""
        return pass_weights(self.text_guidance, self.condition_guidance, has_condition)


def stream_noise(
    key: Key[Array, "..."], shape: tuple[int, ...], draw: int
) -> Float[Array, "b s t h w c"]:
    """N(0, I) that depends, per sample and stream, on the key, the draw and nothing else.

    So a sample keeps its noise whatever else is in its batch.

    Args:
      key: one key, folded with the sample's place in the batch, or one key a sample.
      shape: [B,S,t,h,w,C].
      draw: index of the draw, fresh for every use of the key.
    """
    batch, streams = shape[:2]
    if key.ndim == 0:
        key = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise UserError(f"{key.shape} keys for a batch of {batch}: give one key, or one per sample")
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    keys = fold(key, draw * streams + jnp.arange(streams))
    return jax.vmap(jax.vmap(lambda k: jax.random.normal(k, shape[2:], jnp.float32)))(keys)


def generate(
    velocity_fn: VelocityFn,
    *,
    given: Float[Array, "b s t h w c"],
    wanted: tuple[bool, ...],
    modality: Int[Array, "b s"],
    context: Float[Array, "b s l d"],
    null_context: Float[Array, "b s l d"],
    key: Key[Array, "..."],
    config: SamplerConfig,
    first_frame: tuple[bool, ...] = (),
) -> Float[Array, "b s t h w c"]:
    """Samples the wanted streams, conditioned on the given ones and on the text.

    Args:
      velocity_fn: (latents [B,S,t,h,w,C], timestep [B,S] in [0,1], modality [B,S],
        context [B,S,L,D]) -> velocity dx/dt of the latents' shape.
      given: clean latents. Entries of wanted streams are placeholders and are not read, but for
        their first frame where `first_frame` says so.
      wanted: per stream, whether it is sampled; a static tuple, at least one True.
      modality: modality id per sample and stream.
      context: text embeddings per sample and stream.
      null_context: what text guidance compares with: the null embedding on every stream whose text
        was dropped in training, the same text elsewhere. Not read at text_guidance 1.
      key: typed PRNG key, or a vector of one key a sample. Never reuse it.
      config: solver and guidance.
      first_frame: per stream, whether the first latent frame of a wanted stream is given: its
        tokens are at timestep 0 and put back before every evaluation (Wan 2.2 TI2V-5B, image to
        video). Empty is none.

    Returns:
      Latents of all streams, float32; the given ones, and given first frames, bit-identical to
      `given`.

    Raises:
      UserError: `wanted` or `first_frame` does not fit the streams, or none is wanted.
    """
    first_frame = first_frame or (False,) * len(wanted)
    if len(wanted) != given.shape[1]:
        raise UserError(
            f"wanted={wanted} names {len(wanted)} streams, given holds {given.shape[1]}"
        )
    if not any(wanted):
        raise UserError("no stream is wanted; want at least one modality")
    if len(first_frame) != len(wanted) or any(np.greater(first_frame, wanted)):
        raise UserError(f"first_frame={first_frame}: say True or False of each of wanted={wanted}")
    given = given.astype(jnp.float32)
    weights = config.passes(has_condition=not all(wanted))
    velocity = guided_velocity(
        velocity_fn,
        given=given,
        condition_noise=stream_noise(key, given.shape, 1)
        if "no_condition" in weights
        else jnp.zeros_like(given),
        wanted=wanted,
        first_frame=first_frame,
        modality=modality,
        context=context,
        null_context=null_context,
        weights=weights,
        batched=config.batched_guidance,
    )
    chosen = jnp.array([i for i, is_wanted in enumerate(wanted) if is_wanted])
    noise = stream_noise(key, given.shape, 0)[:, chosen]
    sampled = solvers.integrate(velocity, noise, config.table())
    result = given.at[:, chosen].set(sampled)
    held = jnp.array(first_frame)[:, None, None, None]
    return result.at[:, :, 0].set(jnp.where(held, given[:, :, 0], result[:, :, 0]))


def jit_generate(velocity: Callable[[Any], Callable]) -> Callable:
    """The sampler as it runs: `generate` with a model's parameters as first argument, jitted.

    Args:
      velocity: makes the velocity that `generate` takes, of parameters.
    """

    def sample(
        params: Any, given, modality, context, null_context, key, *, wanted, first_frame, sampler
    ):
        return generate(
            velocity(params),
            given=given,
            wanted=wanted,
            first_frame=first_frame,
            modality=modality,
            context=context,
            null_context=null_context,
            key=key,
            config=sampler,
        )

    return jax.jit(sample, static_argnames=("wanted", "first_frame", "sampler"))
