import itertools
import json

import numpy as np
import pytest

from lrd_jax.errors import UserError
from lrd_jax.metrics import ACCURACY, declarations
from lrd_jax.reporting import figures, plots


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
    # Of two seeds both are dots, and there is no band.
    assert not panel.collections
    np.testing.assert_array_equal(
        [dots.get_ydata() for dots in panel.lines[1:]], [[1, np.nan], [3, 2]]
    )
    assert "small dots" in drawn[0].legends[0].get_title().get_text()


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
    means = figure.axes[0].lines[::3]  # each with the dots of its two seeds behind it
    assert [line.get_ydata().tolist() for line in means] == [[2.0], [3.0]]
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


def test_trials_of_several_seeds_have_bars_and_dots(tmp_path, drawn):
    def trial(value, *scores):
        seeds = [{"best": {"valid": {"accuracy": score}}} for score in scores]
        return {"values": {"k": value}, "score": float(np.mean(scores)), "seeds": seeds}

    record = {
        "metric": "accuracy",
        "vary": {"k": {"scale": "linear", "low": 0, "high": 1}},
        "trials": [trial(0.1, 0.5, 0.6, 0.7), trial(0.2, 0.4, 0.6), trial(0.3, 0.9)],
    }
    plots.plot_sweep(record, tmp_path / "s.png")
    (panel,) = drawn[0].axes
    (bar,) = panel.collections
    reach = 10 * 4.302653 / 3**0.5
    np.testing.assert_allclose(bar.get_segments()[0][:, 1], [60 - reach, 60 + reach], rtol=1e-6)
    shown = [line.get_ydata() for line in panel.lines]
    assert [list(np.round(y, 6)) for y in shown] == [[60], [40, 60], [50], [90]]
    note = drawn[0].legends[0].get_title().get_text()
    assert "bar: 95 % interval over 3 seeds" in note and "small dots" in note


def test_what_cannot_be_plotted_is_refused(tmp_path, run):
    with pytest.raises(UserError, match="no run"):
        plots.plot_curves({}, tmp_path / "c.png")
    with pytest.raises(UserError, match="no metrics in"):
        plots.plot_curves({"r": tmp_path / "nowhere"}, tmp_path / "c.png")
    with pytest.raises(UserError, match="has no test accuracy"):
        plots.plot_curves({"r": run}, tmp_path / "c.png", curves=[("test", "accuracy")])
    with pytest.raises(UserError, match="cannot write the plot"):
        plots.plot_curves({"r": run}, tmp_path / "c.nonsense")


def test_pictures_stand_in_rows_under_headings(tmp_path, drawn):
    pictures = np.full((2, 3, 4, 1), 0.5)
    pictures[0, 1, 2] = np.nan
    columns = {"true": pictures, "colour": np.ones((2, 3, 4, 3))}
    path = plots.plot_pictures(columns, tmp_path / "p.png", title="both", note="blue: none")
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    assert (
        figure.get_supxlabel() == "blue: none"
        and len(figure.axes) == 4
        and figure.get_suptitle() == "both"
    )
    assert [panel.get_title() for panel in figure.axes[:2]] == ["true", "colour"]
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown[0, 0], 0.5)
    assert shown[1, 2, 2] > shown[1, 2, 0]  # what is missing is blue, which no grey is
    strips = plots.plot_pictures({"tokens": np.zeros((2, 1, 40, 1))}, tmp_path / "s.png")
    assert strips.exists()


def test_a_figure_says_of_how_many_seeds_and_what_no_memory_scores(tmp_path, drawn):
    def run(seeds):
        records = [
            {"step": step, "split": split, "seed": seed, "accuracy": 0.2 + 0.1 * seed, "loss": 1.0}
            for seed in range(seeds)
            for step in (10, 20)
            for split in ("train", "valid")
        ]
        return plots.Run(records, {"baselines": {"accuracy": 0.125}})

    plots.plot_curves({"`--` (tied)": run(3), "UR": run(3)}, tmp_path / "same.pdf")
    plots.plot_curves({"`--` (tied)": run(3), "UR": run(5)}, tmp_path / "other.pdf")
    same, other = (figure.legends[0] for figure in drawn)
    assert [text.get_text() for text in same.get_texts()] == ["-- (tied)", "UR", plots.CHANCE]
    assert "mean of 3 seeds" in same.get_title().get_text()
    assert "95 % interval over 3 seeds" in same.get_title().get_text()
    assert "95 % interval over 3 to 5 seeds" in other.get_title().get_text()
    # The band is Student's interval of the mean, cut where accuracies end.
    edges = drawn[0].axes[0].collections[0].get_paths()[0].vertices[:, 1]
    reach = 10 * 4.302653 / 3**0.5
    np.testing.assert_allclose([edges.min(), edges.max()], [30 - reach, 30 + reach], rtol=1e-6)
    labels = [text.get_text() for text in other.get_texts()]
    assert labels == ["-- (tied) (3 seeds)", "UR (5 seeds)", plots.CHANCE]
    accuracy, loss = drawn[0].axes
    assert set(accuracy.lines[2].get_ydata()) == {12.5} and len(loss.lines) == 2
    pdf = (tmp_path / "same.pdf").read_bytes()
    assert b"/Font" in pdf and b"/Type3" not in pdf  # journals refuse fonts of Type 3


@pytest.mark.parametrize(
    ("steps", "shown"),
    [
        ([10, 20, 30, 33], [10, 20, 30]),
        ([10, 20, 25, 30, 40], [10, 20, 40]),  # stopped at 25, and gone on
        ([3], [3]),
        ([10, 20], [10, 20]),
    ],
)
def test_training_means_over_a_shorter_interval_are_left_out(tmp_path, drawn, steps, shown):
    records = [{"step": s, "split": n, "loss": 1.0} for s in steps for n in ("train", "valid")]
    curves = [("train", "loss"), ("valid", "loss")]
    plots.plot_curves({"r": plots.Run(records, {})}, tmp_path / "c.png", curves=curves)
    train, valid = drawn[0].axes
    assert train.lines[0].get_xdata().tolist() == shown
    assert valid.lines[0].get_xdata().tolist() == steps


def test_equal_transfer_curves_can_be_told_apart(tmp_path, drawn):
    rows = [
        {
            "delay": delay,
            "baselines": {"accuracy": chance},
            "seeds": [
                {"seed": seed, "sweep": {"p_block": p}, "test": {"accuracy": 1.0 - 0.1 * seed}}
                for p in (0.0, 0.5)
                for seed in (0, 1)
            ],
        }
        for delay, chance in ((200, 0.1), (100, 0.2))
    ]
    result = {"split": "test", "delays": rows, "metrics": declarations([ACCURACY])}
    plots.plot_transfer({"": result}, tmp_path / "t.png", trained=100)
    (panel,) = drawn[0].axes
    first, _, _, second, _, _, chance, trained = panel.lines  # two dots of each of two seeds
    assert first.get_ydata().tolist() == second.get_ydata().tolist() == [95.0, 95.0]
    assert chance.get_ydata().tolist() == [20.0, 10.0] and trained.get_xdata()[0] == 100
    assert first.get_marker() != second.get_marker() and first.get_ms() > second.get_ms()
    assert first.get_mfc() == "none" and first.get_linestyle() != second.get_linestyle()
    assert "mean of 2 seeds" in drawn[0].legends[0].get_title().get_text()


def test_the_palette_is_told_apart_without_colour():
    looks = [figures.look(index, markers=True) for index in range(7)]
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == 7
    for one, other in itertools.pairwise(looks):
        assert one["ls"] != other["ls"]
