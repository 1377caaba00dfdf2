"""Where a program reads and writes: any legal path works, any other is one line before work."""

import functools
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
from unittest import mock

import jax
import ml_collections
import numpy as np

from tests.faults import machine
from tests.faults.cases_disk import save, tiny_run
from tests.faults.harness import ROOT, Case, run_program
from unityvideo_jax import cli
from unityvideo_jax.checkpoints import inference
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths
from unityvideo_jax.runtime import seeds
from unityvideo_jax.sampling import requests
from unityvideo_jax.training import checkpoints

KIND = "place"
# Parts of paths that libraries could take for a pattern, an address, an option or an escape.
NAMES = ("run[1]", "a*b?", "ü 日本 run", "100%20#a", "c:d", "-dash", "~home", "{x},$y", "a'b\"c")


def _check(path: str, folder: pathlib.Path, kind: str = "folder") -> None:
    """Checks an output path as every program does before its own work."""
    path = path.format(folder=folder)
    paths.check_output(f"--output={path}", path, kind)


def _file_above(folder: pathlib.Path) -> None:
    (folder / "file").touch()
    _check("{folder}/file/a/b", folder)


def _is_file(folder: pathlib.Path) -> None:
    (folder / "file").touch()
    _check("{folder}/file", folder)


def _dangling(folder: pathlib.Path) -> None:
    (folder / "link").symlink_to(folder / "nothing")
    _check("{folder}/link/a", folder)


def _loop(folder: pathlib.Path) -> None:
    (folder / "link").symlink_to(folder / "link")
    _check("{folder}/link", folder)


def _not_ours(folder: pathlib.Path) -> None:
    """A folder of another user, checked without rights: permission bits do not stop root."""
    theirs = folder / "theirs"
    theirs.mkdir(mode=0o755)
    if os.geteuid():
        theirs.chmod(0o555)
    for above in theirs.parents:
        if above != pathlib.Path("/") and above.owner() == pathlib.Path(theirs).owner():
            above.chmod(above.stat().st_mode | 0o055)
    code = (
        "import sys\nimport pwd, tempfile\nfrom unityvideo_jax.files import paths\n"
        f"try: paths.check_output('--output=x', {str(theirs / 'out')!r}, 'folder')\n"
        "except ValueError as error: print(error)\n"
    )
    done = machine.as_nobody(code)
    if done.stdout:
        raise UserError(done.stdout.strip())
    assert not done.returncode, done.stderr


def _checkpoint(name: str, folder: pathlib.Path) -> None:
    """A checkpoint is saved, found and read back, bit for bit."""
    workdir = folder / name / "run"
    workdir.mkdir(parents=True)
    save(workdir, 3)
    arrays = _arrays(workdir / "checkpoints" / "3")
    assert sorted(a.size for a in arrays) == [128, 64 * 128]
    with checkpoints.Checkpointer(workdir, keep=1) as checkpointer:
        assert checkpointer.latest() == 3


def _arrays(step: pathlib.Path) -> list[np.ndarray]:
    from unityvideo_jax.checkpoints.arrays import open_arrays

    return [np.asarray(array) for array in open_arrays(step).values()]


def _expands(folder: pathlib.Path) -> None:
    with mock.patch.dict(os.environ, HOME=str(folder)):
        assert paths.expand("~/x") == f"{folder}/x"
        assert paths.expand("~") == str(folder)
        request = requests.build(where="flags", wanted=("rgb",), prompt="~/x")
        assert request.prompt == "~/x", "a prompt is no path"
        batch = folder / "batch.jsonl"
        batch.write_text('{"mode": "estimation", "modality": "depth", "input": "~/film.mp4"}\n')
        (found,) = requests.read_batch_file(batch, 0)
        assert found.given == {"rgb": f"{folder}/film.mp4"}
    for path in ("a~/x", "./~/x", "~no such user/x", "/~/x"):
        assert paths.expand(path) == path


def _config(folder: pathlib.Path) -> None:
    """A seed from a config file or from --config.key=value."""
    config = ml_collections.ConfigDict(
        {"data": {"vae": "~/vae", "dirs": ("~/a", "b"), "kind": "shards"}, "init_from": "~/run"}
    )
    with mock.patch.dict(os.environ, HOME=str(folder)):
        config = cli.read_config(config.lock())
    assert config.data.to_dict() == {
        "vae": f"{folder}/vae",
        "dirs": (f"{folder}/a", "b"),
        "kind": "shards",
    }
    assert config.init_from == f"{folder}/run"


def _no_home(folder: pathlib.Path) -> None:
    without = {name: value for name, value in os.environ.items() if name != "HOME"}
    with (
        mock.patch.dict(os.environ, without, clear=True),
        mock.patch.object(pwd, "getpwuid", side_effect=KeyError),
    ):
        paths.expand("~/x")


