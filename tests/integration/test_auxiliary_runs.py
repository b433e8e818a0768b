"""A run with pre-training through the real command line: one command, resumed across its phases."""

import json
import signal

import numpy as np
import pytest

from lrd_jax.reporting.writers import read_metrics
from tests.integration.conftest import outcome, reached, wait_for

# Digits in 8 steps of 8 pixels; 26 steps make an epoch, the first of which is pre-training.
RUN = (
    *("aux.kind=both", "aux.segment_length=4", "aux.pretrain_epochs=1.0", "aux.head_hidden=(8,8)"),
    *("truncate.steps=3", "truncate.supervised=5", "model.embedding_size=8"),
    *("model.head_hidden=(8,8)", "model.head_dropconnect=0.3", "optim.pretrain_decay=0.5"),
    *("train.num_steps=78", "train.eval_every_steps=13", "train.log_every_steps=1"),
)


@pytest.fixture(scope="module")
def whole(program, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("auxiliary") / "run"
    return workdir, *program.train(workdir, *RUN)


@pytest.mark.slow
def test_a_run_that_stops_in_both_phases_ends_like_one_that_does_not(program, whole, tmp_path):
    flags = [f"--config.{override}" for override in RUN]
    for step in (8, 40):  # in pre-training, and after it
        process = program.start(*program.tiny, f"--workdir={tmp_path}", *flags)
        wait_for(reached(tmp_path, step), process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
    program.train(tmp_path, *RUN)
    assert outcome(tmp_path) == outcome(whole[0])


@pytest.mark.slow
def test_what_a_run_shows_of_both_losses(whole):
    workdir, out, err = whole
    assert "steps 1 to 26: the auxiliary loss alone" in out
    result = json.loads((workdir / "result.json").read_text())
    assert result["best"]["step"] > 26 and result["num_steps"] == 78
    baselines = result["baselines"]
    parts = [baselines[f"aux_loss_{name}"] for name in ("mean", "position_mean", "previous")]
    assert baselines["aux_loss"] == min(parts) > 0
    assert f"of the best constant at each position {baselines['aux_loss_position_mean']:.4f}" in out
    assert "aux loss " in err and f"baseline aux loss {baselines['aux_loss']:.4g}" in err
    records = read_metrics(workdir / "metrics.jsonl")
    assert all({"loss", "aux_loss"} <= record.keys() for record in records)
    train = [record["aux_loss"] for record in records if record["split"] == "train"]
    assert np.mean(train[-10:]) < np.mean(train[:10])


@pytest.mark.slow
def test_evaluation_draws_what_the_decoders_learnt(program, whole):
    workdir = whole[0]
    out, _ = program.evaluate(workdir, "eval.split=valid")
    result = json.loads((workdir / "eval" / "valid.json").read_text())
    recorded = json.loads((workdir / "result.json").read_text())
    assert result["baselines"] == pytest.approx(recorded["baselines"], rel=1e-5)
    found, best = result["seeds"][0]["valid"], recorded["best"]["valid"]
    assert {name: found[name] for name in best} == pytest.approx(best, rel=1e-5)
    assert found.keys() - best.keys() == {"balanced_accuracy", "macro_f1"}  # only reported
    for kind in ("reconstruct", "predict"):
        path = workdir / "eval" / f"valid-{kind}.png"
        assert path.read_bytes().startswith(b"\x89PNG") and str(path) in out


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoding", [pytest.param("scalar", marks=pytest.mark.exhaustive), "onehot"]
)
def test_tokens_are_decoded_too(program, tmp_path, encoding):
    flags = ("--config=configs/hdetach_copying.py:H3,quick", f"--workdir={tmp_path / 'run'}")
    keys = (
        *("aux.kind=both", "aux.segment_length=30", "aux.decoder_layers=1", "truncate.steps=15"),
        *("aux.pretrain_epochs=0.01", f"data.encoding={encoding}", "data.steps_per_epoch=1000"),
        f"data.data_dir={tmp_path / 'data'}",
    )
    program.run(*flags, *(f"--config.{key}" for key in keys))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 10 < result["best"]["step"] <= 30  # after ten steps of pre-training
    # Cross-entropy of symbols: frequencies of a position are those of blanks, but for a few.
    assert 0 < result["baselines"]["aux_loss"] < np.log(10) < result["test"]["aux_loss"] + 1
    out, _ = program.run(*flags, "--mode=eval")
    if "no plot" not in out:
        assert (tmp_path / "run" / "eval" / "test-predict.png").exists()
    # At a shorter delay the segment is as long as fits.
    program.run(*flags, "--mode=eval", "--config.eval.delays=(5,20)")
    rows = json.loads((tmp_path / "run" / "eval" / "transfer.json").read_text())["delays"]
    assert all(row["seeds"][0]["test"]["aux_loss"] > 0 for row in rows)
