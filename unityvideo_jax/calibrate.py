r"""Measures how a model's outputs change while it samples, for `sample --cache`.

  python -m unityvideo_jax.calibrate --pretrained=FOLDER
  python -m unityvideo_jax.calibrate --workdir=run --tasks=joint --modality=depth --num_clips=8
  python -m unityvideo_jax.calibrate --pretrained=FOLDER --batch_file=requests.jsonl

Samples some requests with every pass of the model and writes `cache.json` into the model's folder
or the workdir: two clips of procedural worlds per task, or requests of your own, as `sample` takes
them. The curves serve any number of steps, solver, shift and scale of guidance (docs/speed.md).
"""

import collections
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Float

from unityvideo_jax import cli, worlds
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths
from unityvideo_jax.inputs.sources import WorldsSource
from unityvideo_jax.modalities import RGB
from unityvideo_jax.sampling import requests
from unityvideo_jax.sampling.calibration import FILE, TASKS, Calibration, kind_of, task_of
from unityvideo_jax.sampling.generate import SamplerConfig, jit_generate
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.schedule import Curve, of_runs

FLAGS = flags.FLAGS
# A solver whose noise levels all differ, and that evaluates along the path.
SOLVER = "unipc"


class Recorder:
    """The sampler of a pipeline, which also records how each pass changed.

    Attributes:
      changes: of each call, one row per evaluation and one column per pass.
      kinds: of the passes of each call.
    """

    def __init__(self, pipeline: Pipeline):
        self._sample = jit_generate(pipeline.velocity)
        self.changes: list[Float[np.ndarray, "rows p"]] = []
        self.kinds: list[list[str]] = []

    def __call__(
        self,
        params: Any,
        rows: Mapping[str, Any],
        *,
        wanted: tuple[bool, ...],
        sampler: SamplerConfig,
        skipped: int,
        **others: Any,
    ) -> jax.Array:
        """Samples as `Pipeline.sample_latents` does, and records the changes."""
        fixed = [s for s, is_wanted in enumerate(wanted) if not is_wanted]
        passes = sampler.all_passes(fixed, rows["counts"])
        sigma = sampler.table(skipped).sigma
        result, changes = self._sample(
            params,
            rows,
            wanted=wanted,
            sampler=sampler,
            skipped=skipped,
            **others | {"schedule": of_runs(np.ones((len(sigma), len(passes)), bool), sigma)},
            measured=True,
        )
        self.changes.append(np.asarray(changes))
        self.kinds.append([kind_of(one, passes[0]) for one in passes])
        return result


def calls(pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    """Yields arguments of the pipeline's calls, from the batch file or from worlds.

    Raises:
      UserError: flags that contradict the file, a request with controls, or an unknown modality.
    """
    if FLAGS.batch_file:
        names = ("tasks", "modality", "num_clips")
        cli.refuse(names, "not with --batch_file: the file says it; leave one out")
        for request in requests.read_batch_file(FLAGS.batch_file, FLAGS.seed):
            if request.sampler or request.strength or request.masks or request.weights:
                raise UserError(
                    f"{FLAGS.batch_file}: {request.name}: give no sampler, strength, masks or "
                    "weights; curves are of whole samples"
                )
            names = ("given", "wanted", "negative_prompt", "modality_prompts", "seed")
            yield {"prompts": request.prompt, **{n: getattr(request, n) for n in names}}
        return
    modality = FLAGS.modality or [name for name in pipeline.modalities if name != RGB][:1]
    unknown = [name for name in modality if name not in pipeline.modalities or name == RGB]
    if unknown or not modality:
        raise UserError(f"--modality={','.join(unknown)}: name modalities of the model, not rgb")
    world = worlds.WorldConfig(
        num_frames=pipeline.num_frames,
        height=pipeline.height,
        width=pipeline.width,
        fps=pipeline.fps,
        split="train",
        seed=FLAGS.seed,
    )
    source = WorldsSource(world, FLAGS.num_clips, codecs={"depth": pipeline.depth_codec})
    for index in range(FLAGS.num_clips):
        clip = source.load([index], (RGB, *modality))
        for task in FLAGS.tasks:
            given = {"joint": (), "control": modality, "estimation": (RGB,)}[task]
            wanted = {"joint": (RGB, *modality), "control": (RGB,), "estimation": modality}[task]
            yield {
                "prompts": clip.texts[RGB][0],
                "given": {name: np.asarray(clip.videos[name][0]) for name in given},
                "wanted": wanted,
                "modality_prompts": {name: clip.texts[name][0] for name in modality},
                "seed": FLAGS.seed + index,
            }


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_pipeline()
    flags.DEFINE_list("tasks", list(TASKS), f"Tasks to measure on worlds: {', '.join(TASKS)}.")
    flags.DEFINE_list("modality", [], "Modalities of those tasks; the model's first if left out.")
    flags.DEFINE_integer("num_clips", 2, "Clips of worlds per task.", lower_bound=1)
    cli.define_path("batch_file", "", "JSONL of requests, as for sample, instead of worlds.")
    flags.DEFINE_integer("steps", 50, "Solver steps.", lower_bound=3)
    flags.DEFINE_float("text_guidance", None, "Guidance scale; the model's own if left out.")
    flags.DEFINE_float("condition_guidance", None, "The same for given streams.")
    cli.define_seed("seed", "Seed of the worlds and of the noise.")


def main(argv: Sequence[str]) -> None:
    """Samples the requests and writes the calibration beside the weights."""
    del argv
    unknown = [task for task in FLAGS.tasks if task not in TASKS]
    if unknown or not FLAGS.tasks:
        raise UserError(f"--tasks={','.join(FLAGS.tasks)}: choose from {', '.join(TASKS)}")
    pipeline = cli.load_pipeline()
    paths.check_output(str(pipeline.folder / FILE), str(pipeline.folder / FILE), "file")
    sampler = pipeline.sampler.changed(
        steps=FLAGS.steps,
        solver=SOLVER,
        text_guidance=FLAGS.text_guidance,
        condition_guidance=FLAGS.condition_guidance,
        guidance_interval=(0.0, 1.0),
        cache=0.0,
    )
    pipeline.sample_latents = recorder = Recorder(pipeline)
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for call in calls(pipeline):
        start = time.monotonic()
        samples = pipeline(**call, sampler=sampler)
        task = task_of(samples.streams, samples.wanted)
        for kind, column in zip(recorder.kinds[-1], recorder.changes[-1].T, strict=True):
            found[task][kind].append(column)
        print(f"{task}: {time.monotonic() - start:.0f} s", flush=True)
    sigma = sampler.table().sigma
    tasks = {task: {kind: _mean(sigma, rows) for kind, rows in kinds.items()}
             for task, kinds in found.items()}  # fmt: skip
    measured = {
        "samples": {task: len(next(iter(kinds.values()))) for task, kinds in found.items()},
        **{key: getattr(sampler, key) for key in
           ("solver", "steps", "shift", "grid", "text_guidance", "condition_guidance")},
        "adapters": pipeline.adapters,
        "device": jax.devices()[0].device_kind,
    }  # fmt: skip
    calibration = Calibration(model=pipeline.fingerprint, tasks=tasks, measured=measured)
    print(calibration.save(pipeline.folder))


def _mean(sigma: Float[np.ndarray, " n"], rows: Sequence[Float[np.ndarray, " n"]]) -> Curve:
    """The curve of several samples; the first evaluation has none before it."""
    change = np.mean(rows, axis=0)
    change[0] = 0.0
    return Curve(sigma=sigma, change=change)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
