"""Runs of several processes over loopback: as one process, and ended as one."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from lrd_jax.reporting.writers import TIMING_KEYS, read_metrics
from tests.integration.conftest import reached, snapshot, wait_for

BATCH = ("data.batch_size=48",)
SHORT = (*BATCH, "train.num_steps=20")
ENDLESS = (*BATCH, "train.num_steps=1000000", "train.log_every_steps=1")
LOST = "the same command continues from the last checkpoint"


class Launcher:
    """Starts the processes of a run on this machine."""

    def __init__(self, program):
        self._program = program
        self._started = []

    def start(self, workdir, *overrides, processes=2, devices=2, others=(), **options):
        """Starts a run; `others` are flags of all processes but the first."""
        flags = [f"--config.{key}" for key in (*overrides, f"devices.cpu_devices={devices}")]
        flags = [*self._program.tiny, f"--workdir={workdir}", *flags]
        if processes == 1:
            return self.add([self._program.start(*flags, **options)])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            flags.append(f"--coordinator_address=127.0.0.1:{free.getsockname()[1]}")
        flags.append(f"--num_processes={processes}")
        each = [[*flags, f"--process_id={index}"] for index in range(processes)]
        for arguments in each[1:]:
            arguments.extend(others)
        return self.add([self._program.start(*arguments, **options) for arguments in each])

    def run(self, *arguments, status=0, **options):
        """Runs all processes to the same end; returns what each printed."""
        return finish(self.start(*arguments, **options), status)

    def add(self, group):
        """Sees to it that these processes end with the tests."""
        self._started += group
        return group

    def close(self):
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def hosts(program):
    launcher = Launcher(program)
    yield launcher
    launcher.close()


def finish(group, status=0, timeout=300):
    """Waits for the processes of a run; returns what each printed."""
    printed = [process.communicate(timeout=timeout) for process in group]
    assert [process.returncode for process in group] == [status] * len(group), printed
    for index, (out, err) in enumerate(printed):
        assert "Traceback" not in err
        # Not empty: Gloo, which makes JAX's collectives on a CPU, prints of each connection.
        assert index == 0 or "workdir" not in out
    return printed


def error_lines(printed):
    """The last line of each process's standard error."""
    return [err.splitlines()[-1] for _, err in printed]


def state(workdir, step):
    """Every array of a checkpoint, on the host."""
    path = workdir.absolute() / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=restore))