def _seed_of_batch(seed: str, folder: pathlib.Path) -> None:
    batch = folder / "batch.jsonl"
    batch.write_text(f'{{"wanted": "rgb", "prompt": "a dog", "seed": {seed}}}\n')
    requests.read_batch_file(batch, 0)


def _last_seed(folder: pathlib.Path) -> None:
    """The largest seed works, and seeds counted from it begin again at 0."""
    from unityvideo_jax import worlds

    batch = folder / "batch.jsonl"
    batch.write_text('{"wanted": "rgb", "prompt": "a dog"}\n' * 2)
    found = requests.read_batch_file(batch, seeds.COUNT - 1)
    assert [request.seed for request in found] == [seeds.COUNT - 1, 0]
    assert jax.random.key(seeds.COUNT - 1) is not None
    worlds.WorldConfig(seed=seeds.COUNT - 1)


# --- Only in the campaign -------------------------------------------------------------------------


def _train(name: str, folder: pathlib.Path) -> None:
    """A run is trained, resumed, read for sampling, exported, and imported again."""
    workdir = folder / name
    tiny_run(workdir, steps=2)
    tiny_run(workdir, steps=4)
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["2", "4"]
    *_, step = inference.load_for_inference(workdir)
    assert step == 4
    exported = folder / f"out {name}"
    run_program("convert", f"--from={workdir}", "--to=diffusers", f"--workdir={exported}")
    assert list(exported.glob("*.safetensors"))


def _relative(folder: pathlib.Path) -> None:
    options = {"package": "tests.faults", "folder": folder}
    run_program("tiny_run", "--workdir=c:d[1]/", '--train={"steps": 2}', **options)
    assert (folder / "c:d[1]" / "checkpoints" / "2").is_dir()


def _render(name: str, folder: pathlib.Path) -> None:
    small = ("--num_clips=1", "--height=16", "--width=16", "--num_frames=1", "--columns=1")
    run_program("render", *small, f"--output={folder}/{name}/{name}.png")
    assert (folder / name / f"{name}.png").stat().st_size


def _prepare(name: str, folder: pathlib.Path) -> None:
    from unityvideo_jax.inputs.shards import Series

    small = ("--num_clips=2", "--num_frames=5", "--height=32", "--width=32", "--modalities=rgb")
    run_program("prepare", "--source=worlds", *small, f"--workdir={folder / name}", seconds=300)
    assert len(Series(folder / name, "rgb")) == 2
    assert Series(folder / name, "rgb")[1]["latents"].shape


