"""The pages agree with the code: keys, commands, links, the API built from the docstrings."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lrd_jax.config import defaults
from lrd_jax.config.values import flatten

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
LINKING = [*DOCS, *DECISIONS]
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_the_page_of_keys_is_what_the_defaults_say(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    page = importlib.import_module("keys_page").page()
    assert (ROOT / "docs" / "keys.md").read_text(encoding="utf-8") == page
    rows = re.findall(r"^\| `([\w.]+)` \| `(.+?)` \| (.*) \|$", page, re.MULTILINE)
    config = flatten(defaults.get_config())
    assert {name: eval(default) for name, default, _ in rows} == config
    assert [name for name, _, meaning in rows if not meaning.strip()] == []


def test_the_index_names_every_page_and_every_command():
    for page in DOCS:
        assert page.name == "index.md" or f"({page.name})" in INDEX, page.name
    topics = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    for page in DECISIONS:
        assert f"(decisions/{page.name})" in topics, page.name
    modules = [p for p in (ROOT / "lrd_jax").glob("*/__main__.py")]
    commands = [f"python -m lrd_jax.{module.parent.name}" for module in modules]
    commands += ["python -m lrd_jax.main", "python -m lrd_jax.data.prepare"]
    for script in (ROOT / "scripts").glob("*.py"):
        text = script.read_text(encoding="utf-8")
        if "__main__" in text and not script.name.startswith("bench_"):
            commands.append(f"python scripts/{script.name}")
    assert [command for command in commands if f"`{command}`" not in INDEX] == []


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.slow
def test_the_api_is_built_without_a_warning(tmp_path):
    pytest.importorskip("pdoc", reason="needs the extra docs")
    (command,) = re.findall(r"`(python -W .* -m pdoc .*)`", INDEX)
    words = re.findall(r'"[^"]*"|\S+', command)
    argv = [sys.executable, *(word.strip('"') for word in words[1:])]
    argv[argv.index("site")] = str(tmp_path)
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "lrd_jax" / "recurrence.html").exists()
