"""The same answers from `predict`, from `step`, from the command line, and from StableHLO files."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import lrd_jax
from lrd_jax.data.spec import DataSpec
from lrd_jax.export.__main__ import main as export
from lrd_jax.predict import main as predict
from tests.inference.runs import SPEC, make_run

TOLERANCE = 1e-5
RNG = np.random.default_rng(1)
RAGGED = [RNG.normal(size=(n, 2)).astype(np.float32) for n in (12, 5, 1, 9)]
LENGTHS = np.array([len(each) for each in RAGGED], np.int32)
PADDED = np.zeros((4, 12, 2), np.float32)
for row, each in zip(PADDED, RAGGED, strict=True):
    row[: len(each)] = each
NUMBERS = DataSpec("regress", length=12, features=2, classes=1)
LABELS = dataclasses.replace(SPEC, kind="tag", scored=12)
CASES = {
    "lstm-last": (SPEC, {"model.cell": "lstm", "model.num_layers": 2, "model.block": "residual"}),
    "urlstm-mean": (SPEC, {"model.cell": "urlstm", "model.pool": "mean", "num_seeds": 2}),
    "mingru-max": (SPEC, {"model.cell": "mingru", "model.pool": "max"}),
    "lru-mean": (NUMBERS, {"model.cell": "lru", "model.pool": "mean", "model.embedding_size": 3}),
    "legs-last": (SPEC, {"model.cell": "gated_legs", "model.head_hidden": ()}),
    "s5-mean": (SPEC, {"model.cell": "s5", "model.pool": "mean"}),
    "gru-steps": (LABELS, {"model.cell": "gru", "model.learn_initial": True}),
}
FEW = ("lstm-last", "urlstm-mean")
MORE = tuple(set(CASES) - set(FEW))
# A process that imports JAX, which needs flatbuffers to read the files, and nothing of ours.
ELSEWHERE = """
import json, sys
import jax, numpy as np
from jax import export
import jax.numpy as jnp
found = {}
for folder in sys.argv[2:]:
    given = np.load(sys.argv[1])
    def load(name):
        with open(f"{folder}/{name}", "rb") as file:
            return export.deserialize(bytearray(file.read()))
    model = load("model.stablehlo")
    assert model.platforms == ("cpu", "cuda"), model.platforms
    whole = model.call(given["inputs"], given["lengths"])
    step = load("step.stablehlo")
    state = tuple(jnp.ones((4, *a.shape[1:]), a.dtype) for a in step.in_avals[:-2])  # not read
    each = []
    call = jax.jit(step.call)
    for time in range(12):
        state, said = call(state, given["inputs"][:, time], jnp.full(4, time == 0))
        each.append(said)
    found[folder] = {"whole": np.asarray(whole).tolist(), "steps": np.asarray(each).tolist()}
assert not [name for name in sys.modules if name.split(".")[0] in ("lrd_jax", "flax")]
print(json.dumps(found))
"""


@pytest.fixture(params=[FEW, pytest.param(MORE, marks=pytest.mark.slow)], ids=["few", "more"])
def elsewhere(request, tmp_path):
    """What the programs of some cases say in a process of their own, by case."""
    pytest.importorskip("flatbuffers", reason="the extra export is not installed")
    folder = tmp_path
    np.savez(folder / "given.npz", inputs=PADDED, lengths=LENGTHS)
    for name in request.param:
        spec, overrides = CASES[name]
        run = make_run(folder / name, spec, **overrides)
        seeds = "all" if "num_seeds" in overrides else "best"
        assert export([f"--workdir={run}", f"--out={run}/out", f"--seeds={seeds}"]) == 0
    command = [sys.executable, "-W", "error", "-c", ELSEWHERE, str(folder / "given.npz")]
    command += [str(folder / name / "out") for name in request.param]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return folder, {name: said[str(folder / name / "out")] for name in request.param}


def test_all_ways_agree(elsewhere):
    folder, found = elsewhere
    for name, there in found.items():
        check(folder / name, *CASES[name], there)


def check(run, spec, overrides, there):
    seeds = "all" if "num_seeds" in overrides else "best"
    model = lrd_jax.load(run, seeds=seeds)
    values = values_of(model.predict(RAGGED))
    per_step = spec.kind == "tag"
    for number, length in enumerate(LENGTHS):
        whole, steps = np.array(there["whole"])[number], np.array(there["steps"])[:, number]
        expected = values[number][:length] if per_step else values[number]
        last = steps[:length] if per_step else steps[length - 1]
        assert expected.std() > 1e-3 or spec.kind == "regress"
        np.testing.assert_allclose(whole[:length] if per_step else whole, expected, atol=TOLERANCE)
        np.testing.assert_allclose(last, expected, atol=TOLERANCE)
    np.savez(run / "own.npz", ids=["b", "a", "d", "c"], inputs=PADDED, lengths=LENGTHS)
    told = ["--input", str(run / "own.npz"), "--output", str(run / "said.npz")]
    assert predict([f"--workdir={run}", f"--seeds={seeds}", *told]) == 0
    table = dict(np.load(run / "said.npz"))
    ids = np.repeat(["b", "a", "d", "c"], LENGTHS if per_step else 1).tolist()
    assert table["id"].tolist() == ids
    for place, column in enumerate(model.names if spec.class_names else "prediction".split()):
        flat = (
            np.concatenate([v[:n, place] for v, n in zip(values, LENGTHS, strict=True)])
            if per_step
            else values[:, place]
        )
        column = f"p_{column}" if spec.class_names else column
        np.testing.assert_allclose(table[column], flat, atol=TOLERANCE)
    state = model.start(4)
    for time in range(12):
        state, said = model.step(state, PADDED[:, time])
        for number in np.flatnonzero(LENGTHS == time + 1):
            expected = values[number][time] if per_step else values[number]
            np.testing.assert_allclose(values_of(said)[number], expected, atol=TOLERANCE)


def values_of(said):
    return said.numbers if said.probabilities is None else said.probabilities
