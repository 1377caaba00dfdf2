"""Every number of a run: losses at fixed noise, estimates, control, physics, agreement, motion.

Keys of losses, means over clips and fixed timesteps:
  rgb_loss/alone, rgb_loss/joint+<modality>, rgb_loss/control+<modality>,
  estimation_loss/<modality>, and the means over modalities, such as rgb_loss/joint.
Of sampled RGB, by way ("alone", "joint+<modality>", "control+<modality>" and the means "joint" and
"control"): frechet_proxy/<way> against the true clips, and temporal_flickering/<way>, VBench's,
which needs no network. Estimates take one evaluation of the network. Control is scored by one
estimator for all arms, since an arm that was trained for control alone cannot estimate.

Tasks that an arm was not trained for are not measured: their numbers would say nothing of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from unityvideo_jax import media, modalities
from unityvideo_jax.ablations.arms import Arm
from unityvideo_jax.ablations.model import Model
from unityvideo_jax.ablations.truth import Truth, first_clips, own_prompts
from unityvideo_jax.evaluation import joint
from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.evaluation.controllability import score_control
from unityvideo_jax.evaluation.physics import run as physics
from unityvideo_jax.evaluation.physics.plausibility import prefers_invalid
from unityvideo_jax.flow_matching.tasks import CONDITIONAL, ESTIMATION, JOINT
from unityvideo_jax.metrics.agreement import KEYPOINTS_IN_MASKS
from unityvideo_jax.metrics.frechet import frechet_distance
from unityvideo_jax.metrics.scores import ClipScore, aggregate
from unityvideo_jax.metrics.video.consistency import TemporalFlickering
from unityvideo_jax.metrics.video.fvd import FrechetProxy
from unityvideo_jax.modalities import RGB
from unityvideo_jax.sampling.pipeline import Pipeline

# RGB is sampled with these, as far as an arm is trained on them: those of the paper's table 2.
SAMPLED = ("flow", "depth", "densepose")
# Control is scored on these: the estimator reads them at twice the size, which changes neither.
CONTROLLED = ("depth", "segmentation")
SKELETON = "skeleton"
Numbers = dict[str, float | int]
# Called with a title and labelled videos.
Draw = Callable[[str, Sequence[tuple[str, np.ndarray]]], None]


def losses(model: Model, arm: Arm, truth: Truth) -> Numbers:
    """Measures held-out losses of RGB and of estimates."""
    found: dict[str, list[float]] = {}

    def add(names: Sequence[str], what: Mapping[str, tuple[int, int]]) -> None:
        parts = [
            model.errors(names, batch, latents)
            for batch, latents in zip(truth.people, truth.latents, strict=True)
        ]
        errors = np.concatenate(parts).mean(axis=(0, 2))
        for key, place in what.items():
            found.setdefault(key, []).append(float(errors[place]))

    if 1 in arm.streams:
        add((RGB,), {"rgb_loss/alone": (0, 0)})
    places = {
        "rgb_loss/control+{}": (CONDITIONAL, 0),
        "estimation_loss/{}": (ESTIMATION, 1),
        "rgb_loss/joint+{}": (JOINT, 0),
    }
    for name in arm.trained:
        own = {key.format(name): at for key, at in places.items() if arm.trains(at[0])}
        if own:
            add((RGB, name), own)
    return _with_means({key: values[0] for key, values in found.items()})


def estimates(model: Model, arm: Arm, truth: Truth, draw: Draw) -> Numbers:
    """Scores modalities estimated from true RGB, and zero-shot: objects by prompt, and animals.

    Of objects, `asked_for_people` has the same clips with prompts of the validation worlds: the
    difference is the prompt's part of the score.
    """
    if not arm.trains(ESTIMATION):
        return {}
    settings, numbers = model.settings, {}
    for name in arm.trained:
        most = settings.skeletons if name == SKELETON else settings.estimated
        numbers |= _estimated(model, truth, truth.people, name, most, draw=draw)
    if "segmentation" in arm.trained and settings.zero_shot:
        prompts = [
            prompt
            for batch in truth.people
            for prompt in own_prompts(batch, ("segmentation",))["segmentation"][: batch.count]
        ]
        for label, own in (("objects", None), ("objects_asked_for_people", prompts)):
            numbers |= _estimated(
                model, truth, truth.objects, "segmentation", settings.zero_shot,
                prefix=f"zero_shot/{label}/", prompts=own, draw=draw,
            )  # fmt: skip
    if SKELETON in arm.trained and settings.animals:
        numbers |= _animals(model, truth, draw)
    return numbers


def _animals(model: Model, truth: Truth, draw: Draw) -> Numbers:
    """How far skeletons of animals lie on them, by exact masks: worlds have no joints of animals.

    Returns:
      zero_shot/animals/keypoints_in_masks over the clips without people that show a skeleton, the
      share of clips that do (found), their number, and under floor/ the same with the masks of the
      next clip.
    """
    codec, how = modalities.get(SKELETON).codec, KEYPOINTS_IN_MASKS
    skeletons: list[dict[str, np.ndarray]] = []
    masks: list[np.ndarray] = []
    for batch in truth.animals:
        asked = own_prompts(batch, ("segmentation",))["segmentation"]
        prompts = [f"the skeleton of {text.partition(' ')[2]}" for text in asked]
        rgb = truth.encode(batch, RGB)
        videos = model.estimate(SKELETON, batch, rgb, prompts={SKELETON: prompts})
        if not masks:
            rows = [("RGB", truth.drawn(batch, RGB)[0]), (prompts[0], videos[0])]
            draw("zero_shot/animals", [(label, media.to_uint8(v)) for label, v in rows])
        for b in range(batch.count):
            if not np.any(batch.clip["visibility"][b]):
                skeletons.append(modalities.decode_alone(codec, videos[b]))
                masks.append(np.asarray(batch.clip["segments"][b]))
    numbers: Numbers = {"zero_shot/animals/clips": len(masks)}
    for label, shift in (("", 0), ("floor/", 1)):
        scores = [
            how.score({**skeleton, "segments": masks[(n + shift) % len(masks)]})
            for n, skeleton in enumerate(skeletons)
        ]
        shown = [score for score in scores if score is not None]
        if shown:
            numbers[f"{label}zero_shot/animals/{how.name}"] = float(np.mean(shown))
    found = [np.any(skeleton["visibility"]) for skeleton in skeletons]
    return numbers | ({"zero_shot/animals/found": float(np.mean(found))} if found else {})


def _estimated(
    model: Model,
    truth: Truth,
    batches: Sequence[Batch],
    name: str,
    most: int,
    *,
    draw: Draw,
    prefix: str = "",
    prompts: Sequence[str] | None = None,
) -> Numbers:
    def video(batch: Batch) -> np.ndarray:
        own = {}
        if prompts is not None:
            own = {"prompts": {name: [prompts[int(i) % len(prompts)] for i in batch.index]}}
        return model.estimate(name, batch, truth.encode(batch, RGB), **own)

    return score_videos(truth, batches, name, most, video, prefix=prefix, draw=draw)


def score_videos(
    truth: Truth,
    batches: Sequence[Batch],
    name: str,
    most: int,
    video: Callable[[Batch], np.ndarray],
    *,
    prefix: str = "",
    draw: Draw = lambda title, rows: None,
) -> Numbers:
    """Scores a modality's videos of the first clips against their truth.

    Args:
      truth: has the codecs.
      batches: of clips.
      name: of the modality.
      most: clips to score.
      video: makes the videos [b, t, h, w, 3] of a batch.
      prefix: of the keys.
      draw: called for the first clip.
    """
    codec, metric = modalities.get(name).codec, modalities.get(name).metric()
    scores: list[ClipScore] = []
    for batch in batches:
        count = min(batch.count, most - len(scores))
        if count < 1:
            break
        videos = video(batch)
        if not scores:
            shown = {"RGB": RGB, f"{name}, true": name}
            rows = [(label, truth.drawn(batch, what)[0]) for label, what in shown.items()]
            rows.append((f"{name}, estimated", videos[0]))
            draw(f"{prefix}{name}", [(label, media.to_uint8(v)) for label, v in rows])
        for b in range(count):
            arrays = modalities.decode_alone(codec, videos[b])
            label = f"{name} of clip {batch.index[b]}"
            scores.append(metric.score(arrays, truth.arrays(batch, name, b), label))
    return {prefix + key: value for key, value in _numbers(scores).items()}


def sampled(
    model: Model,
    arm: Arm,
    truth: Truth,
    control: Callable[[str, Batch, np.ndarray], list],
    draw: Draw,
) -> Numbers:
    """Scores sampled RGB, and how it follows a modality.

    Args:
      model, arm, truth: the model, its arm, and the clips.
      control: given a modality, a batch and sampled RGB in [-1, 1], gives each clip's score.
      draw: called with samples of the first clip.
    """
    ways: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    if 1 in arm.streams:
        ways["alone"] = ((RGB,), (RGB,))
    for name in arm.trained:
        if name in SAMPLED and arm.trains(JOINT):
            ways[f"joint+{name}"] = ((RGB, name), (RGB, name))
        if name in {*SAMPLED, *CONTROLLED} and arm.trains(CONDITIONAL):
            ways[f"control+{name}"] = ((RGB, name), (RGB,))
    numbers: Numbers = {}
    for way, (names, wanted) in ways.items():
        videos, scores = [], []
        for batch, latents in zip(truth.people, truth.latents, strict=True):
            given = {name: latents[name] for name in names if name not in wanted}
            made = model.sample(names, wanted, batch, given, model.sampler)
            rgb = np.clip(made[RGB], -1.0, 1.0)
            if not videos:
                rows = [(f"{way}: {name}", media.to_uint8(v[0])) for name, v in made.items()]
                draw(f"samples/{way}", [*_shown(truth, batch, given), *rows])
            videos += [*media.to_uint8(rgb[: batch.count])]
            of = names[-1]
            if way.startswith("control+") and of in CONTROLLED:
                room = model.settings.estimated - len(scores)
                scores += control(of, batch, rgb)[: max(0, min(batch.count, room))]
        numbers |= of_videos(way, videos, truth)
        numbers |= _numbers(scores)
    return _with_means(numbers)


def _shown(truth: Truth, batch: Batch, given: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
    return [(f"given {name}", media.to_uint8(truth.drawn(batch, name)[0])) for name in given]


def of_videos(way: str, videos: Sequence[np.ndarray], truth: Truth) -> Numbers:
    """Scores videos by the Fréchet proxy against the true clips, and by temporal flickering.

    Args:
      way: of the keys.
      videos: uint8 [t, h, w, 3] of every clip.
      truth: the clips.
    """
    proxy, flicker = FrechetProxy(), TemporalFlickering()
    real = [v for batch in truth.people for v in real_videos(batch)]
    features = [np.stack([proxy.features(v) for v in part]) for part in (videos, real)]
    steady = [flicker.measure(v, 8.0, "", None) for v in videos]
    key = next(iter(steady[0].means))
    return {
        f"frechet_proxy/{way}": float(frechet_distance(*features)),
        f"temporal_flickering/{way}": float(aggregate(steady)[key]),
    }


def real_videos(batch: Batch) -> list[np.ndarray]:
    """True RGB of the clips of a batch that count, uint8."""
    return [*media.to_uint8(2.0 * np.asarray(batch.clip["rgb"][: batch.count]) - 1.0)]


class Controller:
    """Scores control by a model that is no arm: it reads sampled RGB at twice the size.

    Args:
      estimator: the model, such as worlds-mini.
      name: of it, for the keys.
      truth: of the clips.
    """

    def __init__(self, estimator: Pipeline, name: str, truth: Truth):
        self.estimator, self.name, self.truth = estimator, name, truth

    def __call__(
        self, modality: str, batch: Batch, rgb: Float[np.ndarray, "b t h w 3"]
    ) -> list[ClipScore]:
        """Scores each clip: the modality, estimated in one pass, against the truth.

        Args:
          modality: that was given.
          batch: clips with truth.
          rgb: sampled from the modality, in [-1, 1].
        """
        large = rgb.repeat(2, axis=2).repeat(2, axis=3)
        found = self.estimator(
            [""] * len(rgb),
            given={RGB: large},
            wanted=(modality,),
            modality_prompts=own_prompts(batch, (modality,)),
            seed=[int(i) for i in batch.index],
            steps=1,
            text_guidance=1.0,
        ).videos[modality]
        scores = []
        for b in range(len(rgb)):
            arrays = modalities.decode_alone(self.estimator.codec(modality), found[b])
            # Both are numbers of pixels that do not depend on the size of the picture.
            small = {k: v[:, ::2, ::2] if np.ndim(v) == 3 else v for k, v in arrays.items()}
            truth = self.truth.arrays(batch, modality, b)
            label = f"control by {modality} of clip {batch.index[b]}"
            scores.append(score_control(small, truth, modality, self.name, label))
        return scores


def agreement(model: Model, arm: Arm, truth: Truth, draw: Draw) -> Numbers:
    """Scores the agreement of streams that are sampled together, and of streams of other clips."""
    names = [RGB, *(name for name in arm.trained if name != SKELETON)]
    sets = [one for one in joint.stream_sets(names, 3) if len(one) == 3]
    if not arm.trains(JOINT) or 3 not in arm.streams or not sets:
        return {}
    config = joint.JointConfig(clips=model.settings.joint, seed=model.settings.seed)
    batches = first_clips(truth.people, model.settings.joint)

    def show(clip: int, caption: str, rows: Sequence[tuple[str, np.ndarray]]) -> None:
        if clip == 0:
            draw("samples/together", rows)

    found = joint.measure(model.pipeline, iter(batches), sets, model.sampler, config, show)
    numbers = _numbers([*found.model.values()])
    for label, scores in (("floor", found.floor), ("ceiling", found.ceiling)):
        beside = _numbers([*scores.values()])
        numbers |= {f"{label}/{key}": value for key, value in beside.items()}
    return numbers


def plausibility(model: Model, arm: Arm, truth: Truth) -> tuple[Numbers, dict[str, str]]:
    """Measures plausibility errors, and the outcome of each pair for intervals.

    Returns:
      Numbers by key; and by streams one character per pair: 1 where the invalid clip has the lower
      loss, 0 where it has not, = where both are equal.
    """
    names = [n for n in model.physics.names if n in arm.trained and arm.trains(JOINT)]
    rows: dict[str, physics.PhysicsRow] = {}
    for encoded in truth.pairs(model.physics):
        rows |= model.physics.score(encoded, names)
    outcomes: dict[str, str] = {}
    for protocol, by_streams in next(iter(rows.values())).losses.items():
        for streams in by_streams:
            label = streams if protocol.count("_") == 1 else f"{streams}_shuffled"
            outcomes[label] = "".join(
                {0.0: "0", 0.5: "=", 1.0: "1"}[prefers_invalid(*row.losses[protocol][streams])]
                for row in rows.values()
            )
    return physics.results(rows.values())[0], outcomes


def _numbers(scores: Sequence[ClipScore]) -> Numbers:
    return {key: value for key, value in aggregate(scores).items() if value is not None}


def _with_means(numbers: Numbers) -> Numbers:
    """Adds to keys that end in "+<modality>" or are of a modality's loss their mean over them."""
    groups: dict[str, list[float]] = {}
    for key, value in numbers.items():
        whole, plus, _ = key.partition("+")
        if key.startswith("estimation_loss/"):
            groups.setdefault("estimation_loss", []).append(value)
        elif plus:
            groups.setdefault(whole, []).append(value)
    return numbers | {key: float(np.mean(values)) for key, values in groups.items()}
