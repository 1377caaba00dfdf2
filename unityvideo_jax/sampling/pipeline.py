"""Text encoder, VAE and model behind one call: prompts and videos in, videos out."""

import contextlib
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
from unityvideo_jax.models import lora
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.models.text.encoder import CutTexts, TextEncoder
from unityvideo_jax.models.vae.wan_vae import STREAMED_PIXELS, WanVAE
from unityvideo_jax.pretrained.text import get_text_encoder
from unityvideo_jax.runtime import seeds
from unityvideo_jax.sampling import arrays
from unityvideo_jax.sampling.devices import Devices
from unityvideo_jax.sampling.fit import check_sampling
from unityvideo_jax.sampling.generate import SamplerConfig, jit_generate
from unityvideo_jax.sampling.streams import RGB, Samples, check_size, stream_order
from unityvideo_jax.settings.sections import check_keys, check_values, section


class Pipeline:
    """Samples videos of any modality from prompts and videos of any other.

    Build it with `from_workdir`, or from parts in memory.

    Attributes:
      config: the run's configuration (keys model, data, sampling).
      step: training step of the weights.
      modalities: names that the model knows, RGB first.
      warn_of_cut: given texts, warns once if some are longer than the model reads; every call
        gives it its own.
    """

    def __init__(
        self,
        *,
        config: Mapping[str, Any],
        params: Any,
        vae: WanVAE,
        text_encoder: TextEncoder,
        step: int,
    ):
        """Takes parts that are loaded already.

        Args:
          config: with the keys model, data and sampling of a run.
          params: state of the DiT, as nnx.split gives it.
          vae: video autoencoder with the latents that the model was trained on.
          text_encoder: the one that the model was trained on.
          step: training step of the weights.
        """
        self.config = config
        self.step = step
        self.model_config = section(DiTConfig, config, "model")
        self.modalities = tuple(self.model_config.modalities)
        self.text_encoder = text_encoder
        self.warn_of_cut = CutTexts(text_encoder, f"config.data.text_length={text_encoder.length}")
        adapters = lora.LoraConfig.of(config)
        self._graph = nnx.graphdef(
            nnx.eval_shape(
                lambda: lora.make_for_sampling(self.model_config, adapters, rngs=nnx.Rngs(0))
            )
        )
        self.params = params
        self.vae = vae
        if vae.config.z_dim != self.model_config.in_channels:
            raise UserError(
                f"the VAE has {vae.config.z_dim} latent channels, model.in_channels is "
                f"{self.model_config.in_channels}; use the VAE that the model was trained on"
            )
        self._devices = Devices()
        self._sample = jit_generate(lambda params: self.velocity(params))

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
        # Here, so that sampling from parts in memory needs none of them.
        from unityvideo_jax.checkpoints.reading import load_for_inference
        from unityvideo_jax.inputs.config import READ_LATER, DataConfig
        from unityvideo_jax.pretrained.vae import load_vae

        config, params, step = load_for_inference(
            workdir, step=step, use_ema=use_ema, fallback=fallback
        )
        config = config.to_dict() if hasattr(config, "to_dict") else config
        data = config["data"]
        where = f"{workdir}: config.data."
        check_keys(data, list(data), where, READ_LATER)
        check_values(DataConfig, {key: data[key] for key in READ_LATER}, where)
        return cls(
            config=config,
            params=params,
            vae=load_vae(vae or data["vae"] or None),
            text_encoder=get_text_encoder(
                text_encoder or data["text_encoder"], data["text_length"]
            ),
            step=int(step),
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

    @property
    def sampler(self) -> SamplerConfig:
        """The run's own sampling settings."""
        return section(SamplerConfig, self.config, "sampling")

    def codec(self, modality: str) -> modalities.Codec:
        """The codec that drew a modality in the data that the model was trained on."""
        choices = {"depth": self.config["data"].get("depth_codec", "relative")}
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

        RGB reads the caption, a modality its in-context prompt C_m. Guidance drops the texts that
        training drops: the caption, and the prompts only if the run had prompt dropout.
        """
        batch = len(captions)
        texts, null_texts = [], []
        drops_prompts = float(self.config["data"].get("prompt_dropout", 0.0)) > 0
        for name in streams:
            if name == RGB:
                texts.append(list(captions))
                null_texts.append([""] * batch)
                continue
            prompt = modality_prompts.get(name, modalities.get(name).prompt)
            prompts = [prompt] * batch if isinstance(prompt, str) else list(prompt)
            if len(prompts) != batch:
                raise UserError(
                    f"modality_prompts[{name!r}]: {len(prompts)} prompts for {batch} captions"
                )
            texts.append(prompts)
            null_texts.append([""] * batch if drops_prompts else prompts)
        # Each distinct text is embedded once.
        distinct = sorted({t for row in texts + null_texts for t in row})
        self.warn_of_cut(distinct)
        table = dict(zip(distinct, self.text_encoder(distinct), strict=True))

        def stack(rows):
            return np.stack([[table[row[b]] for row in rows] for b in range(batch)])

        return stack(texts), stack(null_texts)

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        given: Mapping[str, Shaped[np.ndarray, "..."]] = types.MappingProxyType({}),
        wanted: Sequence[str],
        first_frame: Shaped[np.ndarray, "..."] | None = None,
        modality_prompts: Mapping[str, str | Sequence[str]] = types.MappingProxyType({}),
        sampler: SamplerConfig | None = None,
        seed: int | Sequence[int] = 0,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Samples:
        """Samples the wanted streams for every prompt.

        Args:
          prompts: captions of the video; "" for none, as for estimation from unlabelled video.
          given: videos per stream, [T,H,W,3] (for every prompt) or [B,T,H,W,3], uint8 or float in
            [-1, 1]; modalities as their codec encodes them.
          wanted: streams to sample; with `given`, any two or more of the model's modalities, or one
            alone.
          first_frame: image [H,W,3] (for every prompt) or [B,H,W,3], as `given` takes videos, that
            the wanted RGB starts with (Wan 2.2 TI2V-5B; other models have not learned it).
          modality_prompts: replaces a modality's own prompt ("segment the two objects"), one for
            all captions or one a caption.
          sampler: None takes the run's own.
          seed: one for the batch, or one a prompt; a prompt's own seed makes its sample independent
            of the rest of the batch.
          num_frames, height, width: of what is sampled; None takes the size of the given videos, or
            the run's own.

        Raises:
          UserError: names the argument: unknown or repeated modality, sizes that differ or that the
            model cannot take, counts that disagree.
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
        videos = {
            name: arrays.as_batch(f"given {name}", given[name], batch)
            for name in streams
            if name in given
        }
        data = self.config["data"]
        size = arrays.common_size(
            videos,
            asked=(num_frames, height, width),
            default=(data["num_frames"], data["height"], data["width"]),
        )
        check_size(*size, self.token_pixels)
        latent_shape = self.vae.config.latent_shape(*size)[:3]
        check_sampling(
            self.model_config, latent_shape, len(streams), -(-batch // self._devices.count)
        )
        image = None
        if first_frame is not None:
            self._check_first_frame(wanted)
            image = arrays.as_first_frame(first_frame, size, batch)
        sampler = sampler or self.sampler
        if given and self.model_config.shared_timestep and sampler.condition_guidance != 1.0:
            raise UserError(
                f"condition_guidance={sampler.condition_guidance:g}: this model was never without "
                "its condition (model.shared_timestep); set it to 1"
            )

        context, null_context = self.contexts(streams, captions, modality_prompts)
        sampler = sampler.for_texts(context, null_context)
        latents = self._given_latents(streams, videos, size, batch)
        if image is not None:
            latents = latents.at[:, 0, :1].set(self.encode(image, RGB))
        ids = np.array([self.modalities.index(name) for name in streams], np.int32)
        rows = (latents, jnp.tile(ids, (batch, 1)), context, null_context, _keys(seed, batch))
        mesh = self._devices.mesh
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            result = self._sample(
                self.params,
                *(self._devices.share(array) for array in rows),
                wanted=tuple(name in wanted for name in streams),
                first_frame=tuple(name == RGB and image is not None for name in streams),
                sampler=sampler,
            )[:batch]
        finite = np.asarray(jnp.isfinite(result).all(axis=(2, 3, 4, 5)))
        if not finite.all():
            bad = [f"{streams[s]} of sample {b}" for b, s in np.argwhere(~finite)]
            raise FloatingPointError(f"the sampler left the finite numbers: {', '.join(bad)}")
        for s, name in enumerate(streams):
            if name in wanted:
                videos[name] = self.decode(result[:, s], name)
        return Samples(
            videos={name: videos[name] for name in streams},
            latents={name: np.asarray(result[:, s]) for s, name in enumerate(streams)},
            streams=streams,
        )

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
        parts = [
            self.encode(videos[name], name) if name in videos else placeholder for name in streams
        ]
        return jnp.stack(parts, axis=1)


def _keys(seed: int | Sequence[int], batch: int) -> Array:
    """One key a sample, from one seed and its place or from a seed of its own."""
    for one in np.atleast_1d(seed).tolist():
        seeds.check(one, "seed")
    if isinstance(seed, int | np.integer):
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(int(seed)), jnp.arange(batch))
    if len(seed) != batch:
        raise UserError(f"seed: {len(seed)} seeds for {batch} prompts; give one, or one a prompt")
    return jnp.stack([jax.random.key(int(s)) for s in seed])
