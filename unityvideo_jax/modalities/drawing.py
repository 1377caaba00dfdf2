"""Parts of all pictures of truth beside prediction: thinning, the codec's colours, error maps."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from unityvideo_jax import media
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.modalities.base import Codec, Rows

LABEL_ERRORS = "missed blue, invented red, confused yellow"
MISSED, INVENTED, CONFUSED = (80, 140, 255), (255, 90, 70), (255, 220, 60)


def stride(height: int, most: int) -> int:
    """Returns the step between the rows to draw, so that of `height` at most `most` are left."""
    return max(1, math.ceil(height / most))


def every(array: Shaped[np.ndarray, "t h w *c"], step: int) -> Shaped[np.ndarray, "t _ _ *c"]:
    """Returns every `step`-th row and column of the array."""
    return np.asarray(array)[:, ::step, ::step]


def draw(codec: Codec, arrays: Arrays) -> UInt8[np.ndarray, "t h w 3"]:
    """Draws the arrays in their codec's colours."""
    video, _ = codec.encode({key: jnp.asarray(arrays[key]) for key in codec.keys})
    return media.to_uint8(np.asarray(video))


def compare_drawn(codec: Codec, prediction: Arrays, truth: Arrays, height: int) -> Rows:
    """Draws both in their codec's colours, for a modality without a picture of its own."""
    step = stride(np.shape(truth[codec.keys[0]])[1], height)
    thin = [{k: every(a[k], step) for k in codec.keys} for a in (truth, prediction)]
    return {"truth": draw(codec, thin[0]), "prediction": draw(codec, thin[1])}


def heat(error: Float[np.ndarray, "t h w"], worst: float) -> UInt8[np.ndarray, "t h w 3"]:
    """Draws errors from 0 (black) to `worst` or more (bright yellow).

    Args:
      error: >= 0; NaN where nothing counts, which is grey.
      worst: above 0, in the unit of `error`.
    """
    import matplotlib  # here, since only reports draw errors

    share = np.clip(np.nan_to_num(error / worst, nan=0.0), 0.0, 1.0)
    image = (255.0 * matplotlib.colormaps["inferno"](share)[..., :3]).astype(np.uint8)
    image[np.isnan(error)] = 90
    return image


def label_errors(
    prediction: Int[np.ndarray, "t h w"], truth: Int[np.ndarray, "t h w"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Draws missed labels blue, invented ones red, and labels taken for another one yellow.

    Args:
      prediction, truth: ids, 0 is background.
    """
    image = np.zeros((*truth.shape, 3), np.uint8)
    image[(truth > 0) & (prediction == truth)] = 60
    image[(truth > 0) & (prediction == 0)] = MISSED
    image[(truth == 0) & (prediction > 0)] = INVENTED
    image[(truth > 0) & (prediction > 0) & (prediction != truth)] = CONFUSED
    return image
