r"""Samples videos from trained weights: joint generation, control, estimation, or a mix of streams.

  python -m unityvideo_jax.sample --workdir=run --mode=joint --modality=depth \
      --prompt="A man kicks a red ball." --output=joint
  python -m unityvideo_jax.sample --workdir=run --mode=control --modality=depth \
      --input=joint/depth.mp4 --prompt="A man kicks a blue box." --output=control
  python -m unityvideo_jax.sample --workdir=run --mode=estimation --modality=depth,flow \
      --input=film.mp4 --output=estimation
  python -m unityvideo_jax.sample --workdir=run --given=depth=d.npz,skeleton=s.mp4 --wanted=rgb \
      --prompt="A woman waves." --output=two_controls
  python -m unityvideo_jax.sample --workdir=run --wanted=rgb --first_frame=photo.jpg \
      --prompt="The dog runs off." --output=image_to_video
  python -m unityvideo_jax.sample --workdir=run --given=rgb=film.mp4 --wanted=rgb --strength=0.6 \
      --prompt="The dog is white." --output=video_to_video
  python -m unityvideo_jax.sample --workdir=run --given=rgb=film.mp4 --wanted=rgb \
      --mask=kept.png --prompt="A red ball." --output=inpainting
  python -m unityvideo_jax.sample --workdir=run --mode=estimation --modality=depth \
      --input=hours.mp4 --long=joined --output=long
  python -m unityvideo_jax.sample --pretrained=FOLDER --mode=joint --modality=depth \
      --prompt="A dog runs." --output=from_a_model
  python -m unityvideo_jax.sample --workdir=wan21 --wanted=rgb --lora=style.safetensors:0.8 \
      --lora=lightning.safetensors --preset=four_steps --prompt="A dog runs." --output=styled
  python -m unityvideo_jax.sample --workdir=run --batch_file=requests.jsonl --output=many
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from absl import flags

from unityvideo_jax import cli, media, modalities, units
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths
from unityvideo_jax.files.names import safe_path
from unityvideo_jax.runtime import capacity
from unityvideo_jax.sampling import files, requests, solvers
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.long_requests import WAYS, LongVideos
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.presets import PRESETS
from unityvideo_jax.sampling.streams import PIXEL_BYTES, check_size

FLAGS = flags.FLAGS

TASK_FLAGS = (
    *("mode", "modality", "input", "given", "wanted", "first_frame", "last_frame", "mask"),
    *("weight", "strength", "prompt", "negative_prompt", "modality_prompt"),
)
# Settings of the sampler, by the names of its fields.
SETTINGS = (
    *("steps", "solver", "text_guidance", "condition_guidance", "shift", "grid"),
    *("guidance_interval", "guidance_rescale", "window", "overlap", "cache"),
)


def _requests() -> list[requests.Request]:
    if FLAGS.batch_file:
        cli.refuse(TASK_FLAGS, "not with --batch_file: put it into the file's lines instead")
        return requests.read_batch_file(FLAGS.batch_file, FLAGS.seed)
    texts = FLAGS.modality_prompt
    masks = requests.parse_named(FLAGS.mask, "--mask") if FLAGS.mask else ""
    weights = requests.parse_named(FLAGS.weight, "--weight") if FLAGS.weight else None
    by_name = any(text.partition("=")[0] in modalities.names() for text in texts)
    return [
        requests.build(
            where="flags",
            mode=FLAGS.mode,
            modality=FLAGS.modality,
            input=FLAGS.input,
            given={
                name: paths.expand(path)
                for name, path in requests.parse_pairs(FLAGS.given, "--given").items()
            },
            wanted=FLAGS.wanted,
            first_frame=FLAGS.first_frame,
            last_frame=FLAGS.last_frame,
            masks=_each(masks, paths.expand),
            weights=_each(weights, functools.partial(_number, "--weight")),
            strength=FLAGS.strength,
            prompt=FLAGS.prompt,
            negative_prompt=FLAGS.negative_prompt,
            modality_prompt=requests.parse_pairs(texts, "--modality_prompt")
            if by_name or len(texts) > 1
            else "".join(texts),
            seed=FLAGS.seed,
        )
    ]


def _each(value: Any, function: Callable[[str], Any]) -> Any:
    """The function of a text, or of every text of a dict; nothing stays nothing."""
    if isinstance(value, dict):
        return {name: function(one) for name, one in value.items()}
    return function(value) if value else value


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{flag}: {text!r} is no number") from error


def _load(pipeline: Pipeline, request: requests.Request) -> dict[str, Any]:
    """The inputs that a request reads from files, by the names of the pipeline's arguments."""
    size = {"height": FLAGS.height or pipeline.height, "width": FLAGS.width or pipeline.width}
    multiple = pipeline.token_pixels
    check_size(FLAGS.num_frames or pipeline.num_frames, **size, multiple=multiple)
    loaded = {
        role: files.read_image(path, **size) if path else None
        for role, path in (
            ("first_frame", request.first_frame),
            ("last_frame", request.last_frame),
        )
    }
    loaded["given"] = given = files.read_given(
        request.given,
        num_frames=FLAGS.num_frames,
        default_frames=pipeline.num_frames,
        fps=FLAGS.fps or pipeline.fps,
        multiple=multiple,
        depth_unit=FLAGS.depth_unit,
        codecs={name: pipeline.codec(name) for name in request.given},
        **size,
    )
    for name, path in request.masks.items():
        shape = given[name].video.shape[:3]
        loaded.setdefault("masks", {})[name] = files.read_mask(
            path, shape, fps=FLAGS.fps or pipeline.fps
        )
    return loaded


