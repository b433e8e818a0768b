"""The notebook runs from its first cell to its last, and says what it should."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "quickstart.ipynb"


def cells():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 4)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            yield "".join(cell["source"])


def test_every_cell_is_python():
    assert [compile(cell, "cell", "exec") for cell in cells()]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="the extra tables is not installed")
    monkeypatch.chdir(tmp_path)
    import matplotlib

    matplotlib.use("Agg")
    names = {}
    for cell in cells():
        exec(cell, names)
    accuracies = [seed["test"]["accuracy"] for seed in names["result"]["seeds"]]
    assert len(accuracies) == 3 and min(accuracies) > 0.95
    assert names["said"].labels.tolist() == ["up", "down"]
    assert names["believed"][-1] == pytest.approx(
        float(names["said"].probabilities[0, 1]), abs=1e-5
    )
    assert (tmp_path / "quickstart/stream.png").stat().st_size > 5000
    assert names["network"].apply(names["params"], names["x"]).shape == (4, 2)
