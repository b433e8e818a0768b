"""`scripts/compile_for_gpu.py`: what it refuses, and what it finds where the compiler is there."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lrd_jax.errors import UserError
from lrd_jax.kernels import deviceless
from lrd_jax.kernels.report import Kernel, Part, Report
from lrd_jax.kernels.targets import TARGETS

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "compile_for_gpu.py"
PMNIST = f"{ROOT}/configs/urlstm_pmnist.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compile_for_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(*arguments, **environment):
    """Runs it as a user does: of the settings that tests make for themselves none is there."""
    of_tests = ("XLA_FLAGS", "NPROC", "TF_CPP_MIN_LOG_LEVEL")  # the last one is JAX's own doing
    own = {key: value for key, value in os.environ.items() if key not in of_tests}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(
        command, env=own | environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs/none.py"], "there is no config file 'configs/none.py'"),
        ([PMNIST, "--arch=sm_75"], "--arch=sm_75 is not known: use sm_90a, sm_80, sm_86"),
        ([PMNIST, "--arch=sm_80,"], "--arch= is not known"),
        ([PMNIST, "--config.model.hiden_size=8"], "did you mean model.hidden_size?"),
        ([PMNIST, "--config.model.hidden_size=many"], "expected an integer"),
        ([PMNIST, "--config.seed=-1"], "config.seed=-1: must be from 0"),
        ([PMNIST, "--workdir=x"], "unexpected argument '--workdir=x'"),
        ([PMNIST, "--json=/nowhere/x.json"], "there is no folder /nowhere"),
        ([], "the following arguments are required: config"),
    ],
)
def test_bad_input_is_refused(script, arguments, message):
    with pytest.raises(UserError) as caught:
        script.parse_arguments(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_all_targets(script):
    arguments, flag = script.parse_arguments([PMNIST, "--arch=all", "--config.seed=3"])
    assert arguments.arch == list(TARGETS) and flag.config.seed == 3


def test_a_refusal_is_one_line_with_status_2(tmp_path):
    done = start(PMNIST, "--arch=sm_75")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("compile_for_gpu: error: --arch=sm_75")
    assert done.stderr.count("\n") == 1


def test_a_missing_compiler_is_one_line_with_status_2(script, monkeypatch):
    def missing():
        raise UserError("it is not installed")

    # JAX is there by now, as it is in a program whose user forgot the extra.
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(deviceless, "check_installed", missing)
    with pytest.raises(UserError, match="it is not installed"):
        script.main([PMNIST])


def test_tables(script):
    loop = Part("while.7", 10, [Kernel("gemm", 255, 8, 16, None), Kernel("Gemm")], copies=1)
    endless = Part("while.8", None, [Kernel("add", 8, 0, 0, 1024)])
    memory = {"temporaries": 3 << 20, "total": 4 << 20}
    text = script.tables(Report(Part("outside", 1), [loop, endless], memory), length=10)
    assert text.splitlines() == [
        "         runs  kernels  copies",
        "while.7    10        2       1",
        "while.8     ?        1       0",
        "outside     1        0       0",
        "",
        "per time step  2.1 kernels, 1 copies (over 10 steps)",
        "memory, MiB    temporaries 3.0, total 4.0",
        "spilling       1 of 3 kernels",
        "",
        "kernel  in       registers  spilled  shared",
        "gemm    while.7        255       16       ?",
        "Gemm    while.7          ?        ?       ?",
        "add     while.8          8        0    1024",
    ]


# ---- With the compiler ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiler():
    """Skips where the extra is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        try:
            deviceless.check_installed()
        except UserError as error:
            pytest.skip(f"cannot compile for a GPU here: {error}")


def compile_step(path, *arguments):
    done = start(*arguments, f"--json={path}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(path.read_text(encoding="utf-8")), done.stdout


def test_the_scan_of_urlstm_pmnist_on_an_h100(compiler, tmp_path):
    record, text = compile_step(tmp_path / "step.json", PMNIST)
    assert (record["config"], record["length"], record["members"]) == ("urlstm_pmnist", 784, 1)
    (step,) = record["targets"].values()
    # 18 with the barriers of a CPU.
    assert step["per_time_step"]["kernels"] <= 10
    assert step["per_time_step"]["copies"] <= 2
    assert [loop["runs"] for loop in step["loops"]] == [784, 784]
    assert len(step["outside"]["kernels"]) <= 65
    for part in (*step["loops"], step["outside"]):
        for kernel in part["kernels"]:
            assert 0 < kernel["registers"] <= 255 and kernel["spilled"] == 0, kernel
    # The states, pre-activations and one more array of their size: 784 steps of 64 x 128 floats.
    assert step["memory"]["total"] < 7 * 784 * 64 * 128 * 4
    assert f"per time step  {step['per_time_step']['kernels']:.4g} kernels" in text


def test_the_kernel_of_urlstm_pmnist_on_an_h100(compiler, tmp_path, monkeypatch):
    """Five seeds: no loop over time is left, and one launch forward and one backward for all."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = ("--config.num_seeds=5", "--config.model.backend=kernel")
    record, text = compile_step(tmp_path / "step.json", PMNIST, *options)
    (step,) = record["targets"].values()
    assert step["loops"] == [] and "per time step  0 kernels" in text
    kernels = step["outside"]["kernels"]
    # Of JAX 0.12's more, two are of the gradient of picking each label's logit.
    assert len(kernels) <= (40 if jax.__version_info__ < (0, 12) else 42)
    own = [kernel for kernel in kernels if kernel["name"].startswith("recurrence_")]
    assert [kernel["name"].split("_")[1] for kernel in own] == ["forward", "backward"]
    assert all(kernel["spilled"] <= 16 and kernel["name"] in text for kernel in own)
    # States and pre-activations; their gradients take the place of these.
    assert step["memory"]["total"] < 5 * 7 * 784 * 64 * 128 * 4


@pytest.mark.slow
@pytest.mark.parametrize("arch", list(TARGETS))
def test_every_target(compiler, tmp_path, arch):
    record, _ = compile_step(tmp_path / "step.json", PMNIST, f"--arch={arch}")
    assert record["targets"][arch]["device"] == TARGETS[arch].name
    assert record["targets"][arch]["per_time_step"]["kernels"] <= 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "most"),
    [
        ((PMNIST, "--config.model.cell=lstm"), 10),
        ((PMNIST, "--config.model.cell=gru"), 10),
        ((PMNIST, "--config.num_seeds=5"), 10),
        ((f"{ROOT}/configs/hdetach_mnist.py:H11",), 12),  # 100 units are padded
        ((PMNIST, "--config.model.recompute=true"), 10),
        ((PMNIST, "--config.model.backend=scan"), 22),
        ((f"{ROOT}/configs/hdetach_copying.py:H1",), 10),
        ((f"{ROOT}/configs/auxiliary_images.py:A14",), 26),
        ((f"{ROOT}/configs/wikitext2.py",), 10),
        ((f"{ROOT}/configs/gating_synthetic.py:G2-UR",), 10),
        ((f"{ROOT}/configs/hdetach_mnist.py:H11", "--config.model.backend=kernel"), 0),
        ((f"{ROOT}/configs/hdetach_copying.py:H1", "--config.model.backend=kernel"), 0),
    ],
)
def test_kernels_of_other_steps(compiler, tmp_path, arguments, most):
    record, _ = compile_step(tmp_path / "step.json", *arguments)
    assert record["targets"]["sm_90a"]["per_time_step"]["kernels"] <= most
