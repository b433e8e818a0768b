"""The sums behind what an evaluation reports of classes and of numbers; see `lrd_jax.metrics`."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from lrd_jax.arrays import Array
from lrd_jax.metrics import (
    BALANCED_ACCURACY,
    CONFUSION,
    MACRO_F1,
    MAE,
    MSE,
    R_SQUARED,
    Metric,
)
from lrd_jax.objectives.base import Sums

MOST_CLASSES = 100  # of which a table of confusions is made


class ClassReport:
    """Balanced accuracy, macro F1 and, of few classes, how often each is taken for which.

    Attributes:
      metrics: what `sums` gives the sums of; of more than `MOST_CLASSES` not those of the table.
    """

    metrics: tuple[Metric, ...] = (BALANCED_ACCURACY, MACRO_F1, CONFUSION)

    def __init__(self, classes: int) -> None:
        """Keeps the number of classes."""
        self._classes = classes

    def sums(self, outputs: Array, targets: Array, weights: Array) -> Sums:
        """Counts of a batch.

        Args:
          outputs: `(..., classes)`; the largest is the prediction.
          targets: `(...)`, whole numbers; any number where the weight is 0.
          weights: what each label counts, `(...)`: 1, or 0 where it is not scored.
        """
        weights, classes = weights.ravel(), self._classes
        said = outputs.argmax(-1).ravel()
        true = jnp.clip(targets.ravel().astype(said.dtype), 0, classes - 1)

        def count(index: Array, weights: Array, size: int = classes) -> Array:
            return jnp.zeros(size, weights.dtype).at[index].add(weights)

        right, of_true = count(true, weights * (said == true)), count(true, weights)
        found: Sums = {
            BALANCED_ACCURACY.name: (right, of_true),
            MACRO_F1.name: (right, of_true, count(said, weights)),
        }
        if classes <= MOST_CLASSES:
            pairs = count(true * classes + said, weights, classes**2)
            found[CONFUSION.name] = (pairs.reshape(classes, classes),)
        return found


class NumberReport:
    """Mean squared error, mean absolute error and R squared, means over columns.

    Attributes:
      metrics: what `sums` gives the sums of.
    """

    metrics: tuple[Metric, ...] = (MSE, MAE, R_SQUARED)

    def __init__(self, scale: Sequence[float] = (1.0,)) -> None:
        """Keeps the unit.

        Args:
          scale: what a number of the data was multiplied by (`DataSpec.target_scale`), for each
            column or one for all; the errors are in the unit of the data.
        """
        self._unit = 1 / np.array(scale)

    def sums(self, outputs: Array, targets: Array, weights: Array) -> Sums:
        """Sums of a batch.

        Args:
          outputs: `(..., columns)`.
          targets: `(..., columns)`.
          weights: what each row counts, `(...)`: 1, or 0 where it is not scored.
        """
        rows = weights.ravel()[:, None]
        columns = outputs.shape[-1]

        def total(values: Array) -> Array:
            # Not by a product: what is not scored may be NaN.
            return jnp.where(rows > 0, values.reshape(-1, columns) * rows, 0).sum(0)

        error, count = outputs - targets, rows.sum()
        squares = total(error**2)
        return {
            MSE.name: (squares * self._unit**2, count),
            MAE.name: (total(jnp.abs(error)) * np.abs(self._unit), count),
            R_SQUARED.name: (squares, count, total(targets), total(targets**2)),
        }