def _deleted(folder: pathlib.Path) -> None:
    gone = folder / "gone"
    gone.mkdir()
    code = (
        f"import os, shutil, sys; os.chdir({str(gone)!r}); shutil.rmtree({str(gone)!r});"
        "sys.argv = ['render']; import runpy;"
        "runpy.run_module('unityvideo_jax.render', run_name='__main__')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    _raise_line(done)


def _raise_line(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    raise UserError(done.stderr.removeprefix("error: ").strip())


def _home(arguments: tuple[str, ...], folder: pathlib.Path) -> None:
    with mock.patch.dict(os.environ, HOME=str(folder)):
        shutil.copy(ROOT / "configs" / "worlds_tiny.py", folder / "config.py")
        run_program(*arguments)


def _unwritable(module: str, arguments: tuple[str, ...], folder: pathlib.Path) -> None:
    (folder / "file").touch()
    run_program(module, *(argument.format(out=folder / "file" / "out") for argument in arguments))


def _read_only(folder: pathlib.Path) -> None:
    with machine.small_disk(folder, 10_000) as mount:
        machine.make_read_only(mount)
        run_program("sample", "--workdir=run", "--mode=joint", f"--output={mount}/out")


def _reads_read_only(folder: pathlib.Path) -> None:
    """A run on a disk that cannot be written is sampled and exported all the same."""
    with machine.small_disk(folder, 50_000) as mount:
        tiny_run(mount / "run", steps=2)
        machine.make_read_only(mount)
        assert inference.load_for_inference(mount / "run")[2] == 2
        out = folder / "out"
        run_program("convert", f"--from={mount}/run", "--to=diffusers", f"--workdir={out}")


OUTPUTS = {
    "train": ("--config=worlds_tiny", "--workdir={out}"),
    "train_vae": ("--config=vae_worlds", "--output={out}"),
    "prepare": ("--source=worlds", "--workdir={out}"),
    "pack": ("--benchmark=unibench", "--workdir={out}"),
    "sample": ("--workdir=run", "--mode=joint", "--modality=depth", "--output={out}"),
    "evaluate": ("--workdir=run", "--output={out}"),
    "convert": ("--from=run", "--to=diffusers", "--workdir={out}"),
    "render": ("--output={out}.png",),
    "unibench": ("--workdir={out}",),
    "demo": ("--output={out}",),
}
HOMES = {
    "train": (("--config=~/config.py", "--workdir=~/run", "--config.data.dirs=('~/d',)"), "/d: no"),
    "sample": (("--workdir=~/run", "--mode=joint", "--modality=depth", "--output=~/o"), "/run: no"),
    "prepare": (("--source=~/films", "--workdir=~/shards"), "/films"),
    "convert": (("--from=~/run", "--to=diffusers", "--workdir=~/out"), "/run: no"),
    "pack": (("--benchmark=~/unibench", "--workdir=~/packed"), "/unibench"),
}
SEEDS = {
    "sample": ("--seed={}", "--workdir=run", "--output=out"),
    "evaluate": ("--seed={}", "--workdir=run", "--output=out"),
    "render": ("--seed={}",),
    "prepare": ("--seed={}", "--source=worlds", "--workdir=shards"),
    "train": ("--config=worlds_tiny", "--config.seed={}", "--workdir=run"),
}


def _refused(name: str, path: str, says: tuple[str, ...], kind: str = "folder") -> Case:
    act = functools.partial(_check, path, kind=kind)
    return Case(kind=KIND, name=name, act=lambda folder: act(folder=folder), says=says)


CASES = [
    Case(kind=KIND, name="file_above", act=_file_above, says=("/file is a file", "name a folder")),
    Case(kind=KIND, name="is_file", act=_is_file, says=("/file is a file", "name a folder")),
    Case(kind=KIND, name="dangling_link", act=_dangling, says=("is a link to", "nothing")),
    Case(kind=KIND, name="link_to_itself", act=_loop, says=("is a link to",)),
    Case(kind=KIND, name="not_ours", act=_not_ours, says=("Permission denied", "allow")),
    _refused("is_folder", "{folder}", ("is a folder", "name a file"), "file"),
    _refused("line_break", "{folder}/a\nb", (r"a\nb", "control character")),
    _refused("not_utf8", "{folder}/a\udcff", ("not UTF-8",)),
    _refused("address", "az://bucket/run", ("an address", "mount it")),
    _refused("empty", "", ("empty",)),
    _refused("long_path", "{folder}/" + "a/" * 3000, ("longer than", "shorter")),
    _refused("long_name", "{folder}/" + "a" * 256, ("longer than 255", "shorter")),
    _refused("long_file", "{folder}/" + "a" * 252, ("longer than 249", "shorter"), "file"),
    *(
        Case(kind=KIND, name=f"checkpoint_{name}", act=functools.partial(_checkpoint, name))
        for name in (*NAMES[:4], "/".join(["long" * 50] * 15))
    ),
    Case(kind=KIND, name="home", act=_expands),
    Case(kind=KIND, name="home_in_config", act=_config),
    Case(kind=KIND, name="no_home", act=_no_home, says=("~/x", "HOME is not set")),
    *(
        Case(
            kind="seed",
            name=f"batch_{seed}",
            act=functools.partial(_seed_of_batch, seed),
            says=("line 1: seed", "from 0 to 4294967295"),
        )
        for seed in ("-1", str(2**32), str(2**63), str(2**80))
    ),
    Case(kind="seed", name="last", act=_last_seed),
    *(
        Case(kind=KIND, name=f"train_{name}", act=functools.partial(_train, name), slow=True)
        for name in NAMES
    ),
    Case(kind=KIND, name="train_relative", act=_relative, slow=True),
    *(
        Case(kind=KIND, name=f"render_{name}", act=functools.partial(_render, name), slow=True)
        for name in NAMES[:3]
    ),
    Case(kind=KIND, name="prepare_names", act=functools.partial(_prepare, "a*[1]"), slow=True),
    Case(kind=KIND, name="deleted", act=_deleted, says=("current folder was deleted",), slow=True),
    *(
        Case(
            kind=KIND,
            name=f"unwritable_{module}",
            act=functools.partial(_unwritable, module, arguments),
            says=("/file is a file",),
            slow=True,
        )
        for module, arguments in OUTPUTS.items()
    ),
    *(
        Case(
            kind=KIND,
            name=f"home_{module}",
            act=functools.partial(_home, (module, *arguments)),
            says=(says,),
            slow=True,
        )
        for module, (arguments, says) in HOMES.items()
    ),
    *(
        Case(
            kind="seed",
            name=f"{module}_{seed}",
            act=lambda folder, m=module, a=arguments, s=seed: run_program(
                m, *(x.format(s) for x in a)
            ),
            says=("seed", "4294967295"),
            slow=True,
        )
        for module, arguments in SEEDS.items()
        for seed in (-1, 2**63)
    ),
]
if machine.can_mount():
    CASES += [
        Case(
            kind=KIND,
            name="read_only",
            act=_read_only,
            says=("Read-only file system", "another disk"),
            slow=True,
        ),
        Case(kind=KIND, name="reads_read_only", act=_reads_read_only, slow=True),
    ]
