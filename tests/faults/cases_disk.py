"""A disk that is full or fails, and signals: one line, nothing lost, nothing remembered wrongly."""

import contextlib
import errno
import functools
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import flax.nnx as nnx
import jax.numpy as jnp
import numpy as np

from tests.faults import machine
from tests.faults.harness import ROOT, Case, Hang, run_program
from tests.faults.made_stages_of_disk import Refused
from unityvideo_jax.checkpoints import run_folder
from unityvideo_jax.curation import runner
from unityvideo_jax.curation.stage import Job
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import disk
from unityvideo_jax.files.paths import atomic_path
from unityvideo_jax.inputs import openuni_tars
from unityvideo_jax.inputs.staging import Staging
from unityvideo_jax.training import checkpoints
from unityvideo_jax.training.metrics import MetricWriter
from unityvideo_jax.training.state import TrainState

KIND = "disk"
TOO_LARGE = os.strerror(errno.EFBIG)
FULL = os.strerror(errno.ENOSPC)


def _metrics(folder: pathlib.Path) -> None:
    with (
        disk.explained(folder, lambda: checkpoints.last_whole(folder)),
        machine.limited(1 << 12),
        MetricWriter(folder, 0) as writer,
    ):
        for step in range(1000):
            writer.write(step, {"loss": 1.0})


def save(folder: pathlib.Path, step: int) -> None:
    """Saves a checkpoint of 64 KiB in two arrays, and waits for it."""
    weights = nnx.state(nnx.Linear(64, 128, rngs=nnx.Rngs(0)))
    state = TrainState(step=jnp.int32(step), params=weights, ema=None, opt_state=weights)
    with checkpoints.Checkpointer(folder, keep=2) as checkpointer:
        checkpointer.save(state, {"next": step}, {"seed": 0})


def _save(folder: pathlib.Path) -> None:
    save(folder, 1)
    with disk.explained(folder, lambda: checkpoints.last_whole(folder)), machine.limited(1 << 14):
        save(folder, 2)


def _save_again(folder: pathlib.Path) -> None:
    with contextlib.suppress(UserError):
        _save(folder)
    there = folder / run_folder.CHECKPOINTS
    assert [path.name for path in there.iterdir()] == ["1"], "half a checkpoint was left"
    save(folder, 2)
    assert sorted(path.name for path in there.iterdir()) == ["1", "2"]


def _curate(number: int, wrapped: bool, folder: pathlib.Path) -> None:
    source = folder / "videos"
    source.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (source / name).write_bytes(b"video")
    job = Job(source=str(source), workdir=str(folder / "work"))
    (folder / "b.mp4.refused").touch()
    stages = [Refused(number=number, wrapped=wrapped, switch=str(folder))]
    try:
        runner.run_job(stages, job)
    except UserError as error:
        assert os.strerror(number) in str(error) and "b.mp4" in str(error), error
    else:
        raise AssertionError("the disk's refusal was taken for a bad video")
    # The same command continues, and does only what is not done.
    (folder / "b.mp4.refused").unlink()
    clips = runner.run_job(stages, job)
    assert [clip.rejected_by for clip in clips.values()] == ["", ""]
    assert (folder / "calls").read_text().split() == ["a.mp4", "b.mp4", "b.mp4"]


def _tar(folder: pathlib.Path) -> None:
    tar = folder / "clips.tar"
    with tarfile.open(tar, "w") as handle:
        for name, size in (("a.mp4", 100), ("b.mp4", 1 << 16)):
            info = tarfile.TarInfo(name)
            info.size = size
            handle.addfile(info, io.BytesIO(bytes(size)))
    out = folder / "out"
    try:
        with machine.limited(1 << 14):
            openuni_tars.unpack(tar, "rgb", out)
    except UserError as error:
        assert TOO_LARGE in str(error), error
    else:
        raise AssertionError("a limited disk was taken for a broken download")
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4"]
    files, faults = openuni_tars.unpack(tar, "rgb", out)
    assert sorted(files) == ["a", "b"] and not faults


