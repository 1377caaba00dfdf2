"""What an autoencoder costs: errors of each modality's picture and of what is read from it.

The errors are of the round trip, not of any model's estimate; `decoded_errors` therefore compares
in the codec's own units, with no alignment, to be told from `evaluation`'s protocols.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Bool, Float, Int, Shaped

from unityvideo_jax import modalities as registry
from unityvideo_jax.models.wan_vae import WanVAE
from unityvideo_jax.training.vae_step import PEAK, encode_modalities

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]
# Renders clips (leading axis n) of the world indices given.
Render = Callable[[Int[np.ndarray, " n"]], Mapping[str, Shaped[Array, "..."]]]
# Depth beyond this is read from a few grey levels; as `evaluation.depth` counts.
MAX_DEPTH = 70.0
# A joint is right within this share of the torso (PCK@0.2).
PCK_SHARE = 0.2
# COCO-17 shoulders and hips.
SHOULDERS, HIPS = (5, 6), (11, 12)
# Side records that give units rather than answers: counts of instances and people are withheld.
UNIT_RECORDS = ("depth", "flow")


def depth_abs_rel(predicted: Arrays, truth: Arrays) -> Float[np.ndarray, " n"]:
    """|d - d*| / d* in metres, not aligned, of pixels whose truth is nearer than 70 m."""
    true = truth["depth"]
    valid = true < MAX_DEPTH
    error = np.abs(np.minimum(predicted["depth"], MAX_DEPTH) - true)
    return error[valid] / true[valid]


def flow_epe(predicted: Arrays, truth: Arrays) -> Float[np.ndarray, " n"]:
    """End-point error of every pixel, in pixels."""
    return np.linalg.norm(predicted["flow"] - truth["flow"], axis=-1).reshape(-1)


def segment_iou(predicted: Arrays, truth: Arrays) -> Float[np.ndarray, " n"]:
    """Intersection over union of each instance over its clip, by its own number."""
    guess, true = predicted["segments"], truth["segments"]
    return np.array(
        [
            np.mean((guess == i) & (true == i)) / np.mean((guess == i) | (true == i))
            for i in np.unique(true[true > 0])
        ],
        np.float64,
    )


def joint_pck(predicted: Arrays, truth: Arrays) -> Float[np.ndarray, " n"]:
    """Whether each visible joint lies within 0.2 torso of its place (1 or 0).

    People are matched frame by frame; a joint not found is wrong. People without a measurable torso
    do not count.
    """
    right: list[Bool[np.ndarray, "..."]] = []
    for t in range(len(truth["keypoints"])):
        right.append(
            _frame_pck(
                *(predicted[k][t] for k in ("keypoints", "visibility")),
                *(truth[k][t] for k in ("keypoints", "visibility")),
            )
        )
    return np.concatenate(right).astype(np.float64)


def _frame_pck(
    guess: Float[np.ndarray, "q 17 2"],
    found: Int[np.ndarray, "q 17"],
    true: Float[np.ndarray, "p 17 2"],
    visibility: Int[np.ndarray, "p 17"],
) -> Bool[np.ndarray, " n"]:
    torso = np.linalg.norm(true[:, SHOULDERS].mean(axis=1) - true[:, HIPS].mean(axis=1), axis=-1)
    counts = (visibility[:, [*SHOULDERS, *HIPS]] > 0).all(axis=1) & (torso > 0)
    true, visible, torso = true[counts], visibility[counts] == 2, torso[counts]
    distance = np.linalg.norm(guess[:, None] - true[None], axis=-1)  # q p 17
    hits = (distance < PCK_SHARE * torso[:, None]) & (found > 0)[:, None] & visible
    matched = np.zeros(visible.shape, bool)
    # The matching with the most hits is the one that a best-case reader would choose.
    rows, columns = scipy.optimize.linear_sum_assignment(-hits.sum(axis=-1))
    matched[columns] = hits[rows, columns]
    return matched[visible]


def part_accuracy(predicted: Arrays, truth: Arrays) -> Float[np.ndarray, " n"]:
    """Whether each body pixel has its own part (1 or 0)."""
    body = truth["part"] > 0
    return (predicted["part"] == truth["part"])[body].astype(np.float64)


# By modality: the name of its number, how to get the samples that it averages, and its unit.
DECODED: dict[str, tuple[str, Callable[[Arrays, Arrays], Float[np.ndarray, " n"]], str]] = {
    "depth": ("abs_rel", depth_abs_rel, "AbsRel, metric, not aligned"),
    "flow": ("epe", flow_epe, "end-point error, pixels"),
    "segmentation": ("iou", segment_iou, "IoU of instances over the clip"),
    "skeleton": ("pck", joint_pck, "PCK@0.2 of the torso"),
    "densepose": ("part_accuracy", part_accuracy, "share of body pixels with the right part"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Errors of one modality.

    Attributes:
      psnr: dB of the reconstructed picture, peak 2, averaged over clips.
      metric: what `codec_alone` and `through_vae` are; "" for a modality that `DECODED` lacks.
      codec_alone: the metric after encoding and decoding without the autoencoder.
      through_vae: the metric with it.
    """

    psnr: float
    metric: str
    codec_alone: float | None
    through_vae: float | None


