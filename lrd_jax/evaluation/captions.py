"""Captions of a split: scores, COCO's result format, and a page.

Pictures of one's own are captioned by `python -m lrd_jax.predict`, with the same speaker.
"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lrd_jax.arrays import Array
from lrd_jax.config.members import members
from lrd_jax.data.captions import CaptionDataset, read_caption
from lrd_jax.data.spec import Batch
from lrd_jax.errors import UserError, check_choice
from lrd_jax.evaluation.best import ALL, BEST, chosen
from lrd_jax.evaluation.loaded import Loaded
from lrd_jax.evaluation.scores import NOWHERE, measure, write_evaluation
from lrd_jax.metrics import Metric, declarations
from lrd_jax.objectives.base import encode
from lrd_jax.objectives.captioning import Captioning
from lrd_jax.reporting import meteor, summary
from lrd_jax.reporting.caption_metrics import CaptionScorer
from lrd_jax.reporting.page import write_page
from lrd_jax.reporting.results import strict
from lrd_jax.reporting.sheet import Entry, sheet
from lrd_jax.reporting.workdir import write_json

logger = logging.getLogger(__name__)

METEOR = Metric("meteor", digits=3, higher_is_better=True, range=(0.0, 1.0))


def check(workdir: Path, config: Any) -> None:
    """Raises UserError for what cannot be, before anything is loaded."""
    del workdir
    options = config.eval
    check_choice("eval.meteor", options.meteor, meteor.WAYS)
    if options.ensemble and len(members(config)) < 2:
        raise UserError("eval.ensemble=True needs a run of several seeds (num_seeds): leave it out")


def run(loaded: Loaded) -> Any:
    """Decodes as `config.eval` says, and writes into `eval/`.

    `<split>.json` has the scores of every seed; of the seed that validated best,
    `<split>_captions.json` is a list of `{"image_id", "caption"}` that COCO's tools read, and
    `<split>.html` a page. With `eval.ensemble` captions are made by all seeds together; their
    scores stand under `ensemble` beside those of the seeds.

    Returns:
      What the first of these holds.
    """
    assert isinstance(loaded.objective, Captioning)
    dataset, split = loaded.dataset, loaded.split
    assert isinstance(dataset, CaptionDataset)
    # As many as are scored: all, or `eval.max_examples` of them.
    places = dataset.places(split)[: loaded.config.eval.max_examples or None]
    if len(places) == 1:
        logger.warning("one picture of the split %s is scored: its CIDEr is 0", split)
    references = [dataset.pictures[place].scored for place in places]
    result = measure(loaded)
    result["decoding"] = loaded.objective.how._asdict()
    with_meteor = meteor.wanted(loaded.config.eval.meteor)
    if with_meteor:
        for index, entry in enumerate(result["seeds"]):
            params = jax.tree.map(lambda leaf, i=index: leaf[i], loaded.best.params)
            one = Speaker(loaded.objective, params, "")
            said = [words for words, _ in itertools.islice(captions_of(one, loaded), len(places))]
            entry[split]["meteor"] = meteor.meteor(said, references)
        result["metrics"] |= declarations([METEOR])
    speaker = speaker_of(loaded, ALL if loaded.config.eval.ensemble else BEST)
    found = list(itertools.islice(captions_of(speaker, loaded), len(places)))
    scorer, said = CaptionScorer(references), [words for words, _ in found]
    if loaded.config.eval.ensemble:
        together = speaker.objective.scores.of(said, places)
        if with_meteor:
            together["meteor"] = meteor.meteor(said, references)
        result["ensemble"] = together
    result = strict(result)
    target = write_evaluation(loaded.workdir, split, result)
    print(summary.evaluation(result, target or NOWHERE))
    if together := result.get("ensemble"):
        known = {metric.name: metric for metric in (*speaker.objective.metrics, METEOR)}
        shown = (known[n].labelled(known[n].text(value)) for n, value in together.items())
        print(f"ensemble    {', '.join(shown)}")
    cider = [each["cider"] for each in scorer.each(said)]
    pictures = [dataset.pictures[place] for place in places]
    written = [
        {"image_id": picture.number, "caption": " ".join(words)}
        for picture, (words, _) in zip(pictures, found, strict=True)
    ]
    if target is None:  # a run that may only be read: what was asked for is printed
        for entry in written:
            print(f"{entry['image_id']}: {entry['caption']}")
        return result
    shown = min(len(found), loaded.config.eval.sheet_images)
    looks = attention(speaker, _of_split(loaded), shown)
    entries = [
        Entry(
            pictures[i].name,
            *found[i],
            references=pictures[i].scored,
            pixels=dataset.draw(int(places[i])),
            attention=looks[i],
            note=f"CIDEr {cider[i]:.2f}",
        )
        for i in range(shown)
    ]
    captions = target.with_name(f"{target.stem}_captions.json")
    write_json(captions, written)
    line = about(loaded, speaker, f"{loaded.config.data.name}, {split}")
    html = write_page(target.with_suffix(".html"), sheet("Captions", line, entries))
    print(f"captions in {captions}\npage in {html}")
    return result


def _of_split(loaded: Loaded) -> Iterator[Batch]:
    assert loaded.dataset is not None
    size = min(batch_size(loaded), loaded.dataset.eval_size(loaded.split))
    return loaded.dataset.eval_batches(loaded.split, size)


def batch_size(loaded: Loaded) -> int:
    """Pictures that are captioned at a time."""
    return loaded.config.eval.batch_size or loaded.config.data.batch_size


class Speaker(NamedTuple):
    """Who makes the captions that are written.

    Attributes:
      objective: holds the model and how it decodes.
      params: of one seed, or of all of them.
      name: of the seed, where there are several.
    """

    objective: Captioning
    params: Any
    name: str


def speaker_of(loaded: Loaded, seeds: str | int) -> Speaker:
    """One seed, or all of them together; see `best.chosen`."""
    objective = loaded.objective
    assert isinstance(objective, Captioning)
    best = jax.device_get(loaded.best)
    places = chosen(best, loaded.members, objective.select, seeds)
    if seeds != ALL or len(places) == 1:
        name = "" if len(loaded.members) == 1 else str(loaded.members[places[0]])
        if name and seeds == BEST:
            name += f", which validated best of {len(loaded.members)}"
        return Speaker(objective, jax.tree.map(lambda leaf: leaf[places[0]], best.params), name)
    together = copy.copy(objective)
    together.how = objective.how._replace(ensemble=True)
    params = jax.tree.map(lambda leaf: leaf[np.array(places)], best.params)
    return Speaker(together, params, f"{len(places)} runs together")


def captions_of(
    speaker: Speaker, loaded: Loaded, batches: Iterator[Batch] | None = None
) -> Iterator[tuple[list[str], float]]:
    """Words and log probability (nats) of every picture of the split, or of other batches.

    Args:
      speaker: the model that captions.
      loaded: the run, whose split is captioned.
      batches: of pictures; None: those of the split.
    """
    vocabulary, decoded = speaker.objective.spec.vocabulary, jax.jit(speaker.objective.decoded)
    assert vocabulary is not None
    for batch in batches or _of_split(loaded):
        found = jax.device_get(decoded(speaker.params, _without_words(batch)))
        for words, score, real in zip(found.words, found.score, batch["mask"], strict=True):
            if real:
                yield read_caption(vocabulary, words), float(score)


def _without_words(batch: Batch) -> Batch:
    return {"inputs": {k: v for k, v in batch["inputs"].items() if k != "words"}}


def attention(speaker: Speaker, batches: Iterator[Batch], count: int) -> list[np.ndarray | None]:
    """Where the model looked at each word of the first pictures.

    Args:
      speaker: the model that captions.
      batches: of pictures.
      count: how many pictures.

    Returns:
      Of each picture weights `(words and end, parts)` that add up to 1; None where the model does
      not look at parts.
    """
    if not speaker.objective.model.attends or not count:
        return [None] * count
    look, looks = jax.jit(functools.partial(_look, speaker.objective)), []
    for batch in batches:
        words, weights = jax.device_get(look(speaker.params, _without_words(batch)))
        looks += [w[: int((row != 0).sum()) + 1] for row, w in zip(words, weights, strict=True)]
        if len(looks) >= count:
            break
    return looks[:count]


def _look(objective: Captioning, params: Any, batch: Batch) -> tuple[Array, Array]:
    """The words of a batch, and the attention before each of them, in one more pass over them."""
    words = objective.decoded(params, batch).words
    read = jax.numpy.pad(words[:, None], ((0, 0), (0, 0), (1, 0)))
    inputs = {**encode(batch["inputs"], objective.spec), "words": read}

    def attention(params: Any) -> Array:
        return objective.model.apply({"params": params}, inputs, method="attention")

    if objective.how.ensemble:
        return words, jax.vmap(attention)(params).mean(0)
    return words, attention(params)


def about(loaded: Loaded, speaker: Speaker, what: str) -> str:
    """A line that says which model captioned what, and how.

    Args:
      loaded: the run.
      speaker: who of it captioned.
      what: e.g. the split.
    """
    how = speaker.objective.how
    if how.temperature is None:
        way = f"beam of {how.beam_size}" if how.beam_size > 1 else "greedy"
    else:
        way = f"drawn at temperature {how.temperature:g}"
    if how.banned >= 0:
        way += ", without UNK"
    named = [speaker.name] if speaker.name else []
    return ", ".join([loaded.config.model.caption, what, way, *named])
