"""`python -m lrd_jax.predict` and `python -m lrd_jax.export`: what is written, what is refused."""

import csv
import json

import numpy as np
import pytest

import lrd_jax
from lrd_jax.data.sequence_files import Layout, stream
from lrd_jax.evaluation import exported
from lrd_jax.export import __main__ as exporting
from lrd_jax.export import weights
from lrd_jax.inference import write
from lrd_jax.interchange import import_weights
from lrd_jax.predict import main as predict
from tests.inference.runs import make_run

RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    return make_run(folder / "run", **{"model.cell": "lstm", "data.data_dir": "/secret"})


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table in long form of 40 sequences, more than fit in a batch."""
    path = tmp_path_factory.mktemp("table") / "new.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "time", "x0", "x1"])
        for number in range(40):
            for time in range(1 + number % 5):
                writer.writerow([f"s{number}", time, *RNG.normal(size=2).round(3)])
    return path


def arguments(run, table, output, *others):
    return [f"--workdir={run}", f"--input={table}", f"--output={output}", *others]


def test_a_table_keeps_the_order_and_ids_of_the_input(run, table, tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="the extra tables is not installed")
    before = sorted(run.rglob("*"))
    sequences = next(stream(table, Layout(target_columns=()), need_targets=False))
    said = lrd_jax.load(run).predict(sequences.inputs)
    found = {}
    for kind in ("csv", "npz", "parquet"):
        output = tmp_path / f"out.{kind}"
        output.write_text("what stood there before", encoding="utf-8")
        repeated = ["--config.num_seeds=1", "--config.model.cell=lstm"]  # as it was trained
        assert predict(arguments(run, table, output, *repeated)) == 0
        assert capsys.readouterr().out == (f"wrote {output}: 40 rows of 40 sequences, by seed 0\n")
        found[kind] = read(output)
        assert list(found[kind]) == ["id", "label", "p_ant", "p_bee", "p_cat"]
        assert [*found[kind]["id"]] == [f"s{number}" for number in range(40)]
        assert [*found[kind]["label"]] == said.labels.tolist()
        values = np.array([found[kind][f"p_{name}"] for name in ("ant", "bee", "cat")], np.float32)
        np.testing.assert_allclose(values.T, said.probabilities, atol=1e-6)
    assert sorted(tmp_path.iterdir()) == sorted(tmp_path / f"out.{kind}" for kind in found)
    assert sorted(run.rglob("*")) == before


def read(path):
    if path.suffix == ".npz":
        return dict(np.load(path))
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(path).to_pydict()
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config.num_seeds": "2"}, "config.num_seeds has no effect here"),
        ({"workdir": "{here}/none"}, "no run in"),
        ({"input": "{here}/none.csv"}, "there is no such file or folder"),
        ({"input": "{here}"}, "is a folder, name a file"),
        ({"input": "{here}/wrong.npz"}, "has shape [3, 5], and the model reads (time, 2)"),
        ({"input": "{here}/nan.npz"}, "holds NaN"),
        ({"input": "{here}/broken.npz"}, "is damaged"),
        ({"input": "{here}/notes.doc"}, "sequences are read from files in .npz"),
        ({"output": "{here}/out.xlsx"}, "tables are written as .csv, .npz, .parquet"),
        ({"output": "{here}/none/out.csv"}, "there is no folder"),
        ({"output": "{here}/folder.csv"}, "is a folder: name a file"),
        ({"input": "{here}/wrong.npz", "output": "{here}/wrong.npz"}, "is the input"),
        ({"seeds": "7"}, "seeds=7: use best, all, or a seed of this run that was validated: 0"),
        ({"config.eval.split": "valid"}, "has no effect here"),
        ({"config.eval.batch_size": "-1"}, "eval.batch_size=-1"),
        ({"config.model.cell": "gru"}, "has no effect here"),
        ({"outputs": "x"}, "outputs"),
    ],
)
def test_refused_in_a_line(run, table, tmp_path, capsys, change, message):
    np.savez(tmp_path / "wrong.npz", x_0=np.zeros((3, 5)))
    np.savez(tmp_path / "nan.npz", x_0=np.zeros((3, 2)), x_1=np.full((3, 2), np.nan))
    (tmp_path / "broken.npz").write_bytes((tmp_path / "nan.npz").read_bytes()[:200])
    (tmp_path / "notes.doc").write_bytes(b"")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "out.csv").write_text("what stood there before", encoding="utf-8")
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    given = {"workdir": run, "input": table, "output": tmp_path / "out.csv"}
    given |= {name: value.format(here=tmp_path) for name, value in change.items()}
    assert predict([f"--{name}={value}" for name, value in given.items()]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("lrd_jax: error: ") and error.count("\n") == 1 and message in error
    assert out == ""
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_a_library_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(write.UserError, match=r"lrd-jax\[tables\]"):
        write.check(tmp_path / "out.parquet", tmp_path)


# ---- Export -------------------------------------------------------------------------------------


def test_what_an_export_holds(run, tmp_path, capsys):
    pytest.importorskip("flatbuffers", reason="the extra export is not installed")
    safetensors = pytest.importorskip("safetensors.numpy")
    out = tmp_path / "out"
    (run / "result.json").write_text(
        json.dumps(
            {
                "test": {"accuracy": 0.5, "loss": 1.0},
                "seeds": [{"seed": s, "test": {"accuracy": 0.4 + s / 10}} for s in range(3)],
                "statistics": {
                    "test": {"accuracy": {"interval": [0.25, 0.75]}},
                    "interval_method": "Student's t",
                },
                "steps": 20,
                "device": "1 x cpu",
                "versions": {"jax": "9.9"},
            }
        ),
        encoding="utf-8",
    )
    assert exporting.main([f"--workdir={run}", f"--out={out}"]) == 0
    (run / "result.json").unlink()
    names = ["README.md", "config.json", "members.json", "model.safetensors", "model.stablehlo"]
    names += ["pytorch.safetensors", "spec.json", "step.stablehlo"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert capsys.readouterr().out == f"wrote {out}: {', '.join(names)}\n"
    model = lrd_jax.load(run)
    ours = safetensors.load_file(out / "model.safetensors")
    assert ours.keys() == exported.by_name(model.params).keys()
    kernel = model.params["recurrence"]["layer_0"]["recurrent_kernel"]
    np.testing.assert_array_equal(ours["recurrence.layer_0.recurrent_kernel"], kernel)
    # PyTorch's names, of the recurrence and of the head around a ReLU.
    theirs = safetensors.load_file(out / "pytorch.safetensors")
    recurrent = {k: v for k, v in theirs.items() if k.startswith("recurrence.")}
    back = import_weights(model.module.recurrence, recurrent, prefix="recurrence")["params"]
    np.testing.assert_allclose(back["layer_0"]["recurrent_kernel"], kernel, atol=1e-7)
    assert sorted(theirs.keys() - recurrent.keys()) == [
        f"head.{n}.{what}" for n in (0, 2) for what in ("bias", "weight")
    ]
    np.testing.assert_array_equal(
        theirs["head.2.weight"].T, model.params["head"]["Dense_1"]["kernel"]
    )
    card = (out / "README.md").read_text(encoding="utf-8")
    for part in (
        "lstm, 1 layer of 6 units",
        "outputs (3): ant, bee, cat",
        "| accuracy | 50.00 % | 25.00 to 75.00 | 40.00 %, 50.00 %, 60.00 % |",
        "--config.model.hidden_size=6",
        "--config.data.data_dir=DIR",
        "torch.nn.LSTM(2, 6, batch_first=True)",
        "jax 9.9",
        "To be filled in",
    ):
        assert part in card
    assert "secret" not in card and "secret" not in (out / "config.json").read_text("utf-8")


def test_exports_that_cannot_be(run, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    for change, message in (
        ({"workdir": tmp_path / "none"}, "no run in"),
        ({"out": tmp_path / "file"}, "is a file, or the run itself"),
        ({"out": run}, "is a file, or the run itself"),
        ({"out": f"{run}/new/.."}, "is a file, or the run itself"),
        ({"seeds": "3"}, "seeds=3: use best, all"),
    ):
        given = {"workdir": run, "out": tmp_path / "out"} | change
        assert exporting.main([f"--{name}={value}" for name, value in given.items()]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [({"model.cell": "rnn"}, "PyTorch has no form"), ({"num_seeds": 2}, "holds one seed")],
)
def test_what_pytorch_has_no_form_of(tmp_path, overrides, reason):
    seeds = "all" if "num_seeds" in overrides else "best"
    with pytest.raises(write.UserError, match=reason):
        weights.for_torch(lrd_jax.load(make_run(tmp_path / "run", **overrides), seeds))
