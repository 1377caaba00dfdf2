"""Damaged checkpoints and shipped files: every flipped bit is found, or restores the same values.

Flips go over every file of a checkpoint, those of the storage library too.
"""

import functools
import json
import pathlib
import shutil
import tempfile
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tests.faults import cases_weights
from tests.faults.harness import Case, run_program
from unityvideo_jax import convert
from unityvideo_jax.checkpoints import manifest
from unityvideo_jax.checkpoints.reading import find
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.benchmarks import unibench
from unityvideo_jax.evaluation.report import reported
from unityvideo_jax.files import provenance
from unityvideo_jax.inputs import shards
from unityvideo_jax.pretrained import text
from unityvideo_jax.pretrained.vae import SHIPPED, load_vae
from unityvideo_jax.training.checkpoints import Checkpointer
from unityvideo_jax.training.state import TrainState, abstract_state

KIND = "checkpoint"
STEPS = (1, 2)
CONFIG = {"seed": 0, "model": {}, "data": {}}
PARTS, FLIPS = 8, 8  # cases that share the files, and flips per file


def _state(step: int, width: int = 16) -> TrainState:
    params = nnx.state(nnx.Linear(24, width, rngs=nnx.Rngs(step)))
    ema = jax.tree.map(lambda x: x * 0.5, params)
    # After a step, since moments of zeros would be smaller than the library's own records.
    optimizer = optax.adam(1e-3)
    _, opt_state = optimizer.update(params, optimizer.init(params))
    return TrainState(step=jnp.int32(step), params=params, ema=ema, opt_state=opt_state)


@functools.cache
def _whole() -> pathlib.Path:
    """A run of two checkpoints, to be copied."""
    workdir = pathlib.Path(tempfile.mkdtemp(prefix="checkpoints_"))
    (workdir / "config.json").write_text(json.dumps(CONFIG))
    with Checkpointer(workdir, keep=3) as checkpointer:
        for step in STEPS:
            checkpointer.save(_state(step), {"next": step}, CONFIG)
    return workdir


def _files(step: int = STEPS[-1]) -> list[str]:
    """The files of one checkpoint, from its folder, named stably: Orbax draws some names."""
    folder = _whole() / "checkpoints" / str(step)
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def _copy(folder: pathlib.Path) -> pathlib.Path:
    """A copy of the run; returns the folder of its newest checkpoint."""
    shutil.copytree(_whole(), folder, dirs_exist_ok=True)
    return folder / "checkpoints" / str(STEPS[-1])


def _restore(folder: pathlib.Path, fallback: bool = False) -> int:
    """Restores the run as training does, and compares what it got with what was saved."""
    with Checkpointer(folder, keep=3) as checkpointer:
        if fallback:
            checkpointer.fall_back(lambda line: None)
        step = checkpointer.latest()
        state, inputs = checkpointer.restore(abstract_state(_state(step)), step)
    assert inputs == {"next": step}
    chex.assert_trees_all_equal(state, _state(step))
    return step


