"""A model under evaluation: held-out errors, samples and estimates at fixed noise."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from unityvideo_jax.ablations.truth import MeasureConfig, own_prompts
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.evaluation.heldout import HeldoutConfig, heldout_errors
from unityvideo_jax.evaluation.physics import run as physics
from unityvideo_jax.evaluation.physics.plausibility import PlausibilityConfig
from unityvideo_jax.modalities import RGB
from unityvideo_jax.runtime import seeds
from unityvideo_jax.sampling.arrays import sample_keys
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline

Videos = Mapping[str, Float[np.ndarray, "b t h w 3"]]


class Model:
    """A pipeline whose weights are exchanged, so that runs of one architecture compile once.

    Args:
      pipeline: of the first of these runs.
      settings: of the evaluation.
    """

    def __init__(self, pipeline: Pipeline, settings: MeasureConfig):
        self.pipeline, self.settings = pipeline, settings
        heldout = HeldoutConfig(timesteps=settings.timesteps, near_noise=(), seed=settings.seed)
        self._errors = jax.jit(
            lambda params, *arrays: heldout_errors(pipeline.velocity(params), *arrays, heldout)
        )
        self.sampler = pipeline.sampler.changed(steps=settings.steps)
        self.one_pass = pipeline.sampler.changed(
            steps=1, solver="euler", text_guidance=1.0, condition_guidance=1.0
        )
        config = physics.PhysicsConfig(
            pairs=settings.pairs,
            predictions=0,
            batch_size=settings.batch_size,
            plausibility=PlausibilityConfig(seed=settings.seed),
            seed=settings.seed,
        )
        self.physics = physics.PhysicsScorer(
            pipeline,
            config,
            self.sampler,
            lambda name, sheet: None,
            # Clips are small, so a whole batch goes through the autoencoder at once.
            lambda video, name: pipeline.vae.encode(video, modality=name),
        )

    def errors(
        self,
        names: Sequence[str],
        batch: Batch,
        latents: Mapping[str, Float[np.ndarray, "b t h w c"]],
    ) -> Float[np.ndarray, "_ task k s"]:
        """Measures held-out errors of the clips of a batch that count, for one set of streams.

        Args:
          names: of the streams, RGB first.
          batch: gives captions, prompts and, by their numbers, noise.
          latents: f32 [b, t, h, w, c] of each stream.
        """
        context, _ = self.pipeline.contexts(names, batch.captions, own_prompts(batch, names))
        found = self._errors(
            self.pipeline.params,
            jnp.stack([latents[name] for name in names], axis=1),
            self._ids(names, len(batch.index)),
            jnp.asarray(context),
            jnp.asarray(batch.index),
        )
        return np.asarray(found)[: batch.count]

    def sample(
        self,
        names: Sequence[str],
        wanted: Sequence[str],
        batch: Batch,
        given: Mapping[str, np.ndarray],
        sampler: SamplerConfig,
        *,
        captions: Sequence[str] | None = None,
        prompts: Mapping[str, Sequence[str]] | None = None,
    ) -> Videos:
        """Samples videos in [-1, 1] of the wanted streams for every clip of a batch.

        Args:
          names: of all streams, RGB first.
          wanted: of them.
          batch: gives captions, prompts and, by their numbers, noise.
          given: latents of the others.
          sampler: settings.
          captions, prompts: instead of the clips' own.

        Raises:
          UserError: something that is not finite.
        """
        size = len(batch.index)
        texts = own_prompts(batch, names) | dict(prompts or {})
        context, null = self.pipeline.contexts(names, captions or batch.captions, texts)
        data, vae = self.pipeline.config["data"], self.pipeline.vae.config
        empty = np.zeros(
            (size, *vae.latent_shape(data["num_frames"], data["height"], data["width"])), np.float32
        )
        rows = {
            "given": jnp.stack([given.get(name, empty) for name in names], axis=1),
            "modality": self._ids(names, size),
            "context": context,
            "null_context": null,
            "key": sample_keys(
                [seeds.after(self.settings.seed, int(i)) for i in batch.index], size
            ),
            "known": None,
            "counts": {},
        }
        found = self.pipeline.sample_latents(
            self.pipeline.params,
            rows,
            wanted=tuple(name in wanted for name in names),
            sampler=sampler.for_texts(context, null),
            skipped=0,
            latent_window=None,
        )
        if not bool(jnp.isfinite(found).all()):
            raise UserError(f"{'+'.join(names)}: a sample is not finite; is the checkpoint sound?")
        decode = self.pipeline.vae.decode
        return {
            name: np.asarray(decode(found[:, s], modality=name))
            for s, name in enumerate(names)
            if name in wanted
        }

    def estimate(self, name: str, batch: Batch, rgb: np.ndarray, **texts: Any) -> np.ndarray:
        """Estimates a modality from RGB latents in one pass, without captions.

        Args:
          name: of the modality.
          batch: gives prompts and, by their numbers, noise.
          rgb: f32 [b, t, h, w, c].
          texts: as `sample` takes them.

        Returns:
          Video in [-1, 1].
        """
        nothing = [""] * len(batch.captions)
        one = self.sample(
            (RGB, name), (name,), batch, {RGB: rgb}, self.one_pass, captions=nothing, **texts
        )
        return one[name]

    def _ids(self, names: Sequence[str], size: int) -> Any:
        ids = jnp.array([self.pipeline.modalities.index(name) for name in names], jnp.int32)
        return jnp.tile(ids, (size, 1))
