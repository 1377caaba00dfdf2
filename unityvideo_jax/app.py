r"""A local page to sample from: prompts and uploads in, videos side by side and arrays out.

  python -m unityvideo_jax.app
  python -m unityvideo_jax.app --workdir=run --port=7861

It needs `pip install 'unityvideo_jax[app]'` and shows the model that ships unless another is named.
Only this computer can open the page, unless `--host` says otherwise (docs/app.md).
"""

import contextlib
import contextvars
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from unityvideo_jax import cli, media
from unityvideo_jax.errors import UserError
from unityvideo_jax.sampling.generate import SamplerConfig, jit_generate
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.presets import PRESETS
from unityvideo_jax.sampling.samples import Samples

FLAGS = flags.FLAGS
MODEL = "worlds-mini"
OWN = "the model's own settings"
PROMPT = "A person in a red shirt walks past a blue ball."
WANTED = ("rgb", "depth")
MOST_STEPS = 100
COLUMNS = 3  # of uploads
STYLE = "video {image-rendering: pixelated} footer {display: none !important}"


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_pipeline()
    flags.DEFINE_string(
        "host", "127.0.0.1", "Address to listen at; 0.0.0.0 lets others in, without a password."
    )
    flags.DEFINE_integer("port", 7860, "Port to listen at.", lower_bound=1, upper_bound=65535)


def main(argv: Sequence[str]) -> None:
    """Loads the model and serves the page until it is stopped."""
    del argv
    _gradio()
    media.check_videos()
    if not (FLAGS.workdir or FLAGS.pretrained):
        FLAGS.pretrained = MODEL
    pipeline = cli.load_pipeline()
    with tempfile.TemporaryDirectory() as folder:
        page = build(pipeline, pathlib.Path(folder), str(FLAGS.workdir or FLAGS.pretrained))
        try:
            launch(page, FLAGS.host, FLAGS.port, prevent_thread_lock=True)
        except OSError as error:
            raise UserError(
                f"--port={FLAGS.port}: {FLAGS.host} cannot listen there; give another --port or "
                "--host"
            ) from error
        print(f"open http://{FLAGS.host}:{FLAGS.port}, stop with Ctrl-C", flush=True)
        page.block_thread()


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            f"the page needs Gradio ({error}); run `pip install 'unityvideo_jax[app]'`"
        ) from error
    return gradio


def launch(page: Any, host: str, port: int | None, **options: Any) -> None:
    """Serves a page that `build` made; it loads nothing from other hosts.

    Args:
      page: of `build`.
      host, port: where to listen; None takes a free port.
      options: of Gradio's `launch`.

    Raises:
      OSError: nothing can listen there.
    """
    theme = _gradio().themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        theme=theme,
        css=STYLE,
        **options,
    )


