"""Loss, optimiser and one compiled step of the autoencoder's training.

No network judges the pictures: the loss is absolute error of pixels, of their differences in space
and time and of two coarser scales, and a small Kullback-Leibler term.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.psnr import psnr
from unityvideo_jax.models.vae.wan_vae import WanVAE
from unityvideo_jax.training.optimizer import check_ranges

# A pixel this far from the modality's background counts as foreground.
FOREGROUND = 0.05
# Foreground rarer than this share is not weighted up further.
RAREST = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAELossConfig:
    """Weights of the loss.

    Attributes:
      gradient: of the absolute error of differences between neighbours in height, width and time.
      coarse: of the absolute error of 2x2 and 4x4 means, each.
      kl: of the Kullback-Leibler divergence to the unit normal, in nats per latent number.
      foreground: weight of all pixels off a modality's background, relative to that of all pixels.
        Skeletons cover a few per cent of the picture, and only those can be decoded.
      first_frame: weight of a clip's first frame, which is a latent frame of its own, relative to
        each other frame.
      background: by modality, the value of empty pixels in all channels.
      modality_weights: by modality; 1 if not named.

    Raises:
      UserError: a negative weight.
    """

    gradient: float = 0.5
    coarse: float = 0.25
    kl: float = 3e-5
    foreground: float = 1.0
    first_frame: float = 1.0
    background: Mapping[str, float] = dataclasses.field(default_factory=dict)
    modality_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ("gradient", "coarse", "kl", "foreground", "first_frame")
        weights = {name: getattr(self, name) for name in names}
        weights |= {f"modality_weights.{k}": v for k, v in self.modality_weights.items()}
        for name, value in weights.items():
            if not 0 <= value < math.inf:
                raise UserError(f"config.loss.{name}={value}: give 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEOptimizerConfig:
    """AdamW with warm-up and cosine decay, and an exponential moving average of the weights.

    Attributes:
      learning_rate: peak.
      warmup_steps: linear warm-up from zero.
      b1, b2, eps: AdamW's.
      weight_decay: times the learning rate; only kernels decay.
      clip_norm: bound of the gradient's global norm.
      ema_decay: of the averaged weights.

    Raises:
      UserError: a value out of range.
    """

    learning_rate: float = 8e-4
    warmup_steps: int = 100
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    ema_decay: float = 0.998

    def __post_init__(self) -> None:
        check_ranges(self)

    def rate(self, step: int, progress: float) -> float:
        """The learning rate: linear warm-up over steps, times a cosine of `progress` in [0, 1]."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        return self.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEState:
    """The state of training.

    Attributes:
      params: float32.
      ema: their moving average.
      optimizer: a pytree of optax.
      step: steps done.
    """

    params: Any
    ema: Any
    optimizer: Any
    step: Int[Array, ""]


def transformation(config: VAEOptimizerConfig) -> optax.GradientTransformation:
    """Returns AdamW without its learning rate; only kernels decay, not biases and norm scales."""

    def kernels(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
    )


@functools.partial(jax.jit, static_argnums=0)
def encode_modalities(
    names: tuple[str, ...], clips: Mapping[str, Shaped[Array, "..."]]
) -> tuple[Float[Array, "n m t h w 3"], list[dict[str, Float[Array, "..."]]]]:
    """Returns every modality's video of a batch of clips, and its side records (leading axis n)."""
    videos, sides = [], []
    for name in names:
        video, side = jax.vmap(registry.get(name).codec.encode)(dict(clips))
        videos.append(video)
        sides.append(side)
    return jnp.stack(videos, axis=1), sides


def foreground_weights(
    video: Float[Array, "n m t h w 3"], names: tuple[str, ...], config: VAELossConfig
) -> Float[Array, "n m t h w 1"]:
    """Each pixel's weight, mean 1 per video: foreground and everything share it as configured.

    Args:
      video: in [-1, 1].
      names: the modalities on axis 1.
      config: backgrounds and weights.
    """
    known = jnp.array([name in config.background for name in names], jnp.float32)
    level = jnp.array([config.background.get(name, 0.0) for name in names], jnp.float32)
    shape = (1, len(names), 1, 1, 1, 1)
    distance = jnp.abs(video - level.reshape(shape)).max(axis=-1, keepdims=True)
    is_foreground = (distance > FOREGROUND).astype(jnp.float32) * known.reshape(shape)
    share = is_foreground.mean(axis=(2, 3, 4, 5), keepdims=True)
    weight = 1.0 + config.foreground * is_foreground / jnp.maximum(share, RAREST)
    return weight / weight.mean(axis=(2, 3, 4, 5), keepdims=True)


