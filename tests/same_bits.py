"""Whether two checkouts of this project train the same numbers, to the last bit.

    python -m tests.same_bits OLD NEW

trains each setting of `same_bits_config.py` for 50 steps from the checkout OLD, then from NEW (the
same Python, machine and versions), and compares the sha256 of every parameter. Status 0: all equal.
Nothing of a result is stored here: rounding belongs to a machine and its versions.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.same_bits_config import SETTINGS

CONFIG = Path(__file__).with_name("same_bits_config.py")


def text(length=6000):
    """A text that is the same everywhere: words of a small language, by a congruence."""
    words, state, written = "the cell keeps what it saw and lets go of the rest".split(), 7, []
    while sum(map(len, written)) + len(written) < length:
        state = (state * 1103515245 + 12345) % 2**31
        written.append(words[state // 65536 % len(words)])
    lines = [" ".join(written[i : i + 9]) for i in range(0, len(written), 9)]
    return "\n".join(lines) + "\n"


def parameters(checkout, setting, data_dir, python=sys.executable):
    """Trains a setting from a checkout; returns the sha256 of each parameter by its path."""
    texts = Path(data_dir, "text")
    texts.mkdir(exist_ok=True)
    (texts / "train.txt").write_text(text(), encoding="utf-8")
    (texts / "valid.txt").write_text(text(900), encoding="utf-8")
    (texts / "test.txt").write_text(text(600), encoding="utf-8")
    with tempfile.TemporaryDirectory() as workdir:
        flags = [f"--config={CONFIG}:{setting}", f"--workdir={workdir}/run"]
        flags.append(f"--config.data.data_dir={data_dir}")
        if SETTINGS[setting]["data.name"] == "text":
            flags.append(f"--config.data.text_dir={texts}")
        done = subprocess.run(
            [python, "-m", "lrd_jax.main", *flags],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu"},
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{checkout}, {setting}: {done.stderr}")
        extra = Path(workdir, "run", "checkpoints", "50", "extra", "metadata")
        digests = json.loads(extra.read_text(encoding="utf-8"))["sha256"]
    return {path: digest for path, digest in digests.items() if path.startswith(".params")}


def main(old, new):
    """Compares every setting; returns the exit status."""
    status = 0
    with tempfile.TemporaryDirectory() as data_dir:
        for setting in SETTINGS:
            before, after = (
                parameters(Path(checkout).resolve(), setting, data_dir) for checkout in (old, new)
            )
            equal = before and before == after
            print(
                f"{setting}: {len(before)} parameters", "equal" if equal else "DIFFER", flush=True
            )
            status |= not equal
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
