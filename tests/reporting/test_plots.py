import json
import sys

import numpy as np
import pytest

from lrd_jax.errors import UserError
from lrd_jax.reporting import plots

pytest.importorskip("matplotlib")


def write_run(folder, records):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(
        tmp_path / "run",
        [
            {"step": step, "split": split, key: step / 10}
            for step in (1, 2)
            for split, key in (("train", "loss"), ("valid", "accuracy"))
        ],
    )


@pytest.fixture
def drawn(monkeypatch):
    """Keeps the figures that are saved."""
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1]
    )
    return figures


def test_figure_has_a_panel_a_metric_and_a_line_a_run(tmp_path, run, drawn):
    path = plots.plot_curves({"one": run, "two": run / "metrics.jsonl"}, tmp_path / "c.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    accuracy, loss = figure.axes
    assert accuracy.get_ylabel() == "validation accuracy (%)"
    assert loss.get_ylabel() == "training loss" and loss.get_xlabel() == "optimizer steps"
    np.testing.assert_allclose(accuracy.lines[0].get_xydata(), [[1, 10], [2, 20]])
    np.testing.assert_allclose(loss.lines[1].get_xydata(), [[1, 0.1], [2, 0.2]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]


def test_seeds_are_averaged_and_nan_is_a_gap(tmp_path, drawn):
    run = write_run(
        tmp_path / "run",
        [
            {"step": 1, "split": "train", "seed": 0, "loss": 1.0},
            {"step": 1, "split": "train", "seed": 1, "loss": 3.0},
            {"step": 1, "split": "train", "loss": 100.0},  # a summary over seeds counts once
            {"step": 2, "split": "train", "seed": 0, "loss": None},
            {"step": 2, "split": "train", "seed": 1, "loss": 2.0},
        ],
    )
    plots.plot_curves({"r": run}, tmp_path / "c.svg", curves=[("train", "loss")])
    (panel,) = drawn[0].axes
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), [2.0, np.nan])
    band = panel.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [2 - 2**0.5, 2 + 2**0.5])


def test_a_sweep_is_a_line_a_value(tmp_path, drawn):
    records = [
        {
            "step": 1,
            "split": "train",
            "seed": seed,
            "learning_rate": rate,
            "loss": 100 * rate + seed,
        }
        for rate in (0.01, 0.02)
        for seed in (0, 2)
    ]
    run = write_run(tmp_path / "run", records)
    plots.plot_curves({"r": run}, tmp_path / "c.png", curves=[("train", "loss")])
    (figure,) = drawn
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[2.0], [3.0]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["r learning_rate 0.01", "r learning_rate 0.02"]


def test_scores_of_trials_over_what_varied(tmp_path, drawn):
    record = {
        "metric": "accuracy",
        "vary": {
            "model.cell": {"values": ["lstm", "gru"]},
            "optim.learning_rate": {"scale": "log", "low": 1e-4, "high": 1e-2},
        },
        "trials": [
            {"values": {"model.cell": "gru", "optim.learning_rate": 1e-3}, "score": 0.9},
            {"values": {"model.cell": "lstm", "optim.learning_rate": 1e-2}, "score": None},
        ],
    }
    assert plots.plot_sweep(record, tmp_path / "s.png").stat().st_size > 1000
    cell, rate = drawn[0].axes
    assert cell.get_xlabel() == "model.cell" and rate.get_xscale() == "log"
    assert [label.get_text() for label in cell.get_xticklabels()] == ["lstm", "gru"]
    np.testing.assert_allclose(cell.lines[0].get_xydata(), [[1, 90]])
    np.testing.assert_allclose(rate.lines[0].get_xydata(), [[1e-3, 90]])
    assert [panel.lines[1].get_label() for panel in (cell, rate)] == ["failed", "failed"]
    np.testing.assert_allclose([panel.lines[1].get_xdata()[0] for panel in (cell, rate)], [0, 1e-2])


def test_what_cannot_be_plotted_is_refused(tmp_path, run, monkeypatch):
    with pytest.raises(UserError, match="no run"):
        plots.plot_curves({}, tmp_path / "c.png")
    with pytest.raises(UserError, match="no metrics in"):
        plots.plot_curves({"r": tmp_path / "nowhere"}, tmp_path / "c.png")
    with pytest.raises(UserError, match="has no test accuracy"):
        plots.plot_curves({"r": run}, tmp_path / "c.png", curves=[("test", "accuracy")])
    with pytest.raises(UserError, match="cannot write the plot"):
        plots.plot_curves({"r": run}, tmp_path / "c.nonsense")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install lrd-jax\[bench\]"):
        plots.plot_curves({"r": run}, tmp_path / "c.png")


def test_pictures_stand_in_rows_under_headings(tmp_path, drawn):
    pictures = np.full((2, 3, 4, 1), 0.5)
    pictures[0, 1, 2] = np.nan
    columns = {"true": pictures, "colour": np.ones((2, 3, 4, 3))}
    path = plots.plot_pictures(columns, tmp_path / "p.png", title="both")
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    assert len(figure.axes) == 4 and figure.get_suptitle() == "both"
    assert [panel.get_title() for panel in figure.axes[:2]] == ["true", "colour"]
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown[0, 0], 0.5)
    assert shown[1, 2, 2] > shown[1, 2, 0]  # what is missing is blue, which no grey is
    strips = plots.plot_pictures({"tokens": np.zeros((2, 1, 40, 1))}, tmp_path / "s.png")
    assert strips.exists()
