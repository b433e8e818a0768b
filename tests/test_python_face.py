"""The Python face is as strict as the command line: types, shapes and values, each in one line."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from lrd_jax.cells import CELLS, LRUCell, LSTMCell, make_cell
from lrd_jax.config import command_line, defaults
from lrd_jax.config.paths import expand_user
from lrd_jax.errors import UserError
from lrd_jax.evaluation import commands, loaded
from lrd_jax.metrics import plain
from lrd_jax.recurrence import Recurrence
from lrd_jax.reporting import progress
from lrd_jax.runtime.checkpoints import _Reader
from lrd_jax.training import loop

CELL, KEY, X = LSTMCell(2), jax.random.key(0), jnp.ones((3, 4))
CARRY = CELL.initialize_carry(KEY, X.shape)
PARAMS = CELL.init(KEY, CARRY, X)
STACK = Recurrence(CELL)
STACKED = {"params": {"layer_0": PARAMS["params"]}}


def step(carry=CARRY, x=X, **more):
    return CELL.apply(PARAMS, carry, x, **more)


def lru_of_other_features():
    cell, x = LRUCell(2), jnp.ones((1, 3))
    params = cell.init(KEY, cell.initialize_carry(KEY, x.shape), x)
    return cell.apply(params, cell.initialize_carry(KEY, (1, 5)), jnp.ones((1, 5)))


REFUSED = {
    # One step of a cell.
    "step of one row": (lambda: step(x=X[0]), "the carry does not fit: LSTMCell needs"),
    "step of a sequence": (lambda: step(x=X[None]), "the carry does not fit"),
    "features": (lambda: step(x=jnp.ones((3, 5))), "the input has 5 features.*input/kernel is"),
    "features of an LRU": (lru_of_other_features, "the input has 5 features.*/value is"),
    "carry of another batch": (
        lambda: step(CELL.initialize_carry(KEY, (1, 4))),
        r"LSTMCarry\(c float32\[3, 2\], h float32\[3, 2\]\) for inputs of shape \[3, 4\]",
    ),
    "carry of other units": (
        lambda: step(LSTMCell(3).initialize_carry(KEY, X.shape)),
        "the carry does not fit",
    ),
    "carry as an array": (lambda: step(jnp.ones((3, 2))), "the carry does not fit"),
    "no carry": (lambda: step(None), "the carry does not fit"),
    "carry of whole numbers": (
        lambda: step(jax.tree.map(lambda x: x.astype(int), CARRY)),
        "the carry does not fit",
    ),
    "carry of words": (lambda: step(("a", "b")), "the carry does not fit"),
    "no input": (lambda: step(x=None), "the input of a step is of type NoneType"),
    "a word": (lambda: step(x="abc"), "the input of a step is of type str"),
    "complex input": (lambda: step(x=X * 1j), r"is complex64\[3, 4\], and must be real numbers"),
    "asked": (lambda: step(time=0), "the step of LSTMCell does not ask for time"),
    "shape of a number": (lambda: CELL.initialize_carry(KEY, 3), "input_shape=3: must be"),
    "shape of nothing": (lambda: CELL.initialize_carry(KEY, ()), r"input_shape=\(\): must be"),
    "negative shape": (lambda: CELL.initialize_carry(KEY, (-2, 3)), "must be the shape of an"),
    "no dtype": (lambda: LSTMCell(2, param_dtype=None), "param_dtype=None: must be a dtype"),
    # A recurrence.
    "features of a sequence": (
        lambda: STACK.apply(STACKED, jnp.ones((3, 2, 5))),
        "the input has 5 features.*layer_0/input/kernel",
    ),
    "masks": (lambda: STACK.apply(STACKED, X[None], masks=3), "masks is of type int"),
    "a tuple of masks": (lambda: STACK.apply(STACKED, X[None], masks=(1, 2)), "is of type tuple"),
    # make_cell.
    "no config": (lambda: make_cell(None), "of type NoneType, and must be a mapping"),
    "a name": (lambda: make_cell("lstm"), "of type str, and must be a mapping"),
    "length in words": (
        lambda: make_cell({"cell": "lstm", "hidden_size": 2}, "7"),
        "sequence_length='7'",
    ),
    "half a step": (
        lambda: make_cell({"cell": "lstm", "hidden_size": 2}, 7.5),
        "sequence_length=7.5",
    ),
    "length of a bool": (
        lambda: make_cell({"cell": "lstm", "hidden_size": 2}, True),
        "sequence_length=True",
    ),
    # Runs.
    "train a dict": (lambda: loop.train({"seed": 0}, "nowhere"), "the config is of type dict"),
    "train nothing": (lambda: loop.train(None, "nowhere"), "the config is of type NoneType"),
    "train a path": (lambda: loop.train("configs/x.py", "nowhere"), "load a file with"),
    "train an empty one": (
        lambda: loop.train(ml_collections.ConfigDict(), "nowhere"),
        "the config has no key",
    ),
    "nowhere": (lambda: loop.train(defaults.get_config(), None), "None is of type NoneType"),
    "a number": (lambda: loop.train(defaults.get_config(), 3), "3 is of type int, and must be"),
    "no name": (lambda: loop.train(defaults.get_config(), ""), "'' is no path"),
    "bytes": (lambda: loop.train(defaults.get_config(), b"x"), "b'x' is of type bytes"),
    "flag": (lambda: loop.train(defaults.get_config(), "nowhere", 3), "config_flag=3: must be"),
    "evaluate": (lambda: commands.evaluate(None, {}), "None is of type NoneType"),
    "load": (lambda: loaded.load(None, defaults.get_config(), {}), "None is of type NoneType"),
    "load no config": (lambda: loaded.load("nowhere", None, {}), "the config is of type NoneType"),
    "load a dict": (lambda: loaded.load("nowhere", {}, {}), "the config is of type dict"),
    "no file": (lambda: command_line.load_config(None), "the config file is of type NoneType"),
    "a file in bytes": (lambda: command_line.load_config(b"x.py"), "is of type bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments(name):
    call, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value) and not Path("nowhere").exists()


@pytest.mark.parametrize("name", CELLS)
def test_a_step_takes_lists_and_whole_numbers(name):
    cell = make_cell({"cell": name, "hidden_size": 3}, 5)
    if cell.asks():
        pytest.skip("asks for more than an input")
    carry = cell.initialize_carry(KEY, (1, 3))
    params = cell.init(KEY, carry, jnp.ones((1, 3)))
    whole, listed = cell.apply(params, carry, [[1, 0, 2]]), cell.apply(params, carry, [[1.0, 0, 2]])
    assert all(map(np.array_equal, jax.tree.leaves(whole), jax.tree.leaves(listed)))


def test_overrides_of_an_evaluation_are_a_mapping(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"format": 2, "config": defaults.get_config().to_dict()}), encoding="utf-8"
    )
    with pytest.raises(UserError, match="overrides are of type list"):
        commands.evaluate(tmp_path, ["eval.split"])
    with pytest.raises(UserError, match="7 cannot be changed"):
        commands.evaluate(tmp_path, {7: 3})


def test_a_config_file_may_be_a_path():
    config = command_line.load_config(Path("configs/urlstm_pdigits.py"))
    assert config.data.name == "digits"


# ---- Paths --------------------------------------------------------------------------------------


def test_letters_that_the_locale_lacks_are_told():
    with pytest.raises(UserError, match=r"runs/\\udcc3\\udca9' has letters .*PYTHONUTF8=1"):
        expand_user("runs/\udcc3\udca9")


def test_a_current_folder_that_is_gone(monkeypatch):
    def gone():
        raise FileNotFoundError

    monkeypatch.setattr(os, "getcwd", gone)
    with pytest.raises(UserError, match="the current folder is gone"):
        expand_user("runs/x")
    assert expand_user("/runs/x") == Path("/runs/x")


# ---- What is told -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop_step", "result", "said"),
    [
        (0, {"steps": 30, "num_steps": 30}, "this run is complete; choose another --workdir"),
        (30, {"steps": 30, "num_steps": 30}, "this run is complete; choose another --workdir"),
        (10, {"steps": 30, "num_steps": 30}, "has reached step 30, beyond train.stop_step=10"),
        (10, {"steps": 10, "num_steps": 30}, "this run is complete up to step 10 of 30"),
        (5, {"steps": 10, "num_steps": 30}, "has reached step 10, beyond train.stop_step=5"),
    ],
)
def test_a_run_with_a_result_says_what_is_true(stop_step, result, said):
    assert said in loop._why_nothing(result, stop_step)


def test_numbers_have_the_digits_that_they_mean():
    assert plain(np.float32(0.06)) == 0.06 and float(np.float32(0.06)) != 0.06
    for value in (np.float32(1) / 3, np.float32("inf"), np.float32(1e-40)):
        assert np.float32(plain(value)) == value
    assert plain(np.float64(1) / 3) == 1 / 3 and plain(7) == 7.0
    assert np.isnan(plain(np.float32("nan")))


def test_an_evaluation_alone_shows_how_far_it_is(monkeypatch, capsys):
    now = iter(range(0, 1000, 11))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.evaluating("evaluating test") as shown:
        shown(0.0)
        shown(0.5)
        shown(1.0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("Z ")[1] for line in lines] == [
        "evaluating test 50%",
        "evaluating test 100%",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metrics_bytes", "x"),
        ("wall_time_s", "3"),
        ("seconds", []),
        ("unevaluated", 1),
        ("first_nonfinite_step", 3),
    ],
)
def test_what_lies_beside_the_arrays_is_of_its_kind(monkeypatch, key, value):
    beside = {"shapes": {"a": "b"}, "sha256": {"a": "c"}, key: value}
    monkeypatch.setattr(_Reader, "_restore", lambda *_, **__: {"extra": beside})
    with pytest.raises(ValueError, match=f"{key} is "):
        _Reader.__new__(_Reader).extra()


def test_late_answers_of_a_read_that_failed_are_dropped(monkeypatch):
    from lrd_jax.runtime import checkpoints

    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    checkpoints._drop_late_answers.__wrapped__()
    made = type("Found", (), {"object": None, "exc_value": RuntimeError("Event loop is closed")})
    sys.unraisablehook(made)
    assert told == []
    other = type("Found", (), {"object": None, "exc_value": RuntimeError("else")})
    sys.unraisablehook(other)
    assert told == [other]


# ---- The journal of a sweep ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def trials():
    pytest.importorskip("optuna")
    path = Path(__file__).parents[1] / "scripts" / "sweep_trials.py"
    spec = importlib.util.spec_from_file_location("sweep_trials", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "line", [b"garbage\n", b'{"op_code": 77}\n', b"7\n", b"\xff\xfe\n", b'{"op_code": 4}\n']
)
def test_a_damaged_journal_is_one_line(trials, tmp_path, line):
    journal = tmp_path / "journal.log"
    trials.open_study(journal)
    journal.write_bytes(journal.read_bytes() + line)
    before = journal.read_bytes()
    with pytest.raises(UserError, match=r"journal\.log is damaged .*remove it") as error:
        trials.open_study(journal)
    assert "\n" not in str(error.value) and journal.read_bytes() == before


def test_half_a_line_of_a_killed_sweep_is_cut_off(trials, tmp_path, capsys):
    journal = tmp_path / "journal.log"
    trials.open_study(journal)
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 5, "study')
    trials.open_study(journal)
    assert "half a line at its end is cut off" in capsys.readouterr().out
    assert journal.read_bytes().startswith(whole)
    trials.open_study(journal)  # nothing is left of it


def test_a_folder_in_the_place_of_the_journal(trials, tmp_path):
    (tmp_path / "journal.log").mkdir()
    with pytest.raises(UserError, match=r"cannot be used \(Is a directory\)"):
        trials.open_study(tmp_path / "journal.log")
