"""Depth scores under named alignments. A score without its alignment's name is a wrong number.

  disparity_scale_shift_video  least-squares scale and shift in disparity over the whole video
    (DepthCrafter's protocol, the headline); pixels are averaged in a frame, then frames in a video,
    then videos.
  depth_scale_video  one scale in depth a video by least absolute deviations: 10 of Weiszfeld's
    reweighted least-squares steps from the ratio of the means (Aether's protocol); videos are
    weighted by their valid pixels.
  depth_scale_frame  the same with one scale a frame; frames are weighted by their valid pixels.

AbsRel = mean |d - d*| / d*; delta_k = share of max(d / d*, d* / d) < 1.25^k, with d* the truth.
Pixels count where 1e-3 m < d* < 70 m.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from unityvideo_jax.evaluation.metric import Arrays, check_pair, mean

ALIGNMENTS = ("disparity_scale_shift_video", "depth_scale_video", "depth_scale_frame")
MIN_DEPTH, MAX_DEPTH = 1e-3, 70.0
MIN_DISPARITY = 1e-3
WEISZFELD_STEPS = 10
NUMBERS = ("abs_rel", "delta_1", "delta_2", "delta_3")

Values = Float[np.ndarray, "..."]


def valid_pixels(truth: Float[np.ndarray, "t h w"]) -> Bool[np.ndarray, "t h w"]:
    """Pixels that count: a surface between 1 mm and 70 m (sky is +inf)."""
    return (truth > MIN_DEPTH) & (truth < MAX_DEPTH)


def fit_scale_shift(x: Values, y: Values) -> tuple[float, float]:
    """(a, b) that minimise |a x + b - y|^2; a = 0 and b = mean y where x is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x_mean, y_mean = x.mean(), y.mean()
    spread = np.square(x - x_mean).mean()
    # Relative to x itself: below this, the spread is rounding, and so would the slope be.
    if spread <= 1e-12 * max(np.square(x).mean(), 1e-30):
        return 0.0, float(y_mean)
    scale = ((x - x_mean) * (y - y_mean)).mean() / spread
    return float(scale), float(y_mean - scale * x_mean)


def fit_scale_l1(x: Values, y: Values, steps: int = WEISZFELD_STEPS) -> float:
    """s that minimises sum |s x - y|, by `steps` reweighted least squares from mean y / mean x."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    scale = y.mean() / x.mean()
    for _ in range(steps):
        weights = 1.0 / (np.abs(scale * x - y) + 1e-8)
        scale = (weights * x * y).sum() / (weights * x * x).sum()
    return float(scale)


def align(
    prediction: Float[np.ndarray, "t h w"], truth: Float[np.ndarray, "t h w"], alignment: str
) -> Float[np.ndarray, "t h w"]:
    """Predicted depth brought to the truth's scale, float64; fitted on valid pixels only.

    Args:
      prediction: depth > 0 in any unit; +inf is read as disparity 0, and as the farthest depth that
        counts by the alignments in depth (which know no infinity).
      truth: metres.
      alignment: one of `ALIGNMENTS`.
    """
    valid = valid_pixels(truth)
    prediction, truth = prediction.astype(np.float64), truth.astype(np.float64)
    if alignment == "disparity_scale_shift_video":
        disparity = 1.0 / np.maximum(prediction, 1e-6)
        scale, shift = fit_scale_shift(disparity[valid], 1.0 / truth[valid])
        return 1.0 / np.maximum(scale * disparity + shift, MIN_DISPARITY)
    depth = np.clip(prediction, MIN_DEPTH, MAX_DEPTH)
    if alignment == "depth_scale_video":
        return depth * fit_scale_l1(depth[valid], truth[valid])
    if alignment == "depth_scale_frame":
        scales = [
            fit_scale_l1(d[v], t[v]) if v.any() else 1.0
            for d, t, v in zip(depth, truth, valid, strict=True)
        ]
        return depth * np.array(scales)[:, None, None]
    raise ValueError(f"unknown alignment {alignment!r}")


def pixel_scores(aligned: Values, truth: Values) -> dict[str, Values]:
    """The four numbers of every pixel, before any averaging."""
    ratio = np.maximum(aligned / truth, truth / aligned)
    return {"abs_rel": np.abs(aligned - truth) / truth} | {
        f"delta_{k}": (ratio < 1.25**k).astype(np.float64) for k in (1, 2, 3)
    }


def score_video(
    prediction: Float[np.ndarray, "t h w"], truth: Float[np.ndarray, "t h w"], alignment: str
) -> tuple[dict[str, float], float]:
    """Scores of one video and its weight among videos under the alignment's averaging rule.

    Returns:
      The numbers, and 1 for the headline or the count of valid pixels for the others. Weight 0 and
      no numbers if no pixel is valid.
    """
    valid = valid_pixels(truth)
    if not valid.any():
        return {}, 0.0
    aligned = align(prediction, truth, alignment)
    if alignment == "disparity_scale_shift_video":
        frames = [
            {name: v.mean() for name, v in pixel_scores(a[m], t[m].astype(np.float64)).items()}
            for a, t, m in zip(aligned, truth, valid, strict=True)
            if m.any()
        ]
        return {name: float(np.mean([f[name] for f in frames])) for name in NUMBERS}, 1.0
    scores = pixel_scores(aligned[valid], truth[valid].astype(np.float64))
    return {name: float(v.mean()) for name, v in scores.items()}, float(valid.sum())


class DepthMetric:
    """AbsRel and the three deltas under every alignment of `ALIGNMENTS`.

    Keys: "depth/<alignment>/<number>", and "depth/videos", "depth/videos_without_valid_pixels".
    Prediction and truth: depth f32[T,H,W].
    """

    modality = "depth"
    keys = ("depth",)

    def __init__(self) -> None:
        self._scores: dict[str, list[tuple[Mapping[str, float], float]]] = {
            alignment: [] for alignment in ALIGNMENTS
        }
        self._empty = 0

    @property
    def scored(self) -> int:
        """Videos with a valid pixel."""
        return len(self._scores[ALIGNMENTS[0]])

    def update(self, prediction: Arrays, truth: Arrays, name: str) -> None:
        """Adds one video; UserError if the shapes differ or a value is NaN."""
        predicted, true = np.asarray(prediction["depth"]), np.asarray(truth["depth"])
        check_pair(predicted, true, "depth", name)
        if not valid_pixels(true).any():
            self._empty += 1
            return
        for alignment in ALIGNMENTS:
            self._scores[alignment].append(score_video(predicted, true, alignment))

    def compute(self) -> dict[str, float | int]:
        """Averages over videos; UserError if no video had a valid pixel."""
        results = {}
        for alignment, scores in self._scores.items():
            for number in NUMBERS:
                key = f"depth/{alignment}/{number}"
                mean([score[number] for score, _ in scores], key)
                results[key] = float(
                    np.average([s[number] for s, _ in scores], weights=[w for _, w in scores])
                )
        return results | {
            "depth/videos": self.scored,
            "depth/videos_without_valid_pixels": self._empty,
        }
