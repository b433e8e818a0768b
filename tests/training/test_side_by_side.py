"""Runs side by side: each equals its single run, whatever the devices share."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.config.horizon import Horizon
from lrd_jax.config.members import Member
from lrd_jax.errors import UserError
from lrd_jax.models import SequenceClassifier
from lrd_jax.objectives.sequence import Classification
from lrd_jax.runtime.checkpoints import Checkpoints
from lrd_jax.training import program as program_module
from lrd_jax.training.state import join_best, split_best
from tests.training.harness import (
    SPEC,
    Mean,
    RandomData,
    assert_identical,
    largest_difference,
    make_config,
    make_program,
    run,
)

RANDOM = {"model__num_layers": 2, "model__dropout": 0.3, "detach__p_block": 0.5}


def member(tree, index):
    return jax.tree.map(lambda x: x[index : index + 1], jax.device_get(tree))


# ---- Seeds ------------------------------------------------------------------------------------


class Float64Head(nn.Module):
    @nn.compact
    def __call__(self, x, key=None):
        return nn.Dense(SPEC.classes, param_dtype=jnp.float64)(x)


def in_float64(config):
    """The usual objective with parameters, state and head in float64."""
    objective = Classification(config, SPEC, Horizon(20, 7))
    recurrence = objective.model.recurrence
    objective.model = SequenceClassifier(
        recurrence=recurrence.clone(cell=recurrence.cell.clone(param_dtype=jnp.float64)),
        head=Float64Head(),
    )
    return objective


@pytest.mark.slow
def test_in_float64_seeds_equal_single_runs_to_ten_digits():
    with jax.enable_x64(True):
        options = {"model__hidden_size": 4, "detach__p_block": 0.5, "model__cell": "lstm"}
        config = make_config(**options, num_seeds=2)
        program = make_program(config, 2, objective=in_float64(config))
        together = run(program, 20).params
        alone = make_program(make_config(**options), 1, objective=in_float64(config))
        for seed in range(2):
            alone.members = [Member(seed, {})]
            assert largest_difference(member(together, seed), run(alone, 20).params) <= 1e-10


# ---- What the devices share -------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs():
    """The same four seeds on two devices, which split each batch, or the seeds."""
    return {
        split: make_program(make_config(**RANDOM, num_seeds=4, devices__split=split), 2)
        for split in ("batch", "seeds")
    }


@pytest.fixture(scope="module")
def after_20(programs):
    """What both come to in 20 steps."""
    return {split: jax.device_get(run(program, 20)) for split, program in programs.items()}


def assert_equal_runs(programs, states):
    (one, other), (first, second) = programs, states
    assert largest_difference(first.params, second.params) <= 1e-5
    for name, (total, count) in first.sums.items():
        np.testing.assert_allclose(total, second.sums[name][0], rtol=1e-4)
        np.testing.assert_array_equal(count, second.sums[name][1])
    for part in ("valid", "test"):
        scores = one.evaluate(first.params, part), other.evaluate(first.params, part)
        for name in scores[0]:
            np.testing.assert_allclose(scores[0][name], scores[1][name], rtol=1e-6)


@pytest.mark.slow
def test_splitting_the_seeds_changes_nothing(programs, after_20):
    assert_equal_runs(programs.values(), after_20.values())


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 4])
def test_splitting_the_seeds_over_other_numbers_of_devices(programs, after_20, num_devices):
    config = make_config(**RANDOM, num_seeds=4, devices__split="seeds")
    other = make_program(config, num_devices)
    assert_equal_runs((programs["batch"], other), (after_20["batch"], run(other, 20)))


def test_every_device_holds_its_own_seeds(programs):
    program = programs["seeds"]
    state = program.init()
    better = program.update_best(state, {name: np.ones(4, np.float32) for name in state.best.valid})
    assert_identical(better.best.params, better.params)
    for leaf in jax.tree.leaves(better.replace(step=())):
        shards = {shard.index[0].indices(4)[:2] for shard in leaf.addressable_shards}
        assert shards == {(0, 2), (2, 4)}
    same = jax.tree.map(
        lambda x, wanted: x.sharding.is_equivalent_to(wanted.sharding, x.ndim),
        better,
        program.template(),
    )
    assert all(jax.tree.leaves(same))


def test_seeds_need_a_number_of_devices_that_divides_them():
    config = make_config(num_seeds=3, devices__split="seeds")
    with pytest.raises(UserError, match=r"3 runs .* do not divide over 2 devices"):
        make_program(config, 2)
    make_program(config, 3)  # which need not divide the batch of 8


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("seeds", "batch"), ("batch", "seeds")])
def test_a_run_resumes_with_the_other_split(programs, after_20, tmp_path, before, after):
    first, second = programs[before], programs[after]
    half = run(first, 10)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(10, split_best(half), {})
    checkpoints.wait()
    same, other = (
        join_best(checkpoints.restore_latest(split_best(program.template()))[0])
        for program in (first, second)
    )
    checkpoints.close()
    assert_identical(other, half)
    assert_identical(run(first, 10, same), after_20[before])  # as it was: to the last bit
    assert largest_difference(run(second, 10, other).params, after_20[before].params) <= 1e-5


@pytest.mark.slow
def test_a_seed_with_nan_does_not_disturb_those_beside_it(monkeypatch, programs, after_20):
    program = programs["seeds"]
    monkeypatch.setattr(program, "dataset", RandomData(poison=(1, 4)))
    state = run(program, 20)
    np.testing.assert_array_equal(state.first_nonfinite_step, [-1, 5, -1, -1])
    for index in (0, 2, 3):
        for part in ("params", "opt_state"):
            found, expected = getattr(state, part), getattr(after_20["seeds"], part)
            assert_identical(member(found, index), member(expected, index))


@pytest.mark.parametrize("batch_size", [1, 5, 13])
def test_evaluation_with_split_seeds_counts_every_example_once(batch_size):
    config = make_config(eval__batch_size=batch_size, num_seeds=2, devices__split="seeds")
    data = RandomData()
    program = make_program(config, 2, data, objective=Mean())
    for split, (inputs, _) in data._splits.items():
        found = program.evaluate(program.init().params, split)["loss"]
        np.testing.assert_allclose(found, [inputs[:, 0, 0].mean(dtype=np.float64)] * 2, rtol=1e-6)


# ---- Sweeps -----------------------------------------------------------------------------------


def assert_equal_to_single_runs(options, sweep, keys, which, split="batch"):
    """Trains a sweep with two seeds, and some of its values, by number, as runs of their own."""
    swept = {f"sweep__{name}": values for name, values in sweep.items()}
    config = make_config(**options, **swept, num_seeds=2, devices__split=split)
    together = run(make_program(config, 2), 20)
    combinations = list(itertools.product(*sweep.values()))
    singles = []
    for number in which:
        single = dict(zip(keys, combinations[number], strict=True))
        alone = run(make_program(make_config(**options, num_seeds=2, **single), 2), 20)
        for seed in range(2):
            found = member(together.params, 2 * number + seed)
            assert largest_difference(found, member(alone.params, seed)) <= 1e-5
        singles.append(alone.params)
    for one, other in itertools.combinations(singles, 2):  # the values matter
        assert largest_difference(one, other) > 1e-4


BLOCKED = {
    "model__cell": "lstm",
    "model__num_layers": 2,
    "model__dropout": 0.3,
    "detach__off_last_epochs": 1,  # the last 6 of the 20 steps
    "optim__schedule": "cosine",
    "optim__warmup_steps": 5,
}


@pytest.mark.slow  # tests/integration/test_sweep_runs.py has its quick half
@pytest.mark.parametrize(
    ("split", "which"),
    [("batch", (0, 3)), ("seeds", (0, 1, 2, 3))],
)
def test_learning_rates_and_blocking_side_by_side(split, which):
    sweep = {"learning_rate": (1e-2, 3e-3), "p_block": (0.0, 0.5)}
    keys = ("optim__learning_rate", "detach__p_block")
    assert_equal_to_single_runs(BLOCKED, sweep, keys, which, split)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["all", "cell"])
def test_clipping_decay_and_c_detach_side_by_side(scope):
    options = {
        "model__cell": "lstm",
        "optim__name": "adamw",
        "optim__clip_scope": scope,
        "optim__learning_rate": 3e-2,
        "detach__scope": "example",
        "model__backend": "scan",
    }
    sweep = {"clip_norm": (0.0, 1e-7), "weight_decay": (0.0, 0.5), "c_block": (0.0, 0.5)}
    keys = ("optim__clip_norm", "optim__weight_decay", "detach__c_block")
    assert_equal_to_single_runs(options, sweep, keys, (0, 3, 5, 6))


def test_a_single_run_carries_nothing_of_a_sweep():
    assert make_program(make_config()).init().swept == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sweep__p_block": (0.5, 1.5)}, r"sweep.p_block=\(0.5, 1.5\): detach.p_block=1.5 is a"),
        ({"sweep__c_block": (0.5,), "model__cell": "gru"}, "sweep.c_block=.*needs a cell with a"),
        ({"sweep__weight_decay": (0.0, 0.1)}, "sweep.weight_decay=.*needs optim.name=adamw"),
    ],
)
def test_a_value_that_a_single_run_would_refuse(overrides, message):
    with pytest.raises(UserError, match=message):
        program_module.make_program(make_config(**overrides))
