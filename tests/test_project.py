"""The rules that keep the project's layers apart, checked on the source and on a fresh process."""

import ast
import pathlib
import re
import subprocess
import sys

import markdown_it
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


def test_configs_import_nothing_but_ml_collections():
    for path in (ROOT / "configs").glob("*.py"):
        assert set(_imports(path)) <= {"ml_collections", "ml_collections.ConfigDict"}, path


def test_core_imports_without_tensorflow_and_torch():
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
        # Programs share flag names and never share a process: forget one's before the next.
        "    for flag in list(flags.FLAGS): delattr(flags.FLAGS, flag)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_config_names_its_command():
    for path in (ROOT / "configs").glob("*.py"):
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc, path
        assert "Command:" in doc, path


def _places(page):
    """Targets of a page's links and pictures, and names of the repository's pages in code."""
    for block in markdown_it.MarkdownIt().enable("table").parse(page.read_text()):
        for token in block.children or ():
            if target := token.attrGet("href") or token.attrGet("src"):
                yield target
            named = re.fullmatch(r"(\w+)/[\w./-]+\.md", token.content)
            if token.type == "code_inline" and named and (ROOT / named[1]).is_dir():
                yield f"/{token.content}"


def _anchors(page):
    """What GitHub calls the headings of a page."""
    tokens = markdown_it.MarkdownIt().parse(page.read_text())
    titles = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_of_all_pages_lead_somewhere():
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    pages = [ROOT / name for name in listed.stdout.splitlines()]
    pages = pages or [*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/**/*.md")]  # outside a checkout
    assert len(pages) > 15
    broken = []
    for page in pages:
        for place in _places(page):
            if re.match(r"[a-z]+:", place):
                continue
            name, _, anchor = place.partition("#")
            # Names in code are written as seen from the root.
            target = ROOT / name[1:] if name.startswith("/") else page.parent / name
            target = target if name else page
            if not target.exists() or (anchor and anchor not in _anchors(target)):
                broken.append(f"{page.relative_to(ROOT)}: {place}")
    assert broken == []
