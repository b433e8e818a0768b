"""The data sets by name: what makes each, found when it is asked for.

Nothing is imported before: the builders need tensorflow_datasets, which takes half a second.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

from lrd_jax.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set. Each attribute is the object itself or where it is, "module:name".

    Options are called like the keys of `config.data`.

    Attributes:
        task: a `Task` class, whose fields are its options; or
        maker: a function that returns a `Dataset`, whose parameters are its options, with
        builder: the TFDS builder that prepares it on disk, None where there is none. (Every task
            has one, made of its draws.)
        text: whether it is running text, which a language model reads.
        captions: whether it is pictures with captions.
        fitted: whether something is fitted on its training examples and kept with the model.
    """

    task: Any = None
    maker: Any = None
    builder: Any = None
    text: bool = False
    captions: bool = False
    fitted: bool = False


_BUILDERS = "lrd_jax.data.builders"


def _image(builder: str) -> Entry:
    return Entry(maker="lrd_jax.data.images:make_dataset", builder=f"{_BUILDERS}.{builder}")


def _captions(maker: str) -> Entry:
    return Entry(maker=f"lrd_jax.data.caption_sets:{maker}", captions=True)


def _wikitext(builder: str) -> Entry:
    where = f"{_BUILDERS}.wikitext:{builder}"
    return Entry(maker="lrd_jax.data.text:make_wikitext", builder=where, text=True)


DATASETS = {
    "adding": Entry("lrd_jax.data.adding:Adding"),
    "cifar10": _image("cifar:LrdCifar10"),
    "coco": _captions("make_coco"),
    "copy": Entry("lrd_jax.data.copying:Copying"),
    "digits": _image("digits:LrdDigits"),
    "fashion_mnist": _image("mnist:LrdFashionMnist"),
    "flickr8k": _captions("make_flickr8k"),
    "mnist": _image("mnist:LrdMnist"),
    "recall": Entry("lrd_jax.data.recall:Recall"),
    "selective_copy": Entry("lrd_jax.data.selective_copying:SelectiveCopying"),
    "sequences": Entry(maker="lrd_jax.data.sequence_sets:make_sequences", fitted=True),
    "shapes": _captions("make_shapes"),
    "text": Entry(maker="lrd_jax.data.text:make_text", text=True),
    "tfds:": Entry(maker="lrd_jax.data.tfds_sets:make_tfds", fitted=True),
    "tracking": Entry("lrd_jax.data.tracking:Tracking"),
    "wikitext103": _wikitext("LrdWikitext103"),
    "wikitext2": _wikitext("LrdWikitext2"),
}
"""By the values of `data.name`. A config of one's own may add to it. A name that ends in ":" stands
for all that begin so."""

COMMON_KEYS = frozenset({"name", "data_dir", "batch_size"})
"""What may be said of any data set: which, where prepared ones lie, how much a step takes."""

_FOR_TASKS = "lrd_jax.data.synthetic:make_task_dataset"


def known_keys(name: str) -> frozenset[str]:
    """Returns the keys of `config.data` that a data set reads, without "data."; others say nothing.

    They are the options of what makes it, hence listed nowhere.

    Args:
        name: value of `data.name`.

    Raises:
        UserError: unknown name.
    """
    found = COMMON_KEYS.union(*(_options(maker).keys() for maker in _makers(_find(name))))
    return found - {"task", "att", "fitted"}


def key_options(name: str) -> dict[str, inspect.Parameter]:
    """Returns the same keys, but for the common ones, with annotation and default."""
    keys = known_keys(name)
    found = {k: p for maker in _makers(_find(name)) for k, p in _options(maker).items()}
    return {key: parameter for key, parameter in found.items() if key in keys}


def reads_text(name: str) -> bool:
    """Tells whether a data set is running text; UserError for an unknown name."""
    return _find(name).text


def has_captions(name: str) -> bool:
    """Tells whether a data set is pictures with captions; UserError for an unknown name."""
    return _find(name).captions


def is_fitted(name: str) -> bool:
    """Tells whether something is fitted on the training examples of a data set and kept."""
    return _find(name).fitted


def varied_key(name: str) -> str:
    """Returns the key of `config.data` that `eval.delays` or `eval.lengths` varies, "" for none.

    Raises:
        UserError: unknown name.
    """
    entry = _find(name)
    return "" if entry.task is None else load(entry.task).VARIES


def make(data: Any, **others: Any) -> Any:
    """Builds the data set that a config's group `data` describes.

    Args:
        data: that group.
        **others: arguments of its maker that are no options.

    Raises:
        UserError: a bad value, or data that is neither there nor to be had.
    """
    entry = _find(data.name)
    if entry.task is None:
        return call(load(entry.maker), data, **others)
    return call(load(_FOR_TASKS), data, task=make_task(data))


def make_task(data: Any) -> Any:
    """Builds the `Task` that a config's group `data` describes, None where it names no task.

    Raises:
        UserError: a value that is unknown or out of range.
    """
    task = _find(data.name).task
    return None if task is None else call(load(task), data)


def call(maker: Any, data: Any, **others: Any) -> Any:
    """Calls a function with the options that it takes, from the group `data` of a config.

    What the config lacks has the function's own default.

    Raises:
        UserError: there is none.
    """
    options = {key: p for key, p in _options(maker).items() if key not in others}
    for key, parameter in options.items():
        if key not in data and parameter.default is parameter.empty:
            raise UserError(
                f"data.name={data.name} needs data.{key}: set config.data.{key} in the config file"
            )
    return maker(**{key: data[key] for key in options if key in data}, **others)


def find_builder(name: str) -> Any:
    """Returns the TFDS builder class of a data set.

    Raises:
        UserError: unknown name, or one without a builder.
    """
    if name not in prepared_names():
        raise unknown("data set", name, prepared_names())
    entry = DATASETS[name]
    if entry.task is not None:
        return load(f"{_BUILDERS}.synthetic:make_builder")(name, load(entry.task))
    return load(entry.builder)


def prepared_names() -> tuple[str, ...]:
    """Returns the names of the data sets that have a builder, without importing any."""
    return tuple(n for n, entry in DATASETS.items() if entry.task or entry.builder)


def caption_names() -> tuple[str, ...]:
    """Returns the names of the sets of pictures with captions that are prepared from files."""
    return tuple(n for n, entry in DATASETS.items() if entry.captions and n != "shapes")


def load(where: Any) -> Any:
    """Returns what is called "module:name", or the object itself."""
    if not isinstance(where, str):
        return where
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


def registered(name: str) -> str:
    """Returns the name under which `DATASETS` has a data set: `tfds:` for `tfds:mnist`.

    Raises:
        UserError: unknown name.
    """
    head, colon, _ = name.partition(":")
    if head + colon not in DATASETS:
        raise unknown("data.name=", name, DATASETS)
    return head + colon


def _find(name: str) -> Entry:
    return DATASETS[registered(name)]


def _makers(entry: Entry) -> list[Any]:
    """What takes the options of a data set."""
    return [load(m) for m in ([entry.task, _FOR_TASKS] if entry.task else [entry.maker])]


def _options(maker: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(maker).parameters)