def _coarser(x: Float[Array, "n t h w c"], factor: int) -> Float[Array, "n t p q c"]:
    n, t, h, w, c = x.shape
    return x.reshape(n, t, h // factor, factor, w // factor, factor, c).mean(axis=(3, 5))


def reconstruction_loss(
    error: Float[Array, "n t h w 3"], weight: Float[Array, "n t h w 1"], config: VAELossConfig
) -> Float[Array, " n"]:
    """The loss of each video from its signed error: all terms are linear in the error's size.

    Args:
      error: reconstruction minus video.
      weight: of each pixel.
      config: weights of the terms.
    """

    def mean(x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.mean(jnp.abs(x), axis=(1, 2, 3, 4))

    loss = mean(error * weight)
    # The error's differences are the differences' error.
    differences = mean(jnp.diff(error, axis=2)) + mean(jnp.diff(error, axis=3))
    if error.shape[1] > 1:
        differences += mean(jnp.diff(error, axis=1))
    coarse = mean(_coarser(error, 2)) + mean(_coarser(error, 4))
    return loss + config.gradient * differences + config.coarse * coarse


def vae_loss(
    vae: WanVAE,
    video: Float[Array, "n m t h w 3"],
    key: PRNGKeyArray,
    names: tuple[str, ...],
    config: VAELossConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, "..."]]]:
    """Returns the loss of a batch, all modalities of each clip, with one posterior sample each.

    Args:
      vae: the autoencoder.
      video: in [-1, 1].
      key: of the posterior samples.
      names: the modalities on axis 1.
      config: the weights.

    Returns:
      The loss and float32 metrics: "loss", "kl" (nats per latent number) and, by modality, "psnr".
    """
    n, m = video.shape[:2]
    flat = video.reshape(n * m, *video.shape[2:])
    mean, logvar = vae.posterior(flat)
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    error = vae.reconstruct(mean + jnp.exp(0.5 * logvar) * noise) - flat
    weight = foreground_weights(video, names, config).reshape(*flat.shape[:-1], 1)
    # All terms are linear in the error's size, so a frame's weight may scale its error.
    frames = jnp.ones(error.shape[1]).at[0].set(config.first_frame)
    scaled = error * (frames / frames.mean())[:, None, None, None]
    per_video = reconstruction_loss(scaled, weight, config).reshape(n, m)
    shares = jnp.array([config.modality_weights.get(name, 1.0) for name in names], jnp.float32)
    loss = jnp.sum(per_video.mean(axis=0) * shares) / jnp.sum(shares)
    kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
    loss += config.kl * kl
    mse = jnp.mean(jnp.square(error), axis=(1, 2, 3, 4)).reshape(n, m)
    return loss, {"loss": loss, "kl": kl, "psnr": psnr(mse).mean(axis=0)}


def init_state(vae: WanVAE, config: VAEOptimizerConfig) -> tuple[nnx.GraphDef[WanVAE], VAEState]:
    """Returns the module's graph and the first state; the moving average starts at the weights."""
    graph, params = nnx.split(vae)
    optimizer = transformation(config).init(params)
    ema = jax.tree.map(jnp.copy, params)
    return graph, VAEState(
        params=params, ema=ema, optimizer=optimizer, step=jnp.zeros((), jnp.int32)
    )


Step = Callable[
    [VAEState, Float[Array, "n m t h w 3"], PRNGKeyArray, Float[Array, ""] | float],
    tuple[VAEState, dict[str, Float[Array, "..."]]],
]


def make_step(
    graph: nnx.GraphDef[WanVAE],
    names: tuple[str, ...],
    loss_config: VAELossConfig,
    optimizer_config: VAEOptimizerConfig,
) -> Step:
    """Returns the compiled step `(state, video, key, learning_rate) -> (state, metrics)`.

    The state is donated; the key is folded with the step number inside. A second set of shapes
    would compile it again, for minutes: AssertionError.
    """
    transform = transformation(optimizer_config)

    def loss_fn(params, video, key):
        return vae_loss(nnx.merge(graph, params), video, key, names, loss_config)

    # chex counts by where a function is defined, over the whole process: this is another one.
    chex.clear_trace_counter()

    @functools.partial(jax.jit, donate_argnums=0)
    @chex.assert_max_traces(n=1)
    def step(state, video, key, learning_rate):
        key = jax.random.fold_in(key, state.step)
        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params, video, key)
        updates, optimizer = transform.update(gradients, state.optimizer, state.params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
        # A young average follows the weights closely rather than remember where they started.
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(optimizer_config.ema_decay, (1.0 + count) / (10.0 + count))
        ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), state.ema, params)
        metrics["gradient_norm"] = optax.global_norm(gradients)
        state = VAEState(params=params, ema=ema, optimizer=optimizer, step=state.step + 1)
        return state, metrics

    return step
