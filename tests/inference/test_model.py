"""A run used from Python: `load`, `predict`, `step`, and what is refused."""

import json
import os
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrd_jax
from lrd_jax import cells
from lrd_jax.data import make_dataset
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.export import programs, weights
from lrd_jax.inference import text
from lrd_jax.inference.arrays import Batches
from lrd_jax.inference.forward import Network
from lrd_jax.objectives import make_evaluated
from lrd_jax.training import own
from tests.inference.runs import CLASSES, SPEC, make_run
from tests.training.harness import make_config

RNG = np.random.default_rng(0)
RAGGED = [RNG.normal(size=(n, 2)).astype(np.float32) for n in (12, 5, 1, 9)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two seeds, the second of which validated best."""
    return make_run(tmp_path_factory.mktemp("two") / "run", num_seeds=2, seed=3)


@pytest.fixture(scope="module")
def best(two):
    return lrd_jax.load(two)


def test_what_a_model_is(best):
    assert [member.seed for member in best.members] == [4]
    assert best.names == CLASSES and best.config.model.cell == "urlstm"
    assert best.spec == SPEC
    # The module with the parameters is the network itself.
    x = (RAGGED[0][None] - np.array(SPEC.offset)) * np.array(SPEC.scale)
    logits, _ = best.module.apply({"params": best.params}, jnp.float32(x))
    said = best.predict(RAGGED[0][None])
    np.testing.assert_allclose(said.probabilities, jax.nn.softmax(logits), atol=1e-6)
    assert said.labels.tolist() == [CLASSES[int(logits.argmax())]] and said.numbers is None


def test_padding_and_company_change_nothing(best):
    together = best.predict(RAGGED).probabilities
    alone = np.concatenate([best.predict(each[None]).probabilities for each in RAGGED[:2]])
    np.testing.assert_allclose(together[:2], alone, atol=1e-6)
    padded = np.full((4, 12, 2), 7, np.float32)  # what stands in padding is not read
    for row, each in zip(padded, RAGGED, strict=True):
        row[: len(each)] = each
    again = best.predict(padded, lengths=[len(each) for each in RAGGED])
    np.testing.assert_allclose(again.probabilities, together, atol=1e-6)


def test_an_ensemble_is_the_mean_of_what_its_seeds_say(two):
    every = lrd_jax.load(two, seeds="all")
    each = [lrd_jax.load(two, seeds=seed).predict(RAGGED).probabilities for seed in (3, 4)]
    assert abs(each[0] - each[1]).max() > 1e-3
    np.testing.assert_allclose(every.predict(RAGGED).probabilities, np.mean(each, 0), atol=1e-6)
    state = every.start(2)
    for x in np.stack([RAGGED[0][:5], RAGGED[1]], 1):
        state, said = every.step(state, x)
    expected = every.predict([RAGGED[0][:5], RAGGED[1]]).probabilities
    np.testing.assert_allclose(said.probabilities, expected, atol=1e-5)


def test_a_state_can_be_gone_back_to(best):
    before, _ = best.step(best.start(), RAGGED[0][:1])
    _, once = best.step(before, RAGGED[0][1:2])
    best.step(before, RAGGED[0][5:6])
    _, again = best.step(before, RAGGED[0][1:2])
    np.testing.assert_array_equal(once.probabilities, again.probabilities)


@pytest.mark.parametrize(
    ("inputs", "lengths", "message"),
    [
        (np.zeros((2, 5, 3)), None, r"has shape \[2, 5, 3\], and the model reads \(batch, time, 2"),
        (np.zeros((5, 2)), None, r"has shape \[5, 2\]"),
        (["a"], None, "cannot be read as numbers"),
        ([np.zeros((3, 2)), np.zeros((3, 1))], None, "sequence 1 has shape"),
        ([np.zeros((3, 2)), np.zeros((0, 2))], None, "at least one step"),
        ([], None, "has shape"),
        (np.full((1, 3, 2), np.nan), None, "holds NaN"),
        (np.zeros((2, 5, 2)), [5], "one for each of the 2 sequences"),
        (np.zeros((2, 5, 2)), [5, 6], "from 1 to the 5 steps"),
        (np.zeros((2, 5, 2)), [5, 0], "from 1 to the 5 steps"),
        ([np.zeros((3, 2))], [3], "a list has them itself"),
    ],
)
def test_inputs_that_do_not_fit(best, inputs, lengths, message):
    with pytest.raises(UserError, match=message) as caught:
        best.predict(inputs, lengths)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "message"),
    [(np.zeros(2), "must be"), (np.zeros((2, 2)), "of 2 sequences"), ([[0, np.nan]], "NaN")],
)
def test_steps_that_do_not_fit(best, x, message):
    with pytest.raises(UserError, match=message):
        best.step(best.start(), x)


def test_ids_are_whole_and_known():
    spec = DataSpec("tag", length=4, features=5, classes=3, one_hot=True, scored=4)
    (inputs, lengths, rows), *_ = Batches(spec, [[[1.0], [4.0]], [[0.0]]]).padded(8)
    assert inputs.dtype == np.int32 and lengths.tolist() == [2, 1] and rows == 2
    for wrong, message in (([[[0.5]]], "fractions"), ([[[5]]], "0 to 4"), ([[[-1]]], "0 to 4")):
        with pytest.raises(UserError, match=message):
            Batches(spec, wrong)


def test_runs_and_seeds_that_are_not_there(two, tmp_path):
    with pytest.raises(UserError, match="no run in"):
        lrd_jax.load(tmp_path / "none")
    with pytest.raises(UserError, match="a seed of this run that was validated: 3, 4"):
        lrd_jax.load(two, seeds=5)
    (tmp_path / "config.json").write_bytes((two / "config.json").read_bytes())
    (tmp_path / "spec.json").write_bytes((two / "spec.json").read_bytes())
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        lrd_jax.load(tmp_path)
    (tmp_path / "spec.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match=r"spec\.json is damaged"):
        lrd_jax.load(tmp_path)


def test_networks_that_have_nothing_to_say_before_the_end():
    objective = make_evaluated(make_config(model__bidirectional=True), SPEC)
    with pytest.raises(UserError, match=r"model\.bidirectional=True reads from both ends"):
        Network(objective).start({}, 1)
    with pytest.raises(UserError, match=r"python -m lrd_jax\.predict makes captions"):
        Network(object())


# ---- Text ---------------------------------------------------------------------------------------


def test_surprise_of_a_text(tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps\n" * 20, "utf-8")
    overrides = {"data.name": "text", "data.text_dir": str(tmp_path / "text.txt")}
    overrides |= {"data.length": 5, "model.cell": "lstm", "num_seeds": 2}
    dataset = make_dataset(make_config(**overrides))
    folder = make_run(tmp_path / "run", dataset=dataset, **overrides)
    (tmp_path / "text.txt").unlink()  # the data need not be there
    (tmp_path / "own.txt").write_text("fox jumps\nthe" * 30, "utf-8")
    models = [lrd_jax.load(folder, seeds=seeds) for seeds in (0, 1, "all")]
    vocabulary = models[0].spec.vocabulary
    found = []
    for model in models:
        parts = list(text.surprise(model, text.read_tokens(tmp_path / "own.txt", vocabulary)))
        assert "".join("".join(part.tokens) for part in parts) == "fox jumps\nthe" * 30
        found.append(np.concatenate([part.nats for part in parts]))
    # Token by token: -log of the probability after all before.
    tokens = vocabulary.encode("fox jumps\nthe" * 30)
    read = np.array([[vocabulary.start, *tokens[:-1]]])
    probabilities = models[0].predict(read).probabilities[0]
    nats = -np.log(probabilities[np.arange(len(tokens)), tokens])
    np.testing.assert_allclose(found[0], nats, rtol=1e-4)
    state = models[0].start()
    for place in range(3):
        state, said = models[0].step(state, read[:, place])
        np.testing.assert_allclose(said.probabilities[0], probabilities[place], atol=1e-6)
    mean = -np.log((np.exp(-found[0]) + np.exp(-found[1])) / 2)
    np.testing.assert_allclose(found[2], mean, rtol=1e-5)
    # Taken elsewhere: probabilities of the next token; PyTorch's names.
    for model in (models[2], models[0]):
        program = programs.whole(model)
        there = program.call(read.astype(np.int32), np.array([len(tokens)], np.int32))
        np.testing.assert_allclose(there, model.predict(read).probabilities, atol=1e-5)
    assert programs.step(models[0]).in_avals[-2].shape[1:] == ()
    names = {name.partition(".")[0] for name in weights.for_torch(models[0])}
    assert names == {"embedding", "recurrence", "output"}
    (tmp_path / "own.txt").write_text("the\nfox!", "utf-8")
    with pytest.raises(UserError, match=r"own\.txt, line 2: '!' is not in the vocabulary"):
        list(text.read_tokens(tmp_path / "own.txt", vocabulary))


# ---- lrd_jax itself -----------------------------------------------------------------------------


def test_the_package_gives_what_it_promises():
    """That it loads no JAX before, `tests/test_architecture.py` knows."""
    promised = {"Recurrence", "LSTMCell", "make_cell", "load", "train"}
    assert promised | {"CELLS"} <= set(lrd_jax._WHERE) <= set(dir(lrd_jax))
    assert all(callable(getattr(lrd_jax, name)) for name in set(lrd_jax._WHERE) - {"CELLS"})
    every = {name for name, value in vars(cells).items() if value in cells.CELLS.values()}
    assert every <= set(lrd_jax._WHERE)
    with pytest.raises(AttributeError, match="no attribute 'Recurrent'"):
        lrd_jax.Recurrent  # noqa: B018


def test_training_from_a_thread_leaves_the_process_alone(digits_dir, tmp_path, capsys):
    keys = {
        "data.name": "digits",
        "data.data_dir": str(digits_dir),
        "data.pixels_per_step": 8,
        "data.batch_size": 4,
        "model.cell": "urlstm",
        "model.hidden_size": 4,
        "model.head_hidden": (4,),
        "train.num_steps": 2,
        "eval.max_examples": 8,
        "num_seeds": 2,
        "train.tensorboard": False,
    }
    before, found = dict(os.environ), []
    argv = list(sys.argv)
    thread = threading.Thread(target=lambda: found.append(lrd_jax.train(keys, tmp_path / "run")))
    thread.start()
    thread.join()
    (result,) = found
    own = {"NPROC", "XLA_FLAGS", "GLIBC_TUNABLES", "TF_CPP_MIN_LOG_LEVEL"}
    assert {k: os.environ.get(k) for k in own} == {k: before.get(k) for k in own}
    assert sys.argv == argv
    assert [seed["seed"] for seed in result["seeds"]] == [0, 1] and "accuracy" in result["test"]
    out = capsys.readouterr().out
    assert out.count("JAX has its devices already, 4 x cpu: they are used as they are") == 1
    assert json.loads((tmp_path / "run/result.json").read_text("utf-8")) == result
    model = lrd_jax.load(tmp_path / "run")
    assert model.names == tuple("0123456789")
    assert model.predict(np.zeros((2, 8, 8), np.uint8)).probabilities.shape == (2, 10)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model.cel": "lstm"}, "unknown config key 'model.cel': did you mean model.cell"),
        ({"model.hidden_size": "big"}, "expected an integer"),
        ({"model.gates": "U-"}, "has no effect"),
        ("none.py", "there is no config file"),
        (3, "config is of type int"),
    ],
)
def test_configs_that_are_none(config, message, tmp_path):
    with pytest.raises(UserError, match=message):
        lrd_jax.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.cel": "lstm"}, "unknown config key 'model.cel': did you mean model.cell"),
        ({"data": 3}, "unknown config key 'data'"),
        ({"model.hidden_size": "big"}, "expected an integer"),
        ({"model.gates": "U-", "model.cell": "lstm"}, "model.gates='U-' has no effect"),
        ({"train.num_steps": -1}, "config.train.num_steps=-1: must be 0 or more"),
        ([("seed", 1)], "overrides are of type list, and must be a mapping"),
    ],
)
@pytest.mark.parametrize("config", ["configs/urlstm_pdigits.py:quick", {"data.name": "digits"}])
def test_overrides_of_a_config_are_checked_as_on_the_command_line(
    config, overrides, message, tmp_path
):
    with pytest.raises(UserError, match=message):
        lrd_jax.train(config, tmp_path / "run", overrides)
    assert not (tmp_path / "run").exists()


def test_overrides_win_over_the_config(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(own.loop, "run", lambda *args: seen.append(args[:3]))
    file = "configs/urlstm_pdigits.py:quick"
    lrd_jax.train(file, tmp_path, {"optim.learning_rate": 1, "model.head_hidden": [3]})
    lrd_jax.train({"model.cell": "gru", "seed": 1}, tmp_path, {"seed": 2})
    ((first, _, flag), (second, _, _)) = seen
    assert flag == file and first.optim.learning_rate == 1.0 and first.model.head_hidden == (3,)
    assert first.data.name == "digits" and first.is_locked
    assert (second.model.cell, second.seed) == ("gru", 2)
