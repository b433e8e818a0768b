"""CONTRIBUTING.md says what to touch: the files are there, and nothing else need be touched."""

import dataclasses
import json
import re
from pathlib import Path
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.config import defaults
from lrd_jax.config.horizon import Horizon
from lrd_jax.data import DATASETS, DataSpec, Entry, InputSpec, known_keys
from lrd_jax.data.task import Task
from lrd_jax.errors import UserError
from lrd_jax.evaluation import commands
from lrd_jax.metrics import CollectedMetric, DerivedMetric, Metric
from lrd_jax.models import SequenceClassifier, make_head, make_recurrence
from lrd_jax.models.embedding import Table
from lrd_jax.objectives import OBJECTIVES, make_objective
from lrd_jax.objectives.base import score_weights
from lrd_jax.objectives.sequence import Classification, SequenceObjective
from lrd_jax.training import loop

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| (?!to add|-)(.*?) \| (.*?) \| (.*?) \|$", PAGE, re.M)


def test_there_is_a_row_for_everything():
    added = [row[0] for row in TABLE]
    assert added == ["cell", "task", "objective", "metric", "key", "backend", "probe", "command"]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_the_files_named_exist(row):
    paths = re.findall(r"`((?:lrd_jax|configs|tests|docs|scripts)/[\w./]*)`", " ".join(row))
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path
    names = re.findall(r"`(\w+)` (?:of|in) `(lrd_jax/[\w./]+\.py)`", " ".join(row))
    for name, path in names:
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), (name, path)


# ---- A task with inputs, an objective and metrics of its own, from this file alone ---------------


@dataclasses.dataclass(frozen=True)
class Riddle(Task):
    """A picture and words: the label is the first word, or one more where the picture is bright.

    Every fourth example has no label.
    """

    length: int
    words: int = 3

    STORED: ClassVar[str] = "Riddles."

    @property
    def variant(self):
        return f"{self.length}x{self.words}"

    @classmethod
    def of_variant(cls, variant):
        return cls(*map(int, variant.split("x")))

    @property
    def splits(self):
        return {"validation": 22, "test": 22}

    @property
    def spec(self):
        inputs = {
            "image": InputSpec((2, 2, 1), scale=(1 / 255,), values=256),
            "words": InputSpec((self.length, 1), looked_up=True, values=self.words),
        }
        return DataSpec("riddle", self.length, 1, self.words + 1, inputs=inputs)

    def draw(self, rng, count):
        return {
            "image": np.repeat(rng.integers(0, 2, (count, 1)) * 255, 4, 1).astype(np.uint8),
            "words": rng.integers(0, self.words, (count, self.length), np.uint8),
            "known": rng.integers(0, 4, count, np.uint8),
        }

    def expand(self, records):
        image = records["image"].reshape(-1, 2, 2, 1)
        label = records["words"][:, 0].astype(np.int32) + (image[:, 0, 0, 0] > 0)
        inputs = {"image": image, "words": records["words"][..., None]}
        return inputs, np.where(records["known"] > 0, label, -1)

    def __str__(self):
        return "riddles"


class Beside(nn.Module):
    """Every word's vector, and the picture at every step."""

    @nn.compact
    def __call__(self, inputs):
        words = Table(3, 6)(inputs["words"])
        image = nn.Dense(4)(inputs["image"].reshape(len(words), -1))
        return jnp.concatenate(
            [words, jnp.broadcast_to(image[:, None], (*words.shape[:2], 4))], axis=-1
        )


def kappa(counts):
    """Cohen's kappa of a confusion matrix."""
    counts = np.asarray(counts, np.float64)
    chance = (counts.sum(0) * counts.sum(1)).sum() / counts.sum()
    return (np.trace(counts) - chance) / (counts.sum() - chance)


KAPPA = Metric("kappa", "%", 1, True, (-1.0, 1.0), shapes=((4, 4),), finish=kappa)
DOUBT = DerivedMetric("doubt", "bits", 3, of="loss", finish=lambda nats: nats / np.log(2))
LONGEST = CollectedMetric(
    "longest_word",
    digits=0,
    higher_is_better=True,
    finish=lambda outputs: outputs["said"].max() + 100 * len(outputs["said"]),
)


class Riddles(Classification):
    reads_several = True
    metrics = (*Classification.metrics, KAPPA, DOUBT, LONGEST)
    select = (LONGEST, KAPPA)

    def __init__(self, config, spec, horizon):
        model = SequenceClassifier(
            recurrence=make_recurrence(config, spec.length),
            head=make_head(config, spec.classes),
            embedding=Beside(),
        )
        SequenceObjective.__init__(self, config, spec, horizon, model)

    def score(self, outputs, batch):
        total, sums = super().score(outputs, batch)
        said, true = (jax.nn.one_hot(x, 4) for x in (outputs.argmax(-1), batch["targets"]))
        counts = jnp.einsum("ba,bc,b->ac", true, said, score_weights(batch))
        return total, sums | {"kappa": (counts,)}

    def collect(self, params, batch):
        return {"said": self.outputs({"params": params}, batch, None).argmax(-1)}


