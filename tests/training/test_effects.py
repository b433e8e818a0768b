"""Keys without effect: refused, told, recorded; and whatever has one is left alone."""

import pytest
from absl import flags

from lrd_jax.cells import CELLS, LSTMCell
from lrd_jax.config import checks, command_line, defaults
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.registry import DATASETS, Entry
from lrd_jax.errors import UserError
from lrd_jax.training import effects
from tests.integration.test_configs import FOLDER, SPECS

DIGITS = "urlstm_pdigits.py:quick"


def judge(spec, overrides="", mode="train"):
    """The notes on a command line, and the keys that its record would mark."""
    words = [f"--config={FOLDER / spec}", *(f"--config.{word}" for word in overrides.split())]
    flag = command_line.parse_flags(["main", *words], flags.FlagValues())
    checks.validate(flag.config)
    config, notes = effects.judge(flag.config, flag.overrides, mode)
    return notes, sorted(effects.unused(config))


@pytest.mark.parametrize(
    ("spec", "override", "reason"),
    [
        (DIGITS, "model.gates=O-", "model.cell=urlstm does not know it; leave it out"),
        (DIGITS, "model.gates=XX", "model.cell=urlstm does not know it"),
        (DIGITS, "model.bias_init=two_uniform", "model.cell=urlstm does not know it"),
        (DIGITS, "model.tie_embeddings=true", "data.name=digits does not know it"),
        (DIGITS, "model.embedding_dropout=0.1", "data.name=digits does not know it"),
        (DIGITS, "data.delay=5", "data.name=digits does not know it"),
        (DIGITS, "optim.decay_rate=0.1", "optim.schedule=cosine does not know it"),
        (DIGITS, "model.cell=lstm model.gates=--", "model.cell=lstm does not know it"),
        (DIGITS, "model.cell=lstm model.gates=UR", "model.cell=lstm does not know it"),
        (DIGITS, "optim.decay_rate=0.5", "optim.schedule=cosine does not know it"),
        (DIGITS, "model.cell=lstm model.refine_bias=zzz", "model.cell=lstm does not know it"),
        (DIGITS, "model.cell=gru model.reset_gate=UR", "model.cell=gru does not know it"),
        (DIGITS, "model.cell=rnn model.chunk_size=-3", "model.cell=rnn does not know it"),
        ("wikitext2.py", "model.head_hidden=(3,)", "data.name=wikitext2 does not know it"),
        ("wikitext2.py", "data.unit=word", "data.name=wikitext2 does not know it"),
        ("wikitext2.py", "data.text_dir=x", "data.name=wikitext2 does not know it"),
        ("hdetach_copying.py:H1", "data.valid_split=last:64", "data.name=copy does not know it"),
    ],
)
def test_what_the_component_does_not_know_is_refused_on_the_command_line(spec, override, reason):
    with pytest.raises(UserError) as caught:
        judge(spec, override)
    message, key = str(caught.value), override.split()[-1].partition("=")[0]
    assert message.startswith(f"config.{key}=") and "\n" not in message
    assert reason in message and "has no effect" in message


@pytest.mark.parametrize(
    ("overrides", "notes"),
    [
        ("detach.scope=example", ["detach.scope=example has no effect: detach.p_block and"]),
        ("model.dropout=0.5", ["model.dropout=0.5 has no effect: model.num_layers=1"]),
        ("aux.weight=2.0 aux.loss=ce", ["aux.loss=ce, aux.weight=2.0 have no effect: aux.kind=no"]),
        ("eval.split=valid", ["eval.split=valid has no effect: training does not read it"]),
        ("train.num_epochs=2", ["train.num_epochs=2.0 has no effect: train.num_steps wins"]),
        (
            "train.num_steps=1 train.num_epochs=2",
            ["train.num_epochs=2.0 has no effect: train.num_steps wins"],
        ),
        ("model.chunk_size=4", ["model.chunk_size=4 has no effect: model.gates=UR has no use"]),
        ("optim.clip_norm=0 optim.clip_scope=cell", ["optim.clip_scope=cell has no effect"]),
        ("optim.pretrain_decay=0.5", ["optim.pretrain_decay=0.5 has no effect: there is no pre-"]),
        (
            "model.backend=scan model.recompute=true",
            ["model.recompute=True has no effect: time"],
        ),
        ("detach.p_block=0.5 detach.stack_mask=per_layer", ["detach.stack_mask=per_layer has no"]),
        # These do something.
        ("detach.p_block=0.5 detach.scope=example", []),
        ("sweep.p_block=(0.5,) detach.scope=example", []),
        ("model.num_layers=2 model.dropout=0.5", []),
        ("aux.kind=reconstruct aux.weight=2.0 aux.loss=mse", []),
        ("aux.kind=reconstruct aux.pretrain_epochs=1 optim.pretrain_decay=0.5", []),
        ("optim.schedule=step optim.decay_rate=0.1 optim.decay_every_epochs=1", []),
        ("eval.batch_size=10", []),
        ("model.cell=gated_lstm model.gates=OM model.chunk_size=4", []),
        ("data.valid_split=last:64", ["data.valid_split=last:64 has no effect: digits has"]),
        # What is done anyway is no fault.
        ("model.gates=UR data.delay=0", []),
    ],
)
def test_what_another_key_switches_off_is_told(overrides, notes):
    told, marked = judge(DIGITS, overrides)
    assert marked == [] and len(told) == len(notes)
    assert all(line.startswith(start) for line, start in zip(told, notes, strict=True)), told


