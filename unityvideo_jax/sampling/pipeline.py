"""Text encoder, VAE and model behind one call: prompts and videos in, videos out."""

import contextlib
import dataclasses
import functools
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance
from unityvideo_jax.modalities import RGB
from unityvideo_jax.models.dit import DiT
from unityvideo_jax.models.text.encoder import CutTexts, TextEncoder
from unityvideo_jax.models.vae.wan_vae import STREAMED_PIXELS, WanVAE
from unityvideo_jax.pretrained import model as pretrained
from unityvideo_jax.sampling import arrays, files, parts, texts
from unityvideo_jax.sampling.devices import Devices
from unityvideo_jax.sampling.fit import check_sampling
from unityvideo_jax.sampling.generate import SamplerConfig, jit_generate
from unityvideo_jax.sampling.samples import Samples
from unityvideo_jax.sampling.streams import check_size, stream_order


class Pipeline:
    """Samples videos of any modality from prompts and videos of any other.

    Load it with `from_pretrained` or `from_workdir`, or build it from parts in memory.

    Attributes:
      config: what records say of it: a run's configuration, or the parts' own.
      sampler: the settings of a call that names none.
      num_frames, height, width: the size of a call that names none and is given no video.
      fps: frames per second of the videos.
      step: training step of the weights.
      modalities: names that the model knows, RGB first.
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

        Raises:
          UserError: an autoencoder of other latents, or an unknown codec.
        """
        self.model_config = model.config
        self.modalities = tuple(self.model_config.modalities)
        self._graph, self.params = nnx.split(model)
        self.vae, self.text_encoder = vae, text_encoder
        self.num_frames, self.height, self.width = num_frames, height, width
        self.fps, self.step = float(fps), step
        self.sampler = sampler or SamplerConfig()
        self.depth_codec, self.prompt_dropout = depth_codec, float(prompt_dropout)
        self.config = config or parts.describe(self)
        self.warn_of_cut = CutTexts(text_encoder, f"config.data.text_length={text_encoder.length}")
        if vae.config.z_dim != self.model_config.in_channels:
            raise UserError(
                f"the VAE has {vae.config.z_dim} latent channels, model.in_channels is "
                f"{self.model_config.in_channels}; use the VAE that the model was trained on"
            )
        self._devices = Devices()
        self._sample = jit_generate(lambda params: self.velocity(params))

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike, *, vae: str | None = None, text_encoder: str | None = None
    ) -> "Pipeline":
        """Loads a folder that `save_pretrained` wrote, or a model that ships with the package.

        Args:
          name: of the folder, which comes first, or of the shipped model.
          vae, text_encoder: where they are now; None is where the folder says.

        Raises:
          UserError: neither, or files that are damaged or do not match each other.
        """
        return cls(**parts.from_pretrained(name, vae=vae, text_encoder=text_encoder))

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
    ) -> "Pipeline":
        """Loads a training run: its configuration, weights, VAE and text encoder.

        Args:
          workdir: of `unityvideo_jax.train`.
          step: which checkpoint; None is the latest.
          use_ema: averaged weights rather than those of the last step.
          fallback: take the newest whole checkpoint before it if it is damaged.
          vae, text_encoder: where they are now; None is where config.data says.

        Raises:
          UserError: no such run or checkpoint, VAE or text encoder.
        """
        return cls(
            **parts.from_workdir(
                workdir,
                step=step,
                use_ema=use_ema,
                fallback=fallback,
                vae=vae,
                text_encoder=text_encoder,
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
          UserError: a folder that holds something, or weights that the storage cannot hold.
        """
        pretrained.save(
            folder,
            {**parts.describe(self), "step": self.step},
            pretrained.flatten(self.params),
            vae=self.vae,
            storage=storage,
            card=card,
        )

    def add_adapters(self, *adapters: tuple[str | os.PathLike, float], merge: bool = True) -> None:
        """Adds adapters (LoRA), each times its weight.

        Args:
          adapters: files of diffusers, PEFT, ComfyUI, Kohya or the original Wan's names, each with
            its weight; 1 is as it was trained, and several add up.
          merge: into the weights, which costs nothing afterwards; else beside them, which leaves
            the weights as they are.

        Raises:
          UserError: names the file: no adapter, or one of another model.
        """
        from unityvideo_jax.interop.lora import open_adapter
        from unityvideo_jax.interop.lora_apply import apply, merge_into

        opened = [(open_adapter(path, self.model_config), weight) for path, weight in adapters]
        if merge:
            self.params = merge_into(self.params, opened)
        else:
            model = apply(nnx.merge(self._graph, self.params), opened)
            self._graph, self.params = nnx.split(model)

    def spread(self, devices: Sequence[jax.Device]) -> None:
        """Shares every batch among these devices from now on; each then holds all weights.

        A sample with a seed of its own does not depend on how many they are.
        """
        self._devices = Devices(devices)
        self.params = self._devices.replicate(self.params)
        graph, state = nnx.split(self.vae)
        self.vae = nnx.merge(graph, self._devices.replicate(state))

    @property
    def token_pixels(self) -> tuple[int, int]:
        """Height and width of a token in pixels; sizes of videos are multiples of them."""
        _, height, width = self.model_config.patch_size
        return height * self.vae.config.spatial_stride, width * self.vae.config.spatial_stride

    def codec(self, modality: str) -> modalities.Codec:
        """The codec that drew a modality in the data that the model was trained on."""
        choices = {"depth": self.depth_codec}
        return modalities.chosen_codec(modality, choices, "config.data.depth_codec")

    def velocity(self, params: Any) -> Any:
        """The model as (latents, timestep, modality, context) -> velocity."""
        return nnx.merge(self._graph, params)

    def encode(
        self, video: Float[np.ndarray, "b t h w 3"], modality: str
    ) -> Float[Array, "b lt lh lw c"]:
        """Normalised latents of a modality's video in [-1, 1], one video per device at a time."""
        streamed = np.prod(video.shape[1:4]) > STREAMED_PIXELS
        method = self.vae.encode_streamed if streamed else self.vae.encode
        encode = functools.partial(method, modality=modality)
        return jnp.concatenate(list(self._one_a_device(encode, video)))

    def decode(
        self, latents: Float[Array, "b lt lh lw c"], modality: str
    ) -> Float[np.ndarray, "b t h w 3"]:
        """Video in [-1, 1] of a modality's latents, one video per device at a time."""
        config = self.vae.config
        pixels = np.prod(latents.shape[1:4]) * config.temporal_stride * config.spatial_stride**2
        method = self.vae.decode_streamed if pixels > STREAMED_PIXELS else self.vae.decode
        decode = functools.partial(method, modality=modality)
        parts = self._one_a_device(decode, np.asarray(latents))
        return np.concatenate([np.asarray(part) for part in parts])

    def _one_a_device(
        self, function: Callable[[Any], Array], rows: Shaped[np.ndarray, "b ..."]
    ) -> Iterator[Array]:
        """The function of as many rows at once as there are devices, which bounds the memory."""
        for first in range(0, len(rows), self._devices.count):
            part = rows[first : first + self._devices.count]
            yield function(self._devices.share(part))[: len(part)]

    def contexts(
        self,
        streams: Sequence[str],
        captions: Sequence[str],
        modality_prompts: Mapping[str, str | Sequence[str]],
    ) -> tuple[Float[np.ndarray, "b s l d"], Float[np.ndarray, "b s l d"]]:
        """Text embeddings per sample and stream, and those that text guidance compares with.

        Arguments and errors as `texts.texts_of`.
        """
        rows = texts.texts_of(streams, captions, modality_prompts)
        self.warn_of_cut(text for row in rows.values() for text in row)
        return texts.embed(rows, self.text_encoder, drops_prompts=self.prompt_dropout > 0)

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        given: Mapping[str, Any] = types.MappingProxyType({}),
        wanted: Sequence[str],
        first_frame: Any = None,
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
            alone.
          first_frame: what the wanted RGB starts with (Wan 2.2 TI2V-5B; other models have not
            learned it): an image's file, or [H,W,3] (for every prompt) or [B,H,W,3] as `given`
            takes videos.
          modality_prompts: replaces a modality's own prompt ("segment the two objects"), one for
            all captions or one per caption.
          sampler: None takes the pipeline's own.
          seed: one for the batch, or one per prompt; a prompt's own seed makes its sample
            independent of the rest of the batch.
          num_frames, height, width: of what is sampled; None takes the size of the given videos, or
            the pipeline's own.
          settings: fields of `SamplerConfig` that differ from `sampler`, such as steps=8.

        Raises:
          UserError: names the argument: unknown or repeated modality, sizes that differ or that the
            model cannot take, counts that disagree, a file that does not read.
        """
        captions = [prompts] if isinstance(prompts, str) else list(prompts)
        batch = len(captions)
        if not batch:
            raise UserError("prompts: empty; pass at least one caption (it may be '')")
        if isinstance(wanted, str):
            raise UserError(f"wanted={wanted!r}: pass a tuple of names, ({wanted!r},)")
        streams = stream_order([*given, *wanted], self.modalities)
        if not wanted:
            raise UserError("wanted: empty; name at least one modality to sample")
        for name in modality_prompts:
            if name not in streams or name == RGB:
                raise UserError(f"modality_prompts[{name!r}]: no such modality stream in this call")
        sampler = (sampler or self.sampler).changed(**settings)
        given = files.as_given(
            given,
            num_frames=num_frames,
            default_frames=self.num_frames,
            height=height or self.height,
            width=width or self.width,
            fps=self.fps,
            multiple=self.token_pixels,
            codecs={name: self.codec(name) for name in given if name in self.modalities},
        )
        videos = {
            name: arrays.as_batch(f"given {name}", given[name].video, batch)
            for name in streams
            if name in given
        }
        size = arrays.common_size(
            videos,
            asked=(num_frames, height, width),
            default=(self.num_frames, self.height, self.width),
        )
        check_size(*size, self.token_pixels)
        latent_shape = self.vae.config.latent_shape(*size)[:3]
        check_sampling(
            self.model_config, latent_shape, len(streams), -(-batch // self._devices.count)
        )
        image = first = None
        if first_frame is not None:
            self._check_first_frame(wanted)
            first = files.as_first_frame(first_frame, height=size[1], width=size[2])
            image = arrays.as_first_frame(first.video, size, batch)
        if given and self.model_config.shared_timestep and sampler.condition_guidance != 1.0:
            raise UserError(
                f"condition_guidance={sampler.condition_guidance:g}: this model was never without "
                "its condition (model.shared_timestep); set it to 1"
            )

        context, null_context = self.contexts(streams, captions, modality_prompts)
        prompts_of = texts.texts_of(streams, captions, modality_prompts)
        latents = self._given_latents(streams, videos, size, batch)
        if image is not None:
            latents = latents.at[:, 0, :1].set(self.encode(image, RGB))
        ids = np.array([self.modalities.index(name) for name in streams], np.int32)
        rows = (
            latents,
            jnp.tile(ids, (batch, 1)),
            context,
            null_context,
            arrays.sample_keys(seed, batch),
        )
        mesh = self._devices.mesh
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            result = self._sample(
                self.params,
                *(self._devices.share(array) for array in rows),
                wanted=tuple(name in wanted for name in streams),
                first_frame=tuple(name == RGB and image is not None for name in streams),
                sampler=sampler.for_texts(context, null_context),
            )[:batch]
        finite = np.asarray(jnp.isfinite(result).all(axis=(2, 3, 4, 5)))
        if not finite.all():
            bad = [f"{streams[s]} of sample {b}" for b, s in np.argwhere(~finite)]
            raise FloatingPointError(f"the sampler left the finite numbers: {', '.join(bad)}")
        for s, name in enumerate(streams):
            if name in wanted:
                videos[name] = self.decode(result[:, s], name)
        common = {
            "sampler": dataclasses.asdict(sampler),
            "given": {name: one.source for name, one in given.items()},
            "first_frame": first and first.source,
            "codecs": {name: self.codec(name).version for name in streams},
            "size": size,
            "fps": self.fps,
            **self._origin(),
        }
        return Samples(
            videos={name: videos[name] for name in streams},
            latents={name: np.asarray(result[:, s]) for s, name in enumerate(streams)},
            streams=streams,
            wanted=tuple(wanted),
            fps=self.fps,
            codecs={name: self.codec(name) for name in streams},
            sides={name: one.side for name, one in given.items() if one.side is not None},
            units={name: one.unit for name, one in given.items() if one.unit},
            records=[
                {
                    "prompts": {name: row[b] for name, row in prompts_of.items()},
                    "seed": int(np.broadcast_to(seed, batch)[b]),
                    "index": b,
                    **common,
                }
                for b in range(batch)
            ],
        )

    def _origin(self) -> dict[str, Any]:
        """What a record says of the weights and of what computed with them."""
        return {
            "checkpoint_step": self.step,
            "config_sha256": provenance.config_hash(self.config),
            "config": provenance.plain(self.config),
            "versions": provenance.versions(),
        }

    def _check_first_frame(self, wanted: Sequence[str]) -> None:
        if RGB not in wanted:
            raise UserError(f"first_frame: is of the rgb that wanted={tuple(wanted)} lacks; add it")
        if self.model_config.patch_size[0] != 1:
            raise UserError("first_frame: this model's tokens join frames (model.patch_size)")

    def _given_latents(
        self,
        streams: Sequence[str],
        videos: Mapping[str, Float[np.ndarray, "b t h w 3"]],
        size: tuple[int, int, int],
        batch: int,
    ) -> Float[Array, "b s lt lh lw c"]:
        placeholder = jnp.zeros((batch, *self.vae.config.latent_shape(*size)), jnp.float32)
        latents = [
            self.encode(videos[name], name) if name in videos else placeholder for name in streams
        ]
        return jnp.stack(latents, axis=1)
