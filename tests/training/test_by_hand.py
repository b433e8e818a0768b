"""A whole run against the same run by hand: every number that training writes, recomputed.

A line through points, fitted by plain SGD: one parameter pair a seed, whose updates, losses and
scores a few lines of NumPy know. Adam would hide a gradient that is too large by a factor, and a
network what a wrong step, split or set of parameters does to its loss.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.config import defaults
from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.data.registry import DATASETS, Entry
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.evaluation import commands
from lrd_jax.metrics import LOSS, Metric
from lrd_jax.objectives import OBJECTIVES
from lrd_jax.recurrence.controls import detach_mask
from lrd_jax.training import loop

SIZES = {"train": 20, "valid": 13, "test": 11}
# Slope and intercept behind each split. On its way to that of the training data the line passes the
# one of the validation data: the best step is not the last. Hundreds of steps would be needed to
# reach it with the gradient of one example for the mean, or another split.
LINES = {"train": (2.0, 1.0), "valid": (1.0, 0.5), "test": (-1.0, 2.0)}
BATCH, STEPS, PEAK, WARMUP, CLIP = 8, 12, 0.25, 2, 1.5
SEEDS = (7, 8)
NOT_TRAINED = -1.0  # the metric `drawn` where nothing may be drawn


def points(batch_size):
    """Points (x, y) beside each split's line; each example weighs 1, 2 or 3."""
    rng = np.random.default_rng(0)
    splits = {}
    for name, (slope, intercept) in LINES.items():
        x = rng.normal(size=(SIZES[name], 1))
        inputs = np.stack([x, rng.integers(1, 4, x.shape)], axis=-1).astype(np.float32)
        noise = 0.1 * rng.normal(size=SIZES[name])
        splits[name] = inputs, (slope * x[:, 0] + intercept + noise).astype(np.float32)
    return ArrayDataset(DataSpec("line", 1, 2, 1), splits, batch_size, "points")


class Line:
    """The mean square of `slope * x + intercept - y`; says what it drew and what its line is."""

    metrics = (LOSS, Metric("slope"), Metric("intercept"), Metric("drawn"))
    select = (LOSS,)

    def __init__(self, config, spec, horizon):
        pass

    def init(self, key):
        return {"line": 0.1 * jax.random.normal(key, (2,))}

    def initial_carry(self, batch_size):
        del batch_size
        return ()

    def baselines(self, dataset, split):
        del dataset, split
        return {}

    def loss(self, variables, carry, batch, step):
        slope, intercept = variables["params"]["line"]
        x, weight = batch["inputs"][:, 0, 0], batch["inputs"][:, 0, 1] * batch["mask"]
        total = (weight * (slope * x + intercept - batch["targets"]) ** 2).sum()
        drawn = jnp.array(NOT_TRAINED)
        if step is not None:  # what h-detach blocks at twenty steps of time, as one number
            mask = detach_mask(0.5, "batch", "h_detach", step, 20, len(x))
            drawn = (mask * 0.5 ** jnp.arange(1, 21)).sum()
        count = weight.sum()
        said = {"slope": slope, "intercept": intercept, "drawn": drawn}
        sums = {"loss": (total, count)} | {n: (v * count, count) for n, v in said.items()}
        return total, (sums, carry)


# ---- By hand ------------------------------------------------------------------------------------


def squares(line, inputs, targets):
    """Total of the weighted squares, its gradient, and the sum of the weights."""
    x, weight = inputs[:, 0].astype(np.float64).T
    error = line[0] * x + line[1] - targets
    return (
        (weight * error**2).sum(),
        np.array([(2 * weight * error * x).sum(), (2 * weight * error).sum()]),
        weight.sum(),
    )


