r"""Samples videos from a trained run: joint generation, control, estimation, or any mix of streams.

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
  python -m unityvideo_jax.sample --workdir=wan21 --wanted=rgb --lora=style.safetensors:0.8 \
      --lora=lightning.safetensors --preset=four_steps --prompt="A dog runs." --output=styled
  python -m unityvideo_jax.sample --workdir=run --batch_file=requests.jsonl --output=many
"""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import flags

from unityvideo_jax import cli, modalities, units
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths, provenance
from unityvideo_jax.files.names import safe_path
from unityvideo_jax.runtime import capacity
from unityvideo_jax.sampling import files, requests, solvers
from unityvideo_jax.sampling.adapters import PRESETS, parse
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.streams import PIXEL_BYTES, RGB, check_size, stream_order

_WORKDIR = cli.define_path("workdir", None, "Workdir of the training run.", required=True)
_STEP = flags.DEFINE_integer("checkpoint_step", None, "Which checkpoint; the latest if left out.")
_VAE = cli.define_path("vae", None, "Folder of the VAE, instead of config.data.vae.")
_TEXT_ENCODER = flags.DEFINE_string(
    "text_encoder", None, "Text encoder, instead of config.data.text_encoder."
)
_FALLBACK = flags.DEFINE_bool(
    "fallback", False, "If the checkpoint is damaged, take the newest whole one before it."
)
_EMA = flags.DEFINE_bool("ema", True, "Use the averaged weights.")
_MODE = flags.DEFINE_string("mode", "", f"One of {', '.join(requests.MODES)}.")
_MODALITY = flags.DEFINE_list("modality", [], "Modality of the mode, or several (a,b).")
_INPUT = cli.define_path("input", "", "Video, image folder, or npz of truth, of the mode.")
_GIVEN = flags.DEFINE_list("given", [], "Instead of a mode: given streams, modality=path.")
_WANTED = flags.DEFINE_list("wanted", [], "Instead of a mode: streams to sample.")
_FIRST_FRAME = cli.define_path(
    "first_frame", "", "Image that the sampled RGB starts with; for models that learned it."
)
_PROMPT = flags.DEFINE_string("prompt", "", "Caption of the RGB video.")
_MODALITY_PROMPT = flags.DEFINE_multi_string(
    "modality_prompt", [], "Replaces the modality's own prompt; with several, modality=text each."
)
_BATCH_FILE = cli.define_path("batch_file", "", "JSONL of requests instead of the flags above.")
_LORA = flags.DEFINE_multi_string(
    "lora", [], "Adapter to merge into the weights, FILE or FILE:WEIGHT; may be repeated."
)
_PRESET = flags.DEFINE_enum(
    "preset", None, sorted(PRESETS), "Sampler settings of a kind of adapter; other flags replace."
)
_STEPS = flags.DEFINE_integer("steps", None, "Solver steps.")
_SOLVER = flags.DEFINE_enum("solver", None, solvers.SOLVERS, "ODE solver.")
_TEXT = flags.DEFINE_float("text_guidance", None, "Guidance scale of the text; 1 is off.")
_CONDITION = flags.DEFINE_float("condition_guidance", None, "The same for given streams.")
_SHIFT = flags.DEFINE_float("shift", None, "Timestep shift.")
_GRID = flags.DEFINE_enum("grid", None, solvers.GRIDS, "Grid of noise levels.")
_SEED = cli.define_seed("seed", "Seed; request n of a batch file takes seed + n.")
_NUM_FRAMES = flags.DEFINE_integer("num_frames", None, "Frames, 4n+1.", lower_bound=1)
_HEIGHT = flags.DEFINE_integer(
    "height", None, "Pixels, a multiple of 16 (Wan 2.2: 32).", lower_bound=1
)
_WIDTH = flags.DEFINE_integer("width", None, "Pixels, likewise.", lower_bound=1)
_FPS = flags.DEFINE_float(
    "fps",
    None,
    "Frames/s of the model's video; input is taken by time at this rate.",
    lower_bound=0.1,
)
_DEPTH_UNIT = flags.DEFINE_enum(
    "depth_unit",
    "",
    ["", *units.NAMES],
    "Unit of given depth without a .json beside it. Default: metres in .npz and floats, "
    "millimetres in 16-bit pictures.",
)
_OUTPUT = cli.define_path("output", None, "Folder of the results.", writes="folder", required=True)
_PROFILE = flags.DEFINE_bool("profile", False, "Trace each request for XProf, beside its results.")

TASK_FLAGS = (
    *("mode", "modality", "input", "given", "wanted", "first_frame"),
    *("prompt", "modality_prompt"),
)


def _requests() -> list[requests.Request]:
    if _BATCH_FILE.value:
        for name in TASK_FLAGS:
            if flags.FLAGS[name].present:
                raise UserError(f"--{name} and --batch_file: put it into the file's lines instead")
        return requests.read_batch_file(_BATCH_FILE.value, _SEED.value)
    texts = _MODALITY_PROMPT.value
    by_name = any(text.partition("=")[0] in modalities.names() for text in texts)
    return [
        requests.build(
            where="flags",
            mode=_MODE.value,
            modality=_MODALITY.value,
            input=_INPUT.value,
            given={
                name: paths.expand(path)
                for name, path in requests.parse_pairs(_GIVEN.value, "--given").items()
            },
            wanted=_WANTED.value,
            first_frame=_FIRST_FRAME.value,
            prompt=_PROMPT.value,
            modality_prompt=requests.parse_pairs(texts, "--modality_prompt")
            if by_name or len(texts) > 1
            else "".join(texts),
            seed=_SEED.value,
        )
    ]


