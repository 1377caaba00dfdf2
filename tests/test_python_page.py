"""The Python examples of the README and of docs/python.md, each page in a process of its own."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
from tiny_pipeline import save_run

import unityvideo_jax as uv

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {"README.md": "out/run", "docs/python.md": "run"}


def _blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)


# Calls with an argument of another type, and how the message begins.
OTHER_TYPES = {
    "uv.load_config(None)": "load_config: given: of type NoneType; give a name or a path",
    "uv.load_config({'data': {}})": "load_config: given: of type dict",
    "uv.load_config(b'base')": "load_config: given: of type bytes",
    "uv.load_vae(3)": "directory: of type int; give a name or a path",
    "uv.load_vae({})": "directory: of type dict",
    "uv.load_vae(dtype=None)": "dtype=None: use one of",
    "uv.load_text_encoder(None)": "name=None: give a text",
    "uv.load_text_encoder(length='16')": "length='16': give a whole number",
    "uv.modalities.get({})": "unknown modality {}",
    "uv.DiT({}, rngs=None)": "config: of type dict; give a DiTConfig",
    "uv.DiTConfig(dim=2, ffn_dim=2, num_heads=1, num_layers=1, freq_dim=None)": "model.freq_dim=",
    "uv.DiTConfig(dim=2, ffn_dim=2, num_heads=1, num_layers=1, in_context=2)": "model.in_context=",
    "uv.worlds.WorldConfig(height=None)": "height=None: give a whole number",
    "uv.Pipeline.from_workdir(None)": "workdir: of type NoneType; give a name or a path",
    "uv.Pipeline.from_workdir('')": "workdir: an empty path; name a file or folder",
    "uv.Pipeline.from_workdir('run', vae=3)": "vae: of type int",
    "uv.Pipeline.from_pretrained(7)": "name: of type int",
    "uv.Pipeline.from_pretrained('a', text_encoder=3)": "text_encoder=3: give a text",
    "uv.Pipeline.from_pretrained('a', vae_dtype='half')": "vae_dtype='half': use one of float32",
    "uv.Pipeline(None, vae=None, text_encoder=None)": "model: of type NoneType; give a DiT",
    "make(vae=None)": "vae: of type NoneType; give what load_vae returns",
    "make(text_encoder='words')": "text_encoder: of type str; give what load_text_encoder returns",
    "make(sampler={})": "sampler: of type dict; give a SamplerConfig",
    "make(config={'model': {}})": "config.data: missing",
    "make(fps='8')": "fps='8': give a finite number",
    "make(num_frames=None)": "num_frames=None: give a whole number",
    "make(depth_codec=[])": "depth_codec=[]: give a text",
    "pipe.save_pretrained(None)": "folder: of type NoneType",
    "pipe.save_pretrained('')": "folder: an empty path",
    "pipe.spread(2)": "devices: of type int; give a list of them",
    "pipe.spread('a')": "devices: of type str",
    "samples.save(None)": "folder: of type NoneType",
    "samples.save('a', record=None)": "record: of type NoneType; give a dict",
    "samples.video([])": "stream []: this call made rgb",
}
# Without the checks of annotations that tests have.
TRY = """
import sys
import jax
import numpy as np
import unityvideo_jax as uv
from flax import nnx

jax.config.update("jax_disable_most_optimizations", True)
model = nnx.eval_shape(lambda: uv.DiT(
    uv.DiTConfig(dim=32, ffn_dim=64, num_heads=2, num_layers=1, in_channels=32), rngs=nnx.Rngs(0)
))
parts = {"vae": uv.load_vae(), "text_encoder": uv.load_text_encoder()}
make = lambda **changes: uv.Pipeline(model, **parts | changes)
pipe = make()
film = np.zeros((1, 1, 16, 16, 3), np.float32)
samples = uv.Samples(videos={"rgb": film}, latents={}, streams=("rgb",))
for call in sys.argv[1:]:
    try:
        print("took", eval(call))
    except uv.UserError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the pages' commands would have left a run."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "out").mkdir()
    save_run(folder / "out" / "run")
    (folder / "run").symlink_to(folder / "out" / "run")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_examples_run(folder, page):
    blocks = _blocks(page)
    assert blocks
    # More steps of the solver show nothing more.
    code = "\n".join(blocks).replace("steps=20", "steps=1")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        cwd=folder,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_the_page_names_the_whole_face():
    text = (ROOT / "docs" / "python.md").read_text()
    for name in set(uv.__all__) - {"__version__"}:
        assert f"`uv.{name}`" in text, name
        assert getattr(uv, name).__name__.rpartition(".")[2] == name


def test_arguments_of_other_types_are_one_line_that_names_them(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", TRY, *OTHER_TYPES],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for line, says in zip(done.stdout.splitlines(), OTHER_TYPES.values(), strict=True):
        assert line.startswith(says)


def test_the_import_is_light():
    code = "import sys, unityvideo_jax as uv; dir(uv); print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"jax", "numpy", "flax", "absl", "ml_collections", "tensorflow"}
    assert not heavy & set(found.stdout.split())
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        _ = uv.Pipelin
