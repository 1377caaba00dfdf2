"""The best that any model on an autoencoder's latents can reach: the truth through codec and VAE.

Each clip's truth is encoded by the codec, encoded and decoded by the autoencoder, read by the
codec again without the truth's side record, and scored as an estimate would be. Beside it stand
the codec alone and the trivial prediction.
"""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from unityvideo_jax import modalities, worlds
from unityvideo_jax.evaluation import workers
from unityvideo_jax.evaluation.benchmarks.clips import clips
from unityvideo_jax.evaluation.latent_pairs import drawing
from unityvideo_jax.metrics.psnr import psnr
from unityvideo_jax.metrics.scores import ClipScore, aggregate
from unityvideo_jax.models.vae.wan_vae import WanVAE

SYSTEMS = ("vae", "codec", "trivial")
# By modality, the keys that a table shows; `metric.headline` for others.
SHOWN = {
    "segmentation": ("segmentation/hungarian_clip/mean_iou",),
    "skeleton": ("skeleton/torso_hungarian/pck_0.2", "skeleton/coco_oks_box53/ap"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ceiling:
    """Scores of the truth through the autoencoder.

    Attributes:
      psnr: dB by modality, of the picture through the VAE, peak 2, averaged over clips.
      scores: all metrics by system, one of `SYSTEMS`.
      people: number of people visible in a frame, over all frames.
      heights: height in pixels of each of them, over all frames.
    """

    psnr: Mapping[str, float]
    scores: Mapping[str, Mapping[str, float | int]]
    people: Shaped[np.ndarray, " n"]
    heights: Shaped[np.ndarray, " m"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    """What one clip adds."""

    psnr: dict[str, float]
    scores: dict[str, list[ClipScore]]
    people: list[int]
    heights: list[int]


def measure(
    vae: WanVAE,
    world: worlds.WorldConfig,
    names: Sequence[str],
    num_clips: int,
    *,
    batch_size: int = 4,
    processes: int = 1,
) -> Ceiling:
    """Scores clips 0 to `num_clips` - 1 of a world.

    Args:
      vae: the autoencoder.
      world: split, size and length of the clips.
      names: modalities to measure.
      num_clips: how many clips.
      batch_size: clips rendered and encoded at once.
      processes: that decode and score, each on the CPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write_clips(vae, world, names, num_clips, batch_size, pathlib.Path(folder))
        make = functools.partial(_reader, folder, tuple(names))
        rows = list(workers.in_order(make, [str(i) for i in range(num_clips)], processes))
    scored = [name for name in names if modalities.get(name).metric]
    scores = {}
    for place, system in enumerate(SYSTEMS):
        by_modality = [[row.scores[n][place] for row in rows] for n in scored]
        merged = [aggregate(found) for found in by_modality if any(s.scored for s in found)]
        scores[system] = {k: v for part in merged for k, v in part.items() if v is not None}
    return Ceiling(
        psnr={n: float(np.mean([row.psnr[n] for row in rows])) for n in names},
        scores=scores,
        people=np.array([n for row in rows for n in row.people]),
        heights=np.array([h for row in rows for h in row.heights]),
    )


def _write_clips(
    vae: WanVAE,
    world: worlds.WorldConfig,
    names: Sequence[str],
    num_clips: int,
    batch_size: int,
    folder: pathlib.Path,
) -> None:
    encoders = {name: drawing(modalities.get(name).codec) for name in names}
    for batch in clips(world, range(num_clips), min(batch_size, num_clips)):
        videos = {n: encode(batch.clip) for n, encode in encoders.items()}
        arrays = {f"truth/{k}": np.asarray(v) for k, v in batch.clip.items()}
        for name, video in videos.items():
            arrays[f"before/{name}"] = np.asarray(video, np.float32)
            rebuilt = [np.asarray(vae.decode(vae.encode(one[None], name), name)) for one in video]
            arrays[f"after/{name}"] = np.concatenate(rebuilt)
        for b, index in enumerate(batch.index[: batch.count]):
            np.savez(folder / f"{index}.npz", **{k: v[b] for k, v in arrays.items()})


def _reader(folder: str, names: tuple[str, ...]) -> Any:
    return functools.partial(_score_clip, folder, names)


def _score_clip(folder: str, names: tuple[str, ...], clip: str) -> _Row:
    with np.load(pathlib.Path(folder) / f"{clip}.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    truth = {k.removeprefix("truth/"): v for k, v in arrays.items() if k.startswith("truth/")}
    ratios, scores = {}, {}
    for name in names:
        before, after = arrays[f"before/{name}"], arrays[f"after/{name}"]
        ratios[name] = float(psnr(np.square(after.astype(np.float64) - before).mean()))
        known = modalities.get(name)
        if known.metric:
            metric = known.metric()
            read = [modalities.decode_alone(known.codec, video) for video in (after, before)]
            read.append(known.trivial(truth))
            wanted = {k: truth[k] for k in (*metric.keys, *metric.extra) if k in truth}
            scores[name] = [metric.score(r, wanted, f"clip {clip}") for r in read]
    people, heights = _people(truth)
    return _Row(psnr=ratios, scores=scores, people=people, heights=heights)


def _people(truth: Mapping[str, Shaped[np.ndarray, "..."]]) -> tuple[list[int], list[int]]:
    """People of each frame, and the height in pixels of each person in each frame."""
    people, heights = [], []
    for part, instances in zip(truth["part"], truth["instances"], strict=True):
        bodies = np.where(part > 0, instances, 0)
        found = np.unique(bodies[bodies > 0])
        people.append(len(found))
        rows = [np.flatnonzero((bodies == i).any(axis=1)) for i in found]
        heights += [int(r[-1] - r[0] + 1) for r in rows]
    return people, heights


def table(ceiling: Ceiling) -> str:
    """The ceiling as a Markdown table, a row per number, and a line on the people."""
    lines = [
        "| modality | picture, PSNR dB | metric | through the VAE | codec alone | trivial |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for name, ratio in ceiling.psnr.items():
        metric = modalities.get(name).metric
        shown = SHOWN.get(name, (metric.headline,)) if metric else ()
        shown = [key for key in shown if key in ceiling.scores["vae"]]
        if not shown:
            lines.append(f"| {name} | {ratio:.2f} | | | | |")
        for key in shown:
            numbers = [ceiling.scores[s].get(key) for s in SYSTEMS]
            text = " | ".join("" if v is None else f"{v:.4f}" for v in numbers)
            lines.append(f"| {name} | {ratio:.2f} | `{key}` | {text} |")
    counts = ", ".join(f"{np.mean(ceiling.people == n):.0%} {n}" for n in np.unique(ceiling.people))
    if len(ceiling.heights):
        low, middle, high = np.quantile(ceiling.heights, (0.1, 0.5, 0.9))
        counts += (
            f". Height of a person in pixels: median {middle:.0f}, "
            f"10 % below {low:.0f}, 10 % above {high:.0f}"
        )
    return "\n".join([*lines, "", f"People in a frame: {counts}."])