def _staging(folder: pathlib.Path) -> None:
    (folder / "latents").mkdir()
    (folder / "latents" / ".dataset.json.part").write_text("{")
    staging = Staging(folder, {"seed": 0})
    assert not staging.check()


def _workdir(folder: pathlib.Path) -> None:
    import ml_collections

    from unityvideo_jax.training.workdir import open_workdir

    (folder / ".config.json.part").write_text("{")
    with open_workdir(folder, ml_collections.ConfigDict({"seed": 0})):
        pass


def _atomic(folder: pathlib.Path) -> None:
    path = folder / "clip.npz"
    path.write_bytes(b"whole")
    try:
        with (
            machine.limited(1 << 12),
            disk.explained(path),
            atomic_path(path) as temporary,
            open(temporary, "wb") as handle,
        ):
            np.savez(handle, x=np.zeros(1 << 14))
    finally:
        assert [p.name for p in folder.iterdir()] == ["clip.npz"]
        assert path.read_bytes() == b"whole"


def _text(text: str, folder: pathlib.Path) -> None:
    with disk.explained(folder / "model.safetensors"):
        raise ValueError(text)


# --- Only in the campaign: programs on a disk of their own, and signals ---------------------------


def tiny_run(workdir: pathlib.Path, *arguments: str, **train: int) -> str:
    """Runs the tiny training program."""
    options = [f"--workdir={workdir}", f"--train={json.dumps(train)}", *arguments]
    return run_program("tiny_run", *options, package="tests.faults")


def _train(folder: pathlib.Path) -> None:
    with machine.small_disk(folder, 1500) as mount:
        try:
            tiny_run(mount / "run")
        except UserError as error:
            assert FULL in str(error) and "run/checkpoints/2" in str(error), error
            machine.grow(mount, 20_000)
            tiny_run(mount / "run")
            assert (mount / "run" / "checkpoints" / "8").is_dir()
            raise


def _fills_up(folder: pathlib.Path) -> None:
    """The disk fills while training runs: it ends in seconds."""
    with machine.small_disk(folder, 20_000) as mount:
        process = start(mount / "run", steps=100_000, checkpoint_every=100_000)
        wait_for(process, "step 2/")
        machine.fill(mount)
        begun = time.monotonic()
        ended(process, 2, FULL)
        assert time.monotonic() - begun < 20


def _program(module: str, arguments: tuple[str, ...], folder: pathlib.Path) -> None:
    with machine.small_disk(folder, 500) as mount:
        machine.fill(mount)
        run_program(module, *(argument.format(disk=mount) for argument in arguments))


def _fills_prepare(folder: pathlib.Path) -> None:
    small = ("--source=worlds", "--num_clips=8", "--num_frames=5", "--height=32", "--width=32")
    # More than the least that is asked for at the start, less than staged and packed clips take.
    with machine.small_disk(folder, 2_600) as mount:
        command = (*small, f"--workdir={mount}/shards", "--chunk_size=2", "--batch_size=2")
        try:
            run_program("prepare", *command, seconds=300)
        except UserError as error:
            assert FULL in str(error), error
            machine.grow(mount, 50_000)
            run_program("prepare", *command, seconds=300)
            raise


