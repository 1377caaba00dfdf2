"""Scores runs one after another in one process, which then compile and render once."""

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unityvideo_jax import media, modalities
from unityvideo_jax.ablations import measure
from unityvideo_jax.ablations.arms import Arm
from unityvideo_jax.ablations.measure import Draw, Numbers
from unityvideo_jax.ablations.model import Model
from unityvideo_jax.ablations.truth import MeasureConfig, Truth, first_clips
from unityvideo_jax.checkpoints.inference import load_for_inference
from unityvideo_jax.inputs.config import as_data_config
from unityvideo_jax.metrics.scores import aggregate
from unityvideo_jax.modalities import RGB
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.pretrained.vae import load_vae
from unityvideo_jax.sampling.pipeline import Pipeline


class Evaluator:
    """Scores runs of one size on the same truth.

    Args:
      arm: any of the grid, for the size of clips and the autoencoder.
      settings: how much is measured.
      estimator: name or folder of the model that scores control.
      log: takes a line of what each part took.
    """

    def __init__(
        self, arm: Arm, settings: MeasureConfig, estimator: str, log: Callable[[str], None] = print
    ):
        self.settings, self._log = settings, log
        data = as_data_config(arm.config.data)
        names = tuple(arm.model.modalities)
        codec = lambda name: modalities.chosen_codec(name, data.codecs)  # noqa: E731
        self.truth = Truth(
            load_vae(data.vae or None), codec, arm.config.data.to_dict(), names, settings
        )
        self._control = measure.Controller(
            Pipeline.from_pretrained(estimator), pathlib.Path(estimator).name, self.truth
        )
        self._models: dict[DiTConfig, Model] = {}

    def model(self, workdir: pathlib.Path) -> Model:
        """Loads a run's averaged weights, in the pipeline of the first run of its architecture."""
        config, params, step = load_for_inference(workdir, use_ema=True)
        kind = DiTConfig(**config.model.to_dict())
        if kind not in self._models:
            pipeline = Pipeline.from_workdir(workdir, step=step)
            self._models[kind] = Model(pipeline, self.settings)
        model = self._models[kind]
        model.pipeline.params = params
        model.pipeline.config, model.pipeline.step = config.to_dict(), step
        return model

    def run(self, workdir: pathlib.Path, arm: Arm, draw: Draw) -> dict[str, Any]:
        """Measures numbers of a run, outcomes of pairs, and seconds of each part.

        Args:
          workdir: of the run.
          arm: that it trained.
          draw: called with titles and labelled videos.
        """
        model = self.model(workdir)
        seconds: dict[str, float] = {}
        numbers: Numbers = {}
        for name, part in {
            "losses": lambda: measure.losses(model, arm, self.truth),
            "samples": lambda: measure.sampled(model, arm, self.truth, self._control, draw),
            "estimates": lambda: measure.estimates(model, arm, self.truth, draw),
            "agreement": lambda: measure.agreement(model, arm, self.truth, draw),
        }.items():
            numbers |= self._timed(name, part, seconds)
        plausible, outcomes = self._timed(
            "physics", lambda: measure.plausibility(model, arm, self.truth), seconds
        )
        return {"metrics": numbers | plausible, "pairs": outcomes, "evaluation_seconds": seconds}

    def reference(self, arm: Arm) -> dict[str, Any]:
        """Measures numbers without a run: the truth through the VAE, and trivial predictions."""
        truth, settings, seconds = self.truth, self.settings, {}
        numbers: Numbers = {}

        def back(name: str) -> Callable:
            return lambda batch: truth.decode(truth.encode(batch, name), name)

        def estimates() -> Numbers:
            found: Numbers = {}
            for name in truth.names[1:]:
                most = settings.skeletons if name == measure.SKELETON else settings.estimated
                found |= measure.score_videos(
                    truth, truth.people, name, most, back(name), prefix="ceiling/"
                )
                found |= _trivial(truth, name, most)
            if "segmentation" in truth.names and settings.zero_shot:
                found |= measure.score_videos(
                    truth, truth.objects, "segmentation", settings.zero_shot,
                    back("segmentation"), prefix="ceiling/zero_shot/objects/",
                )  # fmt: skip
            return found

        def videos() -> Numbers:
            rebuilt, control = [], []
            for batch in truth.people:
                made = np.clip(back(RGB)(batch), -1.0, 1.0)
                rebuilt += [*media.to_uint8(made[: batch.count])]
            found = measure.of_videos("autoencoder", rebuilt, truth)
            real = [v for batch in truth.people for v in measure.real_videos(batch)]
            found |= measure.of_videos("truth", real, truth)
            for name in measure.CONTROLLED:
                for batch in first_clips(truth.people, settings.estimated):
                    rgb = 2.0 * np.asarray(batch.clip["rgb"], np.float32) - 1.0
                    control += self._control(name, batch, rgb)[: batch.count]
            return found | {f"truth/{k}": v for k, v in aggregate(control).items() if v is not None}

        numbers |= self._timed("estimates", estimates, seconds)
        numbers |= self._timed("samples", videos, seconds)
        return {"metrics": numbers, "pairs": {}, "evaluation_seconds": seconds}

    def _timed(self, name: str, part: Callable[[], Any], seconds: dict[str, float]) -> Any:
        start = time.perf_counter()
        found = part()
        seconds[name] = round(time.perf_counter() - start, 1)
        self._log(f"{name}: {seconds[name]:.1f} s")
        return found


def _trivial(truth: Truth, name: str, most: int) -> Numbers:
    known, scores = modalities.get(name), []
    for batch in first_clips(truth.people, most):
        for b in range(batch.count):
            arrays = truth.arrays(batch, name, b)
            scores.append(known.metric().score(known.trivial(arrays), arrays, name))
    return {f"trivial/{k}": v for k, v in aggregate(scores).items() if v is not None}


def curve(workdir: pathlib.Path) -> list[dict[str, float]]:
    """Reads losses by step, as training wrote them: all, of RGB alone, and seconds per step.

    Worlds are drawn without end, so that these are close to losses of clips that it has not seen.
    """
    names = {
        "step": "step",
        "loss": "loss",
        "loss/streams/1": "rgb_alone",
        "step_seconds": "step_seconds",
    }
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [_selected(record, names) for record in records]


def _selected(record: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    return {short: float(f"{record[name]:.5g}") for name, short in names.items() if name in record}
