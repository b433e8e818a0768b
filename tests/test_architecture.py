"""The house keeps its shape: imports run one way, files stay short, no name shadows another."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lrd_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
# Rooms from the ground up; a room imports from those below it alone.
FLOORS = (
    {"errors", "arrays", "metrics"},
    {"config", "streams"},
    {"runtime"},
    {"cells"},
    {"kernels"},
    {"recurrence"},
    {"models", "data", "interchange"},
    {"reporting"},
    {"objectives"},
    {"evaluation"},
    {"inference"},
    {"training"},
    {"probe"},
    {"export", "predict"},
    {"report"},
    {"main"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Answered before JAX has loaded.
WITHOUT_JAX = ("lrd_jax", "lrd_jax.main", "lrd_jax.config.record", "lrd_jax.runtime.launch")
WITHOUT_JAX += ("lrd_jax.predict",)


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imports(path):
    """Modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lrd_jax":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in MODULES)


def room(module):
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} - {""} == set(FLOOR)


def test_the_page_shows_these_floors():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| -?\d+ \| (`[^|]*`) \|", page, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in reversed(shown)] == [*FLOORS]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_downward(path):
    own = room(name_of(path))
    for module in imports(path):
        if own and room(module) not in ("", own):
            assert FLOOR[room(module)] < FLOOR[own], f"{own} imports {module}"


def test_no_module_imports_itself_in_a_circle():
    graph = {name: set(imports(path)) - {name} for name, path in MODULES.items()}
    # `from room import name` runs the room's __init__, which may import the room's own modules.
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done or MODULES[module].name == "__init__.py":
            return
        path.append(module)
        for other in sorted(graph[module]):
            visit(other)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("folder", ["lrd_jax", "configs", "scripts"])
def test_no_file_is_long(folder):
    for path in (ROOT / folder).rglob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 400, f"{path.relative_to(ROOT)} has {lines} lines"


def test_no_root_module_bears_a_standard_name():
    """A file of the package's root that is run by its path would shadow the standard library."""
    assert not {path.stem for path in PACKAGE.iterdir()} & sys.stdlib_module_names


def test_what_is_answered_early_does_not_load_jax():
    code = f"import sys, {', '.join(WITHOUT_JAX)}; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
