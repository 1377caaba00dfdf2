"""Sizes and headers that ask for more memory than there is: refused before any of it is taken."""

import pathlib
import zipfile

from tests.faults.harness import ROOT, Case, run_program
from unityvideo_jax import worlds
from unityvideo_jax.evaluation.score_run import BenchmarkConfig
from unityvideo_jax.files.npz import read_npy, read_npz
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.sampling.fit import Load
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.streams import check_size

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


def _vae(name: str, *overrides: str, says: tuple[str, ...]) -> Case:
    flags = (f"--config={ROOT / 'configs' / 'vae_worlds.py'}", *overrides)
    return Case(
        kind="memory",
        name=f"train_vae {name}",
        act=_program("train_vae", *flags, "--output"),
        says=says,
        slow=True,
    )


def _flags(module: str, *arguments: str, says: tuple[str, ...]) -> Case:
    name = " ".join([module, *(a for a in arguments if "=" in a)])
    act = _program(module, *arguments)
    return Case(kind="memory", name=name, act=act, says=says, slow=True)


def _npy(shape: str, data: bytes = b"", kind: str = "<f4") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + data


def _npz(content: bytes, method: int = zipfile.ZIP_DEFLATED):
    """An npz with one array of these bytes."""

    def act(folder: pathlib.Path) -> None:
        with zipfile.ZipFile(folder / "depth.npz", "w", method) as archive:
            archive.writestr("depth.npy", content)
        read_npz(folder / "depth.npz", ("depth",), limit=1 << 20)

    return act


def _null_context(folder: pathlib.Path) -> None:
    (folder / "null_context.npy").write_bytes(_npy("(10000000, 100000000)", bytes(64)))
    read_npy(folder / "null_context.npy", (48, 256))


TERA = "(1000000, 1000000)"
ARRAYS = {
    "claims terabytes": _npz(_npy(TERA, bytes(64))),
    "claims terabytes, stored": _npz(_npy(TERA, bytes(64)), zipfile.ZIP_STORED),
    "claims less than nothing": _npz(_npy("(-1, 4)", bytes(16))),
    "claims more than 2^64": _npz(_npy(f"({10**20}, {10**20})", bytes(16))),
    "has rows of no size": _npz(_npy(f"({10**20}, 0, 0)", bytes(16))),
    "is a bomb": _npz(_npy("(25000000,)", bytes(100_000_000))),
    "is a bomb by lzma": _npz(_npy("(25000000,)", bytes(100_000_000)), zipfile.ZIP_LZMA),
    "has a header that is a bomb": _npz(b"\x93NUMPY\x02\0\xff\xff\xff\x7f" + bytes(1 << 26)),
    "holds objects": _npz(_npy("(1,)", b"cposix\nsystem\n.", "|O")),
}


def _load(latents: tuple[int, int, int], batch: int) -> Load:
    model = DiTConfig(dim=64, ffn_dim=64, num_heads=2, num_layers=1)
    return Load(model=model, latent_shape=latents, streams=2, batch=batch)


SIZES = {
    "frames": (lambda: check_size(4 * HUGE + 1, 64, 64), ("num_frames=", "at least")),
    "pixels": (lambda: check_size(17, 16 * HUGE, 16 * HUGE), ("height=", "at least")),
    "samples": (lambda: _load((5, 8, 8), HUGE).check(), ("samples", "at least")),
    "a video's attention": (lambda: _load((100_000, 8, 8), 1).check(), ("tokens", "at least")),
    "steps": (lambda: SamplerConfig(steps=HUGE), (f"steps={HUGE}", "10000")),
    "clips": (lambda: BenchmarkConfig(num_clips=HUGE), ("num_clips=", "at least")),
    "worlds": (lambda: worlds.WorldConfig(height=HUGE, width=HUGE), ("height=", "at least")),
}

CASES = [
    *(
        Case(kind="memory", name=f"npz {what}", act=act, says=("depth.npz",))
        for what, act in ARRAYS.items()
    ),
    Case(kind="memory", name="npy claims petabytes", act=_null_context, says=("null_context.npy",)),
    *(
        Case(kind="memory", name=f"size of {what}", act=lambda _, make=make: make(), says=says)
        for what, (make, says) in SIZES.items()
    ),
    _train("width", "model.dim=100000000", "model.num_heads=2"),
    _train("absurd width", f"model.dim={10**30}", "model.num_heads=2", says=("model.dim",)),
    _train("hidden width", "model.ffn_dim=1000000000"),
    _train("layers", "model.num_layers=1000000000"),
    _train("absurd layers", f"model.num_layers={HUGE}", says=("model.num_layers",)),
    _train("layers in a row", "model.num_layers=1000000000", "model.scan_layers=False"),
    _train("texts", "model.text_len=1000000000"),
    _train("batch", f"train.batch_size={HUGE}"),
    _train("frames", f"data.num_frames={4 * 10**9 + 1}"),
    _train("pixels", "data.height=1600000", "data.width=1600000"),
    _vae("width", "--config.model.base_dim=100000000", says=("config.model", "at least")),
    _vae("frames", f"--config.data.num_frames={4 * HUGE + 1}", says=("frames", "at least")),
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
