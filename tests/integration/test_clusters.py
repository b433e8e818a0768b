"""What docs/clusters.md shows, with stand-ins for schedulers; streams, locales, platforms."""

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lrd_jax.config import checks, command_line
from tests.integration.conftest import outcome

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")


def block(name):
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```\n<!-- /{name} -->", PAGE, re.DOTALL)
    return found[1]


def flags_of(words):
    """The flags behind `-m lrd_jax.main`; the config that they make is a good one."""
    flags = list(words)[list(words).index("lrd_jax.main") + 1 :]
    config = command_line.load_config(flags[0].removeprefix("--config="))
    for flag in flags[1:]:
        key, value = flag.removeprefix("--").split("=")
        if key.startswith("config."):
            config.update_from_flattened_dict({key.removeprefix("config."): value})
    checks.validate(config)
    return flags


def tool(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


def submit(folder, srun, **environment):
    """Runs the batch script with a stand-in for srun; returns it, and what scontrol was told."""
    tool(folder, "srun", srun)
    tool(folder, "scontrol", f'echo "$@" >>{folder}/told')
    tool(folder, "python", f'exec {sys.executable} "$@"')
    (folder / "job.sh").write_text(block("slurm"), encoding="utf-8")
    assert subprocess.run(["bash", "-n", "job.sh"], cwd=folder).returncode == 0
    done = subprocess.run(
        ["bash", str(folder / "job.sh")],
        cwd=ROOT,
        env=os.environ
        | {"PATH": f"{folder}:{os.environ['PATH']}", "SCRATCH": str(folder), "SLURM_JOB_ID": "7"}
        | environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    told = folder / "told"
    return done, told.read_text(encoding="utf-8") if told.exists() else ""


@pytest.mark.parametrize(
    ("status", "told"), [(0, ""), (1, ""), (2, ""), (138, "requeue 7\n"), (143, "requeue 7\n")]
)
def test_slurm_queues_again_what_was_saved(tmp_path, status, told):
    done, found = submit(tmp_path, f"exit {status}")
    assert (done.returncode, found) == (status, told)


def test_slurm_says_what_the_program_understands(tmp_path):
    (command,) = re.findall(r"^srun (.*)$", block("slurm"), re.MULTILINE)
    flags_of(shlex.split(command))
    assert 128 + signal.SIGUSR1 == 138 and "--signal=USR1@" in block("slurm")


@pytest.mark.slow
def test_slurm_runs(program, tmp_path):
    """The step gets the signal as soon as it has logged, and the next one goes on to the end."""
    quick = " ".join(map(shlex.quote, [*program.tiny, f"--workdir={tmp_path}/pmnist"]))
    run = f"exec python -m lrd_jax.main {quick} --config.train.num_steps=400"
    warned = (
        f"({run}) & p=$!\nuntil [ -s {tmp_path}/pmnist/metrics.jsonl ]; do sleep 0.05; done\n"
        "kill -USR1 $p; wait $p"
    )
    done, told = submit(tmp_path, warned)
    assert (done.returncode, told) == (138, "requeue 7\n"), done.stderr
    done, _ = submit(tmp_path, run)
    assert done.returncode == 0 and "resuming at step" in done.stdout


def test_the_container_is_told_its_folders():
    words = shlex.split(block("container").replace("\\\n", " "))
    flags = flags_of(words)
    assert "--config.data.data_dir=/data" in flags and "--workdir=/runs/pdigits" in flags


def test_the_pod_ends_in_time_and_goes_on():
    job = yaml.safe_load(block("kubernetes"))["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    flags_of(container["command"])
    assert container["command"][0] == "python"  # no shell, which would keep the signal
    assert pod["terminationGracePeriodSeconds"] >= 30 and pod["restartPolicy"] == "Never"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [1, 2]


# ---- The program itself ------------------------------------------------------------------------

STREAMS = [
    (">&- 2>&-", {}),
    pytest.param(">/dev/full", {}, marks=pytest.mark.slow),
    pytest.param("2>/dev/full", {}, marks=pytest.mark.slow),
    pytest.param("| head -1", {}, marks=pytest.mark.slow),
    pytest.param(
        "",
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("redirection", "environment"), STREAMS)
def test_output_is_a_courtesy(program, tmp_path, redirection, environment):
    words = [sys.executable, "-m", "lrd_jax.main", *program.tiny, f"--workdir={tmp_path}/run"]
    words.append("--config.train.num_steps=2")
    command = f"set -o pipefail; {' '.join(map(shlex.quote, words))} {redirection}"
    env = program._env | program._cache | environment
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, capture_output=True)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert outcome(tmp_path / "run")["result"]["steps"] == 2


@pytest.mark.slow
def test_kept_programs_train_the_same(program, tmp_path):
    cache = f"devices.compilation_cache={tmp_path / 'cache'}"
    for name, keys in (("plain", ()), ("first", (cache,)), ("second", (cache,))):
        _, err = program.train(tmp_path / name, "train.num_steps=4", *keys, cache=False)
        assert "cpu_aot_loader" not in err
        kept = len(list((tmp_path / "cache").glob("*-cache")))
        assert (kept == 0) == (name == "plain")
    assert (
        outcome(tmp_path / "plain") == outcome(tmp_path / "first") == outcome(tmp_path / "second")
    )


@pytest.mark.parametrize("platforms", ["cuda", "foo"])
def test_a_platform_that_is_not_here(program, tmp_path, platforms):
    if platforms == "cuda" and os.path.exists("/dev/nvidiactl"):
        pytest.skip("there is a GPU")
    env = {"JAX_PLATFORMS": platforms}
    line = program.refuse(*program.tiny, f"--workdir={tmp_path / 'run'}", env=env)
    assert f"JAX_PLATFORMS={platforms} cannot be used here" in line and "pip install" in line
    assert not (tmp_path / "run").exists()
