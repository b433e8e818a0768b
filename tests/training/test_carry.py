"""The carry slot: what a streaming objective hands from one batch to the next."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lrd_jax.runtime.checkpoints import Checkpoints
from lrd_jax.runtime.devices import AXIS
from lrd_jax.training.state import join_best, split_best
from tests.training.harness import (
    RandomData,
    Stream,
    assert_identical,
    make_config,
    make_program,
    run,
)

RATE = 0.5


def make_stream(num_devices=4, **overrides):
    config = make_config(
        optim__name="sgd", optim__learning_rate=RATE, optim__clip_norm=0.0, **overrides
    )
    return make_program(config, num_devices, objective=Stream())


def expected(steps, seed=0):
    """The carry and w after some steps, in closed form."""
    data, carry = RandomData(), np.ones((8, Stream.width))
    for step in range(steps):
        x = data.train_batch(seed, step, slice(None))["inputs"][:, 0, :1]
        carry = carry / 2 + x - RATE * step  # w after `step` updates of gradient 1
    return carry, np.full(Stream.width, -RATE * steps)


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_carry_travels_from_batch_to_batch(num_devices):
    program = make_stream(num_devices, num_seeds=2)
    state = run(program, 9)
    for seed in (0, 1):
        carry, w = expected(9, seed)
        np.testing.assert_allclose(state.carry["s"][seed], carry, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.params["w"][seed], w, rtol=1e-5)


def test_carry_is_split_like_the_batch():
    state = run(make_stream(), 3)
    for leaf in (state.carry["s"], make_stream().init().carry["s"]):
        assert leaf.sharding.spec == P(None, AXIS)
        assert [shard.data.shape for shard in leaf.addressable_shards] == [(1, 2, 3)] * 4


@pytest.mark.parametrize("restored_on", [4, 2, 1])
def test_carry_is_saved_and_restored_exactly(tmp_path, restored_on):
    program = make_stream(4)
    state = run(program, 4)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(4, split_best(state), {})
    checkpoints.wait()
    again = make_stream(restored_on)
    restored = join_best(checkpoints.restore_latest(split_best(again.template()))[0])
    checkpoints.close()
    assert_identical(state, restored)
    assert len(restored.carry["s"].addressable_shards) == restored_on
    if restored_on == 4:
        assert_identical(run(program, 5, state), run(again, 5, restored))
    else:
        carry, _ = expected(9)
        np.testing.assert_allclose(
            run(again, 5, restored).carry["s"][0], carry, rtol=1e-5, atol=1e-6
        )


def test_evaluation_carries_too_and_starts_anew():
    program = make_stream(num_seeds=2, eval__batch_size=4)
    params = program.init().params
    found = [program.evaluate(params, "test")["loss"] for _ in range(2)]
    inputs = RandomData()._splits["test"][0][:, 0, 0]  # 11 examples: 4, 4 and 3
    rows = np.pad(inputs, (0, 1)).reshape(3, 4)
    carry, total = np.ones(4), 0.0
    for row, real in zip(rows, ([1] * 4, [1] * 4, [1, 1, 1, 0]), strict=True):
        carry = carry / 2 + row  # w is 0 at the start
        total += (carry * real).sum() * Stream.width
    for values in found:
        np.testing.assert_allclose(values, [total / 11] * 2, rtol=1e-5)


def test_a_frozen_seed_keeps_its_carry():
    config = make_config(optim__name="sgd", num_seeds=2)
    data = RandomData(poison=(1, 2))
    program = make_program(config, dataset=data, objective=Stream())
    before = run(program, 2)
    kept = jax.device_get(before.carry)
    state = run(program, 3, before)
    np.testing.assert_array_equal(state.carry["s"][1], kept["s"][1])
    assert np.abs(state.carry["s"][0] - kept["s"][0]).max() > 0.1