def _check_inputs_stay(todo: list[requests.Request], output: pathlib.Path) -> None:
    """Raises UserError if a result would overwrite an input of a request."""
    for request in todo:
        for source in request.sources:
            for other in todo:
                folder = (output / other.name).resolve()
                path = pathlib.Path(source).resolve()
                named = path.stem in (*other.given, *other.wanted)
                if path.parent == folder and named:
                    raise UserError(
                        f"--output={output}: {source} is read and would be written over; name "
                        "another folder"
                    )


@contextlib.contextmanager
def _traced(folder: pathlib.Path, number: int) -> Iterator[None]:
    """Traces a request into `folder` if asked to; the first one's trace holds its compilation."""
    trace = jax.profiler.trace(folder) if FLAGS.profile else contextlib.nullcontext()
    with trace, jax.profiler.StepTraceAnnotation("sample", step_num=number):
        yield


def _sample_long(
    pipeline: Pipeline,
    todo: Sequence[requests.Request],
    samplers: Sequence[SamplerConfig],
    output: pathlib.Path,
) -> None:
    """Samples every request window by window, from its videos into files."""
    if FLAGS.profile:
        raise UserError(f"--profile: traces one window; leave out --long={FLAGS.long}")
    videos = LongVideos(
        way=FLAGS.long,
        num_frames=FLAGS.num_frames,
        fps=FLAGS.fps or pipeline.fps,
        size=(FLAGS.height or pipeline.height, FLAGS.width or pipeline.width),
        depth_unit=FLAGS.depth_unit,
        record={"command": cli.command("sample"), **cli.weights_of(pipeline)},
    )
    videos.check(todo)
    for request, sampler in zip(todo, samplers, strict=True):
        videos.sample(pipeline, request, sampler, output / request.name)


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_pipeline()
    flags.DEFINE_string("mode", "", f"One of {', '.join(requests.MODES)}.")
    flags.DEFINE_list("modality", [], "Modality of the mode, or several (a,b).")
    cli.define_path("input", "", "Video, image folder, or npz of truth, of the mode.")
    flags.DEFINE_list("given", [], "Instead of a mode: given streams, modality=path.")
    flags.DEFINE_list("wanted", [], "Instead of a mode: streams to sample.")
    cli.define_path(
        "first_frame", "", "Image that the sampled RGB starts with; for models that learned it."
    )
    cli.define_path("last_frame", "", "Image that the sampled RGB ends with.")
    flags.DEFINE_multi_string(
        "mask",
        [],
        "Black and white image or video: white is where a given stream counts, and the part that "
        "stays of one that is also wanted; with several given streams, modality=path each.",
    )
    flags.DEFINE_multi_string(
        "weight",
        [],
        "How much a given stream counts, 1 if left out; with several, modality=number.",
    )
    flags.DEFINE_float(
        "strength",
        None,
        "Video to video: share of the steps by which a given and wanted stream is sampled anew.",
    )
    flags.DEFINE_string("prompt", "", "Caption of the RGB video.")
    flags.DEFINE_string("negative_prompt", "", "Caption that text guidance leads away from.")
    flags.DEFINE_multi_string(
        "modality_prompt",
        [],
        "Replaces the modality's own prompt; with several, modality=text each.",
    )
    cli.define_path("batch_file", "", "JSONL of requests instead of the flags above.")
    flags.DEFINE_enum(
        "preset",
        None,
        sorted(PRESETS),
        "Sampler settings of four-step adapters, or of one-pass estimation; other flags replace.",
    )
    flags.DEFINE_integer("steps", None, "Solver steps.")
    flags.DEFINE_enum("solver", None, solvers.SOLVERS, "ODE solver.")
    flags.DEFINE_float("text_guidance", None, "Guidance scale of the text; 1 is off.")
    flags.DEFINE_float("condition_guidance", None, "The same for given streams.")
    flags.DEFINE_float("shift", None, "Timestep shift.")
    flags.DEFINE_enum("grid", None, solvers.GRIDS, "Grid of noise levels.")
    flags.DEFINE_list(
        "guidance_interval", None, "Least and greatest t with guidance, LOW,HIGH from 0 to 1."
    )
    flags.DEFINE_float(
        "guidance_rescale", None, "Share of the guided deviation that is taken back, 0 to 1."
    )
    flags.DEFINE_float(
        "cache",
        None,
        "Share of the model's passes, 0 to below 1, that are predicted from earlier ones; "
        "needs the model's calibration (docs/speed.md).",
    )
    cli.define_seed("seed", "Seed; request n of a batch file takes seed + n.")
    flags.DEFINE_integer("num_frames", None, "Frames, 4n+1.", lower_bound=1)
    flags.DEFINE_integer("height", None, "Pixels, a multiple of 16 (Wan 2.2: 32).", lower_bound=1)
    flags.DEFINE_integer("width", None, "Pixels, likewise.", lower_bound=1)
    flags.DEFINE_float(
        "fps",
        None,
        "Frames/s of the model's video; input is taken by time at this rate.",
        lower_bound=0.1,
    )
    flags.DEFINE_enum(
        "depth_unit",
        "",
        ["", *units.NAMES],
        "Unit of given depth without a .json beside it. Default: metres in .npz and floats, "
        "millimetres in 16-bit pictures.",
    )
    cli.define_path("output", None, "Folder of the results.", writes="folder", required=True)
    flags.DEFINE_integer(
        "window", None, "Frames that the model sees at once of a longer video, 4n+1.", lower_bound=1
    )
    flags.DEFINE_integer("overlap", None, "Frames that windows share, 4n+1.", lower_bound=1)
    flags.DEFINE_enum(
        "long",
        None,
        WAYS,
        "Any length, window after window from file to file: sampled each for itself and joined, or "
        "continued from the last frames of the one before. Left out: all windows at once.",
    )
    flags.DEFINE_bool("profile", False, "Trace each request for XProf, beside its results.")