def rate(step):
    """Of the update after `step` others: linear warm-up, then half a cosine to the last step."""
    if step < WARMUP:
        return PEAK * step / WARMUP
    return PEAK * (1 + np.cos(np.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2


class ByHand:
    """All that a seed's run should write.

    Attributes:
      train: step -> loss, slope, intercept and norm of the gradient, means since the last line.
      valid: step -> loss.
      best: step, loss there, and the score of its line on the test split.
      clipped: steps whose gradient was too long.
    """

    def __init__(self, seed, line, log_at, evaluate_at):
        data = points(BATCH)
        line, since, self.train, self.valid = np.float64(line), [], {}, {}
        self.clipped, self.best = [], (0, np.inf, None)
        for step in range(STEPS):
            batch = data.train_batch(seed, step, slice(None))
            total, gradient, count = squares(line, batch["inputs"], batch["targets"])
            mean = gradient / count
            norm = np.linalg.norm(mean)
            since.append((total, count, *(line * count), norm))
            if norm > CLIP:
                self.clipped.append(step)
            line = line - rate(step) * mean * min(1, CLIP / norm)
            if step + 1 in log_at:
                total, count, slope, intercept, _ = np.sum(since, axis=0)
                norms = np.mean([each[-1] for each in since])
                self.train[step + 1] = np.array([total, slope, intercept, norms * count]) / count
                since = []
            if step + 1 in evaluate_at:
                total, _, count = squares(line, *data._splits["valid"])
                self.valid[step + 1] = total / count
                if total / count < self.best[1]:
                    tested, _, of = squares(line, *data._splits["test"])
                    self.best = step + 1, total / count, tested / of


# ---- The runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "points", Entry(maker=points))
        patch.setitem(OBJECTIVES, "line", Line)
        yield


def make_config(**train):
    config = defaults.get_config()
    config.data.update(name="points", batch_size=BATCH)
    config.optim.update(
        name="sgd", learning_rate=PEAK, clip_norm=CLIP, schedule="cosine", warmup_steps=WARMUP
    )
    config.train.update(num_steps=STEPS, eval_every_steps=3, **train)
    config.seed, config.num_seeds = SEEDS[0], len(SEEDS)
    return config


def read(workdir):
    """Records by (split, seed, step)."""
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {(r["split"], r["seed"], r["step"]): r for r in records}


@pytest.fixture(scope="module")
def whole(registered, tmp_path_factory):
    """A run that logs every step: its folder and its result."""
    workdir = tmp_path_factory.mktemp("by_hand") / "whole"
    return workdir, loop.train(make_config(log_every_steps=1), workdir)


@pytest.fixture(scope="module")
def stopped(registered, tmp_path_factory):
    """One that logs every fourth step, and was stopped after five and resumed."""
    workdir = tmp_path_factory.mktemp("by_hand") / "stopped"
    loop.train(make_config(log_every_steps=4, stop_step=5), workdir)
    return workdir, loop.train(make_config(log_every_steps=4), workdir)


def first_lines(whole):
    """Of each seed, slope and intercept before the first update."""
    records = read(whole[0])
    return [[records["train", seed, 1][name] for name in ("slope", "intercept")] for seed in SEEDS]


@pytest.fixture(scope="module", params=["whole", "stopped"])
def compared(request, whole):
    """A run's records and result, and the same by hand, a seed each."""
    workdir, result = request.getfixturevalue(request.param)
    log_at, evaluate_at = range(1, STEPS + 1), {3, 6, 9, 12}
    if request.param == "stopped":  # where it stopped it logged and evaluated too
        log_at, evaluate_at = {4, 5, 8, 12}, evaluate_at | {5}
    by_hand = [
        ByHand(seed, line, log_at, evaluate_at)
        for seed, line in zip(SEEDS, first_lines(whole), strict=True)
    ]
    return read(workdir), result, by_hand


def test_the_oracle_sees_what_it_should(whole):
    first, second = (
        ByHand(seed, line, {1}, {3, 6, 9, 12})
        for seed, line in zip(SEEDS, first_lines(whole), strict=True)
    )
    for run in (first, second):
        assert 3 <= run.best[0] < STEPS, "the best step has to be another than the last"
        assert run.clipped and len(run.clipped) < STEPS - 2, "some gradients are to be clipped"
    assert np.abs(np.subtract(*first_lines(whole))).min() > 1e-3, "each seed draws its own line"
    assert first.train[1][0] != pytest.approx(second.train[1][0], rel=1e-2)


def test_training_lines_are_the_means_since_the_last_one(compared):
    records, _, by_hand = compared
    for seed, expected in zip(SEEDS, by_hand, strict=True):
        found = {step for split, of, step in records if (split, of) == ("train", seed)}
        assert found == set(expected.train)
        for step, values in expected.train.items():
            record = records["train", seed, step]
            names = ("loss", "slope", "intercept", "grad_norm")
            np.testing.assert_allclose([record[n] for n in names], values, rtol=2e-5)


def test_validations_are_of_the_parameters_of_their_step(compared):
    records, _, by_hand = compared
    for seed, expected in zip(SEEDS, by_hand, strict=True):
        found = {
            s: r["loss"] for (split, of, s), r in records.items() if (split, of) == ("valid", seed)
        }
        assert found == pytest.approx(expected.valid, rel=2e-5)


def test_the_best_step_is_tested(compared):
    records, result, by_hand = compared
    for seed, expected, entry in zip(SEEDS, by_hand, result["seeds"], strict=True):
        step, valid, test = expected.best
        assert (entry["seed"], entry["best"]["step"]) == (seed, step)
        assert entry["best"]["valid"]["loss"] == pytest.approx(valid, rel=2e-5)
        assert entry["test"]["loss"] == pytest.approx(test, rel=2e-5)
        assert records["test", seed, STEPS]["loss"] == pytest.approx(test, rel=2e-5)


def test_the_saved_best_is_evaluated(whole):
    workdir, result = whole
    again = commands.evaluate(workdir, {"eval.split": "test", "eval.batch_size": 4})
    for seed, entry in zip(again["seeds"], result["seeds"], strict=True):
        assert seed["test"]["loss"] == pytest.approx(entry["test"]["loss"], rel=1e-6)


def test_every_step_of_every_seed_draws_anew_and_evaluation_never(whole):
    records = read(whole[0])
    drawn = {key: record["drawn"] for key, record in records.items()}
    train = [value for (split, *_), value in drawn.items() if split == "train"]
    assert len({round(value * 2**20) for value in train}) == len(SEEDS) * STEPS
    assert {value for (split, *_), value in drawn.items() if split != "train"} == {NOT_TRAINED}


def test_what_begins_anew_is_told(whole, stopped, tmp_path, capsys):
    """A run that was killed before its first checkpoint, and one without its TensorBoard files."""
    killed = tmp_path / "killed"
    shutil.copytree(stopped[0], killed)
    (killed / "result.json").unlink()
    for folder in (killed / "checkpoints").iterdir():
        shutil.rmtree(folder)
    with pytest.raises(UserError, match="would start over what is"):
        loop.train(make_config(log_every_steps=1), killed)
    lines = (killed / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (killed / "metrics.jsonl").write_text("".join(lines[:2]), encoding="utf-8")
    result = loop.train(make_config(log_every_steps=1), killed)
    assert result["seeds"] == whole[1]["seeds"]
    out = capsys.readouterr().out
    assert "note: the run ended at step 3, before its first checkpoint was complete" in out

    (killed / "result.json").unlink()
    shutil.rmtree(killed / "tensorboard")
    assert loop.train(make_config(log_every_steps=1), killed)["seeds"] == whole[1]["seeds"]
    assert "note: tensorboard/ is missing: it begins at step 12" in capsys.readouterr().out
