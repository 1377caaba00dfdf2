"""Any-to-any sampling: some streams are given, the others are sampled, in one call.

Joint generation wants every stream, control is given a modality and wants RGB, estimation is given
RGB and wants a modality (UnityVideo sec. 3.2). More than two streams work the same way.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching.path import VelocityFn
from unityvideo_jax.sampling import cached, solvers
from unityvideo_jax.sampling.guidance import (
    Guided,
    Pass,
    Weight,
    combined,
    in_interval,
    pass_weights,
)
from unityvideo_jax.sampling.known import Known
from unityvideo_jax.sampling.schedule import Schedule
from unityvideo_jax.sampling.windows import check_window, windowed
from unityvideo_jax.settings.sections import check_keys, check_values

# Static arguments of a jitted `generate`: those that are not arrays.
STATIC = ("wanted", "sampler", "skipped", "latent_window", "measured")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Settings of the solver and of guidance. The defaults are Wan 2.1's for text to video.

    Attributes:
      steps: solver steps. Heun evaluates the model 2 * steps - 1 times, the others `steps` times.
      solver: "euler", "heun", "unipc" or "dpm++".
      text_guidance: classifier-free guidance scale of the text; 1 switches it off.
      condition_guidance: the same for the given streams; 1 switches it off.
      shift: timestep shift of the sigma grid; 1 is none.
      grid: "linear", "wan" or "diffusers"; see `solvers.sigma_grid`.
      guidance_interval: least and greatest t at which both scales apply; outside they are 1 and
        their passes are not run.
      guidance_rescale: share by which the guided velocity is brought back to the deviation of the
        unguided one, see `guidance.rescaled`; 0 is not at all.
      window: frames that the model sees at once of a longer video, 4n+1; 0 is all of them.
      overlap: frames that a window shares with the one before, 4n+1.
      batched_guidance: run all guidance passes as one larger batch; else one after the other.
      cache: share of the model's passes, 0 to below 1, that are not run: what they gave before is
        used again, on a schedule from the model's calibration (`sampling.schedule`). 0 runs all.
      separate: estimate each wanted stream from RGB without the others, in a row of its own of one
        batch; else the model sees all streams of a sample together.
    """

    steps: int = 50
    solver: str = "unipc"
    text_guidance: float = 5.0
    condition_guidance: float = 1.0
    shift: float = 5.0
    grid: str = "linear"
    guidance_interval: Sequence[float | int] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    window: int = 0
    overlap: int = 5
    batched_guidance: bool = True
    cache: float | int = 0.0
    separate: bool = False

    def __post_init__(self):
        check_values(type(self), vars(self), "")
        try:
            low, high = (float(t) for t in self.guidance_interval)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not 0.0 <= low <= high <= 1.0:
            raise UserError(
                f"guidance_interval={self.guidance_interval}: give two times LOW,HIGH with "
                "0 <= LOW <= HIGH <= 1"
            )
        object.__setattr__(self, "guidance_interval", (low, high))
        if not 0.0 <= self.guidance_rescale <= 1.0:
            raise UserError(f"guidance_rescale={self.guidance_rescale}: give a share from 0 to 1")
        if not 0.0 <= self.cache < 1.0:
            raise UserError(
                f"cache={self.cache}: give the share of passes to skip, from 0 to below 1"
            )
        if self.window:
            check_window(self.window, self.overlap)
        self.table()

    def latent_window(self, stride: int) -> tuple[int, int] | None:
        """Latent frames of a window and of an overlap; None if the model sees the whole video.

        Args:
          stride: temporal, of the autoencoder.
        """
        if not self.window:
            return None
        return 1 + (self.window - 1) // stride, 1 + (self.overlap - 1) // stride

    def table(self, skipped: int = 0) -> solvers.SolverTable:
        """Returns the solver's coefficients, those of the last steps alone if some are skipped.

        Raises:
          UserError: an unknown solver, grid, steps or shift.
        """
        sigmas = solvers.sigma_grid(self.steps, self.shift, self.grid)
        return solvers.solver_table(self.solver, sigmas[skipped:])

    def skipped_steps(self, strength: float) -> tuple[int, float]:
        """The steps that video to video skips, and the noise level at which the next one starts.

        Of n steps the last int(n * strength) are run, as in diffusers, and at least one.

        Raises:
          UserError: a strength that is not above 0 and at most 1.
        """
        if not 0.0 < strength <= 1.0:
            raise UserError(f"strength={strength}: give a number above 0 and at most 1")
        skipped = self.steps - max(1, int(self.steps * strength))
        return skipped, float(solvers.sigma_grid(self.steps, self.shift, self.grid)[skipped])

    def changed(self, **settings: Any) -> "SamplerConfig":
        """Returns these settings with some others; None leaves a setting as it is.

        Raises:
          UserError: no such setting, or a value that cannot be.
        """
        check_keys(settings, [field.name for field in dataclasses.fields(self)], "")
        wanted = {key: value for key, value in settings.items() if value is not None}
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

    @property
    def unguided(self) -> "SamplerConfig":
        """These settings without guidance."""
        return dataclasses.replace(self, text_guidance=1.0, condition_guidance=1.0)

    def passes(
        self,
        given: Sequence[int] = (),
        counts: Mapping[int, Float[Array, "b t h w"]] = types.MappingProxyType({}),
    ) -> dict[Pass, Weight]:
        """Returns model passes of one evaluation and their weights; see `guidance.pass_weights`."""
        return pass_weights(
            given,
            text_guidance=self.text_guidance,
            condition_guidance=self.condition_guidance,
            counts=counts,
        )

    def all_passes(
        self,
        given: Sequence[int] = (),
        counts: Mapping[int, Float[Array, "b t h w"]] = types.MappingProxyType({}),
    ) -> tuple[Pass, ...]:
        """Returns the passes of evaluations with and without guidance, that of everything first."""
        return tuple(self.passes(given, counts) | self.unguided.passes(given, counts))


