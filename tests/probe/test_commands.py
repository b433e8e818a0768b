"""The command line of the probes: pictures, numbers, and one line for every mistake."""

import functools
import json

import numpy as np
import pytest

from lrd_jax.config import defaults
from lrd_jax.config.published import published
from lrd_jax.probe import command_line, memory, subjects, timescales
from lrd_jax.probe.__main__ import main
from lrd_jax.reporting import surprise
from tests.report.test_report import make_run

SMALL = ["--config.model.hidden_size=4", "--config.data.length=12", "--config.data.batch_size=4"]
ADDING = ["--config=configs/lesson.py:flow-lstm", *SMALL]


def test_gradients_of_several_settings_in_one_figure(tmp_path, capsys):
    detached = [*ADDING, "--config.detach.p_block=0.5", "--label=blocked"]
    rest = ["--examples=2", "--seeds=2", f"--out={tmp_path / 'g.png'}", "--width=column"]
    assert main(["gradients", *ADDING, *detached, *rest]) == 0
    for kind in ("png", "pdf", "json"):
        assert (tmp_path / f"g.{kind}").stat().st_size > 0
    record = json.loads((tmp_path / "g.json").read_text(encoding="utf-8"))
    plain, blocked = record["settings"]
    assert (plain["label"], blocked["label"]) == ("LSTM", "blocked")
    assert plain["seeds"] == [0, 1] and plain["masks"] == [{}, {}]
    masks = np.array([each["block_h"] for each in blocked["masks"]])
    assert masks.shape == (2, 12) and 0 < masks.sum() < masks.size
    layer = plain["layers"]["layer_0"]
    assert len(layer["h"]["median"]) == 12 and layer["c"]["median"][-1] == 0
    # The last step that c_t matters for has h blocked nowhere behind it: all comes through c.
    assert layer["share"]["median"][-2] == 1
    assert "effective horizon" in capsys.readouterr().out
    assert record["command"].startswith("python -m lrd_jax.probe gradients --config=")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "PROBE"),
        (["gradient"], "did you mean gradients"),
        (["gradients"], "name a network"),
        (["gradients", "--config.seed=1"], "stands before"),
        (["gradients", "--config=nowhere.py"], "no config file"),
        (["gradients", "--workdir=nowhere"], "no run in"),
        (["gradients", *ADDING, "--config.model.cel=rnn"], "did you mean model.cell"),
        (["gradients", *ADDING, "--examples=0"], "less than 1"),
        (["gradients", *ADDING, "--config.model.gates=-R"], "has no effect"),
        (["model", *ADDING, *ADDING], "one model"),
        (["memory", *ADDING, "--seeds=1", "--delays", "3"], "leave it out"),
        (["curves", "nowhere"], "no metrics"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(argv, message, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("lrd_jax: error:") and error.count("\n") == 1 and message in error


def test_help_names_every_probe(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("gradients", "timescales", "memory", "curves", "model"))


def test_changes_belong_to_the_network_before_them():
    networks, rest = command_line.split_networks(
        [*ADDING, "--seeds=2", "--config=configs/lesson.py:flow-gru", "--label=x"]
    )
    assert [n.flag.config.model.cell for n in networks] == ["lstm", "gru"]
    assert [n.flag.config.model.hidden_size for n in networks] == [4, 128]
    assert [n.label for n in networks] == ["", "x"] and rest == ["--seeds=2"]


@functools.cache
def small(*changes):
    """An untrained network that copies; `changes` are pairs of key and value."""
    config = defaults.get_config()
    values = {
        "data.name": "copy",
        "data.preset": "gu",
        "data.delay": 5,
        "model.cell": "urlstm",
        "model.hidden_size": 4,
        "model.head_hidden": (),
    }
    config.update_from_flattened_dict(values | dict(changes))
    return subjects.untrained(config, seeds=1)


def test_labels_of_equal_settings_are_told_apart():
    found = subjects.told_apart([small(), small(("model.hidden_size", 6)), small()])
    assert len({subject.label for subject in found}) == 3
    assert "hidden_size 6" in found[1].label


def test_memory_of_copying_by_position_and_delay():
    entry = memory.measure(small(), examples=20, delays=(3, 5))
    assert np.shape(entry["positions"]) == (1, 10) and entry["chance"] == pytest.approx(1 / 8)
    assert [row["delay"] for row in entry["delays"]] == [3, 5]
    mean = np.mean(entry["positions"], axis=1)
    assert entry["delays"][1]["accuracy"] == pytest.approx(mean)
    assert len(memory.draw([entry]).axes) == 2


def test_surprise_is_escaped_and_coloured():
    entry = {"label": "<b>", "surprise": {"unit": "char", "tokens": ["<", "a"], "nats": [6.0, 0]}}
    text = surprise.coloured(entry)
    assert "&lt;b&gt;" in text and ">&lt;</span>" in text and "rgba(213,94,0,1.00)" in text


def test_time_scales_are_those_of_the_mean_gates():
    entry = timescales.measure(small(), examples=4)
    part = entry["layers"]["layer_0"]["initial"]
    assert len(part["time_scales"]) == 4 and min(part["time_scales"]) > 1
    f, g = np.array(part["band"])
    assert (g >= f**2 - 1e-6).all() and (g <= 1 - (1 - f) ** 2 + 1e-6).all()
    assert len(timescales.draw([entry], narrow=True).axes) == 4


def test_curves_compare_runs_paired_by_seed(tmp_path, capsys):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", **{"model.hidden_size": 64})]
    assert main(["curves", *runs, f"--out={tmp_path / 'c'}"]) == 0
    out = capsys.readouterr().out
    assert "hidden_size" in out and "difference to the first" in out
    record = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert record["compared"] == "test" and record["runs"][1]["difference"]["mean"] == 0
    assert record["runs"][1]["settings"] == {"model.hidden_size": 64}


def test_a_folder_to_write_into_holds_the_files(tmp_path):
    (tmp_path / "figures").mkdir()
    assert main(["curves", make_run(tmp_path / "a"), f"--out={tmp_path / 'figures'}"]) == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"curves.png", "curves.pdf", "curves.json"}


def test_published_number_of_the_row(tmp_path):
    content = {"made_from": {"file": "configs/gating_images.py", "argument": "pmnist-urlstm"}}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert published(tmp_path)["accuracy"] == 0.9696
    content["made_from"]["argument"] = "G5,quick"
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert published(tmp_path) == {}