def _flip(path: pathlib.Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def _flip_many(path: pathlib.Path) -> None:
    """Flips a bit in every sixteenth byte: some of them hold values, wherever those lie."""
    for byte in range(0, path.stat().st_size, 16):
        _flip(path, 8 * byte)


def _harmless_or_named(folder: pathlib.Path) -> None:
    """Restores, where the damage may be in what no value depends on."""
    try:
        _restore(folder)
    except UserError as error:
        line = str(error)
        assert "\n" not in line and str(folder) in line, line
        assert "step 1 is whole: pass --fallback" in line, line


def _flips(folder: pathlib.Path, part: int) -> None:
    """Flips bits spread over a part of the files, one at a time."""
    newest = _copy(folder)
    for name in _files()[part::PARTS]:
        path = newest / name
        size = path.stat().st_size * 8
        for bit in sorted({int(b) for b in np.linspace(0, size - 1, FLIPS)}):
            _flip(path, bit)
            _harmless_or_named(folder)
            _flip(path, bit)


def _damage(folder: pathlib.Path, change) -> None:
    change(_copy(folder))
    _restore(folder)


def _largest(folder: pathlib.Path, item: str) -> pathlib.Path:
    """The file with an item's values."""
    return max((folder / item).rglob("d/*"), key=lambda f: f.stat().st_size)


def _of_another_model(folder: pathlib.Path) -> None:
    _copy(folder)
    with Checkpointer(folder, keep=3) as checkpointer:
        checkpointer.restore(abstract_state(_state(2, width=8)), 2)


def _fallback(folder: pathlib.Path) -> None:
    newest = _copy(folder)
    shutil.rmtree(newest / "ema")
    assert find(folder, fallback=True)[1].name == "1"
    assert _restore(folder, fallback=True) == 1
    assert list((folder / "set_aside").iterdir())  # and step 2 can be saved anew


def _old(folder: pathlib.Path) -> None:
    """A checkpoint from before the manifest: loads."""
    for step in STEPS:
        path = _copy(folder).parent / str(step)
        shutil.rmtree(path / manifest.ITEM)
        record = path / "_CHECKPOINT_METADATA"
        content = json.loads(record.read_text())
        content["item_handlers"].pop(manifest.ITEM)
        record.write_text(json.dumps(content))
    assert _restore(folder) == 2


def _exported(folder: pathlib.Path, change, program: str = "") -> None:
    """A damaged conversion, exported or sampled from."""
    cases_weights.converted(folder)
    (values,) = (folder / "run" / "checkpoints" / "0" / "params" / "heads.kernel").glob("0.*")
    change(values)
    if program:
        task = ("--mode=joint", "--modality=depth", "--prompt=A red ball.")
        run_program(program, f"--workdir={folder}/run", f"--output={folder}/out", *task)
    try:
        convert.convert_out(str(folder / "run"), str(folder / "out"), "wan", log=lambda line: None)
    finally:
        assert not (folder / "out").exists()


def _words(folder: pathlib.Path, name: str) -> None:
    copied = folder / "assets" / "text_words"
    shutil.copytree(SHIPPED.parent / "text_words", copied)
    _flip(copied / name, 8 * 1000)
    with mock.patch("importlib.resources.files", return_value=folder):
        text.load_words(7)


def _vae(folder: pathlib.Path, name: str) -> None:
    shutil.copytree(SHIPPED, folder / "vae")
    _flip(folder / "vae" / name, 8 * 100 + 3)
    load_vae(folder / "vae")


def _asset(folder: pathlib.Path, module, constant: str, load) -> None:
    path = getattr(module, constant)
    shutil.copytree(path.parent, folder / "assets")
    _flip(folder / "assets" / path.name, 8 * 300)
    with mock.patch.object(module, constant, folder / "assets" / path.name):
        load()


def _card(folder: pathlib.Path, name: str, after: bytes) -> None:
    """Flips a bit of a prepared folder's card or null embedding, at the end of some bytes."""
    root = shards.root_of(folder)
    root.mkdir()
    null = root / shards.NULL_CONTEXT_NAME
    np.save(null, np.ones((2, 3), np.float16))
    card = shards.Card(
        count=3,
        num_frames=5,
        height=16,
        width=16,
        fps=8.0,
        latent_shape=(2, 2, 2, 4),
        vae="",
        text_encoder="words",
        text_length=2,
        text_dim=3,
        modalities=("rgb",),
        codecs={"rgb": "1"},
        settings={},
        null_context_sha256=provenance.file_hash(null),
    )
    shards.write_card(folder, card)
    assert shards.read_card(folder) == card
    _flip(root / name, 8 * ((root / name).read_bytes().index(after) + len(after) - 1))
    shards.read_null_context(folder)


def _case(name: str, change, *says: str, slow: bool = False) -> Case:
    act = functools.partial(_damage, change=change)
    return Case(kind=KIND, name=name, act=act, says=says, slow=slow)


CASES = [
    _case(
        f"bits flipped in the {what}",
        lambda f, item=item: _flip_many(_largest(f, item)),
        item,
        "step 1 is whole: pass --fallback",
    )
    for item, what in manifest.ARRAYS.items()
]
CASES += [
    _case(
        f"no {what}",
        lambda f, item=item: shutil.rmtree(f / item),
        f"lacks the {what} ({item})",
        "step 1 is whole: pass --fallback",
        slow=item != "ema",
    )
    for item, what in (manifest.ARRAYS | manifest.RECORDS).items()
]
CASES += [
    _case(
        "inputs of another step",
        lambda f: (f / "inputs/metadata").write_text('{"next": 7}'),
        "inputs/metadata: not the input position that was saved",
    ),
    _case(
        "no list of digests",
        lambda f: shutil.rmtree(f / manifest.ITEM),
        "digests/metadata: the list of digests is missing or damaged",
    ),
    _case(
        "values truncated",
        lambda f: _largest(f, "params").write_bytes(b""),
        "2: params/kernel",
        "step 1 is whole: pass --fallback",
    ),
    Case(
        kind=KIND,
        name="bit flipped in a conversion, exported",
        act=lambda folder: _exported(folder, lambda f: _flip(f, 8 * f.stat().st_size // 2)),
        says=("0: params/heads.kernel", "no earlier checkpoint is whole"),
    ),
    Case(
        kind=KIND,
        name="conversion truncated, sampled",
        act=lambda folder: _exported(folder, lambda f: f.write_bytes(b"x"), program="sample"),
        says=("0: params/heads.kernel", "no earlier checkpoint is whole"),
        slow=True,
    ),
    Case(
        kind=KIND,
        name="of another model",
        act=_of_another_model,
        says=("does not load", "its files are whole: check that config.model"),
    ),
    Case(kind=KIND, name="fallback takes the one before", act=_fallback),
    Case(kind=KIND, name="older than the manifest", act=_old),
]
CASES += [
    Case(
        kind=KIND,
        name=f"bits flipped in all files, part {part}",
        act=functools.partial(_flips, part=part),
        slow=True,
    )
    for part in range(PARTS)
]
CASES += [
    Case(kind="shipped and prepared", name=name, act=act, says=says)
    for name, act, says in (
        ("words.txt", functools.partial(_words, name="words.txt"), ("words.txt: damaged",)),
        (
            "word vectors",
            functools.partial(_words, name="vectors.safetensors"),
            ("vectors.safetensors: damaged", "reinstall"),
        ),
        (
            "VAE weights",
            functools.partial(_vae, name="model.safetensors"),
            ("model.safetensors: damaged",),
        ),
        ("VAE config", functools.partial(_vae, name="config.json"), ("config.json: damaged",)),
        (
            "paper's results",
            lambda folder: _asset(folder, reported, "DATA", reported.load.__wrapped__),
            ("paper_results.json: damaged",),
        ),
        (
            "frozen benchmark",
            lambda folder: _asset(folder, unibench, "FROZEN", unibench.frozen),
            ("v1.json: damaged",),
        ),
        (
            "dataset.json",
            functools.partial(_card, name=shards.CARD_NAME, after=b'"count": 3'),
            ("dataset.json: damaged or changed", "prepare the shards again"),
        ),
        (
            "null_context.npy",
            functools.partial(_card, name=shards.NULL_CONTEXT_NAME, after=np.float16(1).tobytes()),
            ("null_context.npy", "SHA-256", "prepare the shards again"),
        ),
    )
]
