"""Settings that must stand before JAX creates its client, and what several test folders share."""

import os

# Four devices on any machine. XLA's CPU collectives deadlock when its thread pool, whose size is
# read from NPROC, is as small as the number of devices (see lrd_jax/runtime/devices.py).
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] != "cpu":
    # A GPU multiplies float32 in TF32, 10 bits, unless it is told otherwise; comparisons here want
    # the 23. Programs that tests start have it from here too.
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ["NPROC"] = str(max(16, os.cpu_count() or 1))
# Most of the time of these tests is compilation, and LLVM's optimizer is more than half of that;
# what XLA itself does with a program, collectives for instance, stays as it is.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import logging
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import jax
import pytest

# A test run in the background, or under nohup, ignores these signals; whatever a test starts would
# inherit that, and keep to it.
for signum, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(signum) is signal.SIG_IGN:
        signal.signal(signum, handler)

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")
jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(autouse=True)
def loggers():
    """A command that runs in this process sets up its messages; the next test begins without."""
    loggers = [logging.getLogger(name) for name in ("lrd_jax", "absl")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(scope="session")
def mnist_files():
    """The folder of the four official archives."""
    root = os.environ.get("LRD_JAX_TEST_DATA")
    if not root:
        pytest.skip("LRD_JAX_TEST_DATA is not set: no MNIST files to prepare")
    return Path(root) / "mnist"


@pytest.fixture(scope="session")
def mnist_dir(mnist_files, tmp_path_factory):
    """A data_dir in which the command line has prepared MNIST."""
    data_dir = tmp_path_factory.mktemp("mnist")
    command = [sys.executable, "-m", "lrd_jax.data.prepare", "mnist"]
    command += [f"--from_dir={mnist_files}", f"--data_dir={data_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    expected = f"mnist is prepared in {data_dir}/lrd_mnist/1.0.0: train 60000, test 10000\n"
    assert done.stdout == expected
    return data_dir


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """A data_dir that holds the digits."""
    from lrd_jax.data.prepare import prepare

    data_dir = tmp_path_factory.mktemp("digits")
    prepare("digits", str(data_dir))
    return data_dir
