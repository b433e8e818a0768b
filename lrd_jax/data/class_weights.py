"""What the labels of each class count in the training loss: `data.class_weights`."""

import dataclasses

import numpy as np

from lrd_jax.data.spec import Dataset, DataSpec
from lrd_jax.errors import UserError

_BATCH = 1000  # examples that are read at a time


def balanced(dataset: Dataset, name: str) -> DataSpec:
    """Returns the spec of a data set with weights by which all its classes count alike.

    A label of a class that `n` of `N` training labels have weighs `N / (classes * n)`, the classes
    being those that occur; over the training set that is 1 on average. So the loss, divided by the
    number of labels, is an unbiased estimate of the mean over classes of each one's mean loss.

    Args:
        dataset: its training labels are counted.
        name: of the data set, for messages.

    Raises:
        UserError: there are no classes, or no training set to count them in.
    """
    spec, hint = dataset.spec, "set data.class_weights=none"
    if spec.kind not in ("classify", "tag"):
        raise UserError(f"data.class_weights=balanced weighs classes, and {name} has none: {hint}")
    counts = np.zeros(spec.classes, np.int64)
    try:
        for batch in dataset.eval_batches("train", _BATCH):
            labels, valid = batch["targets"], batch["mask"] > 0
            if labels.ndim > 1:
                valid = np.broadcast_to(valid[:, None], labels.shape)
                if "lengths" in batch:
                    valid = valid & (np.arange(labels.shape[1]) < batch["lengths"][:, None])
            labels = labels[valid & (labels >= 0)].astype(int)
            counts += np.bincount(labels, minlength=spec.classes)
    except UserError as error:
        raise UserError(
            "data.class_weights=balanced counts the labels of the training set, and"
            f" {name} draws its examples anew at every step: {hint}"
        ) from error
    there = counts > 0
    weights = counts.sum() / (there.sum() * np.where(there, counts, 1)) * there
    return dataclasses.replace(spec, class_weights=tuple(weights.tolist()))
