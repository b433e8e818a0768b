"""What a `Program` does otherwise where its devices are GPUs, on CPU devices that pass for them."""

import math
import types

import numpy as np
import pytest

from lrd_jax.errors import UserError
from lrd_jax.evaluation import scorer
from lrd_jax.training import program as program_module
from tests.training.harness import SIZES, RandomData, Stream, make_config, make_program


def evaluated(monkeypatch, on_gpu, objective=None, **overrides):
    """Metrics of the test split, and the size of the batches they were computed in."""
    monkeypatch.setattr(scorer, "prefers_loops", lambda _: not on_gpu)
    config = make_config(data__batch_size=4, **overrides)
    dataset, sizes = RandomData(4), []
    batches = dataset.eval_batches

    def recorded(split, size, rows):
        sizes.append(size)
        return batches(split, size, rows)

    dataset.eval_batches = recorded
    program = make_program(config, 2, dataset, objective)
    return program.evaluate(program.init().params, "test"), sizes


def test_a_gpu_evaluates_many_sequences_at_a_time(monkeypatch):
    few, small = evaluated(monkeypatch, on_gpu=False)
    many, large = evaluated(monkeypatch, on_gpu=True)
    whole = math.ceil(SIZES["test"] / 2) * 2  # no more than there are, over two devices
    assert (small, large) == ([4], [whole])
    for name, value in few.items():
        np.testing.assert_allclose(many[name], value, rtol=1e-6)


@pytest.mark.slow
def test_all_members_together_are_so_many(monkeypatch):
    monkeypatch.setattr(scorer, "_SEQUENCES_ON_GPU", 18)
    assert evaluated(monkeypatch, on_gpu=True, num_seeds=3)[1] == [6]
    assert evaluated(monkeypatch, on_gpu=True, num_seeds=6)[1] == [4]  # as in training


def test_a_size_that_is_asked_for_is_taken(monkeypatch):
    assert evaluated(monkeypatch, on_gpu=True, eval__batch_size=6)[1] == [6]


def test_a_state_that_goes_on_keeps_the_score(monkeypatch):
    few, small = evaluated(monkeypatch, False, Stream())
    many, large = evaluated(monkeypatch, True, Stream())
    assert small == large == [4]
    np.testing.assert_array_equal(few["loss"], many["loss"])


def test_the_state_must_fit_into_the_memory_of_the_device(monkeypatch):
    gpu = types.SimpleNamespace(
        platform="gpu", device_kind="H100", memory_stats=lambda: {"bytes_limit": 2**30}
    )
    mesh = types.SimpleNamespace(devices=np.array([gpu, gpu]), size=2)
    state = [types.SimpleNamespace(shape=(3, 2**26), dtype=np.dtype(np.float32))]  # 0.75 GiB
    with pytest.raises(UserError, match=r"state need 2 GiB .*H100 has 1; lower model.hidden"):
        program_module._check_memory(state, "batch", mesh)
    program_module._check_memory(state, "seeds", mesh)  # a half on each
    gpu.memory_stats = lambda: None
    program_module._check_memory(state, "batch", mesh)
