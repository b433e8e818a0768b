"""Every command that a page or a docstring shows is one that the program takes.

Its flags are parsed by the program itself, its configs are loaded and checked, and keys that would
have no effect are found; nothing is trained. Python that is shown is run by `test_readme`,
`test_new_cell` and `test_quickstart`, or the reason stands before it: `<!-- not run: ... -->`.
"""

import argparse
import ast
import contextlib
import copy
import doctest
import importlib
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from absl import flags

import lrd_jax.main
from lrd_jax.config import checks, command_line, defaults, record
from lrd_jax.training import effects

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    p
    for p in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if "results" not in p.name  # generated; its commands are those of `reproduce.py --table`
)
SOURCES = sorted(
    p for folder in ("lrd_jax", "configs", "scripts") for p in (ROOT / folder).rglob("*.py")
)
PYTHON = re.compile(r"(?:\S*/)?python[\d.]*$")
# What stands before a program and says where it runs.
BEFORE = ("srun", "docker", "CUDA_VISIBLE_DEVICES=0")
# Other programs' own commands.
OTHERS = (
    "python3 -m venv",
    "python3.12 -m pip freeze",
    "pip install",
    "tensorboard",
    "pre-commit",
    "git",
    "ruff",
    "pyright",
)
TAKES_NOTHING = ("keys_page.py",)
MAIN = lrd_jax.main.__name__  # whose import defines the flags


def shown(path):
    """The commands in a page's blocks and in its prose, or in a docstring, as shell lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
        found = re.findall(r"^ {4}((?:python|[A-Z_]+=\S+ python).*(?:\\\n.*)*)$", text, re.M)
    else:
        # The blocks with names of their own are run by `test_clusters`.
        text = re.sub(r"<!-- (slurm|container|kubernetes) -->.*?<!-- /\1 -->", "", text, flags=re.S)
        blocks = re.findall(r"^( *)```(?:bash|sh)\n(.*?)^ *```", text, re.M | re.S)
        found = [line for _, inside in blocks for line in re.sub(r"\\\n", " ", inside).split("\n")]
        prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
        found += re.findall(r"`(python (?:-m lrd_jax|scripts/)[^`]*?)`", prose)
    lines = (re.sub(r"\\\n", " ", line).strip() for line in found)
    return [line for line in lines if line and not line.startswith("#")]


def programs(line, variables):
    """The commands of a shell line that run this project: lists of words after `python`."""
    words = shlex.split(line, comments=True)
    if len(words) == 1 and re.fullmatch(r"[A-Z]+=\S+", words[0]):
        name, _, value = words[0].partition("=")
        variables["$" + name] = value
        return
    part = []
    for word in [*words, "&&"]:
        if word != "&&":
            for name, value in variables.items():
                word = word.replace(name, value)
            part.append(word)
            continue
        yield part
        part = []


class Parsed(BaseException):
    """What a program's parser made of its command; ends the program."""


@contextlib.contextmanager
def ends_when_parsed(monkeypatch):
    depth, parse = 0, argparse.ArgumentParser.parse_known_args
    whole = argparse.ArgumentParser.parse_args

    def within(self, args=None, namespace=None):
        nonlocal depth
        depth += 1
        try:
            result = parse(self, args, namespace)
        finally:
            depth -= 1
        if depth == 0:
            raise Parsed(result)
        return result

    def all_of(self, args=None, namespace=None):
        nonlocal depth
        depth += 1
        try:
            result = whole(self, args, namespace)
        finally:
            depth -= 1
        raise Parsed((result, []))

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_known_args", within)
        patched.setattr(argparse.ArgumentParser, "parse_args", all_of)
        yield


def check_main(words):
    """Parses as `lrd_jax.main` does; the config is sound, and every key has an effect."""
    own = flags.FlagValues()
    for name in ("workdir", "mode", "coordinator_address", "process_id", "num_processes"):
        own[name] = copy.deepcopy(flags.FLAGS[name])
    parsed = command_line.parse_flags(["main", *words], own, defaults.get_config)
    checks.validate(parsed.config)
    if parsed.spec:
        _, notes = effects.judge(parsed.config, parsed.overrides, own["mode"].value)
        assert notes == []


