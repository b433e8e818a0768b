"""The train step on 1, 2 and 4 devices, under `pmap`, with several seeds, and as compiled."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from lrd_jax.config.members import Member
from lrd_jax.runtime.devices import AXIS
from lrd_jax.training import program as program_module
from lrd_jax.training.step import train_step
from tests.training.harness import (
    Mean,
    RandomData,
    assert_identical,
    largest_difference,
    make_config,
    make_program,
    run,
)

RANDOM = {"model__num_layers": 2, "model__dropout": 0.3, "detach__p_block": 0.5}


# ---- Devices --------------------------------------------------------------------------------


@pytest.mark.slow  # tests/integration/test_hosts.py has its quick half
@pytest.mark.parametrize("scope", ["batch", "example"])
def test_one_two_and_four_devices_agree(scope):
    config = make_config(**RANDOM, detach__scope=scope)
    one, two, four = (run(make_program(config, n), 20) for n in (1, 2, 4))
    assert largest_difference(one.params, two.params) <= 1e-5
    assert largest_difference(one.params, four.params) <= 1e-5
    for name, (total, count) in four.sums.items():
        np.testing.assert_allclose(one.sums[name][0], total, rtol=1e-4)
        np.testing.assert_array_equal(one.sums[name][1], count)
    # Five of eight rows are real; every one counts once.
    np.testing.assert_array_equal(four.sums["loss"][1], 20 * 5)


@pytest.mark.slow
def test_every_device_holds_the_same_state():
    state = run(make_program(make_config(**RANDOM)), 5)
    for leaf in jax.tree.leaves(state):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 4
        for shard in shards[1:]:
            np.testing.assert_array_equal(shards[0], shard)


@pytest.mark.slow
def test_the_step_also_runs_under_pmap(monkeypatch):
    config = make_config(**RANDOM)
    kept = {}

    def keep(state, batch, **options):
        kept.update(options)
        return train_step(state, batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(program_module, "train_step", keep)
        program = make_program(config)
        start = jax.device_get(program.init())
        expected = run(program, 5)

    def step(state, batch):
        return train_step(state, batch, **kept)

    mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)
    state = start
    for number in range(5):
        batch = jax.device_get(program.batch(number))  # (seeds, batch, ...)
        split = jax.tree.map(lambda x: np.stack(np.split(x, 4, axis=1)), batch)
        state = mapped(state, split)
    assert largest_difference(expected.params, state.params) <= 1e-7
    assert largest_difference(start.params, state.params) > 1e-3


def test_the_step_is_traced_once(monkeypatch):
    traces = []

    def counted(*args, **kwargs):
        traces.append(1)
        return train_step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(program_module, "train_step", counted)
        program = make_program(make_config())
        state = run(program, 3)
        run(
            program, 3, program.update_best(state, dict.fromkeys(("loss", "accuracy"), jnp.ones(1)))
        )
    assert len(traces) == 1


# ---- Collectives in the compiled program ------------------------------------------------------

_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(-start)?\("
)
_LOOP = re.compile(r"(?:body|condition)=%?([\w.-]+)")


def collectives(hlo, steps_per_call=1):
    """Finds the collectives of a compiled program.

    Returns:
      The result types of those outside every loop over time, and of those inside one. Where a call
      takes several steps, these loops are inside of another, over the steps.
    """
    bodies, name = {}, ""
    for line in hlo.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            name = header[1]
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    text = {name: "\n".join(lines) for name, lines in bodies.items()}
    calls = {
        name: {other for other in text if f"%{other}" in re.findall(r"%[\w.-]+", body)}
        for name, body in text.items()
    }
    bodies = {name: set(_LOOP.findall(body)) for name, body in text.items()}
    if steps_per_call > 1:
        (entry,) = re.findall(r"^ENTRY %?([\w.-]+)", hlo, re.MULTILINE)
        reached = {entry}  # without going into a loop
        while more := set().union(*(calls[n] - bodies[n] for n in reached)) - reached:
            reached |= more
        over_steps = set().union(*(bodies[name] for name in reached))
        assert over_steps, "no loop over steps found"
        bodies = {name: loops for name, loops in bodies.items() if name not in reached}
    inside = set().union(*bodies.values())
    assert inside, "no loop over time found: the checker does not understand this text"
    while more := set().union(*(calls[name] for name in inside)) - inside:
        inside |= more
    found = {name: [m[1] for m in _COLLECTIVE.finditer(body)] for name, body in text.items()}
    split = {False: [], True: []}
    for name, types in found.items():
        split[name in inside] += types
    return split[False], split[True]


def elements(result_type):
    """Numbers in a result type such as `(f32[1,24]{1,0}, f32[1]{0})`."""
    shapes = re.findall(r"\w+\[([\d,]*)\]", result_type)
    return sum(int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes)


def compiled(program):
    return program.train_step.lower(program.init(), program.batch(0)).compile().as_text()


def compiled_calls(program):
    numbers = np.int32(0), np.int32(program.steps_per_call)
    stretch = program.stretch(range(program.steps_per_call))
    lowered = program._several.call.lower(program.init(), (), stretch, *numbers)
    return lowered.compile().as_text()


@pytest.mark.parametrize("backend", ["fused", pytest.param("scan", marks=pytest.mark.slow)])
def test_one_gradient_all_reduce_and_none_inside_a_loop(backend):
    program = make_program(make_config(**RANDOM, model__backend=backend))
    outside, inside = collectives(compiled(program))
    assert inside == []
    size = sum(leaf.size for leaf in jax.tree.leaves(program.template().params))
    assert len(outside) == 1
    assert elements(outside[0]) >= size


def test_one_all_reduce_a_step_where_a_call_takes_several():
    program = make_program(make_config(**RANDOM, train__steps_per_call=4))
    outside, inside = collectives(compiled_calls(program), program.steps_per_call)
    assert len(outside) == 1 and inside == []


@pytest.mark.slow
def test_split_seeds_communicate_nothing():
    config = make_config(**RANDOM, num_seeds=4, devices__split="seeds")
    program = make_program(config)
    assert collectives(compiled(program)) == ([], [])
    state, batch = program.init(), program.batch(0)
    carry = program.objective.initial_carry(8)
    whole = jax.tree.map(lambda x: x[0], batch)
    evaluation = program.evaluate.eval_step.lower(state.params, carry, whole).compile().as_text()
    assert collectives(evaluation) == ([], [])


def test_the_checker_finds_a_collective_inside_a_loop():
    class Chatty(Mean):
        def loss(self, variables, carry, batch, step):
            def body(total, x):
                return lax.psum(total + x @ variables["params"]["w"], AXIS), None

            xs = jnp.swapaxes(batch["inputs"][..., :1], 0, 1)
            total = lax.scan(body, jnp.zeros(len(batch["mask"])), xs)[0].sum()
            return total, ({"loss": (total, batch["mask"].sum())}, carry)

    outside, inside = collectives(compiled(make_program(make_config(), objective=Chatty())))
    assert inside and outside
    several = make_program(make_config(train__steps_per_call=4), objective=Chatty())
    outside, inside = collectives(compiled_calls(several), several.steps_per_call)
    assert inside and outside


# ---- Seeds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "one_by_one", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["loop", "vmap"]
)
def test_seeds_in_one_program_equal_single_runs(monkeypatch, one_by_one):
    # As on a CPU, and as on a GPU.
    monkeypatch.setattr(program_module, "prefers_loops", lambda _: one_by_one)
    config = make_config(**RANDOM, seed=3, num_seeds=3)
    program = make_program(config)
    together = run(program, 20)
    batch = program.batch(7)
    alone = make_program(make_config(**RANDOM))
    for index in range(3):
        alone.members = [Member(3 + index, {})]  # compiled once for all three
        assert_identical(
            jax.tree.map(lambda x, i=index: x[i], batch),
            jax.tree.map(lambda x: x[0], alone.batch(7)),
        )
        own = jax.tree.map(lambda x, i=index: x[i : i + 1], jax.device_get(together.params))
        assert largest_difference(own, run(alone, 20).params) <= 1e-5
    first, second = (jax.tree.map(lambda x, i=i: x[i], together.params) for i in (0, 1))
    assert largest_difference(first, second) > 1e-2


def test_a_seed_with_nan_is_frozen_alone():
    config = make_config(num_seeds=3)
    healthy = run(make_program(config), 10)
    program = make_program(config, dataset=RandomData(poison=(1, 4)))
    before = run(program, 4)
    kept = jax.device_get((before.params, before.opt_state))
    state = run(program, 6, before)
    np.testing.assert_array_equal(state.first_nonfinite_step, [-1, 5, -1])
    assert int(state.step) == 10
    for now, then in zip(
        jax.tree.leaves((state.params, state.opt_state)), jax.tree.leaves(kept), strict=True
    ):
        np.testing.assert_array_equal(now[1], then[1])
    others = [0, 2]
    for poisoned, fine in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(healthy.params), strict=True
    ):
        np.testing.assert_array_equal(poisoned[others, ...], fine[others, ...])
    np.testing.assert_array_equal(state.sums["loss"][1], [50, 20, 50])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state.sums)))


@pytest.mark.slow
def test_blocking_changes_neither_batches_nor_initialisation():
    # ORC-16
    plain, blocked = (
        make_program(make_config(model__cell="lstm", detach__p_block=p), 1) for p in (0.0, 0.5)
    )
    assert_identical(plain.init().params, blocked.init().params)
    for step in (0, 6, 7):
        assert_identical(plain.batch(step), blocked.batch(step))
    assert largest_difference(run(plain, 3).params, run(blocked, 3).params) > 1e-5


# ---- Evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize("num_devices", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 5, 13, 64])
def test_evaluation_counts_every_example_once(num_devices, batch_size):
    config = make_config(eval__batch_size=batch_size, num_seeds=2)
    data = RandomData()
    program = make_program(config, num_devices, data, objective=Mean())
    for split, (inputs, _) in data._splits.items():
        found = program.evaluate(program.init().params, split)["loss"]
        np.testing.assert_allclose(found, inputs[:, 0, 0].mean(dtype=np.float64), rtol=1e-6)
        assert found.shape == (2,)


def test_evaluation_of_10000_in_batches_of_128():
    # ORC-29: 78 full batches would hold only 9984.
    numbers = np.arange(10000, dtype=np.float32).reshape(-1, 1, 1)
    data = RandomData()
    data._splits["test"] = numbers, np.zeros(10000, np.int32)
    program = make_program(make_config(eval__batch_size=128), dataset=data, objective=Mean())
    assert program.evaluate(program.init().params, "test")["loss"] == [4999.5]


def test_state_specs_cover_the_state():
    program = make_program(make_config())
    state, template = program.init(), program.template()
    assert jax.tree.structure(state) == jax.tree.structure(template)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(template), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
        assert (leaf.shape, leaf.dtype) == (wanted.shape, wanted.dtype)
        assert leaf.sharding.spec == P()


@pytest.mark.parametrize(("num_devices", "batch_size"), [(1, 5), (4, 5), (2, 64)])
def test_an_evaluation_is_bounded_to_the_first_examples(num_devices, batch_size):
    config = make_config(eval__batch_size=batch_size, eval__max_examples=7)
    data, done = RandomData(), []
    program = make_program(config, num_devices, data, objective=Mean())
    inputs, _ = data._splits["test"]
    found = program.evaluate(program.init().params, "test", shown=done.append)["loss"]
    np.testing.assert_allclose(found, [inputs[:7, 0, 0].mean(dtype=np.float64)], rtol=1e-6)
    assert done == sorted(done) and done[-1] == 1.0
    assert program.evaluate.cut("test") == {"examples": 7, "of": len(inputs)}


def test_a_bound_above_the_split_cuts_nothing():
    data = RandomData()
    program = make_program(make_config(eval__max_examples=10**6), 1, data, objective=Mean())
    inputs, _ = data._splits["test"]
    found = program.evaluate(program.init().params, "test")["loss"]
    np.testing.assert_allclose(found, [inputs[:, 0, 0].mean(dtype=np.float64)], rtol=1e-6)
    assert program.evaluate.cut("test") == {}