def main(argv: Sequence[str]) -> None:
    """Samples every request into --output; a batch file's each into its own folder."""
    del argv
    media.check_videos()
    todo = _requests()
    output = pathlib.Path(FLAGS.output)
    for request in todo:
        if request.name:
            safe_path(output, request.name, where="request")
    _check_inputs_stay(todo, output)
    pipeline = cli.load_pipeline()
    chosen = {name: FLAGS[name].value for name in SETTINGS if FLAGS[name].value is not None}
    if "guidance_interval" in chosen:
        chosen["guidance_interval"] = [
            _number("--guidance_interval", t) for t in chosen["guidance_interval"]
        ]
    sampler = pipeline.sampler.changed(**(PRESETS.get(FLAGS.preset, {}) | chosen))
    samplers = [sampler.changed(**request.sampler) for request in todo]
    for request, settings in zip(todo, samplers, strict=True):
        request.check(pipeline.model_config, settings)
    unsure = [name for name in chosen if not (FLAGS.long and name == "overlap")]
    requests.check_read(todo, samplers, unsure, pipeline.prompt_dropout > 0)
    given = {name for request in todo for name in request.given}
    if FLAGS.depth_unit and not any("depth" in pipeline.codec(name).keys for name in given):
        raise UserError(f"--depth_unit={FLAGS.depth_unit}: no depth is given; leave it out")
    pipeline.warn_of_cut(
        text
        for one in todo
        for text in (one.prompt, one.negative_prompt, *one.modality_prompts.values())
    )
    if FLAGS.long:
        _sample_long(pipeline, todo, samplers, output)
        return
    # All inputs are read before the first sample is made, so that a bad one costs nothing.
    frames = FLAGS.num_frames or pipeline.num_frames
    pixels = frames * (FLAGS.height or pipeline.height) * (FLAGS.width or pipeline.width)
    capacity.check_host(
        PIXEL_BYTES * pixels * sum(len(request.given) for request in todo),
        f"the inputs of {len(todo)} requests",
        "divide the batch file",
    )
    loaded = [_load(pipeline, request) for request in todo]
    fps = FLAGS.fps or pipeline.fps
    print(
        f"weights of step {pipeline.step}, {sampler.solver} in {sampler.steps} steps, "
        f"{len(todo)} request(s)",
        flush=True,
    )
    for number, (request, inputs) in enumerate(zip(todo, loaded, strict=True), start=1):
        folder = output / request.name
        start = time.monotonic()
        with _traced(folder / "profile", number):
            samples = pipeline(
                request.prompt,
                wanted=request.wanted,
                weights=request.weights,
                strength=request.strength,
                negative_prompt=request.negative_prompt,
                modality_prompts=request.modality_prompts,
                sampler=samplers[number - 1],
                seed=request.seed,
                num_frames=None if request.given else FLAGS.num_frames,
                height=FLAGS.height,
                width=FLAGS.width,
                **inputs,
            )
            seconds = time.monotonic() - start
        record = {
            "command": cli.command("sample"),
            "request": dataclasses.asdict(request),
            "fps": fps,
            "seconds": round(seconds, 3),
            **cli.weights_of(pipeline),
        }
        names = dataclasses.replace(samples, fps=fps).save(folder, record=record)
        label = request.name or "sample"
        print(f"[{number}/{len(todo)}] {label}: {seconds:.1f} s, {folder}", flush=True)
        print("  " + ", ".join(names), flush=True)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
