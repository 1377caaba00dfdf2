"""Latent cells of sampled streams whose values are known, and down to which noise level.

Image to video, first and last frames, inpainting and video to video are one mechanism. A known
cell follows the straight path from its noise to its value, x = (1 - sigma) value + sigma noise, for
its velocity there is noise - value whatever the model says. Down to sigma 0, the cell is kept; down
to a level between, it is where sampling starts, and the solver starts anew in that cell.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from unityvideo_jax.flow_matching import path

# Above every noise level: the cell is not known at all. At 0 it is known to the end.
NEVER, ALWAYS = 2.0, 0.0


class Known(NamedTuple):
    """Cells of the sampled streams whose values are known; other streams may hold anything.

    Attributes:
      until: noise level down to which a cell follows its value: `ALWAYS` keeps it, `NEVER` leaves
        it to the model.
      clean: latent frames that the model sees at timestep 0 at every noise level (Wan 2.2 TI2V-5B,
        image to video), which a model must have learned; None if there are none. The model sees
        all other known cells noised like the rest of their stream.
    """

    until: Float[Array, "b s t h w"]
    clean: Bool[Array, "b s t"] | None = None

    def start(
        self, given: Float[Array, "b s t h w c"], noise: Float[Array, "b s t h w c"], level: float
    ) -> Float[Array, "b s t h w c"]:
        """Returns the streams at the first noise level: noise where nothing is known."""
        noised = (1.0 - level) * given + level * noise
        return jnp.where(self.until[..., None] <= level, noised, noise)

    def velocity(
        self,
        predicted: Float[Array, "b s t h w c"],
        given: Float[Array, "b s t h w c"],
        noise: Float[Array, "b s t h w c"],
        sigma: Float[Array, ""],
    ) -> Float[Array, "b s t h w c"]:
        """The model's velocity, and that of the path in cells which are known at this level."""
        of_path = path.velocity(given, noise)
        return jnp.where(sigma > self.until[..., None], of_path, predicted)

    def keep(
        self, sampled: Float[Array, "b s t h w c"], given: Float[Array, "b s t h w c"]
    ) -> Float[Array, "b s t h w c"]:
        """Returns the sampled streams, with kept cells bit-identical to `given`."""
        return jnp.where(self.until[..., None] <= ALWAYS, given, sampled)


def latent_share(
    mask: Shaped[np.ndarray, "b t h w"], temporal: int, spatial: int
) -> Float[np.ndarray, "b lt lh lw"]:
    """Returns the share of a latent cell's pixels that a mask holds; a kept cell needs all, 1.

    The first latent frame is the first frame, every other one `temporal` frames.

    Args:
      mask: bool, or shares in [0, 1], of 1 + n * temporal frames.
      temporal, spatial: strides of the autoencoder.
    """
    mask = np.concatenate([np.repeat(mask[:, :1], temporal - 1, axis=1), mask], axis=1)
    b, t, h, w = mask.shape
    cells = mask.reshape(b, t // temporal, temporal, h // spatial, spatial, w // spatial, spatial)
    return cells.mean(axis=(2, 4, 6), dtype=np.float64).astype(np.float32)
