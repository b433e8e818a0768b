"""What a run needs at least: never more than the compiled programs take, refused before data."""

import functools

import jax
import pytest

from lrd_jax.data.spec import CaptionSpec, DataSpec
from lrd_jax.errors import UserError
from lrd_jax.evaluation import estimate
from lrd_jax.runtime import devices
from lrd_jax.training.program import make_program
from tests.training import harness
from tests.training.harness import SPEC, make_config

GIB = 2**30
COPY = {"data__name": "copy", "data__preset": "gu", "data__delay": 10}


def needed(monkeypatch, check):
    """Bytes that a check asks for: the most memory that it refuses, by halving."""
    low, high = 0, 2**60
    while high - low > 1:
        middle = (low + high) // 2
        monkeypatch.setattr(estimate, "memory_of", lambda _, m=middle: (m, "this machine"))
        try:
            check()
            high = middle
        except UserError:
            low = middle
    return high


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"model__num_layers": 2, "model__bidirectional": True, "num_seeds": 2},
        {"model__cell": "lstm", "model__backend": "scan", "truncate__steps": 5},
        {"model__recompute": True, "model__compute_dtype": "bfloat16", "model__backend": "fused"},
        pytest.param(
            {"aux__kind": "predict", "aux__segment_length": 9, "aux__n_anchors": 3},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_it_never_exceeds_what_the_compiled_step_takes(monkeypatch, changed):
    config = make_config(**{"model__hidden_size": 16, "data__batch_size": 32} | changed)
    program = harness.make_program(config, num_devices=1)
    found = program.lower_train_step().compile().memory_analysis()
    taken = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    count = len(program.members)
    check = functools.partial(estimate.check_training, config, SPEC, program.mesh, count)
    assert 0 < needed(monkeypatch, check) <= taken


@pytest.mark.parametrize("backend", ["scan", "fused"])
def test_it_never_exceeds_what_an_evaluation_takes(monkeypatch, backend):
    config = make_config(model__backend=backend, model__hidden_size=16)
    program = harness.make_program(config, num_devices=1)
    batch = program.dataset.train_batch(0, 0, slice(None))
    params = program.template().params
    found = program.evaluate.eval_step.lower(params, (), batch).compile().memory_analysis()
    taken = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    check = functools.partial(estimate.check_evaluation, config, SPEC, program.mesh, 8)
    assert 0 < needed(monkeypatch, check) <= taken


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data__delay": 10**9}, "lower data.batch_size"),
        ({"data__batch_size": 10**9}, "lower data.batch_size"),
        ({"model__num_layers": 1000}, "would compile for about 17 minutes"),
        ({"train__steps_per_call": 2**31 - 1}, "lower train.steps_per_call"),
    ],
)
def test_a_task_too_large_is_refused_before_its_examples_are_made(monkeypatch, changed, message):
    monkeypatch.setattr(estimate, "memory_of", lambda _: (24 * GIB, "this machine"))
    monkeypatch.setattr("lrd_jax.training.program.make_dataset", lambda _: pytest.fail("made"))
    with pytest.raises(UserError, match=message) as caught:
        make_program(make_config(**COPY | changed))
    assert "\n" not in str(caught.value)


def test_more_runs_side_by_side_than_have_time_are_refused():
    config = make_config(num_seeds=1_000_000, model__hidden_size=4)
    with pytest.raises(UserError, match=r"1,000,000 runs side by side would wait about 50 s at ea"):
        make_program(config)
    estimate.check_members(100_000)


def test_evaluations_too_large_are_refused(monkeypatch):
    monkeypatch.setattr(estimate, "memory_of", lambda _: (24 * GIB, "this machine"))
    mesh = devices.make_mesh(jax.devices()[:1])
    long = DataSpec("tag", length=10**9 + 20, features=10, classes=10, one_hot=True)
    with pytest.raises(UserError, match=r"at least .* GiB are needed, .*lower eval.batch_size"):
        estimate.check_evaluation(make_config(), long, mesh, 2)
    with pytest.raises(UserError, match=r"lower eval\.sample_tokens"):
        estimate.check_sample(2**31 - 1, mesh)
    captions = DataSpec("caption", length=17, features=8, classes=100)
    with pytest.raises(UserError, match=r"the captions kept \(lower eval\.beam_size\)"):
        estimate.check_evaluation(make_config(eval__beam_size=10**8), captions, mesh, 10)
    drawn = make_config(eval__beam_size=10**8, eval__decode="sample")
    for config in (make_config(eval__beam_size=100), drawn):
        estimate.check_evaluation(config, captions, mesh, 10)
    estimate.check_evaluation(make_config(), SPEC, mesh, 1000)
    estimate.check_sample(10**6, mesh)


def test_more_captions_of_a_picture_than_fit_are_refused(monkeypatch):
    monkeypatch.setattr(estimate, "memory_of", lambda _: (24 * GIB, "this machine"))
    mesh = devices.make_mesh(jax.devices()[:1])

    def spec(per_image):
        captions = CaptionSpec((), per_image, 9)
        return DataSpec("caption", length=17, features=8, classes=10, captions=captions)

    for check, rest in (
        (estimate.check_training, (spec(10**9), mesh, 1)),
        (estimate.check_evaluation, (spec(10**9), mesh, 8)),
    ):
        with pytest.raises(UserError, match=r"at least .* GiB are needed"):
            check(make_config(), *rest)
    estimate.check_training(make_config(), spec(5), mesh, 1)
    estimate.check_evaluation(make_config(), spec(5), mesh, 8)