def test_an_evaluation_is_told_of_its_own_keys_alone():
    assert judge("hdetach_copying.py:H4", "eval.temperature=0.5", "eval")[0] == [
        "eval.temperature=0.5 has no effect: eval.sample_tokens=0"
    ]
    assert judge("auxiliary_images.py:A1", "eval.split=valid", "eval") == ([], [])
    with pytest.raises(UserError, match=r"data.name=digits does not know it"):
        judge(DIGITS, "data.delay=5", "eval")


def test_a_sample_needs_nothing_of_a_score():
    told, _ = judge(DIGITS, "eval.sample_tokens=5 eval.split=valid eval.temperature=0.5", "eval")
    assert told == ["eval.split=valid has no effect: eval.sample_tokens asks for a text"]


@pytest.mark.parametrize("spec", SPECS)
def test_quick_adds_no_note_to_a_row(spec):
    name, colon, row = spec.partition(":")
    notes, marked = judge(spec)
    quick, also = judge(f"{name}:{row}{',' if colon else ''}quick")
    assert also == marked
    reasons = [{line.rpartition(": ")[2] for line in lines} for lines in (notes, quick)]
    # But that blocking is never off in so few steps, as `shrink` has it.
    assert reasons[1] <= reasons[0]


def test_rows_that_differ_in_what_has_no_effect_are_the_same_model():
    rows = {
        row: effects.effective(command_line.load_config(f"{FOLDER}/auxiliary_embeddings.py:{row}"))
        for row in ("A19", "A20", "A21", "A22", "A24")
    }
    assert rows["A19"] == rows["A21"] and rows["A22"] == rows["A24"]
    assert rows["A19"] != rows["A20"] and rows["A19"] != rows["A22"]


# ---- Files --------------------------------------------------------------------------------------


def digits_with(**values):
    config = defaults.get_config()
    config.update_from_flattened_dict(
        {"model.cell": "urlstm"} | {key.replace("__", "."): value for key, value in values.items()}
    )
    return config


def test_a_file_is_told_and_marked():
    config = digits_with(model__gates="OM", data__delay=7, optim__decay_rate=0.1)
    config, notes = effects.judge(config, {})
    assert sorted(notes) == [
        "data.delay=7 has no effect: data.name=digits does not know it",
        "model.gates=OM has no effect: model.cell=urlstm does not know it",
        "optim.decay_rate=0.1 has no effect: optim.schedule=constant does not know it",
    ]
    assert sorted(effects.unused(config)) == ["data.delay", "model.gates", "optim.decay_rate"]


@pytest.mark.parametrize(
    ("cell", "key", "value", "message"),
    [
        ("urlstm", "gates", "XX", "use one of --, C-"),
        ("lstm", "refine_bias", "zzz", "refine_bias"),
        ("rnn", "chunk_size", -3, "chunk_size=-3"),
        ("gru", "reset_gate", "O-", "reset_gate"),
        ("gru", "activation", "sigmoid", "activation"),
        ("gru", "ugi_margin", 0.7, "ugi_margin"),
    ],
)
def test_a_value_without_effect_is_checked_all_the_same(cell, key, value, message):
    with pytest.raises(UserError) as caught:
        effects.judge(digits_with(**{"model__cell": cell, f"model__{key}": value}), {})
    assert message in str(caught.value)


