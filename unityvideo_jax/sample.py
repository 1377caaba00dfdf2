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
  python -m unityvideo_jax.sample --pretrained=FOLDER --mode=joint --modality=depth \
      --prompt="A dog runs." --output=from_a_model
  python -m unityvideo_jax.sample --workdir=wan21 --wanted=rgb --lora=style.safetensors:0.8 \
      --lora=lightning.safetensors --preset=four_steps --prompt="A dog runs." --output=styled
  python -m unityvideo_jax.sample --workdir=run --batch_file=requests.jsonl --output=many
"""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

import jax
from absl import flags

from unityvideo_jax import cli, media, modalities, units
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths
from unityvideo_jax.files.names import safe_path
from unityvideo_jax.runtime import capacity
from unityvideo_jax.sampling import files, requests, solvers
from unityvideo_jax.sampling.adapters import PRESETS, parse
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.streams import PIXEL_BYTES, check_size, stream_order

FLAGS = flags.FLAGS


TASK_FLAGS = (
    *("mode", "modality", "input", "given", "wanted", "first_frame"),
    *("prompt", "modality_prompt"),
)


def _requests() -> list[requests.Request]:
    if FLAGS.batch_file:
        for name in TASK_FLAGS:
            if flags.FLAGS[name].present:
                raise UserError(f"--{name} and --batch_file: put it into the file's lines instead")
        return requests.read_batch_file(FLAGS.batch_file, FLAGS.seed)
    texts = FLAGS.modality_prompt
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
            prompt=FLAGS.prompt,
            modality_prompt=requests.parse_pairs(texts, "--modality_prompt")
            if by_name or len(texts) > 1
            else "".join(texts),
            seed=FLAGS.seed,
        )
    ]


def _load_given(
    pipeline: Pipeline, request: requests.Request
) -> tuple[dict[str, files.Given], files.Given | None]:
    """The request's given streams, and its first frame if it has one."""
    stream_order([*request.given, *request.wanted], pipeline.modalities)
    size = {"height": FLAGS.height or pipeline.height, "width": FLAGS.width or pipeline.width}
    multiple = pipeline.token_pixels
    check_size(FLAGS.num_frames or pipeline.num_frames, **size, multiple=multiple)
    first = files.read_first_frame(request.first_frame, **size) if request.first_frame else None
    given = files.read_given(
        request.given,
        num_frames=FLAGS.num_frames,
        default_frames=pipeline.num_frames,
        fps=FLAGS.fps or pipeline.fps,
        multiple=multiple,
        depth_unit=FLAGS.depth_unit,
        codecs={name: pipeline.codec(name) for name in request.given},
        **size,
    )
    return given, first


def _check_inputs_stay(todo: list[requests.Request], output: pathlib.Path) -> None:
    """Raises UserError if a result would be written over what a request reads."""
    for request in todo:
        for source in (*request.given.values(), request.first_frame):
            for other in todo:
                folder = (output / other.name).resolve()
                path = pathlib.Path(source).resolve()
                named = path.stem in (*other.given, *other.wanted)
                if source and path.parent == folder and named:
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
    flags.DEFINE_string("prompt", "", "Caption of the RGB video.")
    flags.DEFINE_multi_string(
        "modality_prompt",
        [],
        "Replaces the modality's own prompt; with several, modality=text each.",
    )
    cli.define_path("batch_file", "", "JSONL of requests instead of the flags above.")
    flags.DEFINE_multi_string(
        "lora", [], "Adapter to merge into the weights, FILE or FILE:WEIGHT; may be repeated."
    )
    flags.DEFINE_enum(
        "preset",
        None,
        sorted(PRESETS),
        "Sampler settings of a kind of adapter; other flags replace.",
    )
    flags.DEFINE_integer("steps", None, "Solver steps.")
    flags.DEFINE_enum("solver", None, solvers.SOLVERS, "ODE solver.")
    flags.DEFINE_float("text_guidance", None, "Guidance scale of the text; 1 is off.")
    flags.DEFINE_float("condition_guidance", None, "The same for given streams.")
    flags.DEFINE_float("shift", None, "Timestep shift.")
    flags.DEFINE_enum("grid", None, solvers.GRIDS, "Grid of noise levels.")
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
    adapters = [(paths.expand(path), weight) for path, weight in map(parse, FLAGS.lora)]
    pipeline.add_adapters(*adapters)
    names = ("steps", "solver", "text_guidance", "condition_guidance", "shift", "grid")
    chosen = {name: FLAGS[name].value for name in names if FLAGS[name].value is not None}
    sampler = pipeline.sampler.changed(**(PRESETS.get(FLAGS.preset, {}) | chosen))
    pipeline.warn_of_cut(t for one in todo for t in (one.prompt, *one.modality_prompts.values()))
    # All inputs are read before the first sample is made, so that a bad one costs nothing.
    frames = FLAGS.num_frames or pipeline.num_frames
    pixels = frames * (FLAGS.height or pipeline.height) * (FLAGS.width or pipeline.width)
    capacity.check_host(
        PIXEL_BYTES * pixels * sum(len(request.given) for request in todo),
        f"the inputs of {len(todo)} requests",
        "divide the batch file",
    )
    given = [_load_given(pipeline, request) for request in todo]
    fps = FLAGS.fps or pipeline.fps
    print(
        f"weights of step {pipeline.step}, {sampler.solver} in {sampler.steps} steps, "
        f"{len(todo)} request(s)",
        flush=True,
    )
    for number, (request, (streams, first)) in enumerate(zip(todo, given, strict=True), start=1):
        folder = output / request.name
        start = time.monotonic()
        with _traced(folder / "profile", number):
            samples = pipeline(
                request.prompt,
                given=streams,
                wanted=request.wanted,
                first_frame=first,
                modality_prompts=request.modality_prompts,
                sampler=sampler,
                seed=request.seed,
                num_frames=None if streams else FLAGS.num_frames,
                height=FLAGS.height,
                width=FLAGS.width,
            )
            seconds = time.monotonic() - start
        record = {
            "command": ["python", "-m", "unityvideo_jax.sample", *sys.argv[1:]],
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