def start(workdir: pathlib.Path, *arguments: str, **train: int) -> subprocess.Popen:
    """Starts the tiny training program."""
    command = [sys.executable, "-m", "tests.faults.tiny_run", f"--workdir={workdir}"]
    return subprocess.Popen(
        [*command, f"--train={json.dumps(train)}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def wait_for(process: subprocess.Popen, begins: str) -> None:
    """Reads lines until one begins so."""
    while not (line := process.stdout.readline()).startswith(begins):
        assert line, process.stderr.read()


def ended(process: subprocess.Popen, status: int, *says: str) -> None:
    """Waits; asserts the status, and that standard error is one line for each of `says`."""
    try:
        _, errors = process.communicate(timeout=300)
    except subprocess.TimeoutExpired as error:
        process.kill()
        raise Hang("the program did not end within a minute") from error
    assert process.returncode == status, (process.returncode, errors)
    lines = errors.splitlines()
    assert len(lines) == len(says) and all(map(str.__contains__, lines, says)), errors


def _signal(number: signal.Signals, moment: str, times: int, folder: pathlib.Path) -> None:
    process = start(folder / "run", "--seconds=0.2", steps=100_000, checkpoint_every=100_000)
    wait_for(process, {"compiling": "compiling the step", "training": "step 2/"}[moment])
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.5)
    heard, ends = f"{number.name} heard: ", f"{number.name} heard, ended at once"
    if moment == "compiling":
        ended(process, 128 + number, ends)
    elif times > 1:
        ended(process, 128 + number, heard, ends)
    else:
        ended(process, 0, heard)
        assert any((folder / "run" / "checkpoints").iterdir())


FULL_DISK = {
    "train": ("--config=worlds_tiny", "--workdir={disk}/run"),
    "train_vae": ("--config=vae_worlds", "--output={disk}/vae"),
    "prepare": ("--source=worlds", "--workdir={disk}/shards"),
    "pack": ("--benchmark=unibench", "--workdir={disk}/packed"),
    "sample": ("--workdir=run", "--mode=joint", "--modality=depth", "--output={disk}/out"),
    "evaluate": ("--workdir=run", "--output={disk}/out"),
    "convert": ("--from=run", "--to=diffusers", "--workdir={disk}/out"),
    "render": ("--output={disk}/worlds.png",),
    "unibench": ("--workdir={disk}/unibench", "--small", "--num_clips=1"),
    "demo": ("--output={disk}/out",),
}
CASES = [
    Case(kind=KIND, name="metrics", act=_metrics, says=(TOO_LARGE, "no checkpoint was saved")),
    Case(kind=KIND, name="checkpoint", act=_save, says=(TOO_LARGE, "checkpoints/1")),
    Case(kind=KIND, name="checkpoint_again", act=_save_again),
    *(
        Case(
            kind=KIND,
            name=f"curation_{errno.errorcode[number]}{'_wrapped' * wrapped}",
            act=functools.partial(_curate, number, wrapped),
        )
        for number in (errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS)
        for wrapped in (False, True)
    ),
    Case(kind=KIND, name="tar_on_a_limited_disk", act=_tar),
    Case(kind=KIND, name="part_in_shards", act=_staging),
    Case(kind=KIND, name="part_in_workdir", act=_workdir),
    Case(kind=KIND, name="part_goes_away", act=_atomic, says=("clip.npz", TOO_LARGE)),
    *(
        Case(kind=KIND, name=name, act=functools.partial(_text, text), says=(FULL, "MB free"))
        for name, text in {
            "tensorstore": f"RESOURCE_EXHAUSTED: Failed writing: [OS error 28: {FULL}]",
            "safetensors": f"Error while serializing: I/O error: {FULL} (os error 28)",
        }.items()
    ),
    *(
        Case(
            kind="signal",
            name=f"{number.name}_{moment}_{times}",
            act=functools.partial(_signal, number, moment, times),
            slow=True,
        )
        for number in (signal.SIGTERM, signal.SIGINT)
        for moment, times in (("compiling", 1), ("training", 1), ("training", 2))
    ),
]
if machine.can_mount():
    CASES += [
        Case(kind=KIND, name="full_train", act=_train, says=("checkpoints/2",), slow=True),
        Case(kind=KIND, name="fills_train", act=_fills_up, slow=True),
        Case(kind=KIND, name="fills_prepare", act=_fills_prepare, says=(FULL,), slow=True),
        *(
            Case(
                kind=KIND,
                name=f"full_{module}",
                act=functools.partial(_program, module, arguments),
                says=("disk", FULL),
                slow=True,
            )
            for module, arguments in FULL_DISK.items()
        ),
    ]
