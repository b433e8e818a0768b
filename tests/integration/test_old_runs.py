"""Work directories that earlier versions made are resumed and evaluated by this one.

`old_runs/<commit>.tar.gz` holds runs of that commit, stopped at step 12 of 24, and for each in
`expected.json` what that commit itself made of the rest, and of an evaluation at step 12.
"""

import hashlib
import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

from lrd_jax.config import record
from lrd_jax.config.horizon import run_horizon
from lrd_jax.data import make_dataset
from lrd_jax.evaluation.loaded import load
from lrd_jax.objectives import make_objective
from lrd_jax.runtime.checkpoints import Checkpoints
from lrd_jax.runtime.devices import make_mesh
from lrd_jax.training.program import Program
from lrd_jax.training.state import join_best, split_best
from tests.integration.conftest import snapshot, without_timing
from tests.same_bits import text

ARCHIVES = Path(__file__).with_name("old_runs")
# The config that the work directory holds, as this version reads it.
CONFIG = """
from lrd_jax.config.record import load_workdir

def get_config(workdir):
    config = load_workdir(workdir).copy_and_resolve_references()
    config.train.stop_step = 0
    return config
"""


def flat(tree, path=""):
    """Leaves of JSON by path, without what measures the machine."""
    if isinstance(tree, dict):
        parts = without_timing(tree).items()
    elif isinstance(tree, list):
        parts = enumerate(tree)
    else:
        return {path: tree}
    return {k: v for key, part in parts for k, v in flat(part, f"{path}/{key}").items()}


def assert_close(found, expected):
    """All of `expected` is there, numbers within 1e-6; `found` may say more."""
    found, expected = flat(found), flat(expected)
    assert expected.keys() <= found.keys()
    for path, value in expected.items():
        near = pytest.approx(value, rel=1e-6, abs=1e-6) if isinstance(value, float) else value
        assert found[path] == near, path


OLD = ("digits", "r-lstm", "language")


def over_old(quick):
    """Parametrises a test over the old runs: by default one, with the marker `slow` all."""
    marks = {name: () if name == quick else pytest.mark.slow for name in OLD}
    cases = [pytest.param(name, marks=marks[name]) for name in OLD]
    return pytest.mark.parametrize("old", cases, indirect=True)


@pytest.fixture(params=OLD)
def old(request, digits_dir, tmp_path):
    """The work directory, what is expected of it, and the flags of its run and data."""
    with tarfile.open(ARCHIVES / "1028af6.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    workdir = tmp_path / request.param
    expected = json.loads((workdir / "expected.json").read_text(encoding="utf-8"))
    flags = [f"--workdir={workdir}", f"--config.data.data_dir={digits_dir}"]
    if request.param == "language":
        texts = tmp_path / "text"
        texts.mkdir()
        for name, length in (("train", 3000), ("valid", 500), ("test", 400)):
            (texts / f"{name}.txt").write_text(text(length), encoding="utf-8")
        flags.append(f"--config.data.text_dir={texts}")
    config = tmp_path / "config.py"
    config.write_text(CONFIG, encoding="utf-8")
    return workdir, expected, (f"--config={config}:{workdir}", *flags)


def digests(tree, path=""):
    return {
        path + jax.tree_util.keystr(place): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for place, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_an_old_state_is_restored_to_the_bit(old):
    workdir, _, (_, _, *flags) = old
    config = record.load_workdir(workdir).copy_and_resolve_references()
    places = dict(flag.removeprefix("--config.").split("=") for flag in flags)
    config.update_from_flattened_dict(places)
    stored = json.loads((workdir / "checkpoints/12/extra/metadata").read_text(encoding="utf-8"))
    expected = stored["sha256"]
    assert len(expected) > 20 and "format" not in stored
    before = snapshot(workdir)
    # For training: every leaf.
    dataset = make_dataset(config)
    objective = make_objective(config, dataset.spec, run_horizon(config, dataset.num_train))
    program = Program(config, dataset, make_mesh(jax.devices()[:1]), objective)
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    items, extra = checkpoints.restore_latest(split_best(program.template()))
    checkpoints.close()
    assert digests(join_best(items)) == expected
    assert extra == {name: stored[name] for name in ("wall_time_s", "unevaluated")}
    # For evaluation: the best alone.
    loaded = load(workdir, config, {})
    of_best = {path: digest for path, digest in expected.items() if path.startswith(".best")}
    assert digests(loaded.best, ".best") == of_best
    stopped = items["state"].first_nonfinite_step
    assert loaded.stopped == stopped.tolist() == [-1] * config.num_seeds
    assert snapshot(workdir) == before


@pytest.mark.slow
@over_old("language")
def test_the_batch_of_an_old_run_may_change(program, old):
    workdir, expected, flags = old
    program.run("--mode=eval", *flags[1:], "--config.data.batch_size=3")
    (path,) = (workdir / "eval").glob("*.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    for one, other in zip(found["seeds"], expected["eval"], strict=True):
        # A text is cut into other streams, which start from nothing.
        assert one["test"]["loss"] == pytest.approx(other["test"]["loss"], rel=0.01)


@pytest.mark.slow
@over_old("r-lstm")
def test_an_old_run_is_evaluated(program, old):
    workdir, expected, flags = old
    program.run("--mode=eval", *flags)
    (path,) = (workdir / "eval").glob("*.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert_close(found["seeds"], expected["eval"])


@over_old("digits")
def test_an_old_run_goes_on(program, old):
    workdir, expected, flags = old
    out, _ = program.run(*flags)
    assert "resuming at step 12 of 24" in out
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    rest = [r for r in records if r["step"] > 12 or r["split"] == "test"]
    assert len(rest) == len(expected["metrics"])
    assert_close(rest, expected["metrics"])
    result = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
    assert_close(result, expected["result"])
