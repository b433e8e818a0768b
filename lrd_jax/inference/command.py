"""What `python -m lrd_jax.predict` does, by what the model reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrd_jax.data import has_captions, reads_text
from lrd_jax.data.sequence_files import Layout, stream
from lrd_jax.errors import UserError
from lrd_jax.evaluation import loaded as runs
from lrd_jax.inference import pictures, tables, text, write
from lrd_jax.inference.model import Model, who
from lrd_jax.reporting.page import page, tag, write_page
from lrd_jax.reporting.surprise import coloured

_PAGE_TOKENS = 20_000  # that are shown on the page of a text


def run(workdir: Path, config: Any, inputs: Path, output: Path, seeds: str) -> None:
    """Predicts; writes the table, and of pictures with captions and of text a page beside it.

    Args:
      workdir: of the run.
      config: of it, checked, perhaps with other `eval.*`.
      inputs: file or folder.
      output: of the table, checked by `write.check`.
      seeds: see `best.chosen`.

    Raises:
      UserError: no such run or seed, or input that the model cannot read.
      RunError: the table cannot be written.
    """
    loaded = runs.load(workdir, config, {}, with_data=False)
    if has_captions(config.data.name):
        _captions(loaded, inputs, output, seeds)
    elif reads_text(config.data.name):
        _text(Model(loaded, seeds), inputs, output)
    else:
        _sequences(Model(loaded, seeds), inputs, output)


def _sequences(model: Model, inputs: Path, output: Path) -> None:
    count = rows = 0
    with write.table(output) as table:
        for ids, arrays in _read(model, inputs):
            said = model.predict(arrays)
            columns = tables.rows(model, ids, [len(each) for each in arrays], said)
            table.write(columns)
            count, rows = count + len(ids), rows + len(columns["id"])
    print(f"wrote {output}: {rows:,} rows of {count:,} sequences, by {who(model)}")


def _read(model: Model, path: Path) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yields ids and sequences, some at a time."""
    config = model.config
    is_table = path.is_file() and path.suffix.lower() in (".npz", ".npy")
    if pictures.is_image_set(config.data.name) and not is_table:
        with pictures.Pictures(path) as found:
            ids, held = [], []
            for name, picture in found:
                ids.append(name)
                held.append(pictures.sequence_of(picture, config.data))
                if len(held) == model.batch_size:
                    yield ids, held
                    ids, held = [], []
            if held:
                yield ids, held
        return
    fit = model.fit
    layout = Layout(target_columns=())
    if fit is not None:
        keys = {f.name: config.data[f.name] for f in dataclasses.fields(Layout)}
        layout = dataclasses.replace(fit.layout or Layout(**keys), channels=fit.channels)
    for some in stream(path, layout, need_targets=False):
        yield some.ids, some.inputs if fit is None else fit.apply(some, need_targets=False).inputs


def _captions(loaded: runs.Loaded, inputs: Path, output: Path, seeds: str) -> None:
    """Writes a row for each picture, prints it, and a page beside the table."""
    captioner, count = pictures.Captioner(loaded, seeds), 0
    with pictures.Pictures(inputs) as found, write.table(output) as table:
        for said in captioner(found):
            caption = " ".join(said.words)
            print(f"{said.name}: {caption}")
            table.write({"id": [said.name], "caption": [caption], "log_probability": [said.score]})
            count += 1
    print(f"wrote {output}: {count:,} captions")
    print("wrote", write_page(output.with_suffix(".html"), captioner.page(inputs)))


def _text(model: Model, inputs: Path, output: Path) -> None:
    """Writes a row for each token of a text, its surprise in nats, and a page of the first ones."""
    vocabulary = model.spec.vocabulary
    assert vocabulary is not None
    if inputs.is_dir():
        raise UserError(f"--input={inputs} is a folder: a language model reads one text file")
    tokens: list[str] = []
    nats: list[float] = []
    count, total = 0, 0.0
    with write.table(output) as table:
        for said in text.surprise(model, text.read_tokens(inputs, vocabulary)):
            places = list(range(count, count + len(said.tokens)))
            table.write({"id": places, "token": said.tokens, "nats": said.nats})
            count, total = count + len(places), total + float(said.nats.sum())
            if len(tokens) < _PAGE_TOKENS:
                tokens += said.tokens
                nats += said.nats.tolist()
        if not count:
            raise UserError(f"{inputs} holds no text")
    mean = total / count
    print(f"wrote {output}: {count:,} tokens, {mean:.4f} nats a token, by {who(model)}")
    entry = {
        "label": inputs.name,
        "surprise": {"unit": vocabulary.unit, "tokens": tokens, "nats": nats},
    }
    cut = f"The first {len(tokens):,} of {count:,} tokens." if len(tokens) < count else ""
    whole = page("Surprise at each token", coloured(entry), tag("p", cut, class_="soft"))
    print("wrote", write_page(output.with_suffix(".html"), whole))
