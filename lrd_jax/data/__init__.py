"""Data sets: `make_dataset` turns a config into batches by random access.

Every data set implements `lrd_jax.data.spec.Dataset`; a training batch is a pure function of
(seed, step). `lrd_jax.data.registry.DATASETS` lists them.
"""

from pathlib import Path
from typing import Any

from lrd_jax.data.registry import (
    DATASETS,
    Entry,
    has_captions,
    is_fitted,
    key_options,
    known_keys,
    make,
    make_task,
    reads_text,
    registered,
    varied_key,
)
from lrd_jax.data.sequence_fit import read_fit
from lrd_jax.data.spec import Batch, Dataset, DataSpec, InputSpec

__all__ = [
    "DATASETS",
    "Batch",
    "DataSpec",
    "Dataset",
    "Entry",
    "InputSpec",
    "dataset_names",
    "drawn",
    "has_captions",
    "is_fitted",
    "key_options",
    "known_keys",
    "make_dataset",
    "reads_text",
    "registered",
    "varied_key",
]


def dataset_names() -> tuple[str, ...]:
    """Returns the values that `data.name` may take."""
    return tuple(DATASETS)


def drawn(config: Any) -> str:
    """Returns what tells the examples of a config's task from others; "" where it has no task.

    Raises:
        UserError: a bad value.
    """
    task = make_task(config.data)
    if task is None:
        return ""
    from lrd_jax.data.synthetic import digest

    return digest(task)


def make_dataset(config: Any, workdir: Path | None = None) -> Dataset:
    """Builds the data set that `config.data` describes; `config.seed` is not read.

    Of pictures with captions, what `model.caption` does not look at is not read.

    Args:
        config: a config with the keys of `lrd_jax/config/defaults.py`.
        workdir: of a trained model, whose fit of the data (`sequence_fit`) is taken where there is
            one.

    Raises:
        UserError: a bad value, or data that is neither there nor to be had.
    """
    if is_fitted(config.data.name):
        return make(config.data, fitted=None if workdir is None else read_fit(workdir))
    if not has_captions(config.data.name):
        return make(config.data)
    return make(config.data, att=config.model.caption == "show_attend_tell")
