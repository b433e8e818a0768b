"""How metrics come about, are shown, compared and recorded."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrd_jax.metrics import (
    ACCURACY,
    BITS_PER_CHAR,
    LOSS,
    MAE,
    MSE,
    NATS,
    PERPLEXITY,
    CollectedMetric,
    Metric,
    declarations,
    declared,
    finish,
    finish_collected,
    stored,
    summed,
)
from lrd_jax.objectives.captioning import WORD_LOSS
from lrd_jax.reporting.statistics import over_seeds

# Standard deviation of errors, from a count, a sum and a sum of squares.
SPREAD = Metric(
    "spread", shapes=((), (2,)), finish=lambda n, s: math.sqrt(s[1] / n - (s[0] / n) ** 2)
)
WORDS = CollectedMetric("words", finish=lambda outputs: float(outputs["said"].sum()))


def test_sums_of_any_shape_become_a_value_a_member():
    x = np.random.default_rng(0).normal(size=(3, 50))
    sums = {
        "spread": (np.full(3, 50.0), np.stack([x.sum(1), (x**2).sum(1)], axis=1)),
        "loss": (np.array([4.0, 6.0, 0.0]), np.array([2.0, 2.0, 0.0])),
        "grad_norm": (np.array([1.0, 2.0, 3.0]), np.ones(3)),
    }
    found = finish((LOSS, SPREAD, PERPLEXITY), sums)
    np.testing.assert_allclose(found["spread"], x.std(axis=1))
    np.testing.assert_array_equal(found["loss"], [2, 3, np.nan])  # who counted nothing has none
    np.testing.assert_array_equal(found["perplexity"], np.exp([2, 3, np.nan]))
    np.testing.assert_array_equal(found["grad_norm"], [1, 2, 3])
    assert list(found) == ["spread", "loss", "grad_norm", "perplexity"]


def test_dtypes_stay():
    found = finish((NATS, BITS_PER_CHAR), {"loss": (np.float32([1, 2]), np.float32([3, 3]))})
    assert found["loss"].dtype == found["bits_per_char"].dtype == np.float32
    np.testing.assert_array_equal(found["loss"], np.float32([1, 2]) / np.float32(3))


def test_collected_outputs_leave_out_padding():
    said = np.arange(12.0).reshape(2, 3, 2)
    batches = [({"said": said}, np.array([[1, 1, 1]] * 2)), ({"said": said}, [[1, 0, 0]] * 2)]
    batches = [(outputs, np.asarray(mask)) for outputs, mask in batches]
    expected = [said[member].sum() + said[member, 0].sum() for member in (0, 1)]
    np.testing.assert_array_equal(finish_collected((LOSS, WORDS), batches)["words"], expected)
    assert finish_collected((LOSS,), []) == {}


def test_where_a_metric_lives():
    everything = (LOSS, PERPLEXITY, WORDS, SPREAD)
    assert summed(everything) == (LOSS, SPREAD)
    assert stored(everything) == (LOSS, WORDS, SPREAD)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (ACCURACY, 0.94016, "accuracy 94.02 %"),
        (LOSS, 0.21344, "loss 0.2134"),
        (NATS, 1.5, "loss 1.5000 nats"),
        (PERPLEXITY, 142.44, "perplexity 142.4"),
        (BITS_PER_CHAR, 2.1512, "2.151 bits per character"),
    ],
)
def test_how_values_are_shown(metric, value, text):
    assert metric.labelled(metric.text(value)) == text


@given(
    st.sampled_from(["", "%", "nats"]),
    st.integers(0, 6),
    st.booleans(),
    st.tuples(st.sampled_from([-math.inf, -1.0, 0.0]), st.sampled_from([1.0, math.inf])),
)
def test_declarations_survive_json(unit, digits, higher, ends):
    metric = Metric("own", unit, digits, higher, ends)
    text = json.dumps(declarations((LOSS, metric, PERPLEXITY), (metric,)), allow_nan=False)
    found = declared({"metrics": json.loads(text)}, ["loss", "own", "perplexity", "other"])
    assert list(found) == ["own", "loss", "perplexity", "other"]  # what chooses stands first
    assert found["own"] == metric
    assert found["loss"] == LOSS and found["perplexity"].of == "loss"
    assert found["other"] == Metric("other")


@pytest.mark.parametrize("metric", [LOSS, NATS, BITS_PER_CHAR, WORD_LOSS, MSE, MAE])
def test_no_loss_is_negative(metric):
    """Its interval over seeds is cut at 0; without the range the low end would be below."""
    runs = [{metric.name: value} for value in (0.001, 0.002, 0.09)]
    assert over_seeds(runs)[metric.name]["interval"][0] < 0
    low, high = over_seeds(runs, [metric])[metric.name]["interval"]
    assert low == 0 and high > 0.09
    kept = json.loads(json.dumps(declarations([metric])))
    assert kept[metric.name]["range"] == [0.0, None]


def test_records_of_before_are_known():
    assert list(declared({}, ["loss", "accuracy"]).values()) == [ACCURACY, LOSS]
    assert list(declared({}, ["loss", "perplexity"]).values()) == [NATS, PERPLEXITY]
    assert declared({}, ["loss", "aux_loss"]) == {"loss": LOSS, "aux_loss": Metric("aux_loss")}


def test_metrics_and_the_registry_load_neither_jax_nor_tfds():
    code = (
        "import sys, lrd_jax.metrics, lrd_jax.data, lrd_jax.reporting.progress\n"
        "lrd_jax.data.reads_text('text'), lrd_jax.data.varied_key('copy')\n"
        "[lrd_jax.data.known_keys(name) for name in lrd_jax.data.dataset_names()]\n"
        "assert not {'jax', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
