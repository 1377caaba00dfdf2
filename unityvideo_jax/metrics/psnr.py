"""Peak signal-to-noise ratio of videos in [-1, 1]."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PEAK = 2.0  # the range of a value
LEAST = 1e-10  # mean squared error that counts as none: 106 dB


Numbers = Float[Array, "*n"] | Float[np.ndarray, "*n"] | float


def psnr(mse: Numbers) -> Numbers:
    """Returns the ratio in dB from the mean squared error; of NumPy's numbers without a device."""
    numpy = jnp if isinstance(mse, jax.Array) else np
    return 10.0 * numpy.log10(PEAK**2 / numpy.maximum(mse, LEAST))
