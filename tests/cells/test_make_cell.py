"""Building cells from a configuration, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import get_config
from lrd_jax.cells import CELLS, GatedLSTMCell, LSTMCell, ONLSTMCell, URLSTMCell, make_cell
from lrd_jax.errors import UserError


def model(**changes):
    config = get_config().model
    config.update({"hidden_size": 12, **changes})
    return config


@pytest.mark.parametrize("name", CELLS)
def test_default_configuration_builds_every_cell(name):
    cell = make_cell(model(cell=name))
    assert type(cell) is CELLS[name]
    assert cell.hidden_size == 12


def test_every_option_of_a_cell_is_a_configuration_key():
    keys = set(get_config().model)
    own = {"name", "parent", "param_dtype", "dot"}
    for cell in CELLS.values():
        assert {f.name for f in dataclasses.fields(cell) if f.init} - own <= keys


@pytest.mark.parametrize("name", CELLS)
def test_defaults_of_cells_and_configuration_agree(name):
    cell = CELLS[name](12)
    assert make_cell(model(cell=name)) == cell
    assert make_cell({"cell": name, "hidden_size": 12}) == cell


def test_options_reach_the_cell():
    options = {
        "gates": "UM",
        "tied_input": False,
        "forget_bias": 0.5,
        "refine_bias": "zero",
        "share_refine_bias": False,
        "ugi_margin": 0.1,
        "chrono_t_max": 77,
        "chunk_size": 4,
        "kernel_init": "xavier",
    }
    assert make_cell(model(cell="gated_lstm", **options)) == GatedLSTMCell(12, **options)
    options = {"forget_bias": 0.0, "bias_init": "two_uniform"}
    assert make_cell(model(cell="lstm", **options)) == LSTMCell(12, **options)


def test_chrono_time_scale_defaults_to_the_sequence():
    config = model(cell="gated_lstm", gates="C-")
    assert make_cell(config, 784).chrono_t_max == 784
    config.chrono_t_max = 50
    assert make_cell(config, 784).chrono_t_max == 50


def test_options_that_do_not_apply_change_nothing():
    odd = {"gates": "O-", "tied_input": False, "forget_bias": 7.0, "chunk_size": 5}
    cell = make_cell(model(cell="urlstm", gates="O-"))
    assert cell == URLSTMCell(12)
    assert cell.gates == "UR"
    cell = make_cell(model(cell="onlstm", **{**odd, "chunk_size": 3}))
    assert cell == ONLSTMCell(12, chunk_size=3)
    assert (cell.gates, cell.tied_input, cell.forget_bias) == ("OM", False, 0.0)
    for name in ("rnn", "gru"):
        assert make_cell(model(cell=name, **odd)) == CELLS[name](12)
    gated = make_cell(model(cell="gated_lstm", gates="U-", forget_bias=7.0, chunk_size=5))
    plain = make_cell(model(cell="gated_lstm", gates="U-"))
    shapes = plain.initialize_carry(jax.random.key(0), (1, 2)), jnp.zeros((1, 2))
    trees = [cell.init(jax.random.key(0), *shapes) for cell in (gated, plain)]
    jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cell": "urlstn"}, ["urlstn", "did you mean urlstm", *CELLS]),
        ({"cell": "transformer"}, ["transformer", *CELLS]),
        ({"cell": "gated_lstm", "gates": "CR"}, "-- C- O- U- -R OM UM OR UR".split()),
        ({"cell": "gated_gru", "gates": "OM"}, "-- U- -R UR".split()),
        ({"cell": "gated_gru", "reset_gate": "O-"}, ["reset_gate", "O-"]),
        ({"cell": "gated_lstm", "refine_bias": "none"}, ["refine_bias", "neg_forget", "zero"]),
        ({"cell": "lstm", "kernel_init": "uniform"}, ["kernel_init", "uniform_rsqrt"]),
        ({"cell": "lstm", "bias_init": "ones"}, ["bias_init", "two_uniform"]),
        ({"cell": "rnn", "activation": "sigmoid"}, ["activation", "tanh", "relu"]),
        ({"cell": "rnn", "recurrent_init": "ortho"}, ["recurrent_init", "orthogonal", "identity"]),
        ({"cell": "lstm", "hidden_size": 0}, ["hidden_size=0"]),
        ({"cell": "urlstm", "hidden_size": 2}, ["3", "hidden_size"]),
        ({"cell": "gated_gru", "hidden_size": 2}, ["3", "hidden_size"]),
        ({"cell": "gated_gru", "gates": "--", "reset_gate": "U-", "hidden_size": 2}, ["3"]),
        ({"cell": "gated_lstm", "gates": "UM", "chunk_size": 6}, ["3", "2"]),
        ({"cell": "urlstm", "ugi_margin": 0.5}, ["ugi_margin=0.5"]),
        ({"cell": "gated_lstm", "gates": "C-"}, ["chrono_t_max"]),
        ({"cell": "onlstm", "chunk_size": 5}, ["chunk_size=5", "hidden_size=12"]),
        ({"cell": "onlstm", "chunk_size": 0}, ["chunk_size=0"]),
    ],
    ids=str,
)
def test_bad_values_are_refused_in_one_line(changes, words):
    with pytest.raises(UserError) as error:
        make_cell(model(**changes))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LSTMCell(0), "hidden_size=0: a cell needs at least one unit"),
        (lambda: LSTMCell("8"), "hidden_size='8': must be a whole number"),
        (lambda: LSTMCell(8.0), "hidden_size=8.0: must be a whole number"),
        (lambda: LSTMCell(True), "hidden_size=True: must be a whole number"),
        (lambda: LSTMCell(8, forget_bias=float("inf")), "forget_bias=inf: must be a finite number"),
        (lambda: LSTMCell(8, forget_bias="1"), "forget_bias='1': must be a finite number"),
        (lambda: LSTMCell(8, kernel_init=3), "kernel_init=3: must be a string"),
        (lambda: LSTMCell(8, param_dtype=jnp.int32), "param_dtype=.*: must be a dtype of real"),
        (lambda: LSTMCell(8, param_dtype="floaty"), "param_dtype='floaty'"),
        (lambda: LSTMCell(8, dot=None), "dot must be a function"),
        (lambda: GatedLSTMCell(8, gates=["U", "R"]), r"gates=\['U', 'R'\]: must be a string"),
        (lambda: GatedLSTMCell(8, tied_input="no"), "tied_input='no': must be True or False"),
        (lambda: GatedLSTMCell("8", gates="OM"), "hidden_size='8'"),
        # What this code does not read is checked all the same.
        (lambda: GatedLSTMCell(8, gates="--", ugi_margin=0.7), "ugi_margin=0.7 must lie in"),
        (lambda: GatedLSTMCell(8, gates="UR", chrono_t_max=-5.0), "chrono_t_max=-5.0 must be a"),
        (lambda: CELLS["gated_gru"](8, gates="--", ugi_margin=-1.0), "ugi_margin=-1.0"),
        (lambda: make_cell({"hidden_size": 8}), "no cell is named: give 'cell'"),
        (lambda: make_cell({"cell": "lstm"}), "model.cell=lstm needs hidden_size"),
        (lambda: make_cell({"cell": "lstm", "hiden_size": 8}), "did you mean hidden_size"),
        (lambda: make_cell({"cell": "lstm", "hidden_size": 8, "forget": 1.0}), "unknown key of a"),
        (lambda: make_cell({"cell": ["lstm"], "hidden_size": 8}), "unknown cell="),
        (lambda: make_cell({"cell": "lstm", "hidden_size": 8}, -1), "sequence_length=-1"),
    ],
)
def test_values_of_other_types_and_ranges_are_refused(build, message):
    with pytest.raises(UserError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_are_numbers():
    assert LSTMCell(np.int64(8), forget_bias=np.float32(1)).blocks() == dict.fromkeys("fiou", 8)
    assert LSTMCell(8, forget_bias=1, param_dtype="float32").hidden_size == 8


OPTIONS = {
    *("forget_bias", "chrono_t_max", "ugi_margin", "chunk_size"),
    *("refine_bias", "share_refine_bias"),
}


@pytest.mark.parametrize(
    ("code", "used"),
    {
        "--": {"forget_bias"},
        "C-": {"chrono_t_max"},
        "O-": set(),
        "U-": {"ugi_margin"},
        "-R": {"forget_bias"},
        "OM": {"forget_bias", "chunk_size"},
        "UM": {"forget_bias", "ugi_margin", "chunk_size"},
        "OR": set(),
        "UR": {"ugi_margin", "refine_bias", "share_refine_bias"},
    }.items(),
)
def test_what_a_gate_code_has_no_use_for(code, used):
    off = GatedLSTMCell(12, gates=code, chrono_t_max=20).without_effect()
    assert set(off) == OPTIONS - used
    assert all(f"gates={code} has no use" in reason for reason in off.values())


def test_what_other_options_switch_off():
    off = URLSTMCell(12, refine_bias="zero").without_effect()
    assert off["share_refine_bias"] == "refine_bias=zero shares nothing"
    for gates, reset, used in (("--", "-R", False), ("U-", "--", True), ("-R", "UR", True)):
        cell = make_cell(model(cell="gated_gru", gates=gates, reset_gate=reset))
        assert ("ugi_margin" not in cell.without_effect()) == used
    assert LSTMCell(12).without_effect() == {}
