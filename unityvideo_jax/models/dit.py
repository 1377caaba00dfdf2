"""The diffusion transformer: Wan 2.1's, over streams of several modalities at once.

Any number of streams lie side by side along the width, RGB first, and attend jointly. Attention
does not care about the order of its tokens, only about the angles that RoPE gives them; so tokens
are stored stream by stream, [batch, stream, token, dim], with the angles of the joint grid.
Modulation then broadcasts and cross-attention splits by stream without moving any data, also when a
mesh splits the tokens of every stream among its devices.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Key

from unityvideo_jax.errors import UserError
from unityvideo_jax.kernels.pointwise import gated_sum, gelu, input_and_norm, sum_and_norm
from unityvideo_jax.kernels.rope import ColumnTable, RopeTable, column_table, rope_table
from unityvideo_jax.models.adapter import Use
from unityvideo_jax.models.attention import Attention
from unityvideo_jax.models.config import DiTConfig, model_flops
from unityvideo_jax.models.layers import (
    MLP,
    LayerNorm,
    Linear,
    LogicalAxes,
    is_kernel,
    patchify,
    small_normal,
    timestep_features,
    unpatchify,
)
from unityvideo_jax.models.remat import FFN_OUTPUT, rematerialise
from unityvideo_jax.models.switcher import (
    AdditiveSwitch,
    Heads,
    ModalityEmbedding,
    Modulation,
    PatchEmbedding,
    choose,
    select,
)
from unityvideo_jax.parallel import rules
from unityvideo_jax.settings.sections import check_instance

__all__ = ["Block", "DiT", "DiTConfig", "model_flops"]

FLOAT32 = jnp.dtype("float32")

Constrain = Callable[[Array, LogicalAxes], Array]


class Block(nnx.Module):
    """A block of Wan 2.1: joint self-attention, cross-attention to text, feed-forward."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        attention = functools.partial(
            Attention,
            dim=config.dim,
            num_heads=config.num_heads,
            eps=config.eps,
            implementation=config.attention,
            parallel=config.attention_parallel,
        )
        self.modulation = Modulation(config.num_tables, 6, config.dim, rngs=rngs)
        self.self_attention = attention(rngs=rngs)
        self.cross_norm = LayerNorm(config.dim, config.eps)
        self.cross_attention = attention(rngs=rngs)
        self.ffn = MLP(
            sizes=(config.dim, config.ffn_dim, config.dim),
            axes=("embed", "mlp", "embed"),
            activation=gelu,
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array, "b s n d"],
        vectors: Float[Array, "b s u 6 d"],
        choice: Float[Array, "b s k"],
        context: Float[Array, "b g m d"],
        rope: RopeTable,
        clean: Bool[Array, "b s n 1"] | None = None,
        columns: ColumnTable | None = None,
        use: Use | None = None,
    ) -> Float[Array, "b s n d"]:
        """Runs one block: three residual branches, the first and last modulated by the timestep.

        A branch gives its last matrix product and the bias apart; the step that reads them adds
        them, in one kernel (`docs/kernels.md`).

        Args:
          x: tokens in the compute type.
          vectors: the timestep's modulation, float32, and with `clean` that of t = 0 (u = 2).
          choice: one-hot row of the modulation tables.
          context: embedded text of each stream, or of all streams together (g = 1).
          rope: angles of all streams' tokens, [s, n, half].
          clean: tokens at t = 0, whatever their stream's timestep.
          columns: further angles of each (sample, stream), [b, s, 1, half].
          use: choice and dropout of adapters; None is without dropout.

        Returns:
          The tokens after the block, in the type of `x`.
        """
        dtype, eps = x.dtype, self.config.eps
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self.modulation(vectors, choice, clean)

        x, normed = input_and_norm(x, 1.0 + scale, shift, eps)
        attended, bias = self.self_attention.product_and_bias(
            normed, None, dtype, rope, columns, use
        )
        x = gated_sum(x, attended, bias, gate)

        x, normed = self.cross_norm.input_and_norm(x)
        attended, bias = self.cross_attention.product_and_bias(normed, context, dtype, use=use)

        x, normed = sum_and_norm(x, attended, bias, 1.0 + ffn_scale, ffn_shift, eps)
        fed, bias = self.ffn.product_and_bias(normed, dtype, use)
        return gated_sum(x, checkpoint_name(fed, FFN_OUTPUT), bias, ffn_gate)