def assert_close(one, other, step):
    """Within 1e-5 after 20 Adam steps in float32, on other devices."""
    pairs = jax.tree.map(lambda a, b: np.abs(a - b).max(), state(one, step), state(other, step))
    assert max(jax.tree.leaves(pairs)) <= 1e-5
    left, right = (read_metrics(workdir / "metrics.jsonl") for workdir in (one, other))
    for a, b in zip(left, right, strict=True):
        assert (a.keys(), a["step"], a["split"]) == (b.keys(), b["step"], b["split"])
        for name in a.keys() - TIMING_KEYS - {"split"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module")
def alone(hosts, tmp_path_factory):
    """A run of 20 steps in one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    hosts.run(workdir, *SHORT, processes=1, devices=4)
    return workdir


# Notes which rows each process asks the data set for, and runs the program.
RECORDING = """
import json, os, runpy, sys
from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.runtime import processes
asked = {"train": set(), "eval": set()}
train_batch, eval_batches = ArrayDataset.train_batch, ArrayDataset.eval_batches
def record_train(self, seed, step, rows):
    asked["train"].add((rows.start, rows.stop))
    return train_batch(self, seed, step, rows)
def record_eval(self, split, size, rows):
    asked["eval"].add((size, rows.start, rows.stop))
    for batch in eval_batches(self, split, size, rows):
        assert {len(array) for array in batch.values()} == {rows.stop - rows.start}
        yield batch
ArrayDataset.train_batch, ArrayDataset.eval_batches = record_train, record_eval
try:
    runpy.run_module("lrd_jax.main", run_name="__main__", alter_sys=True)
finally:
    with open(f"{FOLDER}/asked-{processes._link.index}.json", "w") as file:
        json.dump({name: sorted(rows) for name, rows in asked.items()}, file)
"""


@pytest.mark.slow
def test_two_processes_train_as_one_and_another_number_goes_on(hosts, alone, tmp_path):
    workdir = tmp_path / "run"
    code = f"FOLDER = {str(tmp_path)!r}\n{RECORDING}"
    stop = "train.stop_step=10"
    (out, err), (_, silence) = hosts.run(workdir, *SHORT, stop, launcher=("-c", code))
    assert "4 x cpu (cpu)" in out and "step 10/10" in err and silence == ""
    # Each read its own half of every batch, in training and in evaluation.
    for index, rows in enumerate(([0, 24], [24, 48])):
        asked = json.loads((tmp_path / f"asked-{index}.json").read_text())
        assert asked == {"train": [rows], "eval": [[48, *rows]]}
    # One of them wrote: every line stands there once, and nothing else is there.
    records = read_metrics(workdir / "metrics.jsonl")
    keys = [(record["step"], record["split"]) for record in records]
    assert keys == [(5, "train"), (10, "train"), (10, "valid"), (10, "test")]
    assert {path.name for path in workdir.iterdir()} == {path.name for path in alone.iterdir()}
    assert len(list((workdir / "tensorboard").iterdir())) == 1

    (printed,) = hosts.run(workdir, *SHORT, processes=1, devices=2)
    assert "resuming at step 10 of 20" in printed[0]
    assert_close(workdir, alone, 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((1, 2), (2, 1)),
        pytest.param((2, 1), (2, 2), marks=pytest.mark.exhaustive),
        ((3, 1), (2, 1)),
        pytest.param((1, 4), (4, 1), marks=pytest.mark.exhaustive),
    ],
)
def test_any_number_of_processes_and_devices_goes_on(hosts, alone, tmp_path, first, then):
    for (processes, devices), stop in ((first, 10), (then, 0)):
        overrides = (*SHORT, f"train.stop_step={stop}")
        hosts.run(tmp_path, *overrides, processes=processes, devices=devices)
    assert_close(tmp_path, alone, 20)


@pytest.mark.slow
def test_slurm_needs_no_flags(program, hosts, tmp_path):
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    job |= {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    code = (
        "import os, runpy; os.environ |= {}; runpy.run_module('lrd_jax.main', None, '__main__', 1)"
    )
    overrides = [f"--config.{key}" for key in (*BATCH, "train.num_steps=5")]
    group = []
    for index in ("0", "1"):
        task = job | {"SLURM_PROCID": index, "SLURM_LOCALID": index}
        launcher = ("-c", code.format(task))
        group.append(
            program.start(*program.tiny, f"--workdir={tmp_path}", *overrides, launcher=launcher)
        )
    (out, _), _ = finish(hosts.add(group))
    assert "4 x cpu (cpu)" in out
    keys = [(r["step"], r["split"]) for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert keys == [(5, "train"), (5, "valid"), (5, "test")]


def listens_on(process):
    """Addresses, as the kernel writes them, at which somebody listens on the coordinator's port."""
    (flag,) = (a for a in process.args if a.startswith("--coordinator_address="))
    port = f"{int(flag.rpartition(':')[2]):04X}"
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
    ]
    local = [words[1].split(":") for words in lines if words[3] == "0A"]
    # An IPv4 address may stand in an IPv6 one.
    return {address.removeprefix(16 * "0" + "FFFF0000") for address, at in local if at == port}


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_stops_all(hosts, tmp_path):
    group = hosts.start(tmp_path, *ENDLESS)
    wait_for(reached(tmp_path, 10), group[0])
    assert listens_on(group[0]) == {"0100007F"}  # 127.0.0.1, and no other interface
    group[1].send_signal(signal.SIGTERM)
    printed = finish(group, 143)
    (line,) = (line for line in printed[0][1].splitlines() if "saved at step" in line)
    step = line.split()[3].rstrip(";")
    assert (tmp_path / "checkpoints" / step).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_the_end_of_one_process_ends_the_others(hosts, tmp_path, victim):
    group = hosts.start(tmp_path, *ENDLESS, "train.checkpoint_every_steps=5")
    wait_for((tmp_path / "checkpoints" / "5").is_dir, group[0])
    group[victim].kill()
    survivor = group[1 - victim]
    killed_at = time.monotonic()
    _, err = survivor.communicate(timeout=60)
    assert time.monotonic() - killed_at < 60 and survivor.returncode == 1, err
    last = err.splitlines()[-1]
    assert last.startswith("lrd_jax: error: ") and LOST in last and "Traceback" not in err
    group[victim].communicate()

    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    step = max(int(name) for name in names if name.isdigit())
    overrides = (*ENDLESS, f"train.stop_step={step + 2}")
    (out, _), _ = hosts.run(tmp_path, *overrides)
    assert "resuming at step" in out


