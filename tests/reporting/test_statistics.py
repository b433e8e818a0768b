"""Mean, deviation and interval over seeds."""

import numpy as np
import pytest

from lrd_jax.reporting.statistics import by_value, over_seeds


def test_mean_deviation_and_interval():
    accuracies = [0.90, 0.94, 0.91, 0.95, 0.92]
    found = over_seeds([{"accuracy": value} for value in accuracies])["accuracy"]
    assert found["seeds"] == 5
    assert found["mean"] == pytest.approx(np.mean(accuracies))
    assert found["std"] == pytest.approx(np.std(accuracies, ddof=1))
    # All 5^5 resamples are few enough to be listed: the exact bootstrap distribution of the mean.
    grids = np.meshgrid(*[accuracies] * 5)
    means = np.mean([grid.ravel() for grid in grids], axis=0)
    assert found["interval"] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=2e-3)


def test_the_interval_is_the_same_every_time():
    runs = [{"loss": value} for value in (0.3, 0.1, 0.25)]
    assert over_seeds(runs) == over_seeds(runs)


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
