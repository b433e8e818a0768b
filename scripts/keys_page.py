"""`docs/keys.md`: every key of a config with its default, unit and meaning.

    python scripts/keys_page.py   # rewrites it

Made of `lrd_jax/config/defaults.py`, the one place where they are said.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "lrd_jax" / "config" / "defaults.py"
PAGE = ROOT / "docs" / "keys.md"

_INTRO = """\
# Keys

Every key of a config, set by `--config.KEY=VALUE` or in a config file. A key without effect in a
run is refused or reported. Made by `python scripts/keys_page.py` of
[`lrd_jax/config/defaults.py`](../lrd_jax/config/defaults.py); do not edit it by hand.
"""
_GROUP = re.compile(r'    (\w+)(?:: Any)? = _group\(c, "(\w+)"\)')
_KEY = re.compile(r"    (\w+)\.(\w+) = (.+?)(?:  # (.*))?$")


def page() -> str:
    """The text of the page."""
    parts, last = [_INTRO], None
    for group, key, default, meaning in _keys(SOURCE.read_text(encoding="utf-8")):
        if group != last:
            parts += [
                f"\n## {group or 'The run'}\n",
                "| key | default | meaning |",
                "|---|---|---|",
            ]
            last = group
        name = f"{group}.{key}" if group else key
        shown = meaning.replace("|", "\\|")
        parts.append(f"| `{name}` | `{default}` | {shown} |")
    return "\n".join(parts) + "\n"


def _keys(source: str) -> Iterator[tuple[str, str, str, str]]:
    """Yields group, key, default and meaning; a comment above or behind a key says the last."""
    groups, above = {"c": ""}, []
    for line in source.splitlines():
        if found := _GROUP.match(line):
            groups[found[1]] = found[2]
            above = []
        elif line.startswith("    # "):
            above.append(line.strip()[2:])
        elif (found := _KEY.match(line)) and found[1] in groups:
            yield groups[found[1]], found[2], found[3], found[4] or " ".join(above)
            above = []
        else:
            above = []


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # a checkout that is not installed
    from lrd_jax.reporting.workdir import write_atomically

    write_atomically(PAGE, page())