class DiT(nnx.Module):
    """Velocity network of every stream's latents, given all streams (UnityVideo sec. 3; Wan 2.1).

    `blocks` holds all blocks in one module whose parameters have the layer as first axis.
    Each parameter's `logical_axes` metadata names its dimensions.
    """

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs) -> None:
        check_instance(DiTConfig, config, "config", "a DiTConfig")
        self.config = config
        self.adapters = 0  # per layer, once `models.lora` has put them there
        dim = config.dim
        count = len(config.modalities)
        self.patch_embedding = PatchEmbedding(
            config.num_inputs,
            config.patch_dim,
            dim,
            grouped=config.inputs != "per_modality",
            rngs=rngs,
        )
        self.text_embedding = MLP(
            (config.text_dim, dim, dim), ("text", "embed", None), gelu, rngs=rngs, init=small_normal
        )
        self.time_embedding = MLP(
            (config.freq_dim, dim, dim),
            (None, "embed", None),
            _silu,
            rngs=rngs,
            init=small_normal,
        )
        self.time_projection = Linear(dim, 6 * dim, ("embed", None), rngs=rngs)
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.blocks = nnx.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)
        for _, node in nnx.iter_graph(self.blocks):
            if isinstance(node, nnx.Param):
                node.set_metadata("logical_axes", ("layers", *node.get_metadata("logical_axes")))
        self.heads = Heads(
            config.num_outputs,
            dim,
            config.patch_dim,
            config.eps,
            grouped=config.heads == "shared",
            rngs=rngs,
        )
        # The switch comes last so that the base weights do not depend on it for a given seed.
        if config.switcher == "adaln":
            self.modality_embedding = ModalityEmbedding(count, dim)
        elif config.switcher == "additive":
            self.additive_switch = AdditiveSwitch(count, dim, rngs=rngs)

    def __call__(
        self,
        latents: Float[Array, "b s t h w c"],
        timestep: Float[Array, "b s"],
        modality: Int[Array, "b s"],
        context: Float[Array, "b s m e"],
        *,
        clean: Bool[Array, "b s t"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
        constrain: Constrain = rules.constrain,
    ) -> Float[Array, "b s t h w c"]:
        """Returns the velocity dx/dt of each stream.

        Args:
          latents: noised or clean latents of one or more streams, RGB first if present.
          timestep: of each stream, in [0, 1]; 0 = clean, 1 = noise.
          modality: id of each stream, an index of `config.modalities`.
          context: text features of each stream, at most `text_len` long; zeros are appended.
          clean: latent frames that are at t = 0 whatever their stream's timestep: those that
            condition Wan 2.2 TI2V-5B. Frames that share a patch are clean together. None means
            that no frame is.
          dropout_key: of the dropout of adapters; None drops nothing.
          constrain: called with activations [b, s, n, d] and their logical axes
            ("batch", None, "tokens", None) before every block; lays them out over the ambient mesh.

        Returns:
          float32, shaped as `latents`.

        Raises:
          UserError: sizes that the configuration cannot take.
        """
        config = self.config
        dtype = jnp.dtype(config.dtype)
        grid = self._check(latents, context)

        patches = patchify(latents, config.patch_size)
        x = self.patch_embedding(patches, modality, dtype)
        # Modulation is float32 to the end: bfloat16 would blur neighbouring timesteps.
        own_timestep = timestep
        if config.shared_timestep:
            timestep = jnp.broadcast_to(timestep.max(axis=1, keepdims=True), timestep.shape)
        times = timestep[:, :, None]
        if clean is not None:
            times = jnp.concatenate([times, jnp.zeros_like(times)], axis=-1)
            clean = clean[:, :, :: config.patch_size[0]]
            clean = jnp.repeat(clean, grid[1] * grid[2], axis=-1)[..., None]
        time = self.time_embedding(timestep_features(times, config.freq_dim), FLOAT32)
        if config.switcher == "adaln":
            time = time + self.modality_embedding(modality)[:, :, None]
        elif config.switcher == "additive":
            x = self.additive_switch(x, modality, dtype)
        vectors = self.time_projection(jax.nn.silu(time), FLOAT32)
        vectors = vectors.reshape(*times.shape, 6, config.dim)

        if not config.in_context:
            context = context[:, :1]
        missing = config.text_len - context.shape[2]
        context = jnp.pad(context, ((0, 0), (0, 0), (0, missing), (0, 0)))
        context = self.text_embedding(context, dtype)

        rope, columns = self._angles(modality, grid)
        choice = choose(modality, config.num_tables, grouped=False)
        use = (
            Use.make(modality, own_timestep, self.adapters, dropout_key) if self.adapters else None
        )
        x = self._run_blocks(x, vectors, choice, context, rope, clean, columns, use, constrain)
        x = self.heads(x, time, modality, dtype, clean)
        return unpatchify(x, config.patch_size, grid)

    def _angles(
        self, modality: Int[Array, "b s"], grid: tuple[int, int, int]
    ) -> tuple[RopeTable, ColumnTable | None]:
        """RoPE of all tokens, [s, n, half], and what it lacks of each (sample, stream)."""
        config, streams = self.config, modality.shape[1]
        side_by_side = streams if config.rope_columns == "place" else 1
        rope = rope_table(config.head_dim, side_by_side, grid, config.rope_theta)
        rope = tuple(part.reshape(side_by_side, -1, part.shape[-1]) for part in rope)
        if config.rope_columns == "place":
            return rope, None
        rope = tuple(jnp.broadcast_to(part, (streams, *part.shape[1:])) for part in rope)
        if config.rope_columns == "rgb":
            return rope, None
        # Turning by the column in the stream and by the stream's first column adds the angles.
        count = len(config.modalities)
        firsts = column_table(config.head_dim, grid[2] * np.arange(count), config.rope_theta)
        choice = choose(modality, count, grouped=False)
        return rope, tuple(select(part, choice)[:, :, None] for part in firsts)

    def _run_blocks(
        self,
        x: Float[Array, "b s n d"],
        vectors: Float[Array, "b s u 6 d"],
        choice: Float[Array, "b s k"],
        context: Float[Array, "b g m d"],
        rope: RopeTable,
        clean: Bool[Array, "b s n 1"] | None,
        columns: ColumnTable | None,
        use: Use | None,
        constrain: Constrain,
    ) -> Float[Array, "b s n d"]:
        """Scan over the layers: one block is traced, and compiled unless the scan is unrolled."""
        graphdef, stacked = nnx.split(self.blocks)
        stacked = _in_compute_type(stacked, x.dtype)

        drops = use is not None and use.key is not None
        keys = jax.random.split(use.key, self.config.num_layers) if drops else None

        def body(x, layer):
            params, key = layer
            x = constrain(x, ("batch", None, "tokens", None))
            own = None if use is None else Use(use.choice, key)
            block = nnx.merge(graphdef, params)
            return block(x, vectors, choice, context, rope, clean, columns, own), None

        unrolled = not self.config.scan_layers
        body = rematerialise(body, self.config.remat, unrolled=unrolled)
        unroll = self.config.num_layers if unrolled else 1
        return jax.lax.scan(body, x, (stacked, keys), unroll=unroll)[0]

    def _check(self, latents: Array, context: Array) -> tuple[int, int, int]:
        """Returns the token grid of one stream; UserError if a size does not fit."""
        config = self.config
        if latents.shape[-1] != config.in_channels:
            raise UserError(
                f"Latents have {latents.shape[-1]} channels but model.in_channels="
                f"{config.in_channels}: use the VAE this model was made for."
            )
        if context.shape[-1] != config.text_dim:
            raise UserError(
                f"Context features have size {context.shape[-1]} but model.text_dim="
                f"{config.text_dim}: use the text encoder this model was made for."
            )
        if context.shape[2] > config.text_len:
            raise UserError(
                f"Contexts are {context.shape[2]} tokens long but model.text_len="
                f"{config.text_len}: shorten them or raise model.text_len."
            )
        return config.token_grid(tuple(latents.shape[2:5]))


def _silu(x: Float[Array, "... d"], bias: Float[Array, " d"]) -> Float[Array, "... d"]:
    return jax.nn.silu(x + bias)


def _in_compute_type(parameters: nnx.State, dtype: jnp.dtype) -> nnx.State:
    """Casts the kernels of all layers to the type they are used in.

    This happens once before the scan, not in every layer: what a layer then reads, gathers from
    other devices and returns as its gradient takes half the bytes.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.astype(dtype) if is_kernel(path) else x, parameters
    )