def check_module(module, words, monkeypatch):
    """Parses as the module's own parser does."""
    found = importlib.import_module(module)
    if hasattr(found, "__path__"):
        found = importlib.import_module(f"{module}.__main__")
    monkeypatch.setattr(sys, "argv", ["program", *words])
    with ends_when_parsed(monkeypatch), pytest.raises(Parsed) as parsed:
        found.main(words)
    _, rest = parsed.value.args[0]
    known = command_line.flatten(defaults.get_config())
    for word in rest:  # configs, and changes of their keys
        name, _, value = word.removeprefix("--").partition("=")
        if name == "config":
            checks.validate(command_line.load_config(value))
        elif name.startswith("config."):
            assert name.removeprefix("config.") in known, word
        else:
            assert name in ("workdir", "label"), word


def check_script(script, words, monkeypatch):
    """Parses as the script's own parser does."""
    path = ROOT / "scripts" / script
    if script in TAKES_NOTHING:
        assert words == [] and path.exists()
        return
    monkeypatch.setattr(sys, "argv", [script, *words])
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    if script == "mutation.py":
        pytest.importorskip("cosmic_ray", reason="needs the extra mutation")
    with ends_when_parsed(monkeypatch), pytest.raises(Parsed):
        runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize(
    "path",
    [path for path in [*PAGES, *SOURCES] if shown(path)],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_commands_are_taken(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(record, "load_workdir", lambda *_: defaults.get_config().lock())
    own = re.findall(r"^```python (\S+)$", path.read_text(encoding="utf-8"), re.M)
    variables = {}
    for line in shown(path):
        if re.search(r"\.\.\.|\[-", line) or any(name in line for name in own):
            continue  # a pattern; or of a file that the page itself shows
        for words in programs(line, variables):
            while words and words[0].split(" ")[0] in BEFORE:
                words = words[next(i for i, w in enumerate(words) if PYTHON.match(w)) :]
            if not words or " ".join([words[0].removeprefix(".venv/bin/"), *words[1:]]).startswith(
                OTHERS
            ):
                continue
            assert PYTHON.match(words[0]), f"no known program: {line}"
            name, rest = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
            if not rest:
                continue  # a program's name, as in the index
            if name == MAIN:
                check_main(rest)
            elif name.startswith("lrd_jax"):
                check_module(name, rest, monkeypatch)
            elif name.startswith("scripts/"):
                check_script(name.removeprefix("scripts/"), rest, monkeypatch)
            else:
                assert name in ("pytest", "tests.fuzz", "tests.same_bits"), line


def test_extras_that_are_named_are_there():
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for path in [*PAGES, *SOURCES]:
        text = path.read_text(encoding="utf-8")
        for named in re.findall(r"(?:lrd-jax|\.)\[([\w,-]+)\]'", text):
            assert set(named.split(",")) <= set(extras), (path, named)


EXECUTED = ("README.md", "python.md", "new_cell.md", "new_task.md")  # by tests of their own


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_python_that_is_shown_runs_or_says_why_not(path):
    text = path.read_text(encoding="utf-8")
    if path.name in EXECUTED:
        return
    for found in re.finditer(r"^ *```(?:python|text)", text, re.M):
        before = text[: found.start()].rstrip().rsplit("\n", 1)[-1]
        assert re.fullmatch(r"<!-- not run: .+ -->", before), text[found.start() :][:200]


def test_examples_in_docstrings():
    tried = 0
    for path in SOURCES:
        if path.is_relative_to(ROOT / "lrd_jax") and ">>>" in path.read_text(encoding="utf-8"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            result = doctest.testmod(importlib.import_module(name))
            assert result.failed == 0, name
            tried += result.attempted
    assert tried > 5
