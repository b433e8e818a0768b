"""The batch of a step in parts: draws, sums and weights are those of the whole."""

import jax
import numpy as np
import pytest

from lrd_jax.config import checks
from lrd_jax.errors import UserError
from lrd_jax.runtime import devices
from tests.training.harness import (
    RandomData,
    Stream,
    largest_difference,
    make_config,
    make_program,
    run,
)

# All that is drawn: for the batch, and for each example.
DRAWS = {
    "model__num_layers": 2,
    "model__dropout": 0.3,
    "model__output_dropout": 0.2,
    "model__input_noise": 0.1,
    "model__zoneout_h": 0.1,
    "model__head_dropconnect": 0.2,
    "detach__p_block": 0.5,
}
FEW = {"model__cell": "lstm", "model__output_dropout": 0.2, "detach__p_block": 0.5}
AUXILIARY = {"aux__kind": "both", "aux__segment_length": 4, "aux__n_anchors": 2}


def after(steps, num_devices=1, objective=None, **options):
    """The state; rows of each batch are masked, so that parts count differently."""
    return run(make_program(make_config(**options), num_devices, objective=objective), steps)


@pytest.mark.parametrize(
    ("options", "num_devices"),
    [
        (FEW, 1),
        pytest.param(DRAWS | {"num_seeds": 2}, 1, marks=pytest.mark.slow),
        pytest.param(DRAWS | {"detach__scope": "example"}, 2, marks=pytest.mark.slow),
        pytest.param(AUXILIARY, 1, marks=pytest.mark.slow),
        pytest.param(AUXILIARY | {"aux__scope": "example"}, 2, marks=pytest.mark.slow),
        pytest.param(
            {"num_seeds": 2, "devices__split": "seeds", "optim__ema_decay": 0.9},
            2,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_four_parts_equal_the_whole(options, num_devices):
    """SGD: Adam would divide a rounding error by the size of a gradient of almost 0."""
    options = {"optim__name": "sgd", "optim__learning_rate": 0.1} | options
    whole, parts = (after(3, num_devices, train__accumulate=k, **options) for k in (1, 4))
    assert largest_difference(whole.params, parts.params) < 1e-6
    assert largest_difference(whole.average, parts.average) < 1e-6 if whole.average else True
    for name, sums in whole.sums.items():
        for one, other in zip(sums, parts.sums[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, err_msg=name)
    assert int(parts.step) == 3
    np.testing.assert_array_equal(whole.sums["loss"][1], parts.sums["loss"][1])


@pytest.mark.parametrize("num_devices", [1, 2])
def test_what_travels_between_batches_stays_with_its_example(num_devices):
    whole, parts = (
        after(3, num_devices, Stream(), train__accumulate=k, optim__name="sgd") for k in (1, 4)
    )
    assert largest_difference(whole.carry, parts.carry) < 1e-6
    assert largest_difference(whole.params, parts.params) < 1e-6


def test_parts_that_do_not_fit():
    with pytest.raises(UserError, match=r"train\.accumulate=3 cuts data\.batch_size=8 into equal"):
        checks.validate(make_config(train__accumulate=3))
    with pytest.raises(UserError, match=r"in train\.accumulate=4 parts does not divide over 4 dev"):
        make_program(make_config(train__accumulate=4), num_devices=4)
    devices.check_split("batch", 8, 1, devices.make_mesh(jax.devices()[:2]), 4)


@pytest.mark.slow
def test_less_is_kept_for_the_backward_pass():
    """Parts of a batch need the memory of one of them."""
    wide = {"model__hidden_size": 64, "data__batch_size": 32}
    sizes = []
    for parts in (1, 8):
        program = make_program(make_config(train__accumulate=parts, **wide), 1, RandomData(32))
        found = program.lower_train_step().compile().memory_analysis()
        sizes.append(found.temp_size_in_bytes)
    assert sizes[1] < sizes[0] / 2
