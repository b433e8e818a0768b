"""Data sets: `make_dataset` turns a config into batches by random access.

Every data set implements `lrd_jax.data.spec.Dataset`; a training batch is a pure function of
(seed, step).
"""

import importlib
from typing import Any

from lrd_jax.data.spec import Batch, Dataset, DataSpec
from lrd_jax.errors import unknown

__all__ = [
    "Batch",
    "DataSpec",
    "Dataset",
    "dataset_names",
    "known_keys",
    "make_dataset",
    "reads_text",
]

# data.name -> the module whose make_dataset(config.data) builds it. Imported when asked for: the
# images need tensorflow_datasets, which takes half a second to import.
_MODULES = {
    "adding": "lrd_jax.data.synthetic",
    "cifar10": "lrd_jax.data.images",
    "copy": "lrd_jax.data.synthetic",
    "digits": "lrd_jax.data.images",
    "fashion_mnist": "lrd_jax.data.images",
    "mnist": "lrd_jax.data.images",
    "text": "lrd_jax.data.text",
    "wikitext103": "lrd_jax.data.text",
    "wikitext2": "lrd_jax.data.text",
}


def dataset_names() -> tuple[str, ...]:
    """Returns the values that `data.name` may take."""
    return tuple(_MODULES)


# Module -> the keys of config.data that its data sets read.
_KEYS = {
    "lrd_jax.data.images": "permutation order pixels_per_step valid_split normalise",
    "lrd_jax.data.text": "length text_dir unit",
}
_KEYS_OF = {
    "copy": "preset delay encoding steps_per_epoch",
    "adding": "length steps_per_epoch",
    "wikitext2": "length",
    "wikitext103": "length",
}


def known_keys(name: str) -> frozenset[str]:
    """Returns the keys of `config.data`, without "data.", that this data set has a use for.

    Those of every data set (`name`, `data_dir`, `batch_size`) are left out.
    """
    return frozenset((_KEYS_OF.get(name) or _KEYS[_MODULES[name]]).split())


def reads_text(name: str) -> bool:
    """Tells whether a data set is running text, which a language model reads."""
    return _MODULES[name] == "lrd_jax.data.text"


def make_dataset(config: Any) -> Dataset:
    """Builds the data set that `config.data` describes; `config.seed` is not read.

    Args:
        config: a config with the keys of `lrd_jax/config/defaults.py`.

    Raises:
        UserError: a bad value, or data that is neither there nor to be had.
    """
    name = config.data.name
    if name not in _MODULES:
        raise unknown("data.name=", name, _MODULES)
    return importlib.import_module(_MODULES[name]).make_dataset(config.data)
