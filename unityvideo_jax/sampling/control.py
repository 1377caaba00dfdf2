"""Further arguments of a call, beside given and wanted streams: checked, and as latent cells."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities import RGB
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.sampling.arguments import check_dict, check_texts
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.known import ALWAYS, NEVER, Known, latent_share
from unityvideo_jax.settings.sections import check_value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control:
    """The controls of a call: the arguments of `Pipeline` of these names.

    Attributes:
      first_frame, last_frame: an image each, as `Pipeline` takes them, or None.
      masks: per given stream, where it counts; of a stream that is wanted too, what is kept.
      weights: per given stream, how much it counts; 1 for those left out.
      strength: of video to video, or None.
      negative_prompt: what guidance by the text leads away from; "" for nothing.

    Raises:
      UserError: an argument of another type.
    """

    first_frame: Any = None
    last_frame: Any = None
    masks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, float | int] = dataclasses.field(default_factory=dict)
    strength: float | None = None
    negative_prompt: str | Sequence[str] = ""

    def __post_init__(self):
        check_dict("masks", self.masks)
        check_dict("weights", self.weights)
        if self.strength is not None:
            check_value(float, self.strength, "strength")
        check_texts("negative_prompt", self.negative_prompt)

    def check(
        self,
        given: Sequence[str],
        wanted: Sequence[str],
        model: DiTConfig,
        sampler: SamplerConfig,
        captions: Sequence[str] = (),
    ) -> None:
        """Raises UserError, which names the argument, for controls that cannot be applied."""
        both = [name for name in given if name in wanted]
        for name in both:
            if self.strength is None and name not in self.masks:
                raise UserError(
                    f"stream {name}: a modality is either given or wanted, unless strength or a "
                    "mask of it says what is kept"
                )
        if self.strength is not None:
            sampler.skipped_steps(self.strength)
            if not both:
                raise UserError(
                    f"strength={self.strength:g}: is of the given video of a wanted stream, but of "
                    f"{', '.join(wanted)} none is given; give it"
                )
        for name in self.masks:
            if name not in given:
                raise UserError(f"masks[{name!r}]: no such given stream; give its video too")
        for name, weight in self.weights.items():
            if name not in given or name in wanted:
                raise UserError(
                    f"weights[{name!r}]: no given stream that is not sampled; a weight says how "
                    "much such a one counts"
                )
            number = isinstance(weight, int | float | np.number) and not isinstance(weight, bool)
            if not number or not math.isfinite(weight) or weight < 0:
                raise UserError(f"weights[{name!r}]={weight!r}: give a number, 0 or more")
        counted = sorted({*self.masks, *self.weights} - {*wanted})
        if model.shared_timestep and counted:
            raise UserError(
                f"{counted[0]}: this model was never without its condition "
                "(model.shared_timestep), so no weight or mask of it can count"
            )
        if model.shared_timestep and sampler.condition_guidance != 1.0 and set(given) - set(wanted):
            raise UserError(
                f"condition_guidance={sampler.condition_guidance:g}: this model was never without "
                "its condition (model.shared_timestep); set it to 1"
            )
        for role in ("first_frame", "last_frame"):
            if getattr(self, role) is not None and RGB not in wanted:
                raise UserError(f"{role}: is of the rgb that wanted={tuple(wanted)} lacks; add it")
        if self.first_frame is not None and model.patch_size[0] != 1:
            raise UserError("first_frame: this model's tokens join frames (model.patch_size)")
        if any(captions) and RGB not in (*given, *wanted):
            raise UserError(
                "prompt: is of rgb, which is neither given nor wanted, so nothing reads it; give "
                "modality_prompts, or leave it out"
            )
        if self.negative_prompt:
            if sampler.text_guidance == 1.0:
                raise UserError(
                    "negative_prompt: text guidance is off, so nothing reads it; set text_guidance "
                    "above 1"
                )
            if RGB not in (*given, *wanted):
                raise UserError("negative_prompt: is of rgb, which is neither given nor wanted")


def counts_of(
    streams: Sequence[str],
    wanted: Sequence[str],
    masks: Mapping[str, Bool[np.ndarray, "b t h w"]],
    weights: Mapping[str, float | int],
    cells: Sequence[int],
    strides: tuple[int, int],
) -> dict[int, Float[np.ndarray, "b lt lh lw"]]:
    """The weight of given streams in each latent cell, for streams whose weight is not 1.

    Args:
      streams: names in order.
      wanted: streams that are sampled.
      masks: pixels where a stream counts.
      weights: how much.
      cells: (batch, frames, height, width) of the latents.
      strides: temporal and spatial of the autoencoder.
    """
    counts = {}
    for s, name in enumerate(streams):
        weight = float(weights.get(name, 1.0))
        if name in wanted or (name not in masks and weight == 1.0):
            continue
        share = latent_share(masks[name], *strides) if name in masks else np.ones(cells, np.float32)
        counts[s] = np.float32(weight) * share
    return counts


def put_known(
    latents: Float[Array, "b s lt lh lw c"],
    streams: Sequence[str],
    *,
    kept: Mapping[str, Bool[np.ndarray, "b t h w"]],
    levels: Mapping[str, float],
    first: Float[Array, "b 1 lh lw c"] | None,
    last: Float[Array, "b 1 lh lw c"] | None,
    strides: tuple[int, int],
) -> tuple[Float[Array, "b s lt lh lw c"], Known | None]:
    """Returns latents with first and last frames in them, and the known cells of wanted streams.

    Args:
      latents: given streams, whether wanted too or not.
      streams: names in order.
      kept: pixels of wanted streams that are kept; a latent cell is if all of its pixels are.
      levels: noise level that a wanted stream's video is known down to.
      first, last: latents of the first and the last frame of RGB, at timestep 0 and noised like
        the rest.
      strides: temporal and spatial of the autoencoder.
    """
    if not kept and not levels and first is None and last is None:
        return latents, None
    until = np.full(latents.shape[:5], NEVER, np.float32)
    clean = None
    for s, name in enumerate(streams):
        if name in levels:
            until[:, s] = levels[name]
        if name in kept:
            until[:, s][latent_share(kept[name], *strides) == 1.0] = ALWAYS
    if last is not None:
        latents = latents.at[:, 0, -1:].set(last)
        until[:, 0, -1] = ALWAYS
    if first is not None:
        latents = latents.at[:, 0, :1].set(first)
        until[:, 0, 0] = ALWAYS
        clean = np.zeros(latents.shape[:3], bool)
        clean[:, 0, 0] = True
    return latents, Known(until=until, clean=clean)
