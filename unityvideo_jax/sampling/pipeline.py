"""Text encoder, VAE and model behind one call: prompts and videos in, videos out."""

import functools
import os
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths, provenance, stores
from unityvideo_jax.models.dit import DiT
from unityvideo_jax.models.lora import BASES, hold
from unityvideo_jax.models.text.encoder import CutTexts, TextEncoder
from unityvideo_jax.models.vae.wan_vae import STREAMED_PIXELS, WanVAE
from unityvideo_jax.pretrained import model as pretrained
from unityvideo_jax.sampling import arguments, calibration, call, parts, texts
from unityvideo_jax.sampling.adapters import check as check_adapters
from unityvideo_jax.sampling.control import Control
from unityvideo_jax.sampling.devices import Devices
from unityvideo_jax.sampling.generate import SamplerConfig, jit_generate
from unityvideo_jax.sampling.samples import Samples

HELD_WHOLE, *HELD = BASES


class Pipeline:
    """Samples videos of any modality from prompts and videos of any other.

    Load it with `from_pretrained` or `from_workdir`, or build it from parts in memory.

    Attributes:
      config: its description in records: a run's configuration, or that of the parts.
      folder: where the weights came from, and their calibration is; None is nowhere.
      sampler: the settings of a call that names none.
      num_frames, height, width: the size of a call that names none and is given no video.
      fps: frames per second of the videos.
      step: training step of the weights.
      adapters: path, hash and weight of each that was added.
      modalities: names that the model knows, RGB first.
      held: how the transformer's matrices are held, see `hold_weights`.
      devices: that share every batch.
      sample_latents: the jitted sampler, see `generate.jit_generate`.
      warn_of_cut: given texts, warns once if some are longer than the model reads; every call
        gives it its own.
    """

    def __init__(
        self,
        model: DiT,
        *,
        vae: WanVAE,
        text_encoder: TextEncoder,
        num_frames: int = 17,
        height: int = 64,
        width: int = 64,
        fps: float = 8.0,
        sampler: SamplerConfig | None = None,
        depth_codec: str = "relative",
        prompt_dropout: float = 0.0,
        step: int = 0,
        config: Mapping[str, Any] | None = None,
        folder: pathlib.Path | None = None,
    ):
        """Takes parts that are loaded already.

        Args:
          model: the transformer.
          vae: video autoencoder with the latents that the model was trained on.
          text_encoder: the one that the model was trained on.
          num_frames, height, width: default size of a video: 4n+1 frames, pixels.
          fps: frames per second of the videos that the model was trained on.
          sampler: default settings; None takes those of `SamplerConfig`.
          depth_codec: how depth was drawn in training, "relative" or "metric".
          prompt_dropout: how often training left out the modality prompts; if it did, text guidance
            drops them too.
          step: training step of the weights.
          config: the run's whole configuration, for records; None describes these parts.
          folder: where the weights came from, and their calibration is; None is nowhere.

        Raises:
          UserError: an argument of another type, an autoencoder of other latents, or an unknown
            codec.
        """
        arguments.check_parts(
            model=model,
            vae=vae,
            text_encoder=text_encoder,
            sampler=sampler,
            config=config,
            depth_codec=depth_codec,
            real={"fps": fps, "prompt_dropout": prompt_dropout},
            whole={"num_frames": num_frames, "height": height, "width": width, "step": step},
        )
        self.model_config = model.config
        self.modalities = tuple(self.model_config.modalities)
        self._graph, self.params = nnx.split(model)
        self.vae, self.text_encoder = vae, text_encoder
        self.num_frames, self.height, self.width = num_frames, height, width
        self.fps, self.step = float(fps), step
        self.sampler = sampler or SamplerConfig()
        self.depth_codec, self.prompt_dropout = depth_codec, float(prompt_dropout)
        self.folder = folder
        self.config = config or parts.describe(self)
        self.warn_of_cut = CutTexts(text_encoder, f"config.data.text_length={text_encoder.length}")
        if vae.config.z_dim != self.model_config.in_channels:
            raise UserError(
                f"the VAE has {vae.config.z_dim} latent channels, model.in_channels is "
                f"{self.model_config.in_channels}; use the VAE that the model was trained on"
            )
        self.adapters: list[dict[str, Any]] = []
        self.held = HELD_WHOLE
        self.devices = Devices()
        self.sample_latents = jit_generate(lambda params: self.velocity(params))

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        *,
        vae: str | None = None,
        text_encoder: str | None = None,
        vae_dtype: str = "float32",
    ) -> "Pipeline":
        """Loads a folder that `save_pretrained` wrote, here or on the hub, or a model that ships.

        Args:
          name: of the folder, which comes first, of the shipped model, or an id of the Hugging Face
            hub, which may end in `@` and a revision.
          vae, text_encoder: where they are now; None is where the folder says.
          vae_dtype: in which the VAE computes, "float32" or, faster, "bfloat16".

        Raises:
          UserError: neither, files that are damaged or do not match each other, or an argument of
            another type.
        """
        return cls(
            **parts.from_pretrained(name, vae=vae, text_encoder=text_encoder, vae_dtype=vae_dtype)
        )

    @classmethod
    def from_workdir(
        cls,
        workdir: str | os.PathLike,
        *,
        step: int | None = None,
        use_ema: bool = True,
        fallback: bool = False,
        vae: str | None = None,
        text_encoder: str | None = None,
        vae_dtype: str = "float32",
    ) -> "Pipeline":
        """Loads a training run: its configuration, weights, VAE and text encoder.

        Args:
          workdir: of `unityvideo_jax.train`.
          step: which checkpoint; None is the latest.
          use_ema: averaged weights rather than those of the last step.
          fallback: take the newest whole checkpoint before it if it is damaged.
          vae, text_encoder: where they are now; None is where config.data says.
          vae_dtype: in which the VAE computes, "float32" or, faster, "bfloat16".

        Raises:
          UserError: no such run or checkpoint, VAE or text encoder, or an argument of another type.
        """
        return cls(
            **parts.from_workdir(
                workdir,
                step=step,
                use_ema=use_ema,
                fallback=fallback,
                vae=vae,
                text_encoder=text_encoder,
                vae_dtype=vae_dtype,
            )
        )

    def save_pretrained(
        self, folder: str | os.PathLike, *, storage: str = "float32", card: str = ""
    ) -> None:
        """Writes a folder that `from_pretrained` reads: weights, configuration, card, checksums.

        The VAE goes with it unless it is the shipped one; the text encoder is named only.

        Args:
          folder: new or empty; it appears when it is whole.
          storage: "float32", "float16", "bfloat16" or "int8", see `pretrained.model`.
          card: Markdown for `README.md` below the title and the table of facts.

        Raises:
          UserError: a folder that holds something, or weights that the storage cannot hold, that
            `hold_weights` has rounded, or that have adapters beside them.
        """
        folder = paths.argument("folder", folder)
        self._check_not_held("save_pretrained")
        if self.velocity(self.params).adapters:
            raise UserError(
                "save_pretrained: a model's folder has no place for adapters beside the weights; "
                "add them with merge=True"
            )
        with stores.output(folder) as place:
            pretrained.save(
                place,
                {**parts.describe(self), "step": self.step},
                pretrained.flatten(self.params),
                vae=self.vae,
                storage=storage,
                card=card,
            )

    def add_adapters(
        self, *adapters: tuple[str | os.PathLike, float | int], merge: bool = True
    ) -> None:
        """Adds adapters (LoRA), each times its weight.

        Args:
          adapters: files of diffusers, PEFT, ComfyUI, Kohya or the original Wan's names, each with
            its weight; 1 is as it was trained, and several add up.
          merge: into the weights, which costs nothing afterwards; else beside them, which leaves
            the weights as they are.

        Raises:
          UserError: names the file: no adapter, or one of another model, or the weight that is no
            finite number.
        """
        from unityvideo_jax.interop.lora import open_adapter
        from unityvideo_jax.interop.lora_apply import apply, merge_into

        if adapters:
            self._check_not_held("add_adapters")
        check_adapters(adapters)
        opened = [(open_adapter(path, self.model_config), float(w)) for path, w in adapters]
        added = [
            {"path": str(a.path), "sha256": provenance.file_hash(a.path), "weight": weight}
            for a, weight in opened
        ]
        if merge:
            self.params = merge_into(self.params, opened)
        else:
            model = apply(nnx.merge(self._graph, self.params), opened)
            self._graph, self.params = nnx.split(model)
        self.adapters += added

    def hold_weights(self, base: str) -> None:
        """Holds the transformer's matrices in fewer bits from now on; all else stays float32.

        In "bfloat16" a model that computes in bfloat16 gives what it gave, bit for bit, for it
        rounds its matrices anyway; "int8" and "nf4" turn them back layer by layer. Adapters are
        added before, and the model is saved before.

        Args:
          base: "bfloat16", "int8" (one scale per output feature) or "nf4" (4 bits).

        Raises:
          UserError: an unknown base, weights that are held so already, or a layer that it cannot
            hold.
        """
        if base not in HELD:
            raise UserError(f"hold_weights={base!r}: use one of {', '.join(HELD)}")
        self._check_not_held("hold_weights")
        model, self.params = nnx.merge(self._graph, self.params), None
        hold(model, base, "hold_weights")
        self._graph, self.params = nnx.split(model)
        self.held = base

    def _check_not_held(self, what: str) -> None:
        if self.held != HELD_WHOLE:
            raise UserError(
                f"{what}: the weights are held as {self.held}; do it before holding them so"
            )

    def spread(self, devices: Sequence[jax.Device]) -> None:
        """Shares every batch among these devices from now on; each then holds all weights.

        A sample with a seed of its own does not depend on how many they are.

        Raises:
          UserError: no list of devices.
        """
        self.devices = Devices(devices)
        self.params = self.devices.replicate(self.params)
        graph, state = nnx.split(self.vae)
        self.vae = nnx.merge(graph, self.devices.replicate(state))

    @property
    def token_pixels(self) -> tuple[int, int]:
        """Height and width of a token in pixels; sizes of videos are multiples of them."""
        _, height, width = self.model_config.patch_size
        return height * self.vae.config.spatial_stride, width * self.vae.config.spatial_stride

    def codec(self, modality: str) -> modalities.Codec:
        """Returns the codec that drew a modality in the data that the model was trained on."""
        choices = {"depth": self.depth_codec}
        return modalities.chosen_codec(modality, choices, "config.data.depth_codec")

    def velocity(self, params: Any) -> Any:
        """Returns the model as (latents, timestep, modality, context) -> velocity."""
        return nnx.merge(self._graph, params)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names the weights, see `calibration.fingerprint`."""
        return calibration.fingerprint(self.model_config, self.params)

    def encode(
        self, video: Float[np.ndarray, "b t h w 3"], modality: str
    ) -> Float[Array, "b lt lh lw c"]:
        """Normalised latents of a modality's video in [-1, 1], one video per device at a time."""
        streamed = np.prod(video.shape[1:4]) > STREAMED_PIXELS
        method = self.vae.encode_streamed if streamed else self.vae.encode
        encode = functools.partial(method, modality=modality)
        return jnp.concatenate(list(self.devices.one_by_one(encode, video)))

    def decode(
        self, latents: Float[Array, "b lt lh lw c"], modality: str
    ) -> Float[np.ndarray, "b t h w 3"]:
        """Returns video in [-1, 1] of a modality's latents, one video per device at a time."""
        config = self.vae.config
        pixels = np.prod(latents.shape[1:4]) * config.temporal_stride * config.spatial_stride**2
        method = self.vae.decode_streamed if pixels > STREAMED_PIXELS else self.vae.decode
        decode = functools.partial(method, modality=modality)
        rows = self.devices.one_by_one(decode, np.asarray(latents))
        return np.concatenate([np.asarray(row) for row in rows])

    def contexts(
        self,
        streams: Sequence[str],
        captions: Sequence[str],
        modality_prompts: Mapping[str, str | Sequence[str]],
        negative_prompt: str | Sequence[str] = "",
    ) -> tuple[Float[np.ndarray, "b s l d"], Float[np.ndarray, "b s l d"]]:
        """Text embeddings per sample and stream, and those that text guidance compares with.

        Arguments and errors as `texts.texts_of`; `negative_prompt` as in a call.
        """
        rows = texts.texts_of(streams, captions, modality_prompts)
        negative = texts.per_caption("negative_prompt", negative_prompt, len(captions))
        self.warn_of_cut(text for row in (*rows.values(), negative) for text in row)
        drops = self.prompt_dropout > 0
        return texts.embed(rows, self.text_encoder, negative=negative, drops_prompts=drops)

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        given: Mapping[str, Any] = types.MappingProxyType({}),
        wanted: Sequence[str],
        first_frame: Any = None,
        last_frame: Any = None,
        masks: Mapping[str, Any] = types.MappingProxyType({}),
        weights: Mapping[str, float | int] = types.MappingProxyType({}),
        strength: float | None = None,
        negative_prompt: str | Sequence[str] = "",
        modality_prompts: Mapping[str, str | Sequence[str]] = types.MappingProxyType({}),
        sampler: SamplerConfig | None = None,
        seed: int | Sequence[int] = 0,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        **settings: Any,
    ) -> Samples:
        """Samples the wanted streams for every prompt.

        Args:
          prompts: captions of the video; "" for none, as for estimation from unlabelled video.
          given: per stream a file, as `sampling.files.read_given` takes it, what that function
            read, or a video [T,H,W,3] (for every prompt) or [B,T,H,W,3], uint8 or float in [-1, 1];
            modalities as their codec encodes them.
          wanted: streams to sample; with `given`, any two or more of the model's modalities, or one
            alone. A stream may be both if `strength` or a mask says what is kept of it.
          first_frame: what the wanted RGB starts with (Wan 2.2 TI2V-5B; other models have not
            learned it): an image's file, or [H,W,3] (for every prompt) or [B,H,W,3] as `given`
            takes videos.
          last_frame: what it ends with, likewise, with any model: the last latent frame, which is
            four frames, is that of the image standing still.
          masks: per given stream a file, as `sampling.files.read_mask` takes it, or bool [H,W] (for
            every frame), [T,H,W] or [B,T,H,W]: where the stream counts. Of one that is wanted too,
            what is kept: those pixels are in the result as they were passed, and latent cells of
            them alone are held while the rest is sampled.
          weights: how much each given stream counts, 0 is not at all and 1 as trained; the others
            count 1. A weight or mask costs one more pass of the model per stream.
          strength: video to video: given videos of wanted streams are noised and then sampled by
            this share of the steps, the last ones. 1 keeps nothing of them.
          negative_prompt: caption that text guidance leads away from, one for all prompts or one
            per prompt; it stands in the place of "".
          modality_prompts: replaces a modality's own prompt ("segment the two objects"), one for
            all captions or one per caption.
          sampler: None takes the pipeline's own.
          seed: one for the batch, or one per prompt; a prompt's own seed makes its sample
            independent of the rest of the batch.
          num_frames, height, width: of what is sampled; None takes the size of the given videos, or
            the pipeline's own.
          settings: fields of `SamplerConfig` that differ from `sampler`, such as steps=8 or
            cache=0.55, which skips 55 % of the model's passes (docs/speed.md).

        Raises:
          UserError: names the argument: another type, unknown or repeated modality, sizes that
            differ or that the model cannot take, counts that disagree, a file that does not read.
        """
        named = {"prompts": prompts, "given": given, "wanted": wanted, "sampler": sampler}
        size = {"num_frames": num_frames, "height": height, "width": width}
        arguments.check(**named, modality_prompts=modality_prompts, **size)
        control = Control(
            first_frame=first_frame,
            last_frame=last_frame,
            masks=masks,
            weights=weights,
            strength=strength,
            negative_prompt=negative_prompt,
        )
        changed = (sampler or self.sampler).changed(**settings)
        if settings:
            reasons = arguments.unread(
                changed,
                given=given,
                wanted=wanted,
                counted=bool(masks or weights),
                texts=[*np.atleast_1d(prompts), *np.atleast_1d(negative_prompt)],
                drops_prompts=self.prompt_dropout > 0,
            )
            for name in filter(reasons.get, settings):
                raise UserError(f"{name}={settings[name]}: {reasons[name]}")
        return call.sample(
            self,
            prompts,
            given=given,
            wanted=wanted,
            control=control,
            modality_prompts=modality_prompts,
            sampler=changed,
            seed=seed,
            size=tuple(size.values()),
        )
