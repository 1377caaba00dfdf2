"""Guidance by the text and by the given streams, which may count by degrees and in places.

    v = v(none, T) + sum_k a_k (v(1..k, T) - v(1..k-1, T)) + (g_text - 1) (v(all, T) - v(all, no T))

T is the text and 1..k are the first k given streams. a_k is g_cond times what stream k counts: a
number, or one per latent cell. Where all a_k are 1 only v(all, T) is left, and with one given
stream a is the usual scale of guidance by a condition. Every term costs a pass of the model, and
terms that are zero cost none: given streams that count the same are dropped together. A stream is
dropped the way training drops it (pure noise at timestep 1), and the text is never dropped along
with it, since training rarely sees both dropped at once.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unityvideo_jax.flow_matching.path import VelocityFn
from unityvideo_jax.sampling.known import Known

Weight = float | Float[Array, "b 1 t h w 1"]


class Pass(NamedTuple):
    """One evaluation of the model.

    Attributes:
      shown: indices of the given streams that it sees.
      text: whether it reads the text, or what guidance by the text compares with.
    """

    shown: tuple[int, ...]
    text: bool


def pass_weights(
    given: Sequence[int],
    *,
    text_guidance: float,
    condition_guidance: float,
    counts: Mapping[int, Float[Array, "b t h w"]],
) -> dict[Pass, Weight]:
    """The weight of each pass in the guided velocity, that of everything first; they sum to 1.

    Args:
      given: indices of the given streams. Without one there is nothing to drop.
      text_guidance, condition_guidance: scales; 1 means no guidance.
      counts: how much a given stream counts in each latent cell, for those that do not count 1
        everywhere.

    Returns:
      Weights by pass; passes of weight 0 are left out.
    """
    plain = tuple(s for s in given if s not in counts)
    groups = [plain] if plain else []
    groups += [(s,) for s in given if s in counts]
    shown, amounts = [()], [1.0]
    for group in groups:
        shown.append((*shown[-1], *group))
        amount = counts.get(group[0])
        amounts.append(
            condition_guidance
            if amount is None
            else condition_guidance * amount[:, None, ..., None]
        )
    chain = {
        Pass(streams, True): now - after
        for streams, now, after in zip(shown, amounts, [*amounts[1:], 0.0], strict=True)
    }
    everything = Pass(shown[-1], True)
    full = chain.pop(everything) + (text_guidance - 1.0)
    extra = {Pass(shown[-1], False): 1.0 - text_guidance, **chain}
    extra = {one: w for one, w in extra.items() if not (isinstance(w, float) and w == 0.0)}
    return {everything: full, **extra}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guided:
    """The velocity of all streams as the solvers see it: passes of the model, combined.

    Attributes:
      velocity_fn: (latents, timestep, modality, context) -> velocity, and with clean frames
        clean=[B,S,t].
      given: clean latents; of wanted streams only what `known` says is read.
      dropped: N(0, I), which stands in for given streams that a pass does not see. One draw serves
        the whole trajectory, so that the velocity stays a smooth function of (x, t).
      wanted: per stream, whether it is sampled.
      known: of the wanted streams; only its clean frames matter here.
      modality: id per stream.
      context: text embeddings per stream.
      null_context: embeddings that replace them in the pass without text.
      batched: one model call over all passes, or one call each at a smaller peak of memory.
    """

    velocity_fn: VelocityFn
    given: Float[Array, "b s t h w c"]
    dropped: Float[Array, "b s t h w c"]
    wanted: tuple[bool, ...]
    known: Known | None
    modality: Int[Array, "b s"]
    context: Float[Array, "b s l d"]
    null_context: Float[Array, "b s l d"]
    batched: bool

    def __call__(
        self,
        x: Float[Array, "b n t h w c"],
        sigma: Float[Array, ""],
        weights: Mapping[Pass, Weight],
        rescale: float,
    ) -> Float[Array, "b n t h w c"]:
        """Returns the combination at x and this noise level, float32.

        Args:
          x: the wanted streams alone, as is the result.
          sigma: noise level of the wanted streams.
          weights: from `pass_weights`.
          rescale: see `rescaled`.
        """
        inputs = [self.inputs(one, x, sigma) for one in weights]
        if self.batched:
            stacked = [jnp.concatenate(parts) for parts in zip(*inputs, strict=True)]
            outputs = jnp.split(self._call(*stacked), len(inputs))
        else:
            outputs = [self._call(*one) for one in inputs]
        return combined([self._sampled(output) for output in outputs], weights, rescale)

    def output(self, inputs: tuple[Array, Array, Array, Array]) -> Float[Array, "b n t h w c"]:
        """The velocity of the wanted streams in one pass, float32; `inputs` gives its arguments."""
        return self._sampled(self._call(*inputs))

    def inputs(self, one: Pass, x: Array, sigma: Array) -> tuple[Array, Array, Array, Array]:
        """Returns (latents, timestep, modality, context) of a pass; x and sigma as in a call."""
        latents, times, place = [], [], 0
        for s, is_wanted in enumerate(self.wanted):
            if is_wanted:
                latents.append(x[:, place])
                place += 1
                times.append(sigma)
            elif s in one.shown:
                latents.append(self.given[:, s])
                times.append(0.0)
            else:
                latents.append(self.dropped[:, s])
                times.append(1.0)
        stacked = jnp.stack(latents, axis=1)
        if self._clean is not None:
            stacked = jnp.where(self._clean[..., None, None, None], self.given, stacked)
        timestep = jnp.stack([jnp.asarray(time, jnp.float32) for time in times])
        timestep = jnp.broadcast_to(timestep, stacked.shape[:2])
        return stacked, timestep, self.modality, self.context if one.text else self.null_context

    def _sampled(self, output: Array) -> Array:
        chosen = jnp.array([s for s, is_wanted in enumerate(self.wanted) if is_wanted])
        return output[:, chosen].astype(jnp.float32)

    @property
    def _clean(self) -> Array | None:
        return None if self.known is None else self.known.clean

    def _call(self, latents: Array, timestep: Array, modality: Array, text: Array) -> Array:
        if self._clean is None:
            return self.velocity_fn(latents, timestep, modality, text)
        passes = latents.shape[0] // self.given.shape[0]
        clean = jnp.tile(self._clean, (passes, 1, 1))
        return self.velocity_fn(latents, timestep, modality, text, clean=clean)


def combined(
    outputs: Sequence[Float[Array, "b n t h w c"]], weights: Mapping[Pass, Weight], rescale: float
) -> Float[Array, "b n t h w c"]:
    """Combines the outputs of passes, that of everything first; see `rescaled`."""
    total = sum(weight * output for weight, output in zip(weights.values(), outputs, strict=True))
    return rescaled(total, outputs[0], rescale) if rescale and len(weights) > 1 else total


def rescaled(
    guided: Float[Array, "b s t h w c"], plain: Float[Array, "b s t h w c"], share: float
) -> Float[Array, "b s t h w c"]:
    """Brings guided velocity back, by a share, to the deviation of the unguided one.

    Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", section 3.4;
    each stream of each sample separately.

    Args:
      guided, plain: velocities with and without guidance.
      share: 0 leaves the guided one, 1 gives it the deviation of the plain one.
    """
    axes = (2, 3, 4, 5)
    ratio = jnp.std(plain, axes, keepdims=True) / jnp.std(guided, axes, keepdims=True)
    return guided * (share * ratio + (1.0 - share))


def in_interval(
    low: float,
    high: float,
    sigma: Float[Array, ""],
    guided: Callable[[], Array],
    plain: Callable[[], Array],
) -> Array:
    """Guided where low <= sigma <= high (Kynkäänniemi et al. 2024); else plain, with fewer passes.

    Args:
      low, high: noise levels.
      sigma: of this evaluation.
      guided, plain: compute the velocity.
    """
    if low <= 0.0 and high >= 1.0:
        return guided()
    return jax.lax.cond((sigma >= low) & (sigma <= high), guided, plain)
