"""Faults around a run: signals at awkward instants, full and read-only disks; how each ends."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest

from lrd_jax.reporting.writers import read_metrics
from tests.integration.conftest import outcome, snapshot

INJECTED = {
    "launcher": ("-m", "tests.integration.injected"),
    # Restarting with huge pages would only take time.
    "env": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
}


def inject(program, code, workdir, *overrides):
    """Trains the tiny run with an injected fault; returns status and stderr."""
    flags = [f"--config.{override}" for override in overrides]
    env = INJECTED["env"] | {"INJECT": code}
    process = program.start(
        *program.tiny, f"--workdir={workdir}", *flags, **INJECTED | {"env": env}
    )
    _, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return process.returncode, err


@pytest.fixture(scope="module")
def whole(program, tmp_path_factory):
    """The work directory of a run that nothing happened to: 30 steps, evaluated at 10, 20, 30."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    program.train(workdir)
    return workdir


# ---- Exit statuses -----------------------------------------------------------------------------

# An evaluation takes 5 batches of the 250 examples, the last one (test) 16 to 20. What was saved:
# the step whose checkpoint is there, None where the run had nothing to save yet.
SIGNALS = [
    # instant, code, status, step saved
    ("building", 'before(Program, "init", sigterm)', 143, None),
    ("building, Ctrl-C", 'before(Program, "init", sigint)', 130, None),
    ("compiling", 'before_step("train_step", sigterm)', 143, 1),
    ("a long logging interval", 'before_step("train_step", sigint, 8)', 130, 8),
    ("evaluating", 'before_step("eval_step", sigterm, 8)', 143, 20),
    ("evaluating the last step", 'before_step("eval_step", sigterm, 13)', 143, 30),
    ("saving", 'before(Checkpoints, "save", sigterm, 2)', 143, 20),
    ("testing", 'before_step("eval_step", sigint, 18)', 130, 30),
]


@pytest.mark.slow  # test_resume.py has its quick half
@pytest.mark.parametrize(
    ("instant", "code", "status", "step"), [pytest.param(*row, id=row[0]) for row in SIGNALS]
)
def test_a_signal_ends_a_run_that_goes_on(program, whole, tmp_path, instant, code, status, step):
    found, err = inject(program, code, tmp_path)
    assert found == status, err
    assert ("saved at step" in err) == (step is not None and instant != "testing")
    saved = sorted(int(p.name) for p in (tmp_path / "checkpoints").glob("*"))
    assert (saved[-1] if saved else None) == step
    if instant.startswith("evaluating"):  # left before the end of it
        lines = read_metrics(tmp_path / "metrics.jsonl")
        assert not any((r["step"], r["split"]) == (step, "valid") for r in lines)
    program.train(tmp_path)
    assert outcome(tmp_path) == outcome(whole)


# A step is saved again after a signal in its evaluation; what a kill interrupts then.
REPLACING = {
    "setting aside": 'before(Checkpoints, "_replace", kill)',
    "writing": 'before(checkpoints.ocp.CheckpointManager, "reload", kill)',
    "removing": 'before(checkpoints, "_remove", kill)',
}


@pytest.mark.slow  # tests/runtime/test_checkpoints.py has its quick half
@pytest.mark.parametrize(
    ("instant", "batch"),
    [
        # The batch of the evaluation after the only checkpoint, and after the last step.
        pytest.param(instant, batch, marks=[pytest.mark.exhaustive] * (batch == 13))
        for instant in REPLACING
        for batch in (3, 13)
    ],
)
def test_a_kill_while_a_checkpoint_is_replaced_loses_nothing(
    program, whole, tmp_path, instant, batch
):
    status, err = inject(program, f'before_step("eval_step", sigterm, {batch})', tmp_path)
    assert status == 143, err
    assert inject(program, REPLACING[instant], tmp_path)[0] == -signal.SIGKILL
    assert (tmp_path / "checkpoints_replaced").exists() == (instant != "setting aside")
    if batch == 13:  # there is something to evaluate
        program.evaluate(tmp_path)
        shutil.rmtree(tmp_path / "eval")
    out, err = program.train(tmp_path)
    assert f"resuming at step {10 if batch == 3 else 30} of 30" in out and "damaged" not in err
    assert outcome(tmp_path) == outcome(whole)
    assert not (tmp_path / "checkpoints_replaced").exists()
    program.evaluate(tmp_path)
    found, result = (
        json.loads((tmp_path / name).read_text()) for name in ("eval/test.json", "result.json")
    )
    assert found["seeds"][0]["best"] == result["best"]
    assert found["seeds"][0]["test"] == pytest.approx(result["test"], rel=1e-6)


@pytest.mark.slow
def test_a_signal_while_data_is_prepared_leaves_nothing_that_looks_prepared(program, tmp_path):
    data = f"data.data_dir={tmp_path / 'data'}"
    found, _ = inject(program, 'before(prepare, "generate", sigterm)', tmp_path / "run", data)
    assert found == 143
    assert not (tmp_path / "run").exists()
    program.train(tmp_path / "run", data, "train.num_steps=5")