# ---- Components of one's own --------------------------------------------------------------------


class LeakyCell(LSTMCell):
    leak: float = 0.5
    taps: tuple[int, ...] = (1, 2)


@pytest.fixture
def leaky(monkeypatch):
    monkeypatch.setitem(CELLS, "leaky", LeakyCell)


def own(cell="leaky", **values):
    config = digits_with(model__cell=cell)
    with config.unlocked():
        config.model.update(values)
    return config


def test_keys_of_a_cell_of_ones_own(leaky):
    config, notes = effects.judge(own(leak=2, taps=[3]), {})
    assert notes == [] and config.is_locked
    assert repr((config.model.leak, config.model.taps)) == "(2.0, (3,))"
    for wrong, message in (
        ({"leek": 0.1}, "unknown config key 'model.leek': did you mean model.leak?"),
        ({"leak": "much"}, "config.model.leak='much': expected a number"),
        ({"taps": ("a",)}, "is not a tuple of int"),
    ):
        with pytest.raises(UserError) as caught:
            effects.judge(own(**wrong), {})
        assert message in str(caught.value)


def test_a_key_of_ones_own_with_another_cell(leaky):
    _, notes = effects.judge(own("gru", leak=0.25), {})
    assert notes == ["model.leak=0.25 has no effect: model.cell=gru does not know it"]
    with pytest.raises(UserError, match=r"model.cell=gru does not know it; leave it out"):
        effects.judge(own("gru", leak=0.25), {"model.leak": 0.25})


class WordyCell(LSTMCell):
    leak: str = "none"
    rate: float = 1  # a whole number where a real one is meant


def test_cells_that_share_the_name_of_a_field_check_each_its_own(leaky, monkeypatch):
    monkeypatch.setitem(CELLS, "wordy", WordyCell)
    assert effects.judge(own("wordy", leak="much", rate=0.5), {})[1] == []
    assert effects.judge(own("leaky", leak=2), {})[0].model.leak == 2.0
    for cell, value, expected in (("wordy", 0.5, "a string"), ("leaky", "much", "a number")):
        with pytest.raises(UserError, match=rf"config.model.leak=.*: expected {expected}"):
            effects.judge(own(cell, leak=value), {})
    # A third cell has none: then it says nothing, whoever it was meant for.
    for value in ("much", 0.25):
        (note,) = effects.judge(own("gru", leak=value), {})[1]
        assert note == f"model.leak={value} has no effect: model.cell=gru does not know it"


def test_a_key_that_no_component_has_is_refused():
    with pytest.raises(UserError, match=r"unknown config key 'model.lyres': did you mean"):
        effects.judge(own("gru", lyres=1), {})
    config = defaults.get_config().unlock()
    config.optim.learning_rte = 3e-2
    with pytest.raises(UserError, match=r"did you mean optim.learning_rate\?"):
        effects.judge(config, {})


def test_a_warm_up_longer_than_the_run():
    config = digits_with(optim__warmup_steps=30)
    assert effects.never_reached(config, Horizon(31, 10)) == []
    (line,) = effects.never_reached(config, Horizon(30, 10))
    assert "optim.warmup_steps=30 covers all 30 steps" in line


def test_a_call_of_more_steps_than_the_run_has():
    config = digits_with(train__steps_per_call=10**8)
    (line,) = effects.never_reached(config, Horizon(30, 10))
    assert line == (
        "train.steps_per_call=100000000 is more than the 30 steps of the run: they are one call"
    )


def test_a_curriculum_that_outlasts_the_run():
    config = digits_with(data__length=32, data__curriculum=((20, 5), (10, 6)))
    assert effects.never_reached(config, Horizon(31, 10)) == []
    (line,) = effects.never_reached(config, Horizon(30, 10))
    assert line == (
        "data.curriculum takes 30 steps, and the run has 30: it never trains on sequences of"
        " data.length=32"
    )


def test_a_key_of_ones_own_data_set_has_nothing_to_do_with_the_cells(leaky, monkeypatch):
    """Though it is called like a field of a cell, and holds something else."""

    def make(length, leak):
        raise NotImplementedError

    monkeypatch.setitem(DATASETS, "drops", Entry(maker=make))
    config = own()
    config.data.name = "drops"
    with config.unlocked():
        config.data.leak = "a little"
    config, notes = effects.judge(config, {})
    assert config.data.leak == "a little" and notes == []