def evaluate(
    vae: WanVAE, render: Render, names: tuple[str, ...], indices: Sequence[Int[np.ndarray, " n"]]
) -> dict[str, Score]:
    """Scores of every modality over the clips of `indices`, a batch each."""
    ratios: dict[str, list[float]] = {name: [] for name in names}
    samples: dict[str, tuple[list, list]] = {name: ([], []) for name in names}
    for batch in indices:
        clips = render(batch)
        videos, sides = encode_modalities(names, clips)
        rebuilt = np.asarray(reconstruct(vae, videos))
        original = np.asarray(videos)
        # Only what the codecs read; a clip may hold more.
        clips = {k: np.asarray(v) for k, v in clips.items()}
        for m, name in enumerate(names):
            mse = np.square(rebuilt[:, m] - original[:, m]).mean(axis=(1, 2, 3, 4))
            ratios[name] += (10 * np.log10(PEAK**2 / np.maximum(mse, 1e-10))).tolist()
            if name not in DECODED:
                continue
            codec = registry.get(name).codec
            for n in range(len(batch)):
                truth = {k: v[n] for k, v in clips.items()}
                side = {k: np.asarray(v[n]) for k, v in sides[m].items()}
                if name not in UNIT_RECORDS:
                    side = codec.default_side
                for video, kept in zip((original, rebuilt), samples[name], strict=True):
                    kept.append(DECODED[name][1](codec.decode(video[n, m], side), truth))
    return {name: _score(name, ratios[name], samples[name]) for name in names}


def _score(name: str, ratios: Sequence[float], samples: tuple[list, list]) -> Score:
    psnr = float(np.mean(ratios))
    if name not in DECODED or not sum(len(s) for s in samples[0]):
        return Score(psnr=psnr, metric="", codec_alone=None, through_vae=None)
    alone, through = (float(np.concatenate(s).mean()) for s in samples)
    return Score(psnr=psnr, metric=DECODED[name][0], codec_alone=alone, through_vae=through)


def reconstruct(vae: WanVAE, videos: Float[Array, "n m t h w 3"]) -> Float[Array, "n m t h w 3"]:
    """Encodes and decodes, a clip's modalities at a time, so that memory stays small."""
    return jnp.stack([vae.decode(vae.encode(clip)) for clip in videos])


def latent_statistics(
    vae: WanVAE, batches: Iterable[Float[Array, "n m t h w 3"]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each latent channel before normalisation.

    Every modality counts alike. Sums are kept in float64.
    """
    channels = vae.config.z_dim
    total = squares = np.zeros(channels)
    count = 0
    for videos in batches:
        for clip in videos:
            z = np.asarray(vae.denormalize(vae.encode(clip)), np.float64).reshape(-1, channels)
            total, squares = total + z.sum(axis=0), squares + np.square(z).sum(axis=0)
            count += len(z)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 1e-12))
    return tuple(map(float, mean)), tuple(map(float, deviation))


def table(scores: Mapping[str, Score]) -> str:
    """The scores as a Markdown table."""
    lines = [
        "| modality | picture, PSNR dB | decoded, metric | codec alone | through the autoencoder |",
        "|---|---|---|---|---|",
    ]
    for name, score in scores.items():
        unit = DECODED[name][2] if score.metric else ""
        numbers = ["" if v is None else f"{v:.4f}" for v in (score.codec_alone, score.through_vae)]
        lines.append(f"| {name} | {score.psnr:.2f} | {unit} | {numbers[0]} | {numbers[1]} |")
    return "\n".join(lines)


def device_name() -> str:
    """The accelerator that JAX computes on, with its count."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"
