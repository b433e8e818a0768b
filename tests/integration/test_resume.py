"""A run that was stopped, at whatever instant, ends as one that was not."""

import os
import random
import shutil
import signal
import time

import pytest

from lrd_jax.reporting.writers import read_metrics
from tests.integration.conftest import (
    cut_files,
    outcome,
    reached,
    snapshot,
    wait_for,
    without_timing,
)

# 26 steps make an epoch; it is evaluated and saved after each.
LONG = ("train.num_steps=130", "train.eval_every_steps=0", "train.log_every_steps=1")


@pytest.fixture(scope="module")
def uninterrupted(program, tmp_path_factory):
    """What a run of LONG comes to, compiled without the cache that the other runs share."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    program.train(workdir, *LONG, cache=False)
    return outcome(workdir)


def start_tiny(program, workdir, *overrides):
    flags = [f"--config.{override}" for override in overrides]
    return program.start(*program.tiny, f"--workdir={workdir}", *flags)


def start(program, workdir, *overrides):
    return start_tiny(program, workdir, *LONG, *overrides)


def saved(workdir, *, saving):
    """A condition: a checkpoint is complete, and a later one is (or none is) being written."""

    def condition():
        names = [path.name for path in (workdir / "checkpoints").glob("*")]
        return any(n.isdigit() for n in names) and any("tmp" in n for n in names) == saving

    return condition


def past_a_save(workdir):
    """A condition: somewhere in the middle of an epoch, with a checkpoint to go back to."""
    conditions = reached(workdir, 40), saved(workdir, saving=False)
    return lambda: all(condition() for condition in conditions)


@pytest.mark.parametrize(
    "instant",
    [
        pytest.param(past_a_save, id="mid-epoch"),
        pytest.param(
            lambda workdir: reached(workdir, 52, "valid"),
            id="end of an epoch",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda workdir: saved(workdir, saving=True), id="during a save", marks=pytest.mark.slow
        ),
    ],
)
def test_a_killed_run_ends_like_an_uninterrupted_one(program, uninterrupted, tmp_path, instant):
    process = start(program, tmp_path)
    wait_for(instant(tmp_path), process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "result.json").exists()
    out, _ = program.train(tmp_path, *LONG)
    assert "resuming at step" in out
    assert outcome(tmp_path) == uninterrupted
    assert not any("tmp" in path.name for path in (tmp_path / "checkpoints").iterdir())


SEVERAL = ("train.steps_per_call=8", "train.log_every_steps=13")


@pytest.mark.slow
@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.exhaustive)]
)
def test_several_steps_a_call_end_like_single_ones(program, uninterrupted, tmp_path, signum):
    process = start(program, tmp_path, *SEVERAL)
    wait_for(past_a_save(tmp_path), process)
    process.send_signal(signum)
    process.communicate(timeout=60)
    assert not (tmp_path / "result.json").exists()
    # The rest in single steps, or in calls again.
    out, _ = program.train(tmp_path, *LONG, *(SEVERAL if signum == signal.SIGKILL else ()))
    assert "resuming at step" in out
    for part in ("state", "result"):
        assert outcome(tmp_path)[part] == uninterrupted[part]


@pytest.mark.slow
def test_twenty_five_kills_at_random_instants(program, tmp_path):
    seed = int(os.environ.get("LRD_JAX_KILL_SEED", random.randrange(2**32)))
    print(f"LRD_JAX_KILL_SEED={seed}")  # shown when the test fails
    draw = random.Random(seed)
    # A checkpoint is being written most of the time.
    keys = ("train.num_steps=600", "train.eval_every_steps=60", "train.checkpoint_every_steps=10")
    program.train(tmp_path / "whole", *keys, timeout=900)
    keys += ("train.steps_per_call=3",)  # which changes nothing
    whole, workdir = outcome(tmp_path / "whole"), tmp_path / "killed"
    lines, saves = set(map(str, whole["metrics"])), 0
    for kill in range(25):
        process = start_tiny(program, workdir, *keys)
        # Where the run is past that step already, it is killed while it starts.
        wait_for(reached(workdir, 20 * kill + draw.randint(0, 20)), process, 600)
        time.sleep(draw.uniform(0, draw.choice((0.02, 0.1, 0.5))))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        saves += any("tmp" in path.name for path in (workdir / "checkpoints").glob("*"))
        records = read_metrics(workdir / "metrics.jsonl")
        assert {str(without_timing(record)) for record in records} <= lines
    program.train(workdir, *keys, timeout=900)
    assert outcome(workdir) == whole
    assert saves > 0


@pytest.mark.slow
def test_a_run_that_patience_ends_survives_a_kill(program, tmp_path):
    """Two seeds with two rates; those that learn nothing stop at step 52, before the kill."""
    keys = ("train.patience=1", "sweep.learning_rate=(1e-12,3e-3)", "num_seeds=2", *LONG)
    program.train(tmp_path / "whole", *keys)
    whole, workdir = outcome(tmp_path / "whole"), tmp_path / "killed"
    assert [s.get("stopped_step") for s in whole["result"]["seeds"]][:2] == [52, 52]
    process = start_tiny(program, workdir, *keys)
    wait_for(reached(workdir, 60), process)
    process.kill()
    process.communicate()
    program.train(workdir, *keys)
    assert outcome(workdir) == whole


@pytest.mark.slow
def test_a_kill_between_the_test_line_and_the_result_repeats_neither(program, tmp_path):
    program.train(tmp_path)
    expected = outcome(tmp_path)
    assert expected["metrics"][-1]["split"] == "test"
    (tmp_path / "result.json").unlink()
    program.train(tmp_path)
    assert outcome(tmp_path) == expected


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGTERM,
        *(
            pytest.param(signum, marks=pytest.mark.slow)
            for signum in (
                *(signal.SIGINT, signal.SIGUSR1),
                *(signal.SIGHUP, signal.SIGUSR2, signal.SIGXCPU),
            )
        ),
    ],
)
def test_a_signal_saves_first(program, uninterrupted, tmp_path, signum):
    process = start(program, tmp_path)
    wait_for(reached(tmp_path, 30), process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert "Traceback" not in err
    (step,) = (line.split()[3].rstrip(";") for line in err.splitlines() if "saved at step" in line)
    assert (tmp_path / "checkpoints" / step).is_dir() and 30 <= int(step) < 130
    out, _ = program.train(tmp_path, *LONG)
    assert f"resuming at step {step} of 130" in out
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.slow  # tests/runtime/test_interrupts.py has its quick half
def test_training_in_a_thread_leaves_signals_alone(program, tmp_path):
    """As agents of sweeps and servers of notebooks do."""
    code = (
        "import signal, sys, threading\n"
        "from lrd_jax.config import command_line\n"
        "from lrd_jax.training import loop\n"
        "config = command_line.load_config('configs/urlstm_pdigits.py:quick')\n"
        "config.data.update(data_dir=sys.argv[1].split('=')[1], pixels_per_step=8)\n"
        "config.model.hidden_size, config.train.num_steps = 8, 2\n"
        "work = lambda: print(loop.train(config, sys.argv[2])['steps'])\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
    )
    out, _ = program.run(program.tiny[1], tmp_path / "run", launcher=("-c", code))
    assert out.endswith("\n2\n") and (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_a_warning(program, uninterrupted, tmp_path):
    program.train(tmp_path, *LONG, "train.stop_step=78")
    newest = tmp_path / "checkpoints" / "78"
    cut_files(newest / "state")
    assert program.evaluate(tmp_path)[1] == ""  # what is evaluated is whole
    shutil.rmtree(tmp_path / "eval")
    cut_files(newest / "best")
    before = snapshot(tmp_path / "checkpoints")
    _, err = program.evaluate(tmp_path)  # uses the one before, and moves nothing
    assert err.count("\n") == 1 and "step 78 is damaged" in err
    assert snapshot(tmp_path / "checkpoints") == before

    out, err = program.train(tmp_path, *LONG)
    assert "resuming at step 52 of 130" in out
    (warning,) = (line for line in err.splitlines() if "damaged" in line)
    assert warning.startswith("lrd_jax: warning: the checkpoint of step 78 is damaged")
    assert (tmp_path / "checkpoints_damaged" / "78").is_dir()
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.slow
def test_a_second_run_in_the_same_directory_is_refused(program, tmp_path):
    process = start(program, tmp_path, "train.num_steps=1000000")
    wait_for(reached(tmp_path, 5), process)
    flags = [f"--config.{override}" for override in (*LONG, "train.num_steps=1000000")]
    line = program.refuse(*program.tiny, f"--workdir={tmp_path}", *flags)
    assert "is in use by another run" in line
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143  # it went on undisturbed


@pytest.mark.slow
def test_nan_ends_the_run_and_keeps_the_last_good_checkpoint(program, tmp_path):
    nan = (
        *("optim.learning_rate=1e30", "optim.clip_norm=0.0", "optim.schedule=step"),
        *("optim.decay_every_epochs=1", "optim.warmup_steps=40", "train.num_steps=1000"),
        *("train.log_every_steps=5", "train.eval_every_steps=1000"),
    )
    # The rate is 0 in the first step of the warm-up, so the checkpoint after it is good.
    out, _ = program.train(tmp_path, *nan, "train.stop_step=1")
    out, err = program.train(tmp_path, *nan, status=1)
    assert "resuming at step 1 of 1000" in out
    error = err.splitlines()[-1]
    assert error.startswith("lrd_jax: error: loss or gradient became NaN or infinite at step")
    bad = int(error.split("at step ")[1].split(";")[0])
    assert 1 < bad <= 10
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    # It stopped within the logging interval, and wrote no line that counts the bad step.
    assert max(record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")) < bad


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_save_ends_the_run(program, tmp_path):
    pytest.importorskip("resource")
    code = (  # stands in for a full disk: no file may grow past 16 KiB
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)); "
        "runpy.run_module('lrd_jax.main', run_name='__main__', alter_sys=True)"
    )
    big = ("model.hidden_size=100", "train.num_steps=20")
    flags = [*program.tiny, f"--workdir={tmp_path}", *(f"--config.{key}" for key in big)]
    whole = {"PYTHONDONTWRITEBYTECODE": "1"}  # or it leaves halves of them to everybody
    process = program.start(*flags, cache=False, launcher=("-c", code), env=whole)
    _, err = process.communicate(timeout=300)
    # Threads of the storage library may print tracebacks around the line.
    assert process.returncode == 1 and not (tmp_path / "result.json").exists()
    assert "lrd_jax: error: could not write a checkpoint to " in err
    assert "there is none before it: free some space, then run the same command" in err
    program.train(tmp_path, *big)  # there is room again


# ---- Real MNIST -------------------------------------------------------------------------------


def rows(program, mnist_dir, workdir, *overrides):
    flags = [f"--config.{override}" for override in overrides]
    flags.append(f"--config.data.data_dir={mnist_dir}")
    return program.run(
        "--config=configs/lstm_mnist_rows.py", f"--workdir={workdir}", *flags, timeout=1500
    )


@pytest.mark.slow
def test_rows_of_mnist_start_to_learn(program, mnist_dir, tmp_path):
    rows(program, mnist_dir, tmp_path, "train.num_steps=60")
    result = outcome(tmp_path)["result"]
    assert result["test"]["loss"] < 1.5 and result["test"]["accuracy"] > 0.5


@pytest.mark.exhaustive
@pytest.mark.slow
def test_rows_of_mnist_reach_975_in_five_epochs(program, mnist_dir, tmp_path):
    rows(program, mnist_dir, tmp_path)
    result = outcome(tmp_path)["result"]
    assert result["steps"] == 5 * 782
    assert result["test"]["accuracy"] >= 0.975


@pytest.mark.exhaustive  # the kills above, of a run that takes long
def test_permuted_mnist_survives_ten_kills(program, mnist_dir, tmp_path):
    def arguments(name):
        return (
            "--config=configs/urlstm_pmnist.py",
            f"--workdir={tmp_path / name}",
            f"--config.data.data_dir={mnist_dir}",
            "--config.train.num_steps=600",
            "--config.model.hidden_size=16",
            "--config.train.eval_every_steps=100",
            "--config.train.checkpoint_every_steps=20",
            "--config.train.log_every_steps=5",
        )

    program.run(*arguments("whole"), timeout=1500, cache=False)
    draw = random.Random(0)
    for kill in range(10):
        process = program.start(*arguments("killed"))
        # Somewhere in the next stretch of the run, at any instant of a step or a save.
        wait_for(reached(tmp_path / "killed", 50 * kill + draw.randint(5, 45)), process, 600)
        time.sleep(draw.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    program.run(*arguments("killed"), timeout=1500)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
