"""Mean, deviation and interval over seeds."""

import numpy as np
import pytest
from scipy import stats

from lrd_jax.errors import UserError
from lrd_jax.metrics import ACCURACY
from lrd_jax.reporting.statistics import PAIRED, WELCH, by_value, difference, over_seeds


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


# ---- The difference of two settings -------------------------------------------------------------


def compared(first, second, seeds_first=None, seeds_second=None, **rest):
    return difference(
        [*map(float, first)],
        [*map(float, second)],
        seeds_first=range(len(first)) if seeds_first is None else seeds_first,
        seeds_second=range(len(second)) if seeds_second is None else seeds_second,
        **rest,
    )


def test_shared_seeds_are_compared_in_pairs():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 6))
    found = compared(first, second[::-1], seeds_second=[*range(6)][::-1])  # their order is free
    wanted = stats.ttest_rel(second, first)
    assert found["mean"] == pytest.approx(np.mean(second - first))
    assert found["interval"] == pytest.approx(wanted.confidence_interval(0.95), rel=1e-9)
    assert (found["seeds"], found["interval_method"]) == ([6, 6], PAIRED)


def test_other_seeds_are_compared_by_welch():
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal(4), 3 * rng.standard_normal(7)
    found = compared(first, second, seeds_second=range(4, 11))
    wanted = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(np.mean(second) - np.mean(first))
    assert found["interval"] == pytest.approx(wanted, rel=1e-9)
    assert (found["seeds"], found["interval_method"]) == ([4, 7], WELCH)


def test_what_is_shared_only_in_part_is_paired_where_that_is_enough():
    first, second = [1.0, 2.0, 4.0, 9.0], [2.0, 4.0, 5.0, 0.0]
    found = compared(first, second, [0, 1, 2, 3], [1, 2, 3, 4])
    assert (found["seeds"], found["interval_method"]) == ([3, 3], PAIRED)
    assert found["mean"] == pytest.approx(((2 - 2) + (4 - 4) + (5 - 9)) / 3)
    found = compared(first, second, [0, 1, 2, 3], [2, 3, 4, 5])
    assert (found["seeds"], found["interval_method"]) == ([4, 4], WELCH)


@pytest.mark.parametrize("shared", [True, False])
def test_the_interval_of_a_difference_covers_it_as_often_as_it_says(shared):
    """Differences of normal draws around 0.5, of unequal spread; pairs share most of theirs."""
    rng = np.random.default_rng(2)
    held, tries = 0, 1500
    for _ in range(tries):
        common = 5 * rng.standard_normal(4) if shared else 0.0
        first, second = rng.standard_normal(4) + common, 0.5 + 2 * rng.standard_normal(4) + common
        found = compared(first, second, seeds_second=range(4) if shared else range(4, 8))
        low, high = found["interval"]
        held += low <= 0.5 <= high
    # Welch's is known to be slightly off with so few; pairs are exact.
    assert abs(held / tries - 0.95) < 5 * np.sqrt(0.95 * 0.05 / tries)


def test_pairs_see_what_the_seeds_hide():
    seeds = np.array([0.5, 0.9, 0.1, 0.7])
    low, high = compared(seeds, seeds + 0.01 * np.array([1, 2, 1, 2]))["interval"]
    assert 0 < low < high < 0.03
    low, high = compared(seeds, seeds + 0.015, seeds_second=range(4, 8))["interval"]
    assert low < 0 < high


def test_a_difference_of_few_seeds_has_no_interval():
    assert compared([0.5, 0.6], [0.75, 0.7]) == {
        "mean": pytest.approx(0.175),
        "seeds": [2, 2],
        "values": pytest.approx([0.25, 0.1]),
        "interval_method": PAIRED,
    }
    assert compared([0.5], [0.75]) == {
        "mean": 0.25,
        "seeds": [1, 1],
        "interval_method": PAIRED,
    }
    assert compared([0.5, 0.7], [1.0], [0, 1], [2]) == {
        "mean": pytest.approx(0.4),
        "seeds": [2, 1],
        "interval_method": WELCH,
    }


def test_a_difference_leaves_out_seeds_without_a_value():
    found = compared([0.5, 0.5, 0.6, 0.7], [0.6, 0.5, 0.8, float("nan")])
    assert found["mean"] == pytest.approx(0.1) and found["seeds"] == [3, 3]
    nothing = difference([None], [0.5], seeds_first=[0], seeds_second=[0])
    assert nothing["mean"] is None and "interval" not in nothing and nothing["seeds"] == [0, 1]


def test_a_difference_ends_where_the_range_does():
    first, second = [0.0, 0.0, 0.5], [1.0, 1.0, 0.5]
    low, high = compared(first, second, metric=ACCURACY)["interval"]
    assert high == 1.0 and -1 <= low < 0.5
    assert compared(first, second)["interval"][1] > 1
    assert compared([0.5] * 3, [0.75] * 3)["interval"] == [0.25, 0.25]
    assert compared([0.5] * 3, [0.75] * 3, seeds_second=[4, 5, 6])["interval"] == [0.25, 0.25]


def test_a_difference_needs_a_seed_for_each_value():
    with pytest.raises(UserError, match="give a seed for each value"):
        compared([0.5], [0.5, 0.6], seeds_second=[0])
    with pytest.raises(UserError, match="all of them different"):
        compared([0.5, 0.6], [0.5, 0.6], seeds_second=[0, 0])


def test_a_difference_in_words_names_how_many_seeds_and_how_they_were_compared():
    from lrd_jax.metrics import ACCURACY, LOSS
    from lrd_jax.reporting.comparison import difference_text, differences

    def entries(seeds, values):
        return [
            {"seed": s, "test": {"accuracy": v, "loss": 1.0}}
            for s, v in zip(seeds, values, strict=True)
        ]

    first = entries((0, 1, 2), (0.5, 0.6, 0.7))
    found = differences(first, entries((2, 1, 0), (0.75, 0.62, 0.53)), (ACCURACY, LOSS))
    # 0.03, 0.02, 0.05: mean 0.0333, deviation 0.015275, t(2) = 4.3027
    assert (
        difference_text(ACCURACY, found["accuracy"])
        == "+3.33 points [-0.46, +7.13] (3 seeds, paired)"
    )
    assert difference_text(LOSS, found["loss"]) == "+0.0000 [+0.0000, +0.0000] (3 seeds, paired)"
    for second, text in (
        (((0, 1), (0.6, 0.8)), "+15.00 points (+10.00, +20.00) (2 seeds, paired, no interval)"),
        (((0,), (0.6,)), "+10.00 points (1 seed, paired, no interval)"),
        (((7,), (0.6,)), "+0.00 points (3 against 1 other seed, no interval)"),
        (((0,), (None,)), "no value"),
    ):
        other = differences(first, entries(*second), (ACCURACY,))
        assert difference_text(ACCURACY, other["accuracy"]) == text
    welch = differences(first, entries((3, 4, 5), (0.5, 0.6, 0.7)), (ACCURACY,))["accuracy"]
    assert difference_text(ACCURACY, welch).endswith("(3 against 3 other seeds)")
