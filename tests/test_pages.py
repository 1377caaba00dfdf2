"""Links, commands and keys of the Markdown pages lead somewhere."""

import pathlib
import re
import subprocess

import markdown_it

from unityvideo_jax.settings import presets

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Flags that a command hands to another program.
OTHERS = {"runner", "direct_running_mode", "direct_num_workers"}
COMMAND = re.compile(r"python (?:-m unityvideo_jax\.|benchmarks/)(\w+)(?:\.py)?((?: [^`\n]*)?)")


def _pages():
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    pages = [ROOT / name for name in listed.stdout.splitlines()]
    return pages or [*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/**/*.md")]  # outside a checkout


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


def test_links_lead_to_files_and_headings():
    pages = _pages()
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


def _commands():
    """(page, program, its arguments) of every command."""
    for page in _pages():
        for found in COMMAND.finditer(page.read_text().replace("\\\n", " ")):
            yield page.relative_to(ROOT), found[1], found[2].replace("\n", " ")


def test_commands_use_flags_that_exist():
    package = "\n".join(path.read_text() for path in (ROOT / "unityvideo_jax").glob("*.py"))
    commands = list(_commands())
    assert len(commands) > 50
    wrong = []
    for page, program, arguments in commands:
        benchmark = ROOT / "benchmarks" / f"{program}.py"
        source = benchmark.read_text() if benchmark.exists() else package
        for flag in set(re.findall(r"--(\w+)", arguments)) - OTHERS:
            if f'"{flag}"' not in source and f'"--{flag}"' not in source:
                wrong.append(f"{page}: {program} --{flag}")
    assert wrong == []


def _has(config, key):
    for part in key.split("."):
        if not hasattr(config, "keys") or part not in config:
            return False
        config = config[part]
    return True


def test_keys_are_in_the_configs():
    configs = {name: presets.load(name) for name in presets.names()}
    wrong = []
    for page, _, arguments in _commands():
        named = re.search(r"--config=(?:configs/)?([a-z]\w+)", arguments)
        for key in re.findall(r"--config\.([a-z][a-z0-9_.]*)=", arguments) if named else ():
            if not _has(configs[named[1]], key):
                wrong.append(f"{page}: {named[0]} --config.{key}")
    for page in _pages():
        for key in set(re.findall(r"\bconfig\.([a-z]\w*\.[a-z_]+)\b", page.read_text())):
            if not any(_has(config, key) for config in configs.values()):
                wrong.append(f"{page.relative_to(ROOT)}: config.{key}")
    assert wrong == []
