"""What `conftest.py` sets for the platform that the tests run on."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

CONFTEST = Path(__file__).parent / "conftest.py"


@pytest.mark.parametrize(
    ("environment", "precision"),
    [
        ({"JAX_PLATFORMS": "cpu"}, None),
        pytest.param({}, None, marks=pytest.mark.slow),
        ({"JAX_PLATFORMS": "cuda,cpu"}, "highest"),
        pytest.param(
            {"JAX_PLATFORMS": "cuda", "JAX_DEFAULT_MATMUL_PRECISION": "high"},
            "high",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_products_are_exact_on_a_gpu(environment, precision):
    names = ("JAX_PLATFORMS", "JAX_DEFAULT_MATMUL_PRECISION")
    own = {name: value for name, value in os.environ.items() if name not in names}
    code = f"import runpy; runpy.run_path({str(CONFTEST)!r}); import jax;"
    code += "print(jax.config.jax_default_matmul_precision)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=own | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == str(precision)


def test_here_it_is_as_the_platform_wants_it():
    on_cpu = os.environ["JAX_PLATFORMS"] == "cpu"
    assert (jax.config.jax_default_matmul_precision is None) == on_cpu