@pytest.fixture
def config(monkeypatch, tmp_path):
    monkeypatch.setitem(DATASETS, "riddles", Entry(Riddle))
    monkeypatch.setitem(OBJECTIVES, "riddle", Riddles)
    config = defaults.get_config()
    with config.unlocked():
        config.data.words = 3
    config.data.update(name="riddles", length=5, batch_size=8, data_dir=str(tmp_path / "data"))
    config.model.update(cell="urlstm", hidden_size=8, head_hidden=())
    config.train.update(num_steps=4, eval_every_steps=2, log_every_steps=2)
    config.num_seeds = 2
    return config


@pytest.mark.slow
def test_a_task_and_its_metrics_need_no_other_file(config, tmp_path, capsys, monkeypatch):
    workdir = tmp_path / "run"
    result = loop.train(config, workdir)
    out = capsys.readouterr().out
    names = {"loss", "accuracy", "kappa", "doubt", "longest_word"}
    reported = {"balanced_accuracy", "macro_f1"}  # by what it inherits, in evaluation alone
    assert set(result["test"]) == names | reported and set(result["best"]["valid"]) == names
    # 22 examples, padding left out.
    assert result["test"]["longest_word"] // 100 == 22
    for seed in result["seeds"]:
        assert -1 <= seed["test"]["kappa"] <= 1
        assert seed["test"]["doubt"] == pytest.approx(seed["test"]["loss"] / np.log(2))
    # Declared once, shown everywhere; what chooses stands first.
    assert list(result["metrics"])[:2] == ["longest_word", "kappa"]
    (shown,) = re.findall(r"^test .*$", out, re.M)
    assert re.search(r" kappa -?\d+\.\d \(-?\d+\.\d, -?\d+\.\d\) %", shown)
    assert re.search(r" doubt \d\.\d{3} \(\d\.\d{3}, \d\.\d{3}\) bits", shown)
    assert f" longest word {result['test']['longest_word']:.0f} (" in shown
    # Sums of any shape travel in the state; what evaluation alone has does not.
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    train = [r for r in map(json.loads, lines) if r["split"] == "train"]
    assert all(names - set(record) == {"longest_word"} for record in train)
    extra = json.loads((workdir / "checkpoints/4/extra/metadata").read_text(encoding="utf-8"))
    leaves = {path for path in extra["sha256"] if path.startswith((".sums", ".best.valid"))}
    assert ".sums['kappa'][0]" in leaves and ".best.valid['longest_word']" in leaves
    assert not [path for path in leaves if "doubt" in path or path == ".sums['longest_word'][0]"]
    again = commands.evaluate(workdir, {"eval.split": "test", "eval.batch_size": 5})
    for name, value in result["seeds"][0]["test"].items():
        assert again["seeds"][0]["test"][name] == pytest.approx(value, rel=1e-5), name
    counts = np.array(again["seeds"][0]["tables"]["confusion"])
    assert counts.sum() == 19  # three labels are not scored
    assert counts.trace() / 19 == pytest.approx(again["seeds"][0]["test"]["accuracy"])
    assert known_keys("riddles") == {
        *("name", "data_dir", "batch_size", "steps_per_epoch", "length", "words")
    }
    assert (tmp_path / "data" / "lrd_riddles" / "5x3").is_dir()
    # Its file is edited; what is stored are the draws, which stay.
    expand = Riddle.expand
    monkeypatch.setattr(Riddle, "expand", lambda *args: (expand(*args)[0], 0 * expand(*args)[1]))
    config.train.num_steps = 6
    for action in (lambda: loop.train(config, workdir), lambda: commands.evaluate(workdir, {})):
        with pytest.raises(UserError, match=r"the task draws other examples than .* edited"):
            action()


def test_several_inputs_are_refused_where_one_is_read(config):
    with pytest.raises(UserError, match=r"aux\.kind=predict decodes one sequence, and riddles has"):
        config.aux.kind, config.aux.segment_length = "predict", 2
        make_objective(config, Riddle(5).spec, Horizon(4, 2))
    config.aux.kind = "none"
    spec = dataclasses.replace(Riddle(5).spec, kind="classify")
    with pytest.raises(UserError, match=r"riddles has several inputs \(image, words\), and"):
        make_objective(config, spec, Horizon(4, 2))
