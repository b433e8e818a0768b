"""`scripts/pack_for_offline.py`: what it refuses, and what it gathers where an index is there."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from lrd_jax.errors import UserError

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "pack_for_offline.py"
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
# That no image of JAX brings along; each in a wheel of a few kB, but for the first.
LACKING = {"tensorflow-datasets", "promise", "clu", "ml-collections", "tensorboardx"}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pack_for_offline", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def have(tmp_path):
    path = tmp_path / "have.txt"
    path.write_text("jax==0.11.2\n", encoding="utf-8")
    return path


def test_what_is_there_is_read(script):
    text = "jax==0.11.2\n# a note\nml_collections == 1.1.0 ; extra\nTorch @ file:///x.whl\n-e .\n"
    expected = {"jax": "0.11.2", "ml-collections": "1.1.0", "torch": ""}
    assert script.parse_have(text) == expected


def test_bad_input_is_refused(script, have, tmp_path):
    def refused(message, **changed):
        flags = {"python": HERE, "have": have, "max_mib": 9, "output": tmp_path / "out"} | changed
        with pytest.raises(UserError, match=message):
            script.parse_arguments([f"--{key}={value}" for key, value in flags.items()])

    refused("start this with python2.7", python="2.7")
    refused("must be above 0", max_mib=0)
    refused("No such file", have=tmp_path / "none")
    refused("lacks train-images-idx3-ubyte.gz", mnist=tmp_path)
    refused("exists: remove it", output=tmp_path)


def test_the_whole_must_be_small_enough(script, have, tmp_path, monkeypatch):
    def some(have, python, folder):
        folder.mkdir()
        (folder / "big.whl").write_bytes(bytes(3 * 2**20))

    monkeypatch.setattr(script, "wheels", some)
    monkeypatch.setattr(script, "code", lambda folder: (folder / "code.tar.gz").write_bytes(b"x"))
    flags = [f"--python={HERE}", f"--have={have}", f"--output={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=r"3.0 MiB, more than --max_mib=2; .* wheels/big.whl"):
        script.main([*flags, "--max_mib=2"])
    assert not (tmp_path / "out").exists()
    script.main([*flags, "--max_mib=4"])
    record = json.loads((tmp_path / "out" / "contents.json").read_text(encoding="utf-8"))
    assert {file["path"] for file in record["files"]} == {
        "wheels/big.whl",
        "code.tar.gz",
        "install.sh",
    }


@pytest.mark.slow
def test_what_is_gathered_for_an_image_like_this_one(script, tmp_path):
    """All that is installed here is there, but for a few packages: these come, and no others."""
    installed = {script.normal(d.name): d.version for d in importlib.metadata.distributions()}
    lines = [f"{name}=={v}\n" for name, v in installed.items() if name not in LACKING]
    (tmp_path / "have.txt").write_text("".join(lines), encoding="utf-8")
    command = [sys.executable, str(SCRIPT), f"--python={HERE}", "--max_mib=40"]
    command += [f"--have={tmp_path / 'have.txt'}", f"--output={tmp_path / 'out'}"]
    mnist = Path(os.environ.get("LRD_JAX_TEST_DATA", ""), "mnist")
    command += [f"--mnist={mnist}"] if mnist.is_dir() else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if "No matching distribution" in done.stderr or "failed to establish" in done.stderr.lower():
        pytest.skip("no index of packages can be reached")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "contents.json").read_text(encoding="utf-8"))
    files = {file["path"]: file["bytes"] for file in record["files"]}
    wheels = {script.normal(Path(p).name.split("-")[0]) for p in files if p.startswith("wheels/")}
    assert wheels == LACKING
    assert record["bytes"] == sum(files.values()) <= 40 * 2**20
    assert len([path for path in files if path.startswith("data/mnist/")]) in (0, 4)
    with tarfile.open(tmp_path / "out" / "code.tar.gz") as archive:
        names = archive.getnames()
    assert {"lrd-jax/lrd_jax/main.py", "lrd-jax/scripts/on_gpu.py", "lrd-jax/.git/HEAD"} <= {*names}
