"""Models of sequences of one's own: labels, units and missing values are those of the files."""

import csv
import re

import numpy as np
import pytest

import lrd_jax
from lrd_jax.data import make_dataset
from lrd_jax.data.prepare import main as prepare
from lrd_jax.errors import UserError
from lrd_jax.predict import main as predict
from lrd_jax.training.found import keep_fit
from tests.inference.runs import make_run
from tests.training.harness import make_config

RNG = np.random.default_rng(3)
INPUTS = [RNG.normal(5, 3, size=(n, 2)).astype(np.float32) for n in (6, 3, 7, 4, 5, 6, 3, 7)]


def own_run(folder, targets, inputs=INPUTS, **overrides):
    """A run on sequences with these targets, and the files that it was made from."""
    folder.mkdir()
    arrays = {f"x_{n}": each for n, each in enumerate(inputs)}
    for name in ("train", "test"):
        np.savez(folder / f"{name}.npz", **arrays, **targets)
    changes = {"data.name": "sequences", "data.path": str(folder), "data.valid_split": "last:2"}
    changes |= {"model.cell": "gru", "data.batch_size": 4} | overrides
    dataset = make_dataset(make_config(**changes))
    run = make_run(folder / "run", dataset=dataset, **changes)
    keep_fit(run, dataset)
    for name in ("train", "test"):
        (folder / f"{name}.npz").unlink()  # the data need not be there
    return run


def said_of(run, path):
    output = path.with_name("said.csv")
    assert predict([f"--workdir={run}", f"--input={path}", f"--output={output}"]) == 0
    with output.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_are_in_the_units_of_the_files(tmp_path):
    targets = RNG.normal(1000, 50, size=(8, 2))
    run = own_run(tmp_path / "own", {"targets": targets}, **{"data.scale": "standard"})
    model = lrd_jax.load(run)
    np.savez(tmp_path / "new.npz", x_0=INPUTS[0], x_1=INPUTS[1])
    rows = said_of(run, tmp_path / "new.npz")
    assert list(rows[0]) == ["id", "target0", "target1"]
    numbers = model.predict(INPUTS[:2]).numbers
    found = np.array([[float(row[name]) for name in ("target0", "target1")] for row in rows])
    np.testing.assert_allclose(found, numbers, rtol=1e-6)
    # An untrained network is about the mean of the training targets, within some deviations.
    assert (abs(numbers - targets[:6].mean(0)) < 5 * targets[:6].std(0)).all()
    state = model.start()
    for x in INPUTS[1]:
        state, said = model.step(state, x[None])
    np.testing.assert_allclose(said.numbers[0], numbers[1], rtol=1e-5)


def test_a_forecast_has_a_row_for_every_step(tmp_path):
    overrides = {"data.target": "next", "data.scale": "minmax", "data.missing": "hold"}
    run = own_run(tmp_path / "own", {}, **overrides)
    gap = INPUTS[0].copy()
    gap[2, 1] = np.nan
    np.savez(tmp_path / "new.npz", x_0=gap, x_1=INPUTS[1])
    rows = said_of(run, tmp_path / "new.npz")
    assert [(row["id"], row["step"]) for row in rows] == [
        *(("0", str(n)) for n in range(6)),
        *(("1", str(n)) for n in range(3)),
    ]
    held = gap.copy()
    held[2, 1] = gap[1, 1]
    model = lrd_jax.load(run)
    expected = model.predict([held, INPUTS[1]]).numbers
    np.testing.assert_array_equal(model.predict([gap, INPUTS[1]]).numbers, expected)
    found = np.array([[float(row["next_x0"]), float(row["next_x1"])] for row in rows])
    np.testing.assert_allclose(found, [*expected[0], *expected[1, :3]], rtol=1e-5)
    with pytest.raises(UserError, match="the step holds NaN"):
        model.step(model.start(), gap[2:3])


def test_labels_and_missing_values(tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="the extra tables is not installed")
    labels = np.array([["calm", "storm"][n % 2] for n in range(8)])
    inputs = [each.copy() for each in INPUTS]
    for each in inputs[:2]:
        each[1, 0] = np.nan
    run = own_run(tmp_path / "own", {"targets": labels}, inputs, **{"data.missing": "mask"})
    model = lrd_jax.load(run)
    assert model.names == ("calm", "storm")
    path = tmp_path / "new.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "time", "x1", "x0"])  # in another order
        for time, (x0, x1) in enumerate(inputs[0]):
            writer.writerow(["one", time, x1, "" if np.isnan(x0) else x0])
    rows = said_of(run, path)
    said = model.predict(inputs[:1])
    assert [row["id"] for row in rows] == ["one"] and rows[0]["label"] == said.labels[0]
    assert float(rows[0]["p_storm"]) == pytest.approx(said.probabilities[0, 1], abs=1e-5)
    state = model.start()
    for x in inputs[0]:
        state, last = model.step(state, x[None])
    np.testing.assert_allclose(last.probabilities, said.probabilities, atol=1e-6)
    capsys.readouterr()
    path.write_text("id,time,x0,wind\na,0,1,2\n", encoding="utf-8")
    assert predict([f"--workdir={run}", f"--input={path}", f"--output={path}.csv"]) == 2
    error = capsys.readouterr().err
    assert "x1" in error and error.count("\n") == 1


def test_names_of_columns_are_known_and_errors_say_what_works(tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="the extra tables is not installed")
    folder = tmp_path / "own"
    folder.mkdir()
    lines = [f"p{n},{t},{n % 3 - 1},{n},{'ab'[n % 2]}" for n in range(8) for t in range(3)]
    text = "\n".join(["patient,hour,x,y,state", *lines]) + "\n"
    (folder / "all.csv").write_text(text, encoding="utf-8")
    layout = ["--id_column=patient", "--time_column=hour", "--target_columns=state"]
    parts = ["--valid_split=0.25", "--test_split=0.25"]
    argv = ["sequences", f"--from_dir={folder}", f"--data_dir={tmp_path}", *layout, *parts]
    assert prepare(argv) == 0
    where = tmp_path / "lrd_sequences" / "own" / "1.0.0"
    changes = {"data.name": "sequences", "data.path": str(where), "data.batch_size": 4}
    dataset = make_dataset(make_config(**changes))
    run = make_run(tmp_path / "run", dataset=dataset, **changes)
    keep_fit(run, dataset)
    new = tmp_path / "new.csv"
    new.write_text("y,x,hour,patient\n1,2,0,p9\n1,2,1,p9\n", encoding="utf-8")
    assert [row["id"] for row in said_of(run, new)] == ["p9"]
    capsys.readouterr()
    for text, message in (
        ("y,x,hour,id\n1,2,0,p9\n", "has no column 'patient'.*; call it as the training files do$"),
        ("y,hour,patient\n1,0,p9\n", "has no column 'x'.*; call it as the training files do$"),
        ("y,x,hour,patient\n,2,0,p9\n", "channel 'y' has no value; fill it in: the model was tr"),
    ):
        new.write_text(text, encoding="utf-8")
        assert predict([f"--workdir={run}", f"--input={new}", f"--output={new}.csv"]) == 2
        error = capsys.readouterr().err
        assert re.search(message, error.strip()) and error.count("\n") == 1, error
    np.savez(tmp_path / "new.npz", x_0=np.zeros((2, 3)))
    argv = [f"--workdir={run}", f"--input={tmp_path}/new.npz", f"--output={new}.csv"]
    assert predict(argv) == 2
    assert (
        "x_0 has 3 channels, and there should be 2 (data.channels: x, y)" in capsys.readouterr().err
    )