@pytest.mark.slow
def test_a_second_signal_ends_at_once(program, whole, tmp_path):
    code = 'before_step("train_step", send(signal.SIGTERM, signal.SIGINT), 15)'
    found, err = inject(program, code, tmp_path)
    assert found == 130 and "saved at step" not in err
    program.train(tmp_path)
    assert outcome(tmp_path) == outcome(whole)


@pytest.mark.slow
def test_each_kind_of_end_has_its_status(program, tmp_path):
    """0 done, 2 bad input, 1 stopped while running; 128 + signal is above."""
    flags = [*program.tiny, f"--workdir={tmp_path / 'run'}"]
    nan = "--config.optim.learning_rate=1e30 --config.optim.clip_norm=0.0".split()
    for status, *arguments in (
        (0, "--help"),
        (2, "--hlep"),
        (2, *flags, "--config.model.hidden_size=2"),
        (1, *flags, *nan),  # NaN
        (2, *flags),  # of another config
        (2, *flags, *nan, "--config.train.stop_step=-1"),
        (0, *program.tiny, f"--workdir={tmp_path / 'other'}"),
        (0, *program.tiny, f"--workdir={tmp_path / 'other'}"),  # complete
        (0, program.tiny[0], "--mode=eval", f"--workdir={tmp_path / 'other'}"),
        (2, program.tiny[0], "--mode=eval", f"--workdir={tmp_path / 'third'}"),
    ):
        program.run(*arguments, status=status)


# ---- Disks -------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A disk of 4 MB, which the test may mount anew."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# What is about to be written when the disk fills up, and the newest whole checkpoint then: a save
# waits for the one before, which waits for nobody.
FULL = [
    pytest.param(
        'before(Checkpoints, "save", fill("{filler}"), 3)',
        "could not write a checkpoint to ",
        (10, 20),
        marks=pytest.mark.slow,
    ),
    pytest.param(
        'before(loop, "run_result", fill("{filler}"))',
        "cannot write .*result.json",
        (30,),
        marks=pytest.mark.slow,
    ),
]


def starts_full(program, code, workdir, *overrides):
    """Trains until the injected code fills the disk up; returns the error line."""
    status, err = inject(program, code, workdir, *overrides)
    assert status == 1
    (line,) = (line for line in err.splitlines() if line.startswith("lrd_jax: error: "))
    assert "run the same command" in line
    assert not (workdir / "result.json").exists()
    return line


@pytest.mark.parametrize(("code", "message", "newest"), FULL)
def test_a_full_disk(program, whole, disk, code, message, newest):
    workdir, filler = disk / "run", disk / "filler"
    line = starts_full(program, code.format(filler=filler), workdir)
    assert re.search(message, line)
    names = [path.name for path in (workdir / "checkpoints").iterdir()]
    assert max(int(name) for name in names if name.isdigit()) in newest
    filler.unlink()  # there is room again
    program.train(workdir)
    assert outcome(workdir) == outcome(whole)


@pytest.mark.slow
def test_a_disk_full_of_metrics(program, disk):
    workdir, filler = disk / "run", disk / "filler"
    # So many lines that they need another page of the disk; nothing is saved in between.
    keys = ("train.log_every_steps=1", "train.eval_every_steps=1000", "train.num_steps=100")
    line = starts_full(program, f'before(Writers, "write", fill("{filler}"), 5)', workdir, *keys)
    assert re.search("cannot write .*(metrics.jsonl|tfevents)", line)
    filler.unlink()
    program.train(workdir, *keys)
    steps = [r["step"] for r in read_metrics(workdir / "metrics.jsonl") if r["split"] == "train"]
    assert steps == [*range(1, 101)]


@pytest.mark.slow
def test_a_disk_that_is_read_only(program, whole, disk):
    workdir = shutil.copytree(whole, disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = snapshot(disk)
    out, err = program.evaluate(workdir)
    assert "accuracy" in out and "nowhere: the work directory cannot be written" in out
    assert "test.json is not written (Read-only file system)" in err and err.count("\n") == 1
    for flags in (program.tiny, (*program.tiny, "--config.train.stop_step=5")):
        line = program.refuse(*flags, f"--workdir={workdir}")
        assert "cannot be written" in line
    line = program.refuse(*program.tiny, f"--workdir={disk / 'new'}")
    assert "cannot be written (Read-only file system)" in line
    assert snapshot(disk) == before


@pytest.mark.slow  # tests/runtime/test_locks.py has its quick half
def test_a_file_system_without_locks(program, tmp_path):
    code = (
        "import fcntl\ndef flock(*_): raise OSError(errno.ENOLCK, 'No locks available')\n"
        "fcntl.flock = flock"
    )
    status, err = inject(program, code, tmp_path / "run", "train.num_steps=2")
    assert status == 0
    (warning,) = (line for line in err.splitlines() if "warning" in line)
    assert "run cannot be locked (No locks available)" in warning


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(program, tmp_path):
    tmp_path.chmod(0o500)
    line = program.refuse(*program.tiny, f"--workdir={tmp_path / 'run'}")
    tmp_path.chmod(0o700)
    assert "cannot be written (Permission denied)" in line
