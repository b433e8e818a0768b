"""Random configs up to the traced step: each is built, or refused in one line (see `fuzz.py`)."""

import hypothesis
import pytest
from hypothesis import given

from tests.fuzz import EXPERIMENTS, configs, keep_text, make_config, refusal, traced


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    keep_text(folder)
    return folder


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_built_as_they_are(name, folder):
    """Or every config of the fuzz might be refused for the same reason."""
    assert refusal(lambda: traced(make_config(name, {}, folder))) is None


HEALTH = [hypothesis.HealthCheck.too_slow]


@hypothesis.settings(max_examples=60, derandomize=True, suppress_health_check=HEALTH)
@given(case=configs())
def test_built_or_refused(case, folder):
    refusal(lambda: traced(make_config(*case, folder)))


@pytest.mark.slow
@hypothesis.settings(max_examples=200, suppress_health_check=HEALTH)
@given(case=configs())
def test_built_or_refused_at_length(case, folder):
    refusal(lambda: traced(make_config(*case, folder)))
