"""What a run came to, as JSON has it."""

import json
import math

import pytest

from lrd_jax.reporting.results import strict
from lrd_jax.reporting.workdir import write_json


def test_numbers_that_json_lacks_become_null():
    values = {"a": [1.0, math.nan, {"b": -math.inf}], "c": (2, "nan", True, None)}
    assert strict(values) == {"a": [1.0, None, {"b": None}], "c": [2, "nan", True, None]}


def test_what_is_written_is_strict(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "result.json", {"loss": math.nan})
    assert not any(tmp_path.iterdir())
    write_json(tmp_path / "result.json", {"loss": 0.5})
    assert json.loads((tmp_path / "result.json").read_text("utf-8")) == {"loss": 0.5}
