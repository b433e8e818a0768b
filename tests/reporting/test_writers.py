import contextlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util import tensor_util

from lrd_jax.config import defaults
from lrd_jax.errors import RunError
from lrd_jax.reporting import figures, tensorboard, writers
from lrd_jax.reporting.writers import MetricsFile, TensorBoardWriter, Writers, read_metrics

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def file_size_limit(size):
    """No file may grow past `size` bytes: what a full disk looks like to the writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def metrics_file(path):
    file = MetricsFile(path)
    try:
        yield file
    finally:
        file.close()


# ---- metrics.jsonl ----


def test_lines_are_json_with_every_digit(tmp_path):
    path = tmp_path / "metrics.jsonl"
    third = np.float32(1) / np.float32(3)
    with metrics_file(path) as file:
        file.write({"step": np.int64(1), "split": "train", "loss": third, "accuracy": 0.1 + 0.2})
    assert path.read_text() == (
        '{"step": 1, "split": "train", "loss": 0.3333333432674408, '
        '"accuracy": 0.30000000000000004}\n'
    )
    assert np.float32(read_metrics(path)[0]["loss"]) == third


def test_non_finite_values_become_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics_file(path) as file:
        file.write({"step": 1, "a": math.nan, "b": -math.inf, "c": np.float32(np.inf), "d": 1.5})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert line == {"step": 1, "a": None, "b": None, "c": None, "d": 1.5}


record = st.fixed_dictionaries(
    {"step": st.integers(0, 9), "split": st.text(max_size=5) | st.just("test")},
    optional={"loss": st.floats(), "seed": st.integers(0, 2)},
)


@given(st.lists(record, max_size=6), st.data())
def test_truncation_keeps_the_whole_lines_up_to_a_step_but_test_lines(records, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "metrics.jsonl")
        with metrics_file(path) as file:
            for one in records:
                file.write(one)
        content = path.read_bytes()
        cut = content[: data.draw(st.integers(0, len(content)), label="bytes left by the kill")]
        step = data.draw(st.integers(-1, 10), label="step of the checkpoint")
        path.write_bytes(cut)
        lines = cut.split(b"\n")[:-1]  # the last piece has no newline
        records = zip(lines, map(json.loads, lines), strict=True)
        expected = [line for line, one in records if one["step"] <= step and one["split"] != "test"]
        with metrics_file(path) as file:
            file.truncate_after(step)
            file.write({"step": 11})
        assert path.read_bytes().split(b"\n")[:-1] == [*expected, b'{"step": 11}']
        assert os.listdir(folder) == ["metrics.jsonl"]


@pytest.mark.parametrize(
    "garbage", [b"\0\0\0\n", b"\xff\xfe\n", b"[1]\n", b'{"step": "x"}\n', b"{}\n", b"\n"]
)
def test_garbled_lines_are_dropped(tmp_path, garbage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + garbage + b'{"step": 2}\n')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    with metrics_file(path) as file:
        file.truncate_after(5)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_an_evaluation_that_is_made_again_loses_its_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    before = [(1, "train"), (1, "valid"), (2, "train"), (2, "valid"), (3, "train")]
    with metrics_file(path) as file:
        for step, split in before:
            file.write({"step": step, "split": split})
        file.truncate_after(2, evaluated=False)
    left = [(record["step"], record["split"]) for record in read_metrics(path)]
    assert left == [(1, "train"), (1, "valid"), (2, "train")]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_truncation_leaves_the_file_alone(tmp_path, monkeypatch, fails):
    path = tmp_path / "metrics.jsonl"
    content = b'{"step": 1}\n{"step": 2}\n{"st'
    path.write_bytes(content)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with metrics_file(path) as file:
        monkeypatch.setattr(writers.os, fails, refuse)
        with pytest.raises(RunError):
            file.truncate_after(1)
    assert path.read_bytes() == content


def test_a_full_disk_is_one_line_and_costs_no_good_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics_file(path) as file:
        file.write({"step": 1, "loss": 0.5})
        with file_size_limit(path.stat().st_size + 4), pytest.raises(RunError) as caught:
            file.write({"step": 2, "loss": 0.25})
    message = str(caught.value)
    assert str(path) in message and "File too large" in message and "\n" not in message
    assert path.stat().st_size > len('{"step": 1, "loss": 0.5}\n')  # a part went through
    with metrics_file(path) as file:
        file.truncate_after(2)
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_no_space_left_on_device():
    with metrics_file("/dev/full") as file, pytest.raises(RunError, match="No space left"):
        file.write({"step": 1})


def test_a_folder_that_is_not_there_is_a_run_error(tmp_path):
    with pytest.raises(RunError, match="No such file"):
        MetricsFile(tmp_path / "nowhere" / "metrics.jsonl")


# ---- TensorBoard ----


def events(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars(folder, tag):
    points = events(folder).Tensors(tag)
    return [(point.step, float(tensor_util.make_ndarray(point.tensor_proto))) for point in points]


def test_tensorboard_reads_scalars_and_config(tmp_path):
    writer = TensorBoardWriter(tmp_path, defaults.get_config())
    writer.write(50, "train", {"loss": 0.5, "steps_per_s": np.float64(12), "note": "text"})
    writer.write(100, "train", {"loss": math.nan})
    writer.write(100, "valid", {"accuracy": np.float32(0.75)})
    writer.close()
    read = events(tmp_path)
    assert set(read.PluginTagToContent("scalars")) == {
        "train/loss",
        "perf/steps_per_s",
        "valid/accuracy",
    }
    assert scalars(tmp_path, "valid/accuracy") == [(100, 0.75)]
    (first, second) = scalars(tmp_path, "train/loss")
    assert first == (50, 0.5) and second[0] == 100 and math.isnan(second[1])
    (text,) = read.Tensors("config/text_summary")
    assert b'    "num_seeds": 1' in text.tensor_proto.string_val[0]


def test_tensorboard_shows_no_point_twice_after_a_resume(tmp_path):
    for resume, last in ((0, 5), (3, 6), (3, 4), (4, 8)):  # killed, resumed, killed, resumed
        writer = TensorBoardWriter(tmp_path, defaults.get_config(), resume)
        for step in range(resume + 1, last + 1):
            writer.write(step, "train", {"loss": 10 * resume + step})
        writer.close()
    shown = [(1, 1), (2, 2), (3, 3), (4, 34), (5, 45), (6, 46), (7, 47), (8, 48)]
    assert scalars(tmp_path, "train/loss") == shown
    assert len(events(tmp_path).Tensors("config/text_summary")) == 1


def test_a_fresh_run_hides_what_an_unsaved_one_left(tmp_path):
    for value in (1.0, 2.0):
        writer = TensorBoardWriter(tmp_path, defaults.get_config())
        writer.write(0, "valid", {"loss": value})
        writer.close()
    assert scalars(tmp_path, "valid/loss") == [(0, 2.0)]
    assert len(events(tmp_path).Tensors("config/text_summary")) == 1


def test_tensorboard_full_disk_is_a_run_error(tmp_path):
    writer = TensorBoardWriter(tmp_path, defaults.get_config())
    (path,) = tmp_path.iterdir()
    writer.write(1, "train", {"loss": 1.0})
    with file_size_limit(path.stat().st_size), pytest.raises(RunError, match="File too large"):
        writer.flush()
    writer.close()  # the disk has room again: nothing was lost
    assert scalars(tmp_path, "train/loss") == [(1, 1.0)]


# ---- Both ----


def test_writers_keep_seeds_apart_and_resume(tmp_path):
    def run(resume, steps, shift):
        both = Writers(tmp_path, defaults.get_config(), resume)
        for step in steps:
            for seed in (0, 1):
                both.write(step, step / 4, "train", {"loss": step + seed + shift}, {"seed": seed})
        both.flush()
        both.close()
        both.close()

    run(0, [1, 2, 3], 0.0)
    run(2, [3, 4], 0.5)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["seed"], r["loss"]) for r in lines] == [
        (1, 0, 1.0), (1, 1, 2.0), (2, 0, 2.0), (2, 1, 3.0),
        (3, 0, 3.5), (3, 1, 4.5), (4, 0, 4.5), (4, 1, 5.5),
    ]  # fmt: skip
    assert list(lines[0]) == ["step", "epoch", "split", "seed", "loss"]
    assert lines[0]["epoch"] == 0.25 and lines[0]["split"] == "train"
    for seed in (0, 1):
        points = [(r["step"], r["loss"]) for r in lines if r["seed"] == seed]
        assert scalars(tmp_path / "tensorboard" / f"seed_{seed}", "train/loss") == points


def test_a_run_that_never_saved_starts_over_with_empty_metrics(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"st')
    both = Writers(tmp_path, defaults.get_config())
    both.write(0, 0.0, "valid", {"loss": 1.0})
    both.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 0, "epoch": 0.0, "split": "valid", "loss": 1.0}
    ]


def hparams(folder):
    """Values and metrics of the tab "HParams" in one folder."""
    content = events(folder).summary_metadata
    plugin = {tag: m.plugin_data.content for tag, m in content.items() if "_hparams_/" in tag}
    start = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"])
    experiment = HParamsPluginData.FromString(plugin["_hparams_/experiment"]).experiment
    values = start.session_start_info.hparams
    found = {key: values[key].number_value or values[key].string_value for key in values}
    return found, [metric.name.tag for metric in experiment.metric_infos]


def test_tensorboard_compares_the_values_of_a_sweep(tmp_path):
    writer = TensorBoardWriter(tmp_path, defaults.get_config())
    for rate in (0.01, 0.02):
        for step in (1, 2):
            values = {"loss": rate, "time": "2026", "train_s": 3.0}
            writer.write(step, "valid", values, {"seed": 4, "learning_rate": rate})
        writer.write(1, "valid", values, {"seed": "mean", "learning_rate": rate})
    writer.close()
    for rate in (0.01, 0.02):
        found = hparams(tmp_path / f"learning_rate_{rate}-seed_4")
        assert found == ({"learning_rate": rate, "seed": 4.0}, ["valid/loss"])
        mean = tmp_path / f"learning_rate_{rate}-seed_mean"  # in sight, but no trial
        assert scalars(mean, "valid/loss") == [(1, pytest.approx(rate))]
        assert not any("hparams" in tag for tag in events(mean).summary_metadata)


def test_a_trial_gets_its_values_beside_its_curves(tmp_path):
    writer = TensorBoardWriter(tmp_path, defaults.get_config())
    writer.write(1, "valid", {"loss": 0.5})
    writer.close()
    tensorboard.write_hparams(tmp_path, {"model.cell": "gru", "optim.learning_rate": 0.1}, ["loss"])
    assert hparams(tmp_path) == ({"model.cell": "gru", "optim.learning_rate": 0.1}, ["valid/loss"])
    assert scalars(tmp_path, "valid/loss") == [(1, 0.5)]


def test_tensorboard_shows_text_and_pictures_of_the_last_evaluation(tmp_path):
    picture = tmp_path / "p.png"
    figure = figures.new_figure()
    figure.subplots()
    figures.save(figure, picture)
    for text in ("once", "twice\nand more"):
        tensorboard.show(tmp_path / "t", 70, text={"sample": text}, pictures={"decoded": picture})
    read = events(tmp_path / "t")
    (sample,) = read.Tensors("sample/text_summary")
    assert sample.step == 70 and sample.tensor_proto.string_val[0] == b"    twice\n    and more"
    (image,) = read.Tensors("decoded")
    width, height, png = image.tensor_proto.string_val
    assert png.startswith(b"\x89PNG") and int(width) > int(height) > 100


def test_nothing_is_imported_or_written_where_tensorboard_is_not_wanted(tmp_path):
    code = (
        "import sys\n"
        "from lrd_jax.config import defaults\n"
        "from lrd_jax.reporting import plots, writers\n"
        "config = defaults.get_config()\n"
        "config.train.tensorboard = False\n"
        f"both = writers.Writers({str(tmp_path)!r}, config)\n"
        "both.write(1, 0.5, 'train', {'loss': 1.0})\n"
        "both.write_mean(1, 'train', {'loss': 1.0})\n"
        "both.flush()\n"
        "both.close()\n"
        "print('tensorboardX' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr
    assert os.listdir(tmp_path) == ["metrics.jsonl"]
