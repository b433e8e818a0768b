"""An exported folder is used like the run that it came from."""

import shutil

import numpy as np
import pytest

import lrd_jax
from lrd_jax.config import record
from lrd_jax.data import make_dataset
from lrd_jax.errors import UserError
from lrd_jax.evaluation import commands
from lrd_jax.export.__main__ import main as export
from lrd_jax.training.found import earlier_result
from tests.inference.runs import make_run
from tests.training.harness import make_config

SEQUENCES = [np.ones((n, 2), np.float32) * n for n in (12, 3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three seeds, the last of which validated best."""
    return make_run(tmp_path_factory.mktemp("exported") / "run", num_seeds=3)


@pytest.fixture(scope="module")
def folders(run, tmp_path_factory):
    """What was written for the best seed, for all, for seed 1."""
    out = tmp_path_factory.mktemp("folders")
    for seeds in ("best", "all", "1"):
        arguments = [f"--workdir={run}", f"--out={out / seeds}", f"--seeds={seeds}"]
        assert export([*arguments, "--weights_only"]) == 0
    return out


@pytest.mark.parametrize("seeds", ["best", "all", "1"])
def test_it_says_the_same(run, folders, seeds):
    ours = lrd_jax.load(run, seeds)
    theirs = lrd_jax.load(folders / seeds, "all" if seeds == "all" else "best")
    assert theirs.members == ours.members and theirs.whose["valid"] == ours.whose["valid"]
    assert theirs.whose["step"] == {"best": [30], "all": [10, 20, 30], "1": [20]}[seeds]
    for one, two in zip(ours.predict(SEQUENCES), theirs.predict(SEQUENCES), strict=True):
        np.testing.assert_array_equal(one, two)


def test_it_holds_no_programs_and_a_card(folders):
    names = {path.name for path in (folders / "best").iterdir()}
    assert names == {"README.md", "config.json", "members.json", "model.safetensors", "spec.json"}
    assert "used like a run" in (folders / "best" / "README.md").read_text(encoding="utf-8")


def test_it_is_evaluated(tmp_path, digits_dir):
    digits = {"data.name": "digits", "data.data_dir": str(digits_dir), "num_seeds": 2}
    dataset = make_dataset(make_config(**digits))
    run = make_run(tmp_path / "run", dataset=dataset, **digits)
    assert export([f"--workdir={run}", f"--out={tmp_path / 'out'}", "--weights_only"]) == 0
    ours = commands.evaluate(run, {})["seeds"]
    (theirs,) = commands.evaluate(tmp_path / "out", {})["seeds"]
    assert theirs == ours[1] and theirs["seed"] == 1


def test_what_is_damaged_is_refused(folders, tmp_path):
    for name, change, message in (
        ("members.json", lambda text: text[:20], r"whose parameters .* cannot be read"),
        ("members.json", lambda _: "{}", r"KeyError: 'members'"),
        ("members.json", lambda text: text.replace("    2\n", "    9\n"), r"members \[9\] of 3"),
        ("members.json", lambda text: text.replace("    30\n", "    3, 0\n"), "not one value"),
        (
            "config.json",
            lambda text: text.replace('"hidden_size": 6', '"hidden_size": 7'),
            "expected",
        ),
    ):
        folder = tmp_path / "copy"
        shutil.copytree(folders / "best", folder)
        text = (folder / name).read_text(encoding="utf-8")
        assert change(text) != text
        (folder / name).write_text(change(text), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            lrd_jax.load(folder)
        shutil.rmtree(folder)
    shutil.copytree(folders / "best", tmp_path / "none")
    (tmp_path / "none" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        lrd_jax.load(tmp_path / "none")


def test_it_is_not_trained(folders):
    before = sorted(path.name for path in (folders / "best").iterdir())
    config = record.load_workdir(folders / "best")
    with pytest.raises(UserError, match="holds an exported model, which is used and not trained"):
        earlier_result(folders / "best", config)
    assert sorted(path.name for path in (folders / "best").iterdir()) == before
