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


def test_the_import_is_light():
    code = "import sys, unityvideo_jax as uv; dir(uv); print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"jax", "numpy", "flax", "absl", "ml_collections", "tensorflow"}
    assert not heavy & set(found.stdout.split())
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        _ = uv.Pipelin