def build(pipeline: Pipeline, folder: pathlib.Path, title: str) -> Any:
    """Builds the page of a pipeline, a `gradio.Blocks` that samples one request after the other.

    Args:
      pipeline: to sample from; its sampler then reports every step.
      folder: where a result lies until Gradio has its own copy.
      title: of the page, such as the model's name.

    Raises:
      UserError: Gradio is not installed.
    """
    gr = _gradio()
    steps = _Steps(pipeline)
    names = pipeline.modalities
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(f"# {title}\nStreams that are not given are sampled from noise, together.")
        with gr.Row():
            prompt = gr.Textbox(
                label="Prompt",
                value=PROMPT,
                placeholder="empty: streams follow the given ones alone",
                lines=2,
                scale=2,
            )
            wanted = gr.CheckboxGroup(
                list(names), value=[n for n in WANTED if n in names], label="Wanted streams"
            )
        with gr.Accordion("Given streams: videos, pictures or arrays (.npz)", open=True):
            given = {}
            for first in range(0, len(names), COLUMNS):
                with gr.Row():
                    for name in names[first : first + COLUMNS]:
                        given[name] = gr.File(
                            label=name,
                            file_types=["video", "image", ".npz"],
                            height=110,
                            elem_id=f"given_{name}",
                        )
        with gr.Row():
            preset = gr.Dropdown([OWN, *sorted(PRESETS)], value=OWN, label="Preset")
            count = gr.Slider(1, MOST_STEPS, pipeline.sampler.steps, step=1, label="Steps")
            seed = gr.Number(0, precision=0, label="Seed")
        start = gr.Button("Sample", variant="primary", elem_id="start")
        status = gr.Markdown(elem_id="status")
        with gr.Row():
            players = {
                name: gr.Video(label=name, visible=False, loop=True, min_width=200)
                for name in names
            }
        files = gr.Files(label="Files", visible=False, interactive=False, elem_id="files")
        # In the browser, so that no click comes between the preset and its steps.
        counts = {OWN: pipeline.sampler.steps} | {n: p["steps"] for n, p in PRESETS.items()}
        preset.change(None, preset, count, js=f"name => ({json.dumps(counts)})[name]")

        shown = gr.Progress()  # Gradio finds it as a default

        def sample(values: Mapping[Any, Any], progress: Any = shown) -> dict[Any, Any]:
            paths = {name: values[box] for name, box in given.items() if values[box]}
            start = time.monotonic()
            try:
                sampler = pipeline.sampler.changed(
                    **PRESETS.get(values[preset], {}) | {"steps": values[count]}
                )
                progress(0.0, desc="Reading, encoding and compiling")
                with steps.shown(sampler, progress):
                    samples = pipeline(
                        values[prompt] or "",
                        given=paths,
                        wanted=tuple(values[wanted]),
                        sampler=sampler,
                        seed=_whole("seed", values[seed]),
                    )
                progress(1.0, desc="Writing")
                shutil.rmtree(folder, ignore_errors=True)
                made = samples.save(folder)
            except UserError as error:
                raise gr.Error(
                    _short(str(error), paths), duration=None, print_exception=False
                ) from error
            found: dict[Any, Any] = {
                box: gr.update(visible=name in samples.streams, value=None)
                for name, box in players.items()
            }
            for name in samples.streams:
                label = f"{name}, {'sampled' if name in samples.wanted else 'given'}"
                found[players[name]] = gr.Video(
                    str(folder / f"{name}.mp4"), label=label, visible=True, autoplay=True
                )
            found[files] = gr.Files([str(folder / name) for name in made], visible=True)
            found[status] = describe(samples, time.monotonic() - start)
            return found

        start.click(
            sample,
            {prompt, wanted, preset, count, seed, *given.values()},
            [status, files, *players.values()],
            concurrency_limit=1,
            show_progress_on=status,
            api_visibility="private",
        )
    return page


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int):
        raise UserError(f"{name}: empty; give a whole number")
    return value


def _short(message: str, paths: Mapping[str, str]) -> str:
    """A message with the uploaded files' names in the place of where Gradio stored them."""
    for path in paths.values():
        message = message.replace(path, pathlib.Path(path).name)
    return message


def describe(samples: Samples, seconds: float) -> str:
    """Describes as Markdown the result, and the parts taken of each given file."""
    record, lines = samples.records[0], []
    frames, height, width = record["size"]
    steps = record["sampler"]["steps"]
    lines.append(
        f"{frames} frames of {width}×{height} at {samples.fps:g} frames/s, {seconds:.1f} s, seed "
        f"{record['seed']}, {steps} step{'s' * (steps > 1)} of {record['sampler']['solver']}."
    )
    for name, source in record["given"].items():
        text = f"`{name}`: {frames} frames of `{pathlib.Path(source['path']).name}`"
        if "size" in source and tuple(source["size"]) != (height, width):
            stored = "×".join(str(pixels) for pixels in source["size"][::-1])
            text += f", {stored} scaled to cover {width}×{height} and cropped in the centre"
        lines.append(text)
    return "\n\n".join(lines)


class _Steps:
    """Reports the steps of a pipeline's sampler while it runs.

    A program that reports is not stored in JAX's cache on disk: each start of the page compiles.
    """

    def __init__(self, pipeline: Pipeline):
        self._tell: Callable[[Any], None] | None = None

        def tell(level: Any) -> None:
            if self._tell:
                self._tell(level)

        def velocity(params: Any) -> Callable:
            model = pipeline.velocity(params)

            def reporting(latents: Any, timestep: Any, *arrays: Any, **options: Any) -> Any:
                # Given streams are at 0, those that guidance drops at 1, the others at the level.
                jax.debug.callback(tell, jnp.where(timestep > 0, timestep, 1).min())
                return model(latents, timestep, *arrays, **options)

            return reporting

        pipeline.sample_latents = jit_generate(velocity)

    @contextlib.contextmanager
    def shown(self, sampler: SamplerConfig, progress: Any) -> Iterator[None]:
        """Shows the steps of a sampler by a `gradio.Progress` while the context lasts."""
        levels = sampler.table().sigma
        # JAX reports from a thread of its own, and Gradio finds the request by the context.
        request = contextvars.copy_context()

        def tell(level: Any) -> None:
            step = int(np.sum(levels > float(level) - 1e-4))
            request.run(progress, (step, len(levels)), desc="Sampling", unit="steps")

        self._tell = tell
        try:
            yield
        finally:
            jax.effects_barrier()
            self._tell = None


if __name__ == "__main__":
    define_flags()
    cli.run(main)
