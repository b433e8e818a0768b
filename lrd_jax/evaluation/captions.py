"""Captions of a split, or of pictures of one's own: scores, COCO's result format, and a page."""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lrd_jax.arrays import Array
from lrd_jax.config.members import members
from lrd_jax.config.paths import expand_user
from lrd_jax.data.captions import CaptionDataset, read_caption
from lrd_jax.data.encoders import make_encoder
from lrd_jax.data.pictures import PictureFolder, thumbnail
from lrd_jax.data.pipeline import pad_rows
from lrd_jax.data.spec import Batch
from lrd_jax.errors import UserError, check_choice
from lrd_jax.evaluation.loaded import Loaded
from lrd_jax.evaluation.scores import NOWHERE, measure, write_evaluation
from lrd_jax.metrics import Metric, declarations
from lrd_jax.objectives.base import encode
from lrd_jax.objectives.captioning import Captioning
from lrd_jax.reporting import meteor, summary
from lrd_jax.reporting.caption_metrics import CaptionScorer
from lrd_jax.reporting.page import write_page
from lrd_jax.reporting.results import strict
from lrd_jax.reporting.sheet import Entry, pillow, sheet
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
    if options.image_dir:
        with PictureFolder(options.image_dir) as files:
            if not list(files):
                raise UserError(f"eval.image_dir={options.image_dir} holds no pictures")


def run(loaded: Loaded) -> Any:
    """Decodes as `config.eval` says, and writes into `eval/`.

    Of a split: `<split>.json` with the scores of every seed, and of the seed that validated best
    `<split>_captions.json`, a list of `{"image_id", "caption"}` that COCO's tools read, and
    `<split>.html`. Of pictures in `eval.image_dir`: `pictures_captions.json`, where entries have a
    `file_name` too, and `pictures.html`.

    With `eval.ensemble` captions are made by all seeds together; their scores stand under
    `ensemble` beside those of the seeds.

    Returns:
      What the first of these holds.
    """
    assert isinstance(loaded.objective, Captioning)
    if loaded.config.eval.image_dir:
        return _of_own_pictures(loaded)
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
    speaker = speaker_of(loaded, loaded.config.eval.ensemble)
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
    looks = _attention(speaker, _of_split(loaded), shown)
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
    _write(target.with_suffix(""), written, entries, _about(loaded, speaker))
    return result


def _of_split(loaded: Loaded) -> Iterator[Batch]:
    assert loaded.dataset is not None
    size = min(_batch_size(loaded), loaded.dataset.eval_size(loaded.split))
    return loaded.dataset.eval_batches(loaded.split, size)


def _batch_size(loaded: Loaded) -> int:
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


def speaker_of(loaded: Loaded, together: bool) -> Speaker:
    """The seed that validated best, or all of them together."""
    objective = loaded.objective
    assert isinstance(objective, Captioning)
    if not together:
        _, params, name = loaded.choose()
        return Speaker(objective, params, name)
    mean = copy.copy(objective)
    mean.how = objective.how._replace(ensemble=True)
    return Speaker(mean, loaded.best.params, f"{len(loaded.members)} runs together")


def captions_of(
    speaker: Speaker, loaded: Loaded, batches: Iterator[Batch] | None = None
) -> Iterator[tuple[list[str], float]]:
    """Words and log probability of every picture of the split, or of other batches."""
    vocabulary, decoded = speaker.objective.spec.vocabulary, jax.jit(speaker.objective.decoded)
    assert vocabulary is not None
    for batch in batches or _of_split(loaded):
        found = jax.device_get(decoded(speaker.params, _without_words(batch)))
        for words, score, real in zip(found.words, found.score, batch["mask"], strict=True):
            if real:
                yield read_caption(vocabulary, words), float(score)


def _without_words(batch: Batch) -> Batch:
    return {"inputs": {k: v for k, v in batch["inputs"].items() if k != "words"}}


def _attention(speaker: Speaker, batches: Iterator[Batch], count: int) -> list[np.ndarray | None]:
    """Where the model looked at each word of the first pictures, (words and end, parts)."""
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


