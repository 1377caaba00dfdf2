"""Contact sheets of all three tasks while a model trains."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from unityvideo_jax import media
from unityvideo_jax.flow_matching.path import VelocityFn
from unityvideo_jax.modalities import RGB
from unityvideo_jax.models.vae.wan_vae import WanVAE
from unityvideo_jax.sampling.generate import SamplerConfig, generate

# Whether each task samples (RGB, modality).
TASKS = {"control": (True, False), "estimation": (False, True), "joint": (True, True)}
ALONE = {"joint": (True,)}


class TrainingSheets:
    """Samples control, estimation and joint generation for the same few records every time.

    A sheet shows, for each record, RGB and modality as the VAE decodes them, and below each what
    the model makes of the other, and both of the text alone; of a model of RGB alone, what it makes
    of the text. Noise and records stay fixed, so sheets of different steps compare. Texts and
    guidance are those of `Pipeline`, and estimation sees no caption, as `evaluate` scores it.
    """

    def __init__(
        self,
        velocity: Callable[[Any], VelocityFn],
        vae: WanVAE,
        batch: Mapping[str, Shaped[np.ndarray, "..."]],
        *,
        null_text: Float[np.ndarray, "l d"],
        modalities: Sequence[str],
        sampler: SamplerConfig,
        drops_prompts: bool = False,
        seed: int = 0,
        count: int = 2,
    ):
        """Keeps the first `count` records, of different modalities as far as the batch has them.

        Args:
          velocity: params -> model, such as `lambda params: nnx.merge(graphdef, params)`.
          vae: decodes the latents.
          batch: as the input pipeline yields it, with RGB and a modality or RGB alone: "latents"
            [B,S,t,h,w,C], "modality" [B,S], "context" [B,S,L,D].
          null_text: embedding of "", which text guidance puts in place of the caption, and which
            estimation has for one.
          modalities: names by id.
          sampler: solver and guidance.
          drops_prompts: whether text guidance drops the modality's prompt too, as it does for a run
            with prompt dropout.
          seed: of the noise.
          count: records per sheet.
        """
        ids = np.asarray(batch["modality"])[:, -1]
        self._tasks = TASKS if np.shape(batch["modality"])[1] == 2 else ALONE
        _, firsts = np.unique(ids, return_index=True)
        rest = np.setdiff1d(np.arange(len(ids)), firsts)
        chosen = np.concatenate([np.sort(firsts), rest])[:count]
        self._batch = {
            name: np.asarray(batch[name])[chosen].astype(dtype)
            for name, dtype in (("latents", "f4"), ("modality", "i4"), ("context", "f4"))
        }
        self._null_text, self._drops_prompts = null_text, drops_prompts
        self._sampler = sampler
        self._names = [modalities[i] for i in ids[chosen]]
        self._key = jax.random.key(seed)

        def sample(params, latents, modality, context, null_context, key, wanted, sampler):
            result = generate(
                velocity(params),
                given=latents,
                wanted=wanted,
                modality=modality,
                context=context,
                null_context=null_context,
                key=key,
                config=sampler,
            )
            # Under the mesh of a training run the parameters are sharded; every host then needs the
            # whole result to decode it.
            if not jax.sharding.get_abstract_mesh().empty:
                result = jax.lax.with_sharding_constraint(result, jax.P())
            return result

        self._sample = jax.jit(sample, static_argnames=("wanted", "sampler"))
        self._vae = vae

    def _contexts(
        self, task: str
    ) -> tuple[Float[np.ndarray, "n s l d"], Float[np.ndarray, "n s l d"]]:
        """Embeddings of all streams' texts in a task, and what text guidance compares with."""
        context = self._batch["context"].copy()
        if task == "estimation":
            context[:, 0] = self._null_text
        null = context.copy()
        null[:, 0] = self._null_text
        if self._drops_prompts:
            null[:, 1:] = self._null_text
        return context, null

    def _frames(
        self, latents: Float[Array, "n s lt lh lw c"] | Float[np.ndarray, "n s lt lh lw c"], s: int
    ) -> list[np.ndarray]:
        names = [RGB] * len(latents) if s == 0 else self._names
        # One at a time bounds the memory that decoding takes beside a training state.
        videos = [
            np.asarray(self._vae.decode(one[None], name))[0]
            for one, name in zip(np.asarray(latents[:, s]), names, strict=True)
        ]
        return [media.to_uint8(video) for video in videos]

    def rows(self, params: Any) -> list[tuple[str, np.ndarray]]:
        """Returns labelled uint8 videos of every record: truth, control, estimation, joint."""
        batch = self._batch
        streams = range(batch["latents"].shape[1])
        truth = [self._frames(batch["latents"], s) for s in streams]
        made = {}
        for place, (task, wanted) in enumerate(self._tasks.items()):
            context, null = self._contexts(task)
            result = self._sample(
                params,
                batch["latents"],
                batch["modality"],
                context,
                null,
                jax.random.fold_in(self._key, place),
                wanted=wanted,
                sampler=self._sampler.for_texts(context, null),
            )
            made[task] = {s: self._frames(result, s) for s in streams if wanted[s]}
        rows = []
        for i, name in enumerate(self._names):
            for s, shown in enumerate((RGB, name)[: len(streams)]):
                rows.append((f"{shown}: truth", truth[s][i]))
                for task, found in made.items():
                    given = f" by {name}" if task == "control" else ""
                    rows += [(f"{shown}: {task}{given}", found[s][i])] if s in found else []
        return rows

    def __call__(self, params: Any, step: int, path: str | os.PathLike) -> None:
        """Writes the sheet of the parameters at a training step as one PNG, from the first host.

        All hosts must call it, with the same records: sampling runs on all devices.
        """
        rows = [(f"step {step}, {label}", frames) for label, frames in self.rows(params)]
        if jax.process_index() == 0:
            media.contact_sheet(rows, path, scale=max(1, 96 // rows[0][1].shape[1]))
