"""Sizes and switches of the diffusion transformer, and the FLOPs that follow from them."""

import dataclasses
from collections.abc import Sequence

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.kernels import flash
from unityvideo_jax.settings.sections import check_values

SWITCHERS = ("adaln", "additive", "none")
INPUTS = ("auto", "one", "shared", "per_modality")
HEADS = ("per_modality", "shared")
ROPE_COLUMNS = ("place", "modality", "rgb")
REMAT_POLICIES = ("none", "matmuls", "attention_ffn", "attention", "full")
ATTENTIONS = ("auto", "xla", "cudnn", "flash", "splash")
ATTENTION_PARALLEL = ("ulysses", "ring")
DTYPES = ("bfloat16", "float16", "float32")
LARGEST = 2**31 - 1  # what JAX's indices of 32 bits can count


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Configuration of `DiT`. The sizes are Wan 2.1's, the switches are UnityVideo's ablations.

    Attributes:
      dim: width of a token; a multiple of `num_heads`.
      ffn_dim: hidden width of the feed-forward layers.
      num_heads: attention heads; `dim // num_heads` must be even (RoPE rotates pairs).
      num_layers: transformer blocks.
      in_channels: channels of the latents, in and out.
      patch_size: latent cells (time, height, width) joined into one token.
      freq_dim: size of the sinusoidal timestep features; even.
      text_dim, text_len: size of a context token, and the length contexts are padded to. Padding
        is never masked (Wan 2.1).
      eps: epsilon of every normalisation.
      modalities: names of the modalities; a modality id is an index in this tuple. Index 0 is rgb.
      switcher: how a stream's modality changes the network. "adaln": a modulation table per block
        and modality, and a modality embedding added to the timestep's (UnityVideo sec. 3.3);
        "additive": a vector per modality added to its tokens, and a linear map of those of all
        modalities but rgb (public release); "none": not at all.
      inputs: patch embeddings. "one" for all modalities (the paper's appendix); "shared" by all
        modalities but rgb, which has its own (public release); "per_modality" (the paper's expert
        input layers). "auto" is "shared" with the additive switcher and "one" with the others.
      in_context: each stream attends to its own context (in-context learner, UnityVideo sec. 3.3);
        otherwise every stream attends to the first stream's.
      heads: output projections. "per_modality" (the paper's appendix), or "shared" by all
        modalities but rgb, which has its own (public release).
      shared_timestep: every stream gets the largest timestep among them, so that a clean one
        gets the noisy one's (public release); otherwise its own (UnityVideo sec. 3.2).
      rope_theta: base of the rotary frequencies.
      rope_columns: where along the width a stream lies for RoPE. "place": at its place among the
        streams, RGB first (UnityVideo sec. 3.2; public release); "modality": at its modality id,
        so that a stream's columns do not depend on the others; "rgb": on the columns of RGB, so
        that tokens of the same pixels have the same position.
      remat: what the backward pass recomputes, from the most memory to the least: "none" =
        nothing, "matmuls" = every block but its matrix products and attention, "attention_ffn" =
        every block but its self-attention with the log-sum-exp and its feed-forward output,
        "attention" = every block but its self-attention, "full" = every block.
      scan_layers: compile one block and loop over it; otherwise every block in a row, which takes
        longer to compile and more memory, and spares copying what the backward pass needs.
      dtype: compute type. Parameters, norms, modulation and the output stay float32.
      attention: kernel of the attention, see `attention.dot_product_attention`.
      attention_parallel: how self-attention runs when a mesh splits the tokens, see there.

    Raises:
      UserError: a size or a name that cannot be used.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    in_channels: int = 16
    patch_size: Sequence[int] = (1, 2, 2)
    freq_dim: int = 256
    text_dim: int = 256
    text_len: int = 104
    eps: float | int = 1e-6
    modalities: Sequence[str] = registry.BUILT_IN
    switcher: str = "adaln"
    inputs: str = "auto"
    in_context: bool = True
    heads: str = "per_modality"
    shared_timestep: bool = False
    rope_theta: float | int = 1e4
    rope_columns: str = "place"
    remat: str = "full"
    scan_layers: bool = True
    dtype: str = "bfloat16"
    attention: str = "auto"
    attention_parallel: str = "ulysses"

    def __post_init__(self) -> None:
        # Read back from JSON, tuples are lists; stored as tuples so that configs can be compared.
        for name in ("patch_size", "modalities"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise UserError(f"model.{name} must be a tuple, not {value!r}.")
            object.__setattr__(self, name, tuple(value))
        for name in ("dim", "ffn_dim", "num_heads", "num_layers", "in_channels", "text_dim"):
            self._check_positive(name, getattr(self, name))
        self._check_positive("text_len", self.text_len)
        for name in ("eps", "rope_theta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise UserError(f"model.{name}={value!r} must be a positive number.")
            object.__setattr__(self, name, float(value))
        if len(self.patch_size) != 3:
            raise UserError(f"model.patch_size needs (time, height, width), not {self.patch_size}.")
        for size in self.patch_size:
            self._check_positive("patch_size", size)
        check_values(type(self), vars(self), "model.")
        if self.dim % self.num_heads:
            raise UserError(
                f"model.dim={self.dim} is not divisible by model.num_heads={self.num_heads}: "
                "choose a dim that is a multiple of num_heads."
            )
        if self.head_dim % 2:
            raise UserError(
                f"model.dim / model.num_heads = {self.head_dim} is odd, and RoPE rotates pairs: "
                "choose an even head size."
            )
        if self.freq_dim < 2 or self.freq_dim % 2:
            raise UserError(f"model.freq_dim={self.freq_dim} must be even and at least 2.")
        self._check_choice("switcher", SWITCHERS)
        self._check_choice("inputs", INPUTS)
        self._check_choice("heads", HEADS)
        self._check_choice("rope_columns", ROPE_COLUMNS)
        self._check_choice("remat", REMAT_POLICIES)
        self._check_choice("dtype", DTYPES)
        self._check_choice("attention", ATTENTIONS)
        if self.attention == "flash" and self.head_dim != flash.HEAD_DIM:
            raise UserError(
                f"model.attention='flash' needs heads of {flash.HEAD_DIM}, not {self.head_dim} "
                "(model.dim / model.num_heads): set it to 'auto'"
            )
        self._check_choice("attention_parallel", ATTENTION_PARALLEL)
        self._check_modalities()

    def _check_positive(self, name: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"model.{name}={value!r} must be a positive whole number.")
        if value > LARGEST:
            raise UserError(f"model.{name}={value}: no size may be above {LARGEST}.")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise UserError(f"model.{name}={value!r} is unknown: choose one of {list(choices)}.")

    def _check_modalities(self) -> None:
        if not self.modalities or self.modalities[0] != registry.RGB:
            raise UserError(
                f"model.modalities={self.modalities} must start with 'rgb': modality id 0 is RGB."
            )
        if len(set(self.modalities)) != len(self.modalities):
            raise UserError(f"model.modalities={self.modalities} names a modality twice.")
        known = registry.names()
        unknown = [name for name in self.modalities if name not in known]
        if unknown:
            raise UserError(
                f"model.modalities holds unknown {unknown}: known are {list(known)}; "
                "register your own with unityvideo_jax.modalities.register before this."
            )

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.dim // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Numbers in one patch: the input features of a token."""
        time, height, width = self.patch_size
        return time * height * width * self.in_channels

    @property
    def num_tables(self) -> int:
        """Modulation tables in a block: one per modality if the switcher modulates, else one."""
        return len(self.modalities) if self.switcher == "adaln" else 1

    @property
    def num_inputs(self) -> int:
        """Patch embeddings, see `inputs`."""
        inputs = self.inputs
        if inputs == "auto":
            inputs = "shared" if self.switcher == "additive" else "one"
        most = {"one": 1, "shared": 2, "per_modality": len(self.modalities)}[inputs]
        return min(most, len(self.modalities))

    @property
    def num_outputs(self) -> int:
        """Output heads."""
        limit = len(self.modalities)
        return limit if self.heads == "per_modality" else min(2, limit)

    def token_grid(self, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Tokens along (time, height, width) of a latent video with these sizes.

        Raises:
          UserError: a size that is not a multiple of the patch.
        """
        for name, size, patch in zip(
            ("frames", "height", "width"), latent_shape, self.patch_size, strict=True
        ):
            if size < 1 or size % patch:
                raise UserError(
                    f"Latent {name} {size} is not a positive multiple of the patch size {patch} "
                    "(model.patch_size): change the video's size or the patch."
                )
        return tuple(s // p for s, p in zip(latent_shape, self.patch_size, strict=True))


def model_flops(config: DiTConfig, latent_shape: tuple[int, int, int], streams: int = 2) -> int:
    """Floating-point operations of a forward pass of one sample; training takes thrice as many.

    Matrix products and attention count (a multiply-add is two); recomputation and element-wise
    work do not.

    Args:
      config: the model.
      latent_shape: (frames, height, width) of one stream's latents.
      streams: streams per sample.
    """
    d, f = config.dim, config.ffn_dim
    tokens = streams
    for size in config.token_grid(latent_shape):
        tokens *= size
    contexts = config.text_len * (streams if config.in_context else 1)
    block = tokens * (8 * d * d + 4 * d * d + 4 * d * f)  # projections: self, cross q and o, FFN
    block += 4 * d * d * contexts  # cross k and v
    block += 4 * tokens * tokens * d + 4 * tokens * config.text_len * d
    patches = 4 * tokens * config.patch_dim * d  # in and out
    text = 2 * contexts * (config.text_dim * d + d * d)
    time = 2 * streams * (config.freq_dim * d + 7 * d * d)
    residual = 2 * tokens * d * d if config.switcher == "additive" else 0
    return config.num_layers * block + patches + text + time + residual


def parameter_count(config: DiTConfig) -> int:
    """Counts the numbers in the model's weights without making any: the sizes may be absurd."""
    d, f, p, m = config.dim, config.ffn_dim, config.patch_dim, len(config.modalities)
    linear = d * d + d
    attention = 4 * linear + 2 * d  # queries, keys, values, output, and two norms
    block = config.num_tables * 6 * d + 2 * attention + 2 * d + 2 * d * f + f + d
    text = config.text_dim * d + d + linear
    time = config.freq_dim * d + d + linear + 6 * linear
    heads = config.num_outputs * (2 * d + d * p + p)
    switch = {"adaln": m * d, "additive": m * d + linear, "none": 0}[config.switcher]
    inputs = config.num_inputs * (p * d + d)
    return config.num_layers * block + inputs + text + time + heads + switch
