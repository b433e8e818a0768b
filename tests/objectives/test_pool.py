"""What of the outputs over time a classifier reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.config.horizon import Horizon
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.models import pooled
from lrd_jax.objectives import make_objective
from lrd_jax.recurrence import RecurrenceOutput
from tests.training.harness import SPEC, make_config

OUTPUTS = jnp.array(np.random.default_rng(0).standard_normal((3, 5, 4)))
OUT = RecurrenceOutput(OUTPUTS, OUTPUTS[:, -1], (), (), ())


@pytest.mark.parametrize("lengths", [None, (5, 2, 1)])
def test_only_valid_steps_are_pooled(lengths):
    given = None if lengths is None else jnp.array(lengths)
    for how, function in (("mean", np.mean), ("max", np.max)):
        found = pooled(OUT, how, given)
        for row, length in enumerate(lengths or (5, 5, 5)):
            expected = function(np.asarray(OUTPUTS)[row, :length], axis=0)
            np.testing.assert_allclose(found[row], expected, rtol=1e-6)
    assert pooled(OUT, "last", given) is OUT.last


def test_the_head_reads_what_is_pooled():
    config = make_config(model__pool="mean", model__bidirectional=True)
    objective = make_objective(config, SPEC, Horizon(1, 1))
    params = objective.init(jax.random.key(0))
    x = jnp.array(np.random.default_rng(1).standard_normal((2, SPEC.length, SPEC.features)))
    logits, out = objective.model.apply({"params": params}, x.astype(jnp.float32))
    read = objective.model.apply({"params": params}, out.outputs.mean(1), method="read")
    np.testing.assert_allclose(logits, read, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_pooled_is_refused():
    with pytest.raises(UserError, match=r"unknown model\.pool='mode': use one of last, mean, max"):
        make_objective(make_config(model__pool="mode"), SPEC, Horizon(1, 1))
    tagged = DataSpec("tag", length=8, features=1, classes=3, scored=4)
    with pytest.raises(
        UserError, match=r"model\.pool=mean .* a label at each of 4 steps: set model\.pool=last"
    ):
        make_objective(make_config(model__pool="mean"), tagged, Horizon(1, 1))
    cut = make_config(
        model__pool="max", aux__kind="reconstruct", aux__segment_length=4, truncate__steps=5
    )
    with pytest.raises(UserError, match=r"set truncate\.supervised=0, or model\.pool=last"):
        make_objective(cut, SPEC, Horizon(1, 1))
