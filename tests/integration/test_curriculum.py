"""A curriculum over lengths: resumed, or in several steps a call, it ends the same to the bit."""

import json

import pytest

from lrd_jax.config import checks, defaults
from lrd_jax.data.tracking import Tracking
from lrd_jax.errors import UserError
from lrd_jax.evaluation import commands
from lrd_jax.training import loop
from tests.integration.conftest import outcome


@pytest.fixture
def config_of(tmp_path, monkeypatch):
    monkeypatch.setattr(Tracking, "NUM_FIXED", 6)

    def make(**changes):
        c = defaults.get_config()
        c.data.update(name="tracking", problem="S3", length=6, batch_size=4)
        c.data.update(data_dir=str(tmp_path / "data"), curriculum=((3, 2),))
        c.model.update(cell="rnn", hidden_size=4, head_hidden=(), backend="scan")
        c.train.update(num_steps=7, log_every_steps=7, eval_every_steps=7, tensorboard=False)
        c.train.update(changes)
        return c

    return make


@pytest.mark.slow
def test_it_resumes_exactly_and_calls_do_not_cross_a_border(config_of, tmp_path, capsys):
    loop.train(config_of(), tmp_path / "whole")
    loop.train(config_of(stop_step=5), tmp_path / "parts")
    loop.train(config_of(), tmp_path / "parts")
    loop.train(config_of(steps_per_call=8), tmp_path / "calls")
    whole, parts, calls = (outcome(tmp_path / name) for name in ("whole", "parts", "calls"))
    assert whole["state"] == parts["state"] == calls["state"]
    assert whole["result"]["test"] == parts["result"]["test"] == calls["result"]["test"]
    capsys.readouterr()

    commands.evaluate(tmp_path / "whole", {"eval.lengths": (6, 12)})
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[:3]] == ["length", "6", "12"]
    written = json.loads((tmp_path / "whole" / "eval" / "transfer.json").read_text("utf-8"))
    assert written["varies"] == "length" and (tmp_path / "whole/eval/transfer.png").exists()
    same = written["lengths"][0]["seeds"][0]["test"]
    assert same["loss"] == pytest.approx(whole["result"]["test"]["loss"], rel=1e-5)
    with pytest.raises(UserError, match=r"eval.delays=\(3,\) is for tasks with a delay"):
        commands.evaluate(tmp_path / "whole", {"eval.delays": (3,)})


def test_what_does_not_go_with_it(config_of):
    config = config_of()
    config.aux.kind = "reconstruct"
    with pytest.raises(UserError, match=r"set aux.kind=none, or leave data.curriculum out"):
        checks.validate(config)
    config.data.curriculum = (3, 4)
    with pytest.raises(UserError, match="must be a tuple of pairs of whole numbers"):
        checks.validate(config)
