"""Text files are UTF-8 whatever the locale: every place that opens one says so."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [p for folder in ("lrd_jax", "configs", "scripts") for p in (ROOT / folder).rglob("*.py")]
MODULES = ("io", "os", "gzip", "lzma", "bz2")  # whose `open` takes the mode after the path
WITHOUT_TEXT = ("os.open", "tarfile.open", "zipfile.open")
WITHOUT_TEXT += ("members.open", "files.open", "image.open")  # of archives, folders of pictures
OPENERS = ("open", "fdopen", "read_text", "write_text", "TextIOWrapper", "TemporaryFile")
PROGRAMS = ("run", "Popen", "check_output")  # whose output is text if they are told so


def nameless(code):
    """Yields the lines of calls that read or write text and name no encoding."""
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        called, given = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
        owner, _, name = called.rpartition(".")
        if called.removeprefix("self._") in WITHOUT_TEXT or "encoding" in given:
            continue
        if name in PROGRAMS and owner == "subprocess":
            if "text" in given:
                yield node.lineno
        elif name in OPENERS:
            at = 0 if owner and owner not in MODULES else 1  # a path's method
            mode = given.get("mode", node.args[at] if len(node.args) > at else None)
            text = mode.value if isinstance(mode, ast.Constant) else ""
            if owner in ("gzip", "lzma", "bz2"):  # bytes unless told otherwise
                binary = "t" not in str(text)
            else:
                binary = name not in ("read_text", "write_text") and "b" in str(text)
            if not binary:
                yield node.lineno


def test_every_text_file_names_its_encoding():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        for line in nameless(path.read_text(encoding="utf-8"))
    ]
    assert len(FILES) > 50 and found == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("open(p)", True),
        ("open(p, 'w')", True),
        ("open(p, 'rb')", False),
        ("open(p, mode='ab', buffering=0)", False),
        ("open(p, encoding='utf-8')", False),
        ("Path(p).open('w')", True),
        ("p.open('rb')", False),
        ("p.read_text()", True),
        ("p.write_text('b')", True),
        ("p.write_text(t, encoding='utf-8')", False),
        ("gzip.open(p, 'rt')", True),
        ("gzip.open(p)", False),
        ("os.open(p, os.O_RDONLY)", False),
        ("os.fdopen(d, 'w')", True),
        ("io.TextIOWrapper(b)", True),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c)", False),
    ],
)
def test_the_test_sees_what_it_is_for(code, found):
    assert bool(list(nameless(code))) == found