def _of_own_pictures(loaded: Loaded) -> list[dict[str, Any]]:
    folder = expand_user(loaded.config.eval.image_dir)
    with PictureFolder(folder) as files:
        names = _readable(files)
        batches = list(_encoded(loaded, files, names))
        speaker = speaker_of(loaded, loaded.config.eval.ensemble)
        found = list(captions_of(speaker, loaded, iter(batches)))
        shown = min(len(names), loaded.config.eval.sheet_images)
        looks = _attention(speaker, iter(batches), shown)
        entries = [
            Entry(names[i], *found[i], (), thumbnail(files.open(names[i])), looks[i])
            for i in range(shown)
        ]
    written = [
        {"image_id": number, "caption": " ".join(words), "file_name": name}
        for number, (name, (words, _)) in enumerate(zip(names, found, strict=True))
    ]
    for entry in written:
        print(f"{entry['file_name']}: {entry['caption']}")
    _write(loaded.workdir / "eval" / "pictures", written, entries, _about(loaded, speaker, folder))
    return written


def _readable(files: PictureFolder) -> list[str]:
    names = []
    for name in files:
        try:
            files.open(name)
            names.append(name)
        except UserError as error:
            if pillow() is None:
                raise
            logger.warning("%s: left out", error)
    if not names:
        raise UserError("none of the pictures in eval.image_dir can be read")
    return names


def _encoded(loaded: Loaded, files: PictureFolder, names: Sequence[str]) -> Iterator[Batch]:
    """Features of pictures as a data set would give them, in batches of equal size."""
    inputs, data = loaded.spec.inputs, loaded.config.data
    att = inputs.get("att")
    grid = math.isqrt(att.shape[0]) if att else 14
    encoder = make_encoder("pixels" if data.name == "shapes" else data.encoder, grid)
    if encoder.fc_size != inputs["fc"].features:
        raise UserError(
            f"{encoder.name} makes {encoder.fc_size} features, and the model was trained with"
            f" {inputs['fc'].features}: they are of another encoder"
        )
    size, rows = min(_batch_size(loaded), len(names)), {"fc": [], "att": []}
    step = encoder.batch_size
    for start in range(0, len(names), step):
        read = [encoder.read(files.open(name)) for name in names[start : start + step]]
        count = len(read)
        fc, parts = encoder.encode(np.stack(read + [np.zeros_like(read[0])] * (step - count)))
        rows["fc"] += list(fc[:count])
        rows["att"] += list(parts[:count].astype(np.float16))  # as they are stored
    for start in range(0, len(names), size):
        here = {name: np.stack(each[start : start + size]) for name, each in rows.items()}
        here["picture"] = np.arange(start, start + len(here["fc"]), dtype=np.int32)
        padding = size - len(here["fc"])
        mask = pad_rows(np.ones(len(here["fc"]), np.float32), padding)
        wanted = {name: pad_rows(here[name], padding) for name in here if name in inputs}
        yield {"inputs": wanted, "mask": mask}


def _about(loaded: Loaded, speaker: Speaker, where: Path | None = None) -> str:
    how, config = speaker.objective.how, loaded.config
    if how.temperature is None:
        way = f"beam of {how.beam_size}" if how.beam_size > 1 else "greedy"
    else:
        way = f"drawn at temperature {how.temperature:g}"
    if how.banned >= 0:
        way += ", without UNK"
    what = where or f"{config.data.name}, {loaded.split}"
    return ", ".join(
        [config.model.caption, str(what), way, *([speaker.name] if speaker.name else [])]
    )


def _write(base: Path, written: Any, entries: Sequence[Entry], about: str) -> None:
    """Writes captions and page beside each other, and says so."""
    captions = base.with_name(f"{base.name}_captions.json")
    write_json(captions, written)
    html = write_page(base.with_name(f"{base.name}.html"), sheet("Captions", about, entries))
    print(f"captions in {captions}\npage in {html}")
    if pillow() is None:
        print("the page has no pictures: pip install 'lrd-jax[captioning]' for Pillow")
    elif any(entry.pixels is None for entry in entries):
        print("the page lacks pictures: their files are not where they were when prepared")
