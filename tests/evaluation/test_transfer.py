"""Which delays and lengths may be asked for."""

from pathlib import Path

import pytest

from lrd_jax.config import defaults
from lrd_jax.errors import UserError
from lrd_jax.evaluation import transfer


@pytest.mark.parametrize(
    ("delays", "message"),
    [((0, 5), "whole numbers of steps, at least 1"), ((5, 5), "must be different ones")],
)
def test_wrong_delays(delays, message):
    config = defaults.get_config()
    config.data.name, config.eval.delays = "copy", delays
    with pytest.raises(UserError, match=message):
        transfer.check(Path(), config)
