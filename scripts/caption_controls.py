"""What the captions of a run are worth beside captions that need no model, or see no picture.

    python scripts/caption_controls.py RUN --out=controls.json
    python scripts/caption_controls.py RUN --publish=caption_flickr8k_controls

RUN is the work directory of a run on pictures with captions. All scores are of its test split (or
`--split`), with the decoding of `--mode=eval`; of a model those of every seed, and of all seeds
together where there are several. CIDEr and BLEU are fractions, papers print them times 100.
`CONTROLS` says what the controls are.

A file holds the schema of `lrd_jax/reporting/published.py`: a record for each control, with its
scores seed by seed. `--publish=NAME`, of a clean commit alone, writes `results/NAME.json` as well,
which `docs/results.md` shows.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # a checkout that is not installed

import bench_worker  # noqa: E402
from reproduce_report import rewrite_pages  # noqa: E402

from lrd_jax.config import checks, command_line, record  # noqa: E402
from lrd_jax.data.captions import CaptionDataset  # noqa: E402
from lrd_jax.data.spec import Batch  # noqa: E402
from lrd_jax.errors import UserError  # noqa: E402
from lrd_jax.evaluation.best import ALL  # noqa: E402
from lrd_jax.evaluation.captions import captions_of, speaker_of  # noqa: E402
from lrd_jax.evaluation.loaded import Loaded, load  # noqa: E402
from lrd_jax.objectives.captioning import Captioning, Scores  # noqa: E402
from lrd_jax.reporting import provenance, published  # noqa: E402
from lrd_jax.reporting.results import strict  # noqa: E402

_NEIGHBOURS, _DRAWN, _BEAMS = 10, 200, (1, 2, 3, 5)
CONTROLS = {
    "random": "a training caption drawn for each picture",
    "constant": "one caption for all, of 200 drawn that with the best validation CIDEr",
    "nearest": "the first caption of the training picture whose features are nearest (cosine)",
    "consensus": "of the captions of the 10 nearest, the one most like the others (words, bigrams)",
    "hidden": "the model with all features 0, their mean where they are standardised",
    "shuffled": "the model with the features of another picture",
}
Words = Sequence[str]


class Changed:
    """A data set whose `fc` and `att` are changed before they are seen."""

    def __init__(self, dataset: CaptionDataset, change: str) -> None:
        """Keeps the data set; `change` is "hidden" or "shuffled"."""
        self._dataset, self._change, self.spec = dataset, change, dataset.spec
        self.num_train = dataset.num_train

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def eval_batches(
        self, split: str, batch_size: int, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """As of the data set, with other features."""
        for batch in self._dataset.eval_batches(split, batch_size, rows):
            inputs = dict(batch["inputs"])
            for name in inputs.keys() & {"fc", "att"}:
                if self._change == "hidden":
                    # What the network sees as 0.
                    mean = np.asarray(self.spec.inputs[name].offset, inputs[name].dtype)
                    inputs[name] = np.zeros_like(inputs[name]) + mean
                else:
                    inputs[name] = np.roll(inputs[name], 1, axis=0)
            yield {**batch, "inputs": inputs}


def copied(dataset: CaptionDataset, split: str) -> dict[str, list[Words]]:
    """Captions that need no model, one for each picture of a split, by control."""
    rng = np.random.default_rng(0)
    train, places = dataset.places("train"), dataset.places(split)
    captions = [dataset.pictures[place].scored for place in train]
    pool: list[Words] = [words for each in captions for words in each]
    near = _neighbours(dataset, train, places)
    return {
        "random": [pool[i] for i in rng.integers(len(pool), size=len(places))],
        "constant": [_constant(dataset, pool, rng)] * len(places),
        "nearest": [captions[row[0]][0] for row in near],
        "consensus": [_consensus([words for i in row for words in captions[i]]) for row in near],
    }


def _neighbours(dataset: CaptionDataset, train: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Places among the training pictures of the nearest ones, nearest first."""

    def unit(split: np.ndarray) -> np.ndarray:
        fc = dataset.features_of(split)
        return fc / np.maximum(np.linalg.norm(fc, axis=1, keepdims=True), 1e-9)

    return np.argsort(-(unit(places) @ unit(train).T), axis=1)[:, :_NEIGHBOURS]


def _constant(dataset: CaptionDataset, pool: Sequence[Words], rng: np.random.Generator) -> Words:
    places = dataset.places("valid")
    scores = Scores(dataset.spec).of
    chosen = rng.choice(len(pool), min(_DRAWN, len(pool)), replace=False).tolist()
    drawn = [pool[i] for i in map(int, chosen)]
    worth = [scores([words] * len(places), places)["cider"] for words in drawn]
    return drawn[int(np.argmax(worth))]


