"""The order of examples, padding of evaluation batches, and the background thread."""

import contextlib
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_jax.data.pipeline import ArrayDataset, batch_indices, epoch_order, prefetch
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**64)


def numbered(num_train, batch_size, num_test=5):
    """A data set whose inputs and targets are the numbers of the examples."""

    def split(count):
        return np.arange(count).reshape(count, 1, 1), np.arange(count, dtype=np.int32)

    splits = {"train": split(num_train), "valid": split(3), "test": split(num_test)}
    return ArrayDataset(DataSpec("classify", 1, 1, 10), splits, batch_size, "numbers")


@given(sizes, sizes, seeds, st.integers(0, 5))
def test_each_epoch_holds_every_example_once(num_examples, batch_size, seed, epoch):
    # Batches that cover the positions of this epoch, cut to it: batches cross its borders.
    first, last = epoch * num_examples, (epoch + 1) * num_examples
    steps = range(first // batch_size, -(-last // batch_size))
    seen = np.concatenate([batch_indices(num_examples, batch_size, seed, s) for s in steps])
    start = first - steps[0] * batch_size
    in_epoch = seen[start : start + num_examples]
    assert sorted(in_epoch.tolist()) == list(range(num_examples))


@given(sizes, sizes, seeds, st.integers(0, 10**6), st.data())
def test_slices_of_rows_make_up_the_batch(num_examples, batch_size, seed, step, data):
    cut = data.draw(st.integers(0, batch_size))
    whole = batch_indices(num_examples, batch_size, seed, step)
    assert len(whole) == batch_size
    parts = [
        batch_indices(num_examples, batch_size, seed, step, rows)
        for rows in (slice(0, cut), slice(cut, batch_size))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_order_depends_on_seed_and_epoch_alone():
    orders = [epoch_order(50, seed, epoch).tolist() for seed in range(3) for epoch in range(3)]
    assert len(set(map(tuple, orders))) == 9
    epoch_order.cache_clear()
    assert epoch_order(50, 2, 1).tolist() == orders[7]


def test_a_late_step_costs_no_more_than_an_early_one():
    epoch_order.cache_clear()
    start = time.perf_counter()
    batch_indices(60_000, 64, 0, 10**9)
    assert time.perf_counter() - start < 1
    assert epoch_order.cache_info().misses == 1


def test_train_batch_pairs_inputs_with_targets():
    dataset = numbered(num_train=10, batch_size=4)
    whole = [dataset.train_batch(1, step, slice(0, 4)) for step in range(5)]
    for batch in whole:
        np.testing.assert_array_equal(batch["inputs"][:, 0, 0], batch["targets"])
        np.testing.assert_array_equal(batch["mask"], np.ones(4, np.float32))
        assert batch["targets"].dtype == np.int32
        assert batch["mask"].dtype == np.float32
    epochs = np.concatenate([batch["targets"] for batch in whole]).reshape(2, 10)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0].tolist() != epochs[1].tolist()
    for key in ("inputs", "targets", "mask"):
        parts = [dataset.train_batch(1, 3, slice(a, a + 2))[key] for a in (0, 2)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[3][key])


def test_evaluation_counts_every_example():
    # ORC-29: 78 full batches of 128 hold 9 984 examples only.
    dataset = numbered(num_train=10, batch_size=4, num_test=10_000)
    batches = list(dataset.eval_batches("test", 128))
    assert {len(batch["inputs"]) for batch in batches} == {128}
    assert len(batches) == 79
    assert sum(batch["mask"].sum() for batch in batches) == 10_000 == dataset.eval_size("test")
    kept = np.concatenate([batch["targets"][batch["mask"] == 1] for batch in batches])
    np.testing.assert_array_equal(kept, np.arange(10_000))


@given(st.integers(1, 30), st.integers(1, 40))
def test_padding_is_masked(num_test, batch_size):
    dataset = numbered(num_train=10, batch_size=4, num_test=num_test)
    batches = list(dataset.eval_batches("test", batch_size))
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert mask.tolist() == [1.0] * num_test + [0.0] * (len(mask) - num_test)
    assert len(mask) - num_test < batch_size
    for batch in batches:
        assert batch["inputs"].shape == (batch_size, 1, 1)
        assert not batch["inputs"][batch["mask"] == 0].any()


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 4))
def test_rows_of_evaluation_batches_make_up_the_batches(num_test, share, processes):
    dataset = numbered(num_train=10, batch_size=4, num_test=num_test)
    size = share * processes
    whole = list(dataset.eval_batches("test", size))
    parts = [
        list(dataset.eval_batches("test", size, slice(first, first + share)))
        for first in range(0, size, share)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        for name, array in batch.items():
            assert all(len(part[name]) == share for part in shares)
            np.testing.assert_array_equal(np.concatenate([p[name] for p in shares]), array)


def test_bad_values_are_refused():
    with pytest.raises(UserError, match=r"data\.batch_size=0"):
        numbered(num_train=10, batch_size=0)
    dataset = numbered(num_train=10, batch_size=4)
    with pytest.raises(UserError, match="unknown split 'dev': use one of train, valid, test"):
        dataset.eval_size("dev")
    # Raised by the call, not by the first iteration.
    with pytest.raises(UserError, match="unknown split 'dev'"):
        dataset.eval_batches("dev", 4)
    with pytest.raises(UserError, match="batch size 0"):
        dataset.eval_batches("test", 0)


def test_describe_is_one_line_with_the_sizes():
    text = numbered(num_train=10, batch_size=4).describe()
    assert "10 / 3 / 5" in text
    assert "\n" not in text


def prefetch_threads():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_prefetch_yields_in_order_from_another_thread(depth):
    def make_batch(step):
        return step * step, threading.current_thread()

    got = list(prefetch(make_batch, range(3, 9), depth))
    assert [(step, batch[0]) for step, batch in got] == [(s, s * s) for s in range(3, 9)]
    assert {batch[1] for _, batch in got}.isdisjoint({threading.current_thread()})
    assert not prefetch_threads()


def test_prefetch_works_ahead_by_depth_and_no_more():
    made = []
    with contextlib.closing(prefetch(lambda step: made.append(step), range(100), 3)) as steps:
        next(steps)
        deadline = time.monotonic() + 10
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)  # time enough for a fifth, were there one
        assert made == [0, 1, 2, 3]
    assert not prefetch_threads()


def test_prefetch_raises_what_make_batch_raises():
    def make_batch(step):
        if step == 2:
            raise OSError("gone")
        return step

    seen = []
    with pytest.raises(OSError, match="gone"):
        for step, _ in prefetch(make_batch, range(5), 2):
            seen.append(step)
    assert seen == [0, 1]
    assert not prefetch_threads()


def test_leaving_the_loop_early_ends_the_thread():
    with contextlib.closing(prefetch(lambda step: step, range(10**9), 2)) as steps:
        for step, _ in steps:
            if step == 3:
                break
    assert not prefetch_threads()


def test_prefetch_of_no_steps():
    assert list(prefetch(lambda step: step, range(0))) == []
    with pytest.raises(ValueError, match="depth=0"):
        next(prefetch(lambda step: step, range(4), 0))
