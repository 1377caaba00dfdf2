"""Sizes of Wan's video autoencoders, 2.1 and 2.2, and what follows from them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from unityvideo_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Configuration of `WanVAE`; the default sizes are Wan 2.1's (see `WAN_2_1`, `WAN_2_2`).

    Attributes:
      base_dim: channels at full resolution.
      decoder_base_dim: channels of the decoder at full resolution; None is `base_dim`.
      z_dim: channels of the latents.
      dim_mult: channels of each level as multiples of `base_dim`; each level but the last halves
        height and width.
      num_res_blocks: residual blocks per level of the encoder; the decoder has one more.
      temporal_downsample: whether each halving of space also halves time.
      residual: whether each level is added to a shortcut that has no weights (Wan 2.2).
      patch_size: side of the squares of pixels that become channels first (Wan 2.2: 2).
      latents_mean, latents_std: per latent channel; `encode` gives (mean - latents_mean) /
        latents_std. Empty: 0 and 1, that is, not measured yet.
      modality_statistics: by modality, mean and standard deviation per channel of what that gives;
        latents of these modalities are normalised by them too. Empty: none, as in Wan.

    Raises:
      UserError: a size that cannot be used.
    """

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: Sequence[int] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: Sequence[bool] = (False, True, True)
    residual: bool = False
    patch_size: int = 1
    latents_mean: Sequence[float] = ()
    latents_std: Sequence[float] = ()
    modality_statistics: Mapping[str, Sequence[Sequence[float]]] | Sequence[Sequence] = ()

    def __post_init__(self) -> None:
        # A configuration read back from JSON has lists; tuples can be hashed.
        for name in ("dim_mult", "temporal_downsample", "latents_mean", "latents_std"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise UserError(f"vae.{name} must be a tuple, not {value!r}.")
            object.__setattr__(self, name, tuple(value))
        if self.decoder_base_dim is None:
            object.__setattr__(self, "decoder_base_dim", self.base_dim)
        for name in ("base_dim", "decoder_base_dim", "z_dim", "num_res_blocks", "patch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"vae.{name}={value!r} must be a positive whole number.")
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise UserError(
                f"vae.temporal_downsample={self.temporal_downsample} needs one entry fewer than "
                f"vae.dim_mult={self.dim_mult}."
            )
        self._check_widths()
        for name, default in (("latents_mean", 0.0), ("latents_std", 1.0)):
            value = getattr(self, name) or (default,) * self.z_dim
            if len(value) != self.z_dim:
                raise UserError(
                    f"vae.{name} has {len(value)} numbers for vae.z_dim={self.z_dim} channels."
                )
            object.__setattr__(self, name, tuple(float(v) for v in value))
        if min(self.latents_std) <= 0:
            raise UserError(f"vae.latents_std={self.latents_std} must be positive.")
        object.__setattr__(self, "modality_statistics", self._hashable_statistics())

    def _hashable_statistics(self) -> tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]:
        given = self.modality_statistics
        items = given.items() if isinstance(given, Mapping) else [(n, (m, s)) for n, m, s in given]
        rows = []
        for name, (mean, std) in items:
            if not len(mean) == len(std) == self.z_dim or min(std) <= 0:
                raise UserError(
                    f"vae.modality_statistics[{name!r}]: give {self.z_dim} means and as many "
                    "positive standard deviations."
                )
            rows.append((name, tuple(map(float, mean)), tuple(map(float, std))))
        return tuple(rows)

    def statistics(self, modality: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation per channel, float32, that normalise a modality's latents.

        Args:
          modality: its registry name; None, or one without statistics of its own, takes the pooled.
        """
        mean, std = np.array(self.latents_mean), np.array(self.latents_std)
        for name, own_mean, own_std in self.modality_statistics:
            if name == modality:
                mean, std = mean + std * np.array(own_mean), std * np.array(own_std)
        return mean.astype(np.float32), std.astype(np.float32)

    def _check_widths(self) -> None:
        if not self.residual:
            if any(self.decoder_base_dim * m % 2 for m in self.dim_mult[1:]):
                raise UserError(
                    f"vae.decoder_base_dim={self.decoder_base_dim} times vae.dim_mult="
                    f"{self.dim_mult} must be even."
                )
            return
        # Channels and strides (in, out, cells that one becomes) of each shortcut.
        factors = [4 * (1 + temporal) for temporal in self.temporal_downsample]
        down = zip((1, *self.dim_mult), self.dim_mult, (*factors, 1), strict=False)
        up = zip(self.dim_mult, (*self.dim_mult[1:], self.dim_mult[-1]), factors, strict=False)
        if any(i * f % o for i, o, f in down) or any(o * f % i for o, i, f in up):
            raise UserError(
                f"vae.dim_mult={self.dim_mult} does not fit vae.residual=True: the channels of a "
                "level must divide those of its shortcut."
            )

    @property
    def temporal_stride(self) -> int:
        """Frames per latent frame, except the first latent frame, which stands for one."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def spatial_stride(self) -> int:
        """Pixels along height and width that one latent cell stands for."""
        return 2 ** (len(self.dim_mult) - 1) * self.patch_size

    @property
    def pixel_channels(self) -> int:
        """Channels of a patch of pixels."""
        return 3 * self.patch_size**2

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The sizes (time, height, width, channel) of the latents of a video of these sizes.

        Raises:
          UserError: sizes that do not fit the strides.
        """
        if num_frames < 1 or (num_frames - 1) % self.temporal_stride:
            raise UserError(
                f"A video of {num_frames} frames does not fit: give {self.temporal_stride}n + 1 "
                f"frames, for example {1 + (num_frames - 1) // self.temporal_stride * 4}."
            )
        for name, size in (("height", height), ("width", width)):
            if size < 1 or size % self.spatial_stride:
                raise UserError(
                    f"A video of {name} {size} does not fit: make it a multiple of "
                    f"{self.spatial_stride} pixels."
                )
        stride = self.spatial_stride
        return (
            1 + (num_frames - 1) // self.temporal_stride,
            height // stride,
            width // stride,
            self.z_dim,
        )


# The statistics belong to the published weights ("Wan 2.1").
WAN_2_1 = VAEConfig(
    latents_mean=(
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    ),
    latents_std=(
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    ),
)
WAN_2_2 = VAEConfig(
    base_dim=160,
    decoder_base_dim=256,
    z_dim=48,
    residual=True,
    patch_size=2,
    latents_mean=(
        *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557),
        *(-0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825),
        *(-0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
        *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230),
        *(-0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748),
        *(0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
    ),
    latents_std=(
        *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013),
        *(0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978),
        *(0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
        *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093),
        *(0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887),
        *(0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
    ),
)
