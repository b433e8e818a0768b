"""Bad input: one line that says what to do, exit status 2, and nothing touched."""

import re

import pytest
from absl import flags
from conftest import ROOT, snapshot

from lrd_jax import command_line
from lrd_jax import config as configs
from lrd_jax.errors import UserError
from lrd_jax.training import loop

DIGITS = "--config=configs/urlstm_pdigits.py:quick"


# ---- Through the real command line --------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.hidden_sise=8"], "unknown config key 'model.hidden_sise': did you mean"),
        (["model.hidden_size=many"], "expected an integer"),
        (["model.hidden_size=2"], "hidden_size"),
        (["devices.cpu_devices=3"], "cpu_devices=3 does not divide data.batch_size=50"),
        (["data.permutation=seed:x"], "permutation"),
    ],
)
def test_wrong_values_leave_no_work_directory(program, tmp_path, overrides, message):
    arguments = [f"--config.{override}" for override in overrides]
    line = program.refuse(*program.tiny, f"--workdir={tmp_path / 'run'}", *arguments)
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_nowhere_names_the_ways_out(program, tmp_path):
    arguments = (f"--workdir={tmp_path / 'run'}", f"--config.data.data_dir={tmp_path / 'data'}")
    line = program.refuse("--config=configs/urlstm_pmnist.py:quick", *arguments)
    for way_out in ("urlstm_pdigits.py", "lrd_jax.data.prepare", "--from_dir", "data_dir"):
        assert way_out in line
    assert not (tmp_path / "run").exists()


def test_a_work_directory_that_cannot_be_written(program, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        line = program.refuse(*program.tiny, f"--workdir={workdir}")
        assert "cannot be written" in line and "choose another --workdir" in line
    assert (tmp_path / "file").read_text() == "not a directory"


def test_a_work_directory_of_something_else(program, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = snapshot(tmp_path)
    line = program.refuse(*program.tiny, f"--workdir={tmp_path}")
    assert "config.json of the work directory is damaged" in line
    assert {
        path: text for path, text in snapshot(tmp_path).items() if path.name != ".lock"
    } == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.model.hidden_size=9", "config.model.hidden_size cannot be changed"),
        ("--config.eval.split=all", "train, valid, test"),
    ],
)
def test_evaluation_refuses_what_it_cannot_do(program, tmp_path, override, message):
    empty = tmp_path / "empty"
    line = program.refuse(DIGITS, "--mode=eval", f"--workdir={empty}")
    assert "no run in" in line and not empty.exists()
    config = command_line.load_config(f"{ROOT}/configs/urlstm_pdigits.py:quick")
    (tmp_path / "config.json").write_text(configs.to_json(config))
    assert message in program.refuse(DIGITS, "--mode=eval", f"--workdir={tmp_path}", override)
    line = program.refuse(DIGITS, "--mode=eval", f"--workdir={tmp_path}")
    assert "holds no checkpoint yet" in line
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# ---- In this process: from the flags to the loop, where each part refuses its own --------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("model.hidden_size=2", "hidden_size"),
        ("model.hidden_size=0", "hidden_size"),
        ("model.cell=lstn", "lstm"),
        ("model.cell=gated_lstm model.gates=XX", "gates"),
        ("model.cell=onlstm model.chunk_size=3", "chunk_size"),
        ("model.num_layers=0", "model.num_layers=0 must be from 1 to 1000"),
        ("model.dropout=1.0", "model.dropout=1.0 is a rate"),
        ("model.compute_dtype=float16", "float32 or bfloat16"),
        ("model.backend=cuda", "model.backend='cuda' is unknown"),
        ("model.head_hidden=(0,)", "head_hidden"),
        ("detach.p_block=1.5", "detach.p_block=1.5 is a probability"),
        ("detach.c_block=-0.1", "detach.c_block=-0.1 is a probability"),
        ("detach.scope=row", "batch or example"),
        ("detach.stack_mask=none", "shared or per_layer"),
        ("detach.off_last_epochs=-1", "detach.off_last_epochs=-1"),
        ("model.cell=gru detach.c_block=0.5", "needs a cell with a memory c"),
        ("truncate.steps=65", "does not fit a sequence of 64 steps"),
        ("truncate.steps=-1", "truncate.steps=-1"),
        ("model.hidden_size=2000000000", "parameters and optimizer state need"),
        ("model.num_layers=100000", "model.num_layers=100000 must be from 1 to 1000"),
        ("data.batch_size=2000000000", "more than the 1297 training examples"),
        ("optim.name=lion", "use one of adam, adamw"),
        ("optim.weight_decay=0.1", "needs optim.name=adamw"),
        ("optim.clip_norm=-1.0", "optim.clip_norm=-1.0: must be 0 or more"),
        ("optim.warmup_steps=-1", "optim.warmup_steps=-1: must be 0 or more"),
        ("optim.schedule=step", "optim.decay_every_epochs >= 1"),
        ("train.stop_step=-1", "train.stop_step=-1: must be 0 or more"),
        ("train.num_steps=0 train.num_epochs=1e9", "train.num_epochs"),
        ("data.name=digit", "did you mean 'digits'"),
        ("data.batch_size=0", "data.batch_size"),
        ("data.batch_size=6", "the nearest that does is"),
        ("data.pixels_per_step=5", "divisor of the 64 pixels"),
        ("data.order=row", "whole rows"),
        ("data.order=col", "use pixel or row"),
        ("data.permutation=reverse", "permutation"),
        ("data.valid_split=last", "data.valid_split='last'"),
    ],
)
def test_every_part_refuses_its_own_values(digits_dir, tmp_path, overrides, message):
    arguments = [f"--config.{override}" for override in overrides.split()]
    arguments.append(f"--config.data.data_dir={digits_dir}")
    config = f"--config={ROOT}/configs/urlstm_pdigits.py:quick"
    argv = ["main", config, "--config.data.batch_size=8", *arguments]
    flag = command_line.parse_flags(argv, flags.FlagValues())
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        loop.train(flag.config, workdir, flag.spec)
    assert "\n" not in str(caught.value)
    assert not workdir.exists()
