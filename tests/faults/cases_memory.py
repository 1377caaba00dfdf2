"""Sizes and headers that ask for more memory than there is: refused before any of it is taken."""

import pathlib

from tests.faults.harness import ROOT, Case, run_program

HUGE = 10**12
CONFIG = f"--config={ROOT / 'configs' / 'worlds_tiny.py'}"


def _program(module: str, *arguments: str, seconds: float = 60.0):
    """Runs a program whose last flag names a folder to write; it must leave nothing there."""

    def act(folder: pathlib.Path) -> None:
        *rest, last = arguments
        try:
            run_program(module, *rest, f"{last}={folder / 'out'}", seconds=seconds)
        finally:
            left = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 1 << 20]
            assert not left, left

    return act


def _train(name: str, *overrides: str, says: tuple[str, ...] = ("at least", "which have")) -> Case:
    flags = (CONFIG, *(f"--config.{one}" for one in overrides))
    act = _program("train", *flags, "--config.data.kind=online", "--workdir")
    return Case(kind="memory", name=f"train {name}", act=act, says=says, slow=True)


def _flags(module: str, *arguments: str, says: tuple[str, ...]) -> Case:
    name = " ".join([module, *(a for a in arguments if "=" in a)])
    act = _program(module, *arguments)
    return Case(kind="memory", name=name, act=act, says=says, slow=True)


CASES = [
    _train("width", "model.dim=100000000", "model.num_heads=2"),
    _train("absurd width", f"model.dim={10**30}", "model.num_heads=2"),
    _train("hidden width", f"model.ffn_dim={HUGE}"),
    _train("layers", f"model.num_layers={HUGE}"),
    _train("layers in a row", f"model.num_layers={HUGE}", "model.scan_layers=False"),
    _train("texts", f"model.text_len={HUGE}"),
    _train("batch", f"train.batch_size={HUGE}"),
    _train("frames", f"data.num_frames={4 * 10**9 + 1}"),
    _train("pixels", "data.height=1600000", "data.width=1600000"),
    _flags("prepare", "--source=worlds", f"--num_clips={HUGE}", "--workdir", says=("--num_clips",)),
    _flags(
        "prepare",
        "--source=worlds",
        "--height=1600000",
        "--width=1600000",
        "--workdir",
        says=("height",),
    ),
    _flags(
        "prepare", "--source=worlds", f"--batch_size={HUGE}", "--workdir", says=("--batch_size",)
    ),
    _flags("render", f"--num_clips={HUGE}", "--output", says=("--num_clips",)),
    _flags("render", "--height=1600000", "--width=1600000", "--output", says=("height",)),
]
