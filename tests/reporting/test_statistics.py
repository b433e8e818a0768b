"""Mean, deviation and interval over seeds."""

import numpy as np
import pytest

from lrd_jax.metrics import ACCURACY
from lrd_jax.reporting.statistics import by_value, over_seeds


def test_mean_deviation_and_interval():
    accuracies = [0.90, 0.94, 0.91, 0.95, 0.92]
    found = over_seeds([{"accuracy": value} for value in accuracies])["accuracy"]
    assert found["seeds"] == 5
    assert found["mean"] == pytest.approx(np.mean(accuracies))
    assert found["std"] == pytest.approx(np.std(accuracies, ddof=1))
    # The 97.5 % quantile of Student's t with 4 degrees of freedom is 2.776 (Fisher's table).
    reach = 2.776 * np.std(accuracies, ddof=1) / np.sqrt(5)
    low, high = found["interval"]
    assert (low, high) == pytest.approx((0.924 - reach, 0.924 + reach), abs=1e-5)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_covers_the_mean_as_often_as_it_says(seeds):
    """Normal draws around 0: 95 % of the intervals hold it, within five standard errors."""
    draws = np.random.default_rng(seeds).standard_normal((2000, seeds))
    held = 0
    for row in draws:
        low, high = over_seeds([{"loss": float(value)} for value in row])["loss"]["interval"]
        held += low <= 0 <= high
    assert abs(held / 2000 - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 2000)


def test_the_interval_ends_where_the_range_does():
    runs = [{"accuracy": value} for value in (0.99, 1.0, 0.97)]
    low, high = over_seeds(runs, [ACCURACY])["accuracy"]["interval"]
    assert high == 1.0 and 0.9 < low < 0.97
    assert over_seeds(runs)["accuracy"]["interval"][1] > 1


def test_two_seeds_have_their_values_and_no_interval():
    found = over_seeds([{"loss": 0.5}, {"loss": 0.7}, {"loss": None}])["loss"]
    assert found.pop("std") == pytest.approx(0.1 * np.sqrt(2))
    assert found == {"seeds": 2, "mean": 0.6, "values": [0.5, 0.7]}


def test_seeds_without_a_value_are_left_out():
    runs = [{"loss": 0.5}, {"loss": None}, {"loss": float("nan")}]
    assert over_seeds(runs) == {"loss": {"seeds": 1, "mean": 0.5}}
    assert over_seeds(runs[1:]) == {"loss": {"seeds": 0, "mean": None}}


def test_equal_values_have_an_interval_of_no_width():
    found = over_seeds([{"accuracy": 0.5}] * 3)["accuracy"]
    assert found == {"seeds": 3, "mean": 0.5, "std": 0.0, "interval": [0.5, 0.5]}


def test_groups_by_swept_value():
    runs = [{"seed": s, "sweep": {"p_block": p}} for p in (0.0, 0.5) for s in (1, 2)]
    assert by_value(runs) == [({"p_block": 0.0}, runs[:2]), ({"p_block": 0.5}, runs[2:])]
    assert by_value([{"seed": 1}, {"seed": 2}]) == [({}, [{"seed": 1}, {"seed": 2}])]
