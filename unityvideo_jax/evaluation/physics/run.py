"""The physics benchmark on a model: plausibility of pairs, then prediction of paths."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unityvideo_jax import media, modalities, worlds
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.latent_pairs import drawing, trained_counts
from unityvideo_jax.evaluation.physics import frozen, kinds, plausibility, prediction, scenes
from unityvideo_jax.evaluation.physics.kinds import BALL, KINDS, PAIRS, Pair
from unityvideo_jax.evaluation.physics.plausibility import PlausibilityConfig
from unityvideo_jax.evaluation.row_store import RowStore
from unityvideo_jax.metrics.scores import ClipScore, aggregate
from unityvideo_jax.modalities import RGB
from unityvideo_jax.runtime import seeds
from unityvideo_jax.sampling.arrays import sample_keys
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline

NAME = "worlds_physics"
# Predictions of a model, the truth through the VAE, and a ball that stays where it is.
SYSTEMS = ("model", "round_trip", "trivial")
# Modalities of people show nothing of a ball.
OF_PEOPLE = ("skeleton", "densepose")
Sheet = Sequence[tuple[str, np.ndarray]]
Draw = Callable[[str, Sheet], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhysicsConfig:
    """Settings of the physics benchmark.

    Attributes:
      pairs: of each kind, at most `PAIRS`.
      predictions: clips of each set to continue, at most `prediction.CLIPS`; 0 leaves them out.
      given: frames that prediction starts from, 1 or one more than a multiple of the VAE's stride.
      batch_size: pairs at once.
      names: modalities that are noised with RGB, each in turn; () is all that the model has and
        that show objects.
      plausibility: timesteps and noise.
      seed: of the sampler's noise.
    """

    pairs: int = PAIRS
    predictions: int = prediction.CLIPS
    given: int = 5
    batch_size: int = 4
    names: tuple[str, ...] = ()
    plausibility: PlausibilityConfig = dataclasses.field(default_factory=PlausibilityConfig)
    seed: int = 0

    def __post_init__(self):
        limits = {
            "pairs": (1, PAIRS),
            "predictions": (0, prediction.CLIPS),
            "batch_size": (1, 4096),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}={getattr(self, name)}: give {low} to {high}")


@dataclasses.dataclass(kw_only=True)
class PhysicsRow:
    """The saved scores of a pair, or of a clip that was continued.

    Attributes:
      scores: of the model and, of a continued clip, of its two references, by `SYSTEMS`.
      losses: protocol -> streams -> losses of the valid and the invalid clip.
    """

    scores: dict[str, ClipScore] = dataclasses.field(default_factory=dict)
    losses: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        scores = {name: score.to_json() for name, score in self.scores.items()}
        return {"scores": scores, "losses": self.losses}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "PhysicsRow":
        """The inverse of `to_json`."""
        scores = {name: ClipScore.from_json(s) for name, s in record["scores"].items()}
        return cls(scores=scores, losses=record["losses"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedPairs:
    """A batch of pairs as every model on the same latents meets them.

    Attributes:
      pairs: their scenes; the first `count` of them count.
      count: pairs to score.
      index: the number of each among all pairs, which decides its noise.
      rgb: both clips of each, in [0, 1].
      latents: of both clips, [b, 2, t, h, w, c], by the name of the stream.
      shuffled: latents of RGB with its frames in a fixed random order.
      captions, prompts: of the valid clips.
    """

    pairs: Sequence[Pair]
    count: int
    index: Int[np.ndarray, " b"]
    rgb: Float[np.ndarray, "b 2 t h w 3"]
    latents: Mapping[str, Float[Array, "b 2 lt lh lw c"]]
    shuffled: Float[Array, "b 2 lt lh lw c"]
    captions: Sequence[str]
    prompts: Sequence[Mapping[str, str]]


def run(
    pipeline: Pipeline,
    config: PhysicsConfig,
    sampler: SamplerConfig,
    rows: RowStore[PhysicsRow] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    draw: Draw = lambda name, sheet: None,
) -> dict[str, PhysicsRow]:
    """Scores pairs and continued clips; returns rows by their names.

    Args:
      pipeline: the model; its data configuration gives the size of the clips.
      config: how many pairs and clips.
      sampler: how prediction samples.
      rows: where rows are saved, and read by a second run; None saves none.
      progress: called with rows done and in all.
      draw: called with the name and the videos of each kind's first pair and of continued clips.

    Raises:
      UserError: a model that lacks a modality, or clips too short to show a violation.
    """
    worker = PhysicsScorer(pipeline, config, sampler, draw)
    jobs = [(kind, number) for kind in KINDS for number in range(config.pairs)]
    throws = list(prediction.names(config.predictions))
    total = len(jobs) + len(throws)
    found: dict[str, PhysicsRow] = {}
    for names, score in (
        ({f"{kind}_{number:02d}": (kind, number) for kind, number in jobs}, worker.pairs),
        ({f"{group}_{number:02d}": (group, number) for group, number in throws}, worker.throws),
    ):
        earlier = {name: rows.read(name, {}) if rows else None for name in names}
        found |= {name: row for name, row in earlier.items() if row is not None}
        missing = [job for name, job in names.items() if earlier[name] is None]
        for first in range(0, len(missing), config.batch_size):
            for name, row in score(missing[first : first + config.batch_size]).items():
                if rows:
                    rows.write(name, {}, row)
                found[name] = row
            progress(len(found), total)
    return found


def results(found: Iterable[PhysicsRow]) -> tuple[dict[str, float], ...]:
    """All numbers over the rows, by `SYSTEMS`."""
    rows = list(found)
    return tuple(
        {
            key: value
            for key, value in aggregate(
                [row.scores[system] for row in rows if system in row.scores]
            ).items()
            if value is not None
        }
        for system in SYSTEMS
    )


def notes(pipeline: Pipeline) -> list[str]:
    """Facts about this model that a reader of the results needs."""
    data, counts = pipeline.config["data"], trained_counts(pipeline)
    found = []
    size = frozen.length(int(data["num_frames"]), float(data["fps"]))
    if size not in frozen.known():
        found.append(f"pairs of {size} (frames @ frames/s) are not frozen; their scenes may change")
    if 1 not in counts:
        found.append(
            "the run trains no sample of RGB alone, so that its loss there is of a task it has not "
            "learned; rgb_of_rgb+<modality> is RGB's own loss beside a noised modality"
        )
    return found


class PhysicsScorer:
    """Renders, encodes and scores pairs and clips.

    Args:
      pipeline, config, sampler, draw: as `run` takes them.
      encode: makes latents of videos [b, t, h, w, 3] of a modality; None is the pipeline's own,
        one video per device at a time.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        config: PhysicsConfig,
        sampler: SamplerConfig,
        draw: Draw,
        encode: Callable[[np.ndarray, str], Any] | None = None,
    ):
        self.pipeline, self.config, self.sampler, self.draw = pipeline, config, sampler, draw
        self._encode = encode or pipeline.encode
        data = pipeline.config["data"]
        self.fps = float(data["fps"])
        self.world = worlds.WorldConfig(
            **{key: data[key] for key in ("num_frames", "height", "width")}, fps=self.fps
        )
        self.frames = self.world.num_frames
        shown = [n for n in pipeline.modalities if n not in (RGB, *OF_PEOPLE)]
        drawn = [n for n in shown if {*modalities.get(n).codec.keys} <= {*worlds.ARRAYS}]
        for name in config.names:
            if name not in drawn:
                raise UserError(
                    f"--physics_modalities={name}: the model has "
                    f"{', '.join(drawn) or 'no modality that shows objects'}; give these, or none"
                )
        self.names = config.names or tuple(drawn)
        stride = pipeline.vae.config.temporal_stride
        if (config.predictions and (config.given - 1) % stride) or config.given < 1:
            raise UserError(
                f"given={config.given}: the VAE joins {stride} frames after the first; give 1 or a "
                f"multiple of {stride} and 1"
            )
        self.latent_frames = 1 + (config.given - 1) // stride
        # What is damaged, and bad sizes, are named before anything is rendered.
        frozen.known()
        kinds.draw("vanishing", 0, self.frames, self.fps)
        if config.predictions:
            prediction.draw("in_distribution", 0, self.frames, self.fps, config.given)
        self.encoders = {name: drawing(pipeline.codec(name)) for name in (RGB, *self.names)}
        self.errors = jax.jit(
            lambda params, *arrays: plausibility.denoising_errors(
                pipeline.velocity(params), *arrays, config.plausibility
            )
        )
        self.sample = jax.jit(
            lambda params, given, **rest: prediction.continued(
                pipeline.velocity(params),
                given,
                self.latent_frames,
                config=sampler,
                **rest,
            )
        )

    # Plausibility.

    def pairs(self, jobs: Sequence[tuple[str, int]]) -> dict[str, PhysicsRow]:
        """Rows of these pairs."""
        return self.score(self.encode(jobs), self.names)

    def encode(self, jobs: Sequence[tuple[str, int]]) -> EncodedPairs:
        """These pairs rendered and encoded; the batch is filled up with the last one."""
        size = self.config.batch_size
        pairs = [kinds.draw(kind, number, self.frames, self.fps) for kind, number in jobs]
        pairs += [pairs[-1]] * (size - len(pairs))
        shown = [one for pair in pairs for one in scenes.sides(pair)]
        clips, captions, prompts = scenes.render(self.world, shown)
        captions, prompts = captions[::2], prompts[::2]
        frozen.verify(pairs, captions, self.frames, self.fps)
        clips = {key: _splice(value, pairs) for key, value in clips.items()}
        index = np.array([[*KINDS].index(p.kind) * PAIRS + p.number for p in pairs], np.int32)
        orders = [plausibility.shuffled(self.frames, int(i)) for i in index]
        mixed = np.stack(
            [video[:, order] for video, order in zip(clips["rgb"], orders, strict=True)]
        )
        return EncodedPairs(
            pairs=pairs,
            count=len(jobs),
            index=index,
            rgb=clips["rgb"],
            latents={name: self._latents(clips, name) for name in self.encoders},
            shuffled=self._latents({"rgb": mixed}, RGB),
            captions=captions,
            prompts=prompts,
        )

    def score(self, encoded: EncodedPairs, names: Sequence[str]) -> dict[str, PhysicsRow]:
        """Rows of encoded pairs.

        Args:
          encoded: the pairs.
          names: modalities that are noised with RGB, each in turn; `encoded` has their latents.
        """
        texts = encoded.captions, encoded.prompts, jnp.asarray(encoded.index)
        losses = {(RGB,): self._errors((RGB,), encoded.latents, *texts)}
        for name in names:
            losses[RGB, name] = self._errors((RGB, name), encoded.latents, *texts)
        single = self._errors((RGB,), {RGB: encoded.shuffled}, *texts)
        protocol = self.config.plausibility.protocol
        rows = {}
        for b, pair in enumerate(encoded.pairs[: encoded.count]):
            own = {
                protocol: {"+".join(s): e[b].mean(axis=(1, 2)).tolist() for s, e in losses.items()}
                | {f"rgb_of_{'+'.join(s)}": e[b][..., 0].mean(axis=1).tolist()
                   for s, e in losses.items() if len(s) > 1},
                f"{protocol}_shuffled": {RGB: single[b].mean(axis=(1, 2)).tolist()},
            }  # fmt: skip
            energy = [plausibility.frame_energy(clip) for clip in encoded.rgb[b]]
            row = PhysicsRow(losses=own)
            row.scores["model"] = plausibility.score(pair.kind, own, energy)
            rows[pair.name] = row
            if pair.number == 0:
                first = max(pair.begins - 2, 0)
                self.draw(
                    pair.name,
                    [
                        (f"{what} from frame {first}", media.to_uint8(2 * clip[first:] - 1))
                        for what, clip in zip(("valid", "invalid"), encoded.rgb[b], strict=True)
                    ],
                )
        return rows

    def _latents(self, clips: Mapping[str, np.ndarray], name: str) -> jax.Array:
        """Latents [b, 2, t, h, w, c] of a modality of clips [b, 2, ...]."""
        keys = self.pipeline.codec(name).keys
        flat = {key: jnp.asarray(clips[key]).reshape(-1, *clips[key].shape[2:]) for key in keys}
        latents = self._encode(np.asarray(self.encoders[name](flat)), name)
        return latents.reshape(-1, 2, *latents.shape[1:])

    def _errors(
        self,
        streams: tuple[str, ...],
        latents: Mapping[str, jax.Array],
        captions: Sequence[str],
        prompts: Sequence[Mapping[str, str]],
        index: jax.Array,
    ) -> np.ndarray:
        """Errors [b, 2, k, s] of streams that are noised together."""
        modality, context, _ = self._texts(streams, captions, prompts)
        joined = jnp.stack([latents[name] for name in streams], axis=2)
        errors = np.asarray(
            self.errors(self.pipeline.params, joined, modality, context, index), np.float64
        )
        if not np.isfinite(errors).all():
            raise UserError(f"{'+'.join(streams)}: a loss is not finite; is the checkpoint sound?")
        return errors

    def _texts(
        self,
        streams: tuple[str, ...],
        captions: Sequence[str],
        prompts: Sequence[Mapping[str, str]],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Ids, embeddings, and those that text guidance compares with."""
        own = {
            name: [p.get(name, modalities.get(name).prompt) for p in prompts]
            for name in streams
            if name != RGB
        }
        context, null = self.pipeline.contexts(streams, captions, own)
        ids = jnp.array([self.pipeline.modalities.index(name) for name in streams], jnp.int32)
        return jnp.tile(ids, (len(captions), 1)), jnp.asarray(context), jnp.asarray(null)

    # Prediction.

    def throws(self, jobs: Sequence[tuple[str, int]]) -> dict[str, PhysicsRow]:
        """Rows of these clips; the batch is filled up with the last one."""
        size, given = self.config.batch_size, self.config.given
        throws = [
            prediction.draw(group, number, self.frames, self.fps, given) for group, number in jobs
        ]
        throws += [throws[-1]] * (size - len(throws))
        shown = []
        for throw in throws:
            gone = dataclasses.replace(
                throw.side, active=throw.side.active & (np.arange(2) != BALL)
            )
            common = dict(rolls=False, camera=throw.camera, place=throw.place)
            shown += [scenes.Shown(side=side, **common) for side in (throw.side, gone)]
        clips, captions, prompts = scenes.render(self.world, shown)
        truth, empty = clips["rgb"][::2], clips["rgb"][1::2, 0]
        balls = (
            clips["instances"][::2]
            == 1 + np.array([t.side.active[0] for t in throws])[:, None, None, None]
        )
        streams = (RGB,) if 1 in trained_counts(self.pipeline) else (RGB, *self.names[:1])
        latents = self.pipeline.encode(2.0 * truth - 1.0, RGB)
        modality, context, null = self._texts(streams, captions[::2], prompts[::2])
        number = [throw.place for throw in throws]
        sampled = self.sample(
            self.pipeline.params,
            jnp.stack([latents] * len(streams), axis=1),
            modality=modality,
            context=context,
            null_context=null,
            key=sample_keys([seeds.after(self.config.seed, n) for n in number], size),
        )
        videos = {
            "model": self.pipeline.decode(sampled[:, 0], RGB),
            "round_trip": self.pipeline.decode(latents, RGB),
        }
        rows = {}
        for b, throw in enumerate(throws[: len(jobs)]):
            row = PhysicsRow()
            seen = balls[b].any(axis=(1, 2))
            colour, area = truth[b, 0][balls[b, 0]].mean(axis=0), float(balls[b, 0].sum())
            for system, video in videos.items():
                rgb = np.clip(0.5 + 0.5 * video[b], 0.0, 1.0)
                places = prediction.find_ball(rgb, empty[b], colour, area)
                path = prediction.to_metres(places, throw, *rgb.shape[1:3])
                row.scores[system] = prediction.score(throw, path, given, self.fps, seen)
            still = np.repeat(throw.side.centre[given - 1 : given, BALL], self.frames, axis=0)
            row.scores["trivial"] = prediction.score(throw, still, given, self.fps, seen)
            rows[throw.name] = row
            self.draw(
                throw.name,
                [
                    (f"{throw.name}: simulation", media.to_uint8(2 * truth[b] - 1)),
                    (f"continued from {given} frames", media.to_uint8(videos["model"][b])),
                ],
            )
        return rows


def _splice(value: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
    """Arrays [2b, t, ...] of both sides as [b, 2, t, ...] of valid and invalid clips."""
    valid, invalid = value[::2], value[1::2]
    later = np.stack([np.arange(value.shape[1]) >= pair.begins for pair in pairs])
    later = later.reshape(*later.shape, *(1,) * (value.ndim - 2))
    return np.stack([valid, np.where(later, invalid, valid)], axis=1)