@pytest.mark.slow
def test_a_stopped_process_is_a_lost_one(hosts, tmp_path):
    """No connection breaks: only the heartbeat tells."""
    group = hosts.start(tmp_path, *ENDLESS)
    wait_for(reached(tmp_path, 5), group[0])
    group[1].send_signal(signal.SIGSTOP)
    _, err = group[0].communicate(timeout=60)
    group[1].kill()
    group[1].communicate()
    assert group[0].returncode == 1 and LOST in err.splitlines()[-1]


@pytest.mark.slow
def test_a_changed_config_ends_all_with_its_line(hosts, alone):
    before = snapshot(alone)
    printed = hosts.run(alone, *SHORT, "seed=4", status=2)
    for _, err in printed:
        assert err.count("\n") == 1 and "seed: 0 -> 4" in err and "another --workdir" in err
    assert snapshot(alone) == before


@pytest.mark.slow
def test_processes_with_different_flags_are_refused(hosts, tmp_path):
    others = ("--config.train.log_every_steps=7",)
    printed = hosts.run(tmp_path / "run", *SHORT, others=others, status=2)
    for line in error_lines(printed):
        assert "train.log_every_steps: 5 -> 7" in line
    assert "process 1: this process was started with other flags" in printed[0][1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_say_that_the_run_is_complete(hosts, alone):
    before = snapshot(alone)
    (out, _), _ = hosts.run(alone, *SHORT)
    assert "this run is complete" in out
    assert snapshot(alone) == before


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_by_all(hosts, alone, tmp_path):
    overrides = (*SHORT, "train.checkpoint_every_steps=5")
    hosts.run(tmp_path / "run", *overrides, "train.stop_step=10")
    damaged = tmp_path / "run" / "checkpoints" / "10" / "state"
    for path in [path for path in damaged.rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes()[:20])
    (out, err), _ = hosts.run(tmp_path / "run", *overrides)
    assert err.count("is damaged") == 1 and "resuming at step 5 of 20" in out
    assert (tmp_path / "run" / "checkpoints_damaged" / "10").is_dir()
    assert_close(tmp_path / "run", alone, 20)


@pytest.mark.slow
def test_nan_ends_all_with_its_line(hosts, tmp_path):
    nan = ("optim.learning_rate=1e30", "optim.clip_norm=0.0", "train.num_steps=1000")
    printed = hosts.run(tmp_path, *BATCH, *nan, status=1)
    for line in error_lines(printed):
        assert "loss or gradient became NaN or infinite at step" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--process_id=0"], "--coordinator_address and --num_processes missing"),
        (["--num_processes=two"], "flag --num_processes=two"),
        (
            ["--mode=eval", "--coordinator_address=a:1", "--process_id=0", "--num_processes=2"],
            "runs in one process",
        ),
    ],
)
def test_wrong_flags_are_refused(program, tmp_path, flags, message):
    assert message in program.refuse(*program.tiny, f"--workdir={tmp_path / 'run'}", *flags)
    assert list(tmp_path.iterdir()) == []
