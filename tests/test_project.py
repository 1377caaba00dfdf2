"""The rules that keep the project's layers apart, checked on the source and on a fresh process."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "unityvideo_jax"
# What the pure layers may not know: flags, files' formats and stores, optimisers, other layers.
PURE_LAYERS = ("models", "flow_matching", "modalities")
FORBIDDEN_IN_PURE = {
    "absl",
    "optax",
    "orbax",
    "grain",
    "tensorflow_datasets",
    "ml_collections",
    "unityvideo_jax.training",
    "unityvideo_jax.sampling",
    "unityvideo_jax.inputs",
    "unityvideo_jax.evaluation",
}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _uses(path, names):
    return {
        name
        for name in _imports(path)
        for bad in names
        if name == bad or name.startswith(f"{bad}.")
    }


@pytest.mark.parametrize("layer", PURE_LAYERS)
def test_pure_layers_know_no_flags_files_or_optimiser(layer):
    sources = sorted((PACKAGE / layer).rglob("*.py"))
    assert len(sources) > 3
    assert {
        str(p): _uses(p, FORBIDDEN_IN_PURE) for p in sources if _uses(p, FORBIDDEN_IN_PURE)
    } == {}


def test_only_the_programs_parse_flags():
    programs = {p for p in PACKAGE.glob("*.py")}
    users = {p for p in PACKAGE.rglob("*.py") if _uses(p, {"absl.flags", "absl.app"})}
    assert users and users <= programs


def test_configs_import_nothing_but_each_other():
    known = {"ml_collections", "unityvideo_jax.settings", "unityvideo_jax.settings.presets"}
    for path in (ROOT / "configs").rglob("*.py"):
        assert set(_imports(path)) <= known, path


def test_all_modules_import_together_without_tensorflow_torch_or_flags():
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in sorted(PACKAGE.rglob("*.py"))
        if p.name != "__init__.py"
    ]
    code = (
        "import sys, importlib\n"
        "for name in ('tensorflow', 'torch'): sys.modules[name] = None\n"
        "from absl import flags\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        # Programs share flag names: each defines its own when it is run, none when imported.
        "modules = flags.FLAGS.flags_by_module_dict()\n"
        "ours = [name for name in modules if name.startswith('unityvideo_jax')]\n"
        "assert not ours, ours\n"
        # And each defines them, together with those of cli, without a clash.
        "for name in sorted(sys.modules):\n"
        "    if define := getattr(sys.modules[name], 'define_flags', None):\n"
        "        before = set(flags.FLAGS)\n"
        "        define()\n"
        "        assert set(flags.FLAGS) - before, name\n"
        "        for flag in set(flags.FLAGS) - before: delattr(flags.FLAGS, flag)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_config_names_its_command():
    for path in (ROOT / "configs").rglob("*.py"):
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc, path
        assert "Command:" in doc, path