def stream_noise(
    key: Key[Array, "..."], shape: tuple[int, ...], draw: int
) -> Float[Array, "b s t h w c"]:
    """Draws N(0, I) that depends, per sample and stream, on the key, the draw and nothing else.

    So a sample keeps its noise whatever else is in its batch.

    Args:
      key: one key, folded with the sample's place in the batch, or one key per sample.
      shape: [B,S,t,h,w,C].
      draw: index of the draw, fresh for every use of the key.

    Raises:
      UserError: another number of keys than of samples.
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
    known: Known | None = None,
    counts: Mapping[int, Float[Array, "b t h w"]] = types.MappingProxyType({}),
    skipped: int = 0,
    latent_window: tuple[int, int] | None = None,
    schedule: Schedule | None = None,
    measured: bool = False,
) -> Float[Array, "b s t h w c"] | tuple[Float[Array, "b s t h w c"], Float[Array, "rows p"]]:
    """Samples the wanted streams, conditioned on the given ones and on the text.

    Args:
      velocity_fn: (latents [B,S,t,h,w,C], timestep [B,S] in [0,1], modality [B,S],
        context [B,S,L,D]) -> velocity dx/dt of the latents' shape.
      given: clean latents. Entries of wanted streams are read only where `known` says so.
      wanted: per stream, whether it is sampled; a static tuple, at least one True.
      modality: modality id per sample and stream.
      context: text embeddings per sample and stream.
      null_context: what text guidance compares with: the null embedding, or that of a negative
        prompt, on every stream whose text was dropped in training, the same text elsewhere. Not
        read at text_guidance 1.
      key: typed PRNG key, or a vector of one key per sample. Never reuse it.
      config: solver and guidance.
      known: cells of wanted streams whose values are in `given`; None if there are none.
      counts: how much a given stream counts in each latent cell, by its index; 1 for streams that
        are left out. Models must have been trained with the condition dropped at times.
      skipped: steps that are left out at the start; every wanted cell must then be known down to
        the level of the first one that is run.
      latent_window: size and overlap in latent frames of what the model sees at once of a longer
        video, see `windows.windowed`; None is all of it.
      schedule: which passes of `SamplerConfig.all_passes` run in which evaluation; None runs all.
      measured: with a schedule, whether to return how the passes changed.

    Returns:
      Latents of all streams, float32; the given ones, and kept cells, bit-identical to `given`. If
      measured, also `cached.changes` of every evaluation.

    Raises:
      UserError: `wanted` or `counts` does not fit the streams, or none is wanted.
    """
    if len(wanted) != given.shape[1]:
        raise UserError(
            f"wanted={wanted} names {len(wanted)} streams, given holds {given.shape[1]}"
        )
    if not any(wanted):
        raise UserError("no stream is wanted; want at least one modality")
    fixed = [s for s, is_wanted in enumerate(wanted) if not is_wanted]
    if not set(counts) <= set(fixed):
        raise UserError(f"counts of streams {sorted(counts)}: only those of {fixed} are given")
    if latent_window is not None:
        velocity_fn = windowed(velocity_fn, *latent_window)
    given = given.astype(jnp.float32)
    guided = config.passes(fixed, counts)
    unguided = config.unguided.passes(fixed, counts)
    drops = any(len(one.shown) < len(fixed) for one in guided)
    combine = Guided(
        velocity_fn=velocity_fn,
        given=given,
        dropped=stream_noise(key, given.shape, 1) if drops else jnp.zeros_like(given),
        wanted=wanted,
        known=known,
        modality=modality,
        context=context,
        null_context=null_context,
        batched=config.batched_guidance,
    )
    chosen = jnp.array([s for s, is_wanted in enumerate(wanted) if is_wanted])
    noise = stream_noise(key, given.shape, 0)[:, chosen]
    values, own = given[:, chosen], known and Known(known.until[:, chosen])

    def with_known(predicted: Array, sigma: Array) -> Array:
        return own.velocity(predicted, values, noise, sigma) if own else predicted

    def velocity(x: Array, sigma: Array) -> Array:
        predicted = in_interval(
            *config.guidance_interval,
            sigma,
            lambda: combine(x, sigma, guided, config.guidance_rescale),
            lambda: combine(x, sigma, unguided, 0.0),
        )
        return with_known(predicted, sigma)

    passes = config.all_passes(fixed, counts)

    def remembering(x: Array, sigma: Array, memory: cached.Memory, row: Schedule) -> tuple:
        outputs, after = cached.outputs(combine, passes, x, sigma, memory, row)
        by_pass = dict(zip(passes, outputs, strict=True))
        predicted = in_interval(
            *config.guidance_interval,
            sigma,
            lambda: combined([by_pass[p] for p in guided], guided, config.guidance_rescale),
            lambda: combined([by_pass[p] for p in unguided], unguided, 0.0),
        )
        report = cached.changes(after, memory) if measured else None
        return with_known(predicted, sigma), after, report

    table = config.table(skipped)
    start = own.start(values, noise, float(table.sigma[0])) if own else noise
    joins = own.until[..., None] if own else None
    if schedule is None:
        sampled, changes = solvers.integrate(velocity, start, table, joins=joins), None
    else:
        memory = cached.empty(len(passes), start)
        sampled, changes = solvers.integrate_remembering(
            remembering, start, table, memory=memory, rows=schedule, joins=joins
        )
    result = given.at[:, chosen].set(own.keep(sampled, values) if own else sampled)
    return (result, changes) if measured else result


def jit_generate(velocity: Callable[[Any], Callable]) -> Callable:
    """The sampler as it runs: `generate` with a model's parameters as first argument, jitted.

    It takes the parameters, a dict of the arrays with a sample axis by the names of `generate`
    (None and empty dicts where it allows them), and the others, which are static but for
    `schedule`; `sampler` is its `config`. Another schedule compiles nothing anew.

    Args:
      velocity: makes the velocity that `generate` takes, of parameters.
    """

    def sample(params: Any, rows: Mapping[str, Any], *, sampler: SamplerConfig, **others: Any):
        return generate(velocity(params), **rows, config=sampler, **others)

    return jax.jit(sample, static_argnames=STATIC)