def _consensus(captions: Sequence[Words]) -> Words:
    """The caption with the highest mean overlap with the others, of words and pairs of them."""
    counts = [Counter([*words, *itertools.pairwise(words)]) for words in captions]

    def likeness(a: Counter, b: Counter) -> float:
        return 2 * (a & b).total() / max(1, a.total() + b.total())

    def worth(i: int) -> float:
        return sum(likeness(counts[i], other) for j, other in enumerate(counts) if j != i)

    return captions[max(range(len(captions)), key=worth)]


def controls(loaded: Loaded, split: str) -> dict[str, Any]:
    """Scores of every control, and of the model at several widths of the beam.

    Returns:
      Control, `beam N` or `beam N, seeds together` -> its scores by name; of the model a list of
      these, one for each seed.
    """
    dataset, objective = loaded.dataset, loaded.objective
    assert isinstance(dataset, CaptionDataset) and isinstance(objective, Captioning)
    places = dataset.places(split)
    score = Scores(dataset.spec).of
    found: dict[str, Any] = {
        name: score(captions, places) for name, captions in copied(dataset, split).items()
    }
    for change in ("hidden", "shuffled"):
        changed: Any = Changed(dataset, change)
        seeds, _ = dataclasses.replace(loaded, dataset=changed).scores()
        found[change] = [seed[split] for seed in seeds]
    for beam in _BEAMS:
        objective.how = objective.how._replace(beam_size=beam)
        found[f"beam {beam}"] = [seed[split] for seed in loaded.scores()[0]]
        if len(loaded.members) > 1:
            speaker = speaker_of(loaded, ALL)
            said = [words for words, _ in captions_of(speaker, loaded)]
            found[f"beam {beam}, seeds together"] = score(said, places)
    return found


def content_of(
    found: Mapping[str, Any], *, title: str, split: str, pictures: int, config: Mapping[str, Any]
) -> dict[str, Any]:
    """What a file holds, see `lrd_jax.reporting.published`.

    Args:
      found: from `controls`.
      title: for the page.
      split: whose pictures they are.
      pictures: of the split.
      config: of the run, as a dict; places of this machine are left out.
    """
    content = dict(config)
    content["data"] = {**content["data"], "data_dir": "DIR"}
    records = [
        {
            "control": name,
            "what": CONTROLS.get(name, f"the model, {name}"),
            "scores": scores if isinstance(scores, list) else [scores],
        }
        for name, scores in found.items()
    ]
    records[0] |= {
        "device": provenance.device_description(),
        "versions": provenance.versions(),
    }
    whole = bench_worker.result(__file__, strict(records), [])
    del whole["goals"]
    whole["command"] = ["python", "scripts/caption_controls.py", "RUN", f"--split={split}"]
    about = {"title": title, "split": split, "pictures": pictures, "config": content}
    return whole | about


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    parser = command_line.ArgumentParser(
        prog="caption_controls", description="Captions of a run beside captions of controls."
    )
    parser.add_argument("run", metavar="RUN", help="work directory")
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"))
    parser.add_argument("--out", default="", help="file to write")
    parser.add_argument("--publish", default="", metavar="NAME", help="of a file in results/")
    flags = parser.parse_args(argv)
    if flags.publish:
        published.check_checkout()
    workdir = checks.expand_user(flags.run)
    config: Any = record.load_workdir(workdir).copy_and_resolve_references()
    config.eval.split = flags.split
    loaded = load(workdir, config, {})
    if not isinstance(loaded.dataset, CaptionDataset):
        raise UserError(f"{workdir} is no run on pictures with captions")
    found = controls(loaded, flags.split)
    for name, scores in found.items():
        each = scores if isinstance(scores, list) else [scores]
        shown = {key: np.mean([one[key] for one in each]) for key in each[0]}
        count = f"mean of {len(each)} seeds: " if len(each) > 1 else ""
        scores = ", ".join(f"{key} {value:.3f}" for key, value in shown.items())
        print(f"{name:26} {count}{scores}")
    content = content_of(
        found,
        title=f"{config.data.name}, {config.model.caption}: captions beside controls",
        split=flags.split,
        pictures=len(loaded.dataset.places(flags.split)),
        config=config.to_dict(),
    )
    if flags.out:
        Path(flags.out).write_text(published.to_json(content), encoding="utf-8")
    if flags.publish:
        published.check_publishable(content)
        path = ROOT / "results" / f"{flags.publish}.json"
        path.write_text(published.to_json(content), encoding="utf-8")
        rewrite_pages()
        print(f"published in {path}, docs/results.md and README.md")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"caption_controls: error: {error}")