def _sampler(default: SamplerConfig) -> SamplerConfig:
    chosen = {
        "steps": _STEPS.value,
        "solver": _SOLVER.value,
        "text_guidance": _TEXT.value,
        "condition_guidance": _CONDITION.value,
        "shift": _SHIFT.value,
        "grid": _GRID.value,
    }
    chosen = {k: v for k, v in chosen.items() if v is not None}
    return dataclasses.replace(default, **(PRESETS.get(_PRESET.value, {}) | chosen))


def _load_given(
    pipeline: Pipeline, request: requests.Request
) -> tuple[dict[str, files.Given], files.Given | None]:
    """The request's given streams, and its first frame if it has one."""
    stream_order([*request.given, *request.wanted], pipeline.modalities)
    data = pipeline.config["data"]
    size = {
        "height": _HEIGHT.value or data["height"],
        "width": _WIDTH.value or data["width"],
    }
    multiple = pipeline.token_pixels
    check_size(_NUM_FRAMES.value or data["num_frames"], **size, multiple=multiple)
    first = files.read_first_frame(request.first_frame, **size) if request.first_frame else None
    given = files.read_given(
        request.given,
        num_frames=_NUM_FRAMES.value,
        default_frames=data["num_frames"],
        fps=_FPS.value or data["fps"],
        multiple=multiple,
        depth_unit=_DEPTH_UNIT.value,
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


def _record(
    pipeline: Pipeline,
    request: requests.Request,
    sampler: SamplerConfig,
    given: Mapping[str, files.Given],
    first: files.Given | None,
) -> dict[str, Any]:
    streams = stream_order([*request.given, *request.wanted], pipeline.modalities)
    return {
        "command": ["python", "-m", "unityvideo_jax.sample", *sys.argv[1:]],
        "request": dataclasses.asdict(request),
        "prompts": {
            s: request.prompt
            if s == RGB
            else request.modality_prompts.get(s, modalities.get(s).prompt)
            for s in streams
        },
        "sampler": dataclasses.asdict(sampler),
        "given": {name: one.source for name, one in given.items()},
        "first_frame": first and first.source,
        "codecs": {s: pipeline.codec(s).version for s in streams},
        "workdir": _WORKDIR.value,
        "lora": _LORA.value,
        "checkpoint_step": pipeline.step,
        "ema": _EMA.value,
        "config_sha256": provenance.config_hash(pipeline.config),
        "config": provenance.plain(pipeline.config),
        "versions": provenance.versions(),
    }


@contextlib.contextmanager
def _traced(folder: pathlib.Path, number: int) -> Iterator[None]:
    """Traces a request into `folder` if asked to; the first one's trace holds its compilation."""
    trace = jax.profiler.trace(folder) if _PROFILE.value else contextlib.nullcontext()
    with trace, jax.profiler.StepTraceAnnotation("sample", step_num=number):
        yield


def main(argv: Sequence[str]) -> None:
    """Samples every request into --output; a batch file's each into its own folder."""
    del argv
    todo = _requests()
    output = pathlib.Path(_OUTPUT.value)
    for request in todo:
        if request.name:
            safe_path(output, request.name, where="request")
    _check_inputs_stay(todo, output)
    pipeline = Pipeline.from_workdir(
        _WORKDIR.value,
        step=_STEP.value,
        use_ema=_EMA.value,
        fallback=_FALLBACK.value,
        vae=_VAE.value,
        text_encoder=_TEXT_ENCODER.value,
    )
    adapters = [(paths.expand(path), weight) for path, weight in map(parse, _LORA.value)]
    pipeline.add_adapters(*adapters)
    sampler = _sampler(pipeline.sampler)
    pipeline.warn_of_cut(t for one in todo for t in (one.prompt, *one.modality_prompts.values()))
    # All inputs are read before the first sample is made, so that a bad one costs nothing.
    data = pipeline.config["data"]
    frames = _NUM_FRAMES.value or data["num_frames"]
    pixels = frames * (_HEIGHT.value or data["height"]) * (_WIDTH.value or data["width"])
    capacity.check_host(
        PIXEL_BYTES * pixels * sum(len(request.given) for request in todo),
        f"the inputs of {len(todo)} requests",
        "divide the batch file",
    )
    given = [_load_given(pipeline, request) for request in todo]
    fps = _FPS.value or pipeline.config["data"]["fps"]
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
                given={name: one.video for name, one in streams.items()},
                wanted=request.wanted,
                first_frame=None if first is None else first.video[0],
                modality_prompts=request.modality_prompts,
                sampler=sampler,
                seed=request.seed,
                num_frames=None if streams else _NUM_FRAMES.value,
                height=_HEIGHT.value,
                width=_WIDTH.value,
            )
            seconds = time.monotonic() - start
        record = _record(pipeline, request, sampler, streams, first)
        shape = next(iter(samples.videos.values())).shape
        names = files.write_samples(
            folder,
            samples,
            sides={name: one.side for name, one in streams.items() if one.side is not None},
            units={name: one.unit for name, one in streams.items() if one.unit},
            codecs={name: pipeline.codec(name) for name in samples.streams},
            fps=fps,
            record=record | {"size": shape[1:4], "fps": fps, "seconds": round(seconds, 3)},
        )
        label = request.name or "sample"
        print(f"[{number}/{len(todo)}] {label}: {seconds:.1f} s, {folder}", flush=True)
        print("  " + ", ".join(names), flush=True)


if __name__ == "__main__":
    cli.run(main)
