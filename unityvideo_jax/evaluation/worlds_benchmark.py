"""Scores a pipeline on procedural worlds or a folder of clips whose ground truth is known.

Each clip's RGB is given, each scored modality is estimated from it, decoded without the truth's
side record, and compared. Two references stand beside the model: the truth itself through the
codec and the VAE (the best that any model on these latents can reach), and a trivial prediction
(the least that a useful model must beat).
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax import media, modalities, worlds
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.folder_benchmark import Batch, FolderClips
from unityvideo_jax.evaluation.heldout import HeldoutConfig, HeldoutLoss, heldout_errors
from unityvideo_jax.evaluation.metric import Arrays
from unityvideo_jax.evaluation.metrics import METRICS
from unityvideo_jax.evaluation.scores import ClipScore, merge
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.streams import RGB

BENCHMARKS = {
    "worlds_validation": "validation",
    "heldout_animals": "heldout_animals",
    "heldout_objects": "heldout_objects",
}
TORSO_FRONT = 2  # DensePose's number


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Attributes:
    benchmark: one of `BENCHMARKS`, or a folder of clips, such as UniBench's.
    num_clips: clips 0 to num_clips - 1 of the split, or the first of the folder by name.
    batch_size: clips at once.
    seed: of the sampler's noise; clip i takes seed + i.
    worlds_seed: of the scenes.
    use_captions: give the model the clip's caption; without, it sees RGB and the modality prompt.
    heldout: of the held-out loss; None leaves it out.
    sheet_clips: how many clips are kept for a contact sheet.
    """

    benchmark: str = "worlds_validation"
    num_clips: int = 16
    batch_size: int = 4
    seed: int = 0
    worlds_seed: int = 0
    use_captions: bool = False
    heldout: HeldoutConfig | None = None
    sheet_clips: int = 4

    def __post_init__(self):
        if self.benchmark not in BENCHMARKS and not pathlib.Path(self.benchmark).is_dir():
            known = ", ".join(BENCHMARKS)
            raise UserError(
                f"benchmark={self.benchmark!r}: no such folder; choose one of {known}, or build "
                "UniBench's folder with `python -m unityvideo_jax.unibench`"
            )
        for name in ("num_clips", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1")


@dataclasses.dataclass(kw_only=True)
class Results:
    """Metrics of the model and of the two references, by key, each clip's own scores of the model,
    and rows for a contact sheet."""

    metrics: dict[str, float | int]
    vae_round_trip: dict[str, float | int]
    trivial: dict[str, float | int]
    clips: list[ClipScore]
    rows: list[tuple[str, np.ndarray]]


def trivial_prediction(modality: str, truth: Arrays) -> dict[str, np.ndarray]:
    """What needs no model.

    Constant depth; rest; one instance, or one body part, that fills the frame; nobody's skeleton.
    """
    if modality == "depth":
        return {"depth": np.ones_like(truth["depth"])}
    if modality == "segmentation":
        return {"segments": np.ones_like(truth["segments"])}
    if modality == "flow":
        return {"flow": np.zeros_like(truth["flow"])}
    if modality == "skeleton":
        return {key: truth[key][:, :0] for key in ("keypoints", "visibility")}
    if modality == "densepose":
        uv = np.full_like(truth["uv"], 0.5)
        return {"part": np.full_like(truth["part"], TORSO_FRONT), "uv": uv}
    raise ValueError(f"no trivial prediction for {modality}")


def clips(world: worlds.WorldConfig, num_clips: int, batch_size: int) -> Iterator[Batch]:
    """Batches of clips; the last one is filled up with clips beyond `num_clips`, not to be scored.

    (One batch size means one compilation.)
    """
    for first in range(0, num_clips, batch_size):
        index = np.arange(first, first + batch_size, dtype=np.int32)
        scenes = worlds.sample_scenes(world, jnp.asarray(index))
        described = worlds.describe(world, scenes)
        yield Batch(
            index=index,
            clip=worlds.render(world, scenes),
            captions=[d.caption for d in described],
            prompts=[d.prompts for d in described],
        )


def _encoder(modality: str) -> Callable[[Mapping[str, Any]], Float[Array, "b t h w 3"]]:
    codec = modalities.get(modality).codec
    return jax.jit(jax.vmap(lambda clip: codec.encode(clip)[0]))


class _Scorer:
    """The metrics of one modality for the model and its two references."""

    def __init__(self, modality: str):
        self.modality = modality
        self.codec = modalities.get(modality).codec
        self.encode = _encoder(modality)
        self.model, self.round_trip, self.trivial = (METRICS[modality]() for _ in range(3))

    def update(self, predicted, round_trip, truth: Arrays, name: str) -> Arrays:
        """Scores one clip; returns the model's prediction as arrays."""
        side = self.codec.default_side
        arrays = self.codec.decode(predicted, side)
        self.model.update(arrays, truth, name)
        self.round_trip.update(self.codec.decode(round_trip, side), truth, name)
        self.trivial.update(trivial_prediction(self.modality, truth), truth, name)
        return arrays


def _open(data: Mapping[str, Any], config: BenchmarkConfig) -> tuple[Iterator[Batch], set[str]]:
    """The benchmark's batches at the size of a run's data, and the modalities that have truth."""
    size = {key: data[key] for key in ("num_frames", "height", "width")}
    batch_size = min(config.batch_size, config.num_clips)
    if config.benchmark not in BENCHMARKS:
        found = FolderClips(config.benchmark, **size)
        return found.batches(config.num_clips, batch_size), found.modalities
    world = worlds.WorldConfig(
        **size,
        fps=float(data["fps"]),
        split=BENCHMARKS[config.benchmark],
        seed=config.worlds_seed,
    )
    return clips(world, config.num_clips, batch_size), set(METRICS)


def run(
    pipeline: Pipeline,
    config: BenchmarkConfig,
    sampler: SamplerConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
    draw: Callable[[int, str, Arrays, Arrays], None] = lambda clip, modality, predicted, truth: (
        None
    ),
) -> Results:
    """Estimates, decodes and scores.

    Args:
      pipeline: of a trained run; its data config gives the size of the clips.
      config: which clips.
      sampler: how to sample.
      progress: called with clips done and in all after each batch.
      draw: called with the clip's number, the modality, and predicted and true arrays.

    Returns:
      All metrics of the modalities that both the model and `METRICS` know.
    """
    wanted = [name for name in pipeline.modalities if name in METRICS]
    benchmark, available = _open(pipeline.config["data"], config)
    for name in wanted:
        if name not in available:
            print(f"{name}: not every clip has its truth; left out", flush=True)
    scorers = [_Scorer(name) for name in wanted if name in available]
    heldout = _Heldout(pipeline, config.heldout) if config.heldout else None
    rows: list[tuple[str, np.ndarray]] = []
    for batch in benchmark:
        rgb = 2.0 * np.asarray(batch.clip["rgb"], np.float32) - 1.0
        captions = batch.captions if config.use_captions else [""] * len(batch.captions)
        scored = [b for b, i in enumerate(batch.index) if i < config.num_clips]
        shown = [b for b in scored if batch.index[b] < config.sheet_clips]
        strips = {b: [(f"{batch.index[b]}: {batch.captions[b]}", rgb[b])] for b in shown}
        for scorer in scorers:
            name = scorer.modality
            samples = pipeline(
                captions,
                given={RGB: rgb},
                wanted=(name,),
                modality_prompts={
                    name: [p.get(name, modalities.get(name).prompt) for p in batch.prompts]
                },
                sampler=sampler,
                seed=[config.seed + int(i) for i in batch.index],
            )
            truth_video = np.asarray(scorer.encode(batch.clip))
            round_trip = pipeline.decode(pipeline.encode(truth_video))
            for b in scored:
                keys = (*scorer.model.keys, *scorer.model.extra)
                truth = {k: np.asarray(batch.clip[k][b]) for k in keys if k in batch.clip}
                label = f"{pathlib.Path(config.benchmark).name} clip {batch.index[b]}"
                arrays = scorer.update(samples.videos[name][b], round_trip[b], truth, label)
                draw(int(batch.index[b]), name, arrays, truth)
            for b in shown:
                strips[b] += [
                    (f"{name} truth", truth_video[b]),
                    (f"{name} estimated", samples.videos[name][b]),
                ]
        if heldout:
            heldout.update(batch, scored)
        rows += [(label, media.to_uint8(v)) for b in shown for label, v in strips[b]]
        progress(int(min(batch.index[-1] + 1, config.num_clips)), config.num_clips)
    metrics, round_trip, trivial = {}, {}, {}
    for scorer in scorers:
        if not scorer.model.scored:
            # Few clips of a split may lack what this modality shows; the others still count.
            print(f"{scorer.modality}: nothing to score in {config.num_clips} clips", flush=True)
            continue
        metrics |= scorer.model.compute()
        round_trip |= scorer.round_trip.compute()
        trivial |= scorer.trivial.compute()
    if heldout:
        metrics |= heldout.loss.compute()
    return Results(
        metrics=metrics,
        vae_round_trip=round_trip,
        trivial=trivial,
        clips=[merge(parts) for parts in zip(*(s.model.rows for s in scorers), strict=True)],
        rows=rows,
    )


class _Heldout:
    """The held-out loss over every modality of the model."""

    def __init__(self, pipeline: Pipeline, config: HeldoutConfig):
        self.pipeline = pipeline
        self.loss = HeldoutLoss(config)
        self._encoders = {name: _encoder(name) for name in pipeline.modalities}
        self._errors = jax.jit(
            lambda params, *arrays: heldout_errors(pipeline.velocity(params), *arrays, config)
        )

    def _latents(self, batch: Batch, name: str) -> Float[Array, "b lt lh lw c"]:
        return self.pipeline.encode(np.asarray(self._encoders[name](batch.clip)))

    def update(self, batch: Batch, scored: Sequence[int]) -> None:
        """Adds the clips of a batch; the caption is the clip's own, as in training."""
        rgb = self._latents(batch, RGB)
        for name in self._encoders:
            # A registered modality that worlds do not render has no truth here.
            if name == RGB or not set(modalities.get(name).codec.keys) <= set(batch.clip):
                continue
            latents = jnp.stack([rgb, self._latents(batch, name)], axis=1)
            ids = [0, self.pipeline.modalities.index(name)]
            prompts = [p.get(name, modalities.get(name).prompt) for p in batch.prompts]
            context, _ = self.pipeline.contexts((RGB, name), batch.captions, {name: prompts})
            errors = self._errors(
                self.pipeline.params,
                latents,
                jnp.tile(jnp.array(ids, jnp.int32), (len(batch.index), 1)),
                jnp.asarray(context),
                jnp.asarray(batch.index),
            )
            label = f"clips {batch.index[0]} to {batch.index[-1]}"
            self.loss.update(name, np.asarray(errors)[np.array(scored)], label)
