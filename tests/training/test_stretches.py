"""Several steps in one call: the same numbers as one by one, to the last bit."""

import jax
import numpy as np
import pytest

from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.training import program as program_module
from lrd_jax.training.agenda import Agenda, every
from tests.training.harness import (
    SPEC,
    Mean,
    RandomData,
    Stream,
    assert_identical,
    make_config,
    make_program,
    run,
)
from tests.training.test_pretraining import AUX
from tests.training.test_pretraining import RANDOM as RANDOM_AUX

RANDOM = {"model__num_layers": 2, "model__dropout": 0.3, "detach__p_block": 0.5}


class Plain(ArrayDataset):
    """The same sequences, as a data set that can stay on the devices."""

    def __init__(self, batch_size=8):
        super().__init__(SPEC, RandomData()._splits, batch_size, "random")


def in_calls(program, steps, at_once, state=None):
    """The state after some more steps, in calls of so many of them at most."""
    state = program.init() if state is None else state
    start = int(state.step)
    agenda = Agenda([(every(7), lambda: None)], start + steps)
    for stretch in agenda.stretches(start, program.steps_per_call):
        batches = program.stretch(stretch)
        for first in range(0, len(stretch), at_once):
            count = min(at_once, len(stretch) - first)
            state = program.advance(state, batches, first, count)
    return state


CASES = {
    "two layers, dropout, h-detach, seeds": (RANDOM | {"num_seeds": 2}, {}),
    "examples on the devices": ({"detach__p_block": 0.5, "num_seeds": 2}, {"dataset": Plain()}),
    "a state between batches": ({"optim__name": "sgd"}, {"objective": Stream()}),
    "a member with NaN": ({"num_seeds": 2}, {"dataset": RandomData(poison=(1, 4))}),
    "auxiliary losses": (AUX | RANDOM_AUX, {}),
    "a sweep": (
        {"sweep__learning_rate": (1e-2, 1e-3), "sweep__p_block": (0.0, 0.5)},
        {"dataset": Plain()},
    ),
    "seeds on devices of their own": (
        RANDOM | {"num_seeds": 2, "devices__split": "seeds"},
        {"dataset": Plain()},
    ),
}
QUICK = ("examples on the devices", "a state between batches")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES]
)
def test_eight_steps_a_call_equal_single_ones(case):
    overrides, parts = CASES[case]
    one, eight = (
        make_program(make_config(**overrides, train__steps_per_call=n), 2, **parts) for n in (1, 8)
    )
    singles = run(one, 15)
    assert_identical(singles, in_calls(eight, 15, at_once=8))
    halfway = in_calls(eight, 5, at_once=2)  # the same program, cut otherwise
    assert_identical(singles, in_calls(eight, 10, at_once=3, state=halfway))


def test_examples_stay_on_the_devices_where_they_fit(monkeypatch, caplog):
    config = make_config(train__steps_per_call=4)
    program = make_program(config, 2, Plain(), Mean())
    stretch = program.stretch(range(3))
    assert stretch.shape == (4, 1, 8) and stretch.dtype == np.int32  # numbers, and nothing else
    assert not caplog.records

    program = make_program(config, 2, Plain(), Mean())
    monkeypatch.setattr(program_module, "memory_of", lambda _: (2**13, "a toy"))
    assert program.stretch(range(3))["inputs"].shape == (4, 1, 8, 20, 2)
    assert "do not fit into the memory of a toy beside the step" in caplog.text


def test_a_data_set_that_makes_its_batches_otherwise_is_asked_for_them():
    program = make_program(make_config(train__steps_per_call=4), 2, RandomData(), Mean())
    np.testing.assert_array_equal(program.stretch(range(2))["mask"][0, 0, :2], [0, 0])


def test_how_many_steps_a_call_takes_by_platform(monkeypatch):
    chosen = {"train__log_every_steps": 70, "train__steps_per_call": 0}
    assert make_program(make_config(**chosen), objective=Mean()).steps_per_call == 1
    monkeypatch.setattr(program_module, "prefers_loops", lambda _: False)
    assert make_program(make_config(**chosen), objective=Mean()).steps_per_call == 70
    assert (
        make_program(
            make_config(**chosen | {"train__steps_per_call": 3}), objective=Mean()
        ).steps_per_call
        == 3
    )
    chosen["train__log_every_steps"] = 1000
    assert make_program(make_config(**chosen), objective=Mean()).steps_per_call == 100
    monkeypatch.setattr(program_module, "_STRETCH_BYTES", 10_000)  # a batch has 1344
    assert make_program(make_config(**chosen), objective=Mean()).steps_per_call == 7


def test_the_program_is_compiled_once(monkeypatch):
    traces, step = [], program_module.train_step

    def counted(*args, **kwargs):
        traces.append(1)
        return step(*args, **kwargs)

    monkeypatch.setattr(program_module, "train_step", counted)
    program = make_program(make_config(train__steps_per_call=4), 1, Plain(), Mean())
    in_calls(program, 4, 1, in_calls(program, 9, 4))
    # Of a loop's body JAX may look at the types first.
    assert len(traces) <= 2 and program._several.call._cache_size() == 1
    assert jax.tree.leaves(program._several.resident)[0].shape == (52, 20, 2)
