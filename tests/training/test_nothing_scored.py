"""A batch without any scored label."""

import jax
import numpy as np

from tests.training.harness import Mean, RandomData, make_config, make_program


class NothingCounts(RandomData):
    def train_batch(self, seed, step, rows):
        batch = super().train_batch(seed, step, rows)
        return batch | {"mask": np.zeros_like(batch["mask"])}


def test_it_changes_nothing_and_freezes_nobody():
    config = make_config(num_seeds=2)
    program = make_program(config, 2, dataset=NothingCounts(), objective=Mean())
    before = program.init()
    params = jax.device_get(before.params)
    after = program.train_step(before, program.batch(0))
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(after.params))
    np.testing.assert_array_equal(after.first_nonfinite_step, [-1, -1])
    assert int(after.step) == 1
