"""What predictions that need no model score on segments of sequences."""

from __future__ import annotations

from typing import Any

import numpy as np


class Moments:
    """Squared errors of constants and of the previous value; add batches, then ask for `scores`."""

    def __init__(self) -> None:
        self._count: int = 0
        self._sums: Any = 0.0

    def add(self, x: np.ndarray) -> None:
        """Counts segments `(examples, anchors, L, features)`; their first step is not predicted."""
        now, before = x[:, :, 1:], x[:, :, :-1]
        self._count += len(x)
        sums = [part.sum(0) for part in (now, now**2, (now - before) ** 2)]
        self._sums = self._sums + np.stack(sums)

    def scores(self) -> dict[str, float]:
        """Mean squared errors of the best constant, the best for each position, and repetition."""
        mean, square, step = self._sums / self._count  # each (anchors, L - 1, features)
        overall = mean.mean((0, 1))
        return {
            "mean": float((square.mean((0, 1)) - overall**2).mean()),
            "position_mean": float((square - mean**2).mean()),
            "previous": float(step.mean()),
        }


class Frequencies:
    """Cross-entropies of the frequencies of whole numbers below `values`; used like `Moments`."""

    def __init__(self, values: int) -> None:
        self._values = values
        self._counts: list[Any] = [0, 0]

    def add(self, x: np.ndarray) -> None:
        """Counts segments `(examples, anchors, L, channels)`; their first step is not predicted."""
        values, x = self._values, x.astype(np.int64)
        now, before = x[:, :, 1:], x[:, :, :-1]
        place = np.arange(now[0].size).reshape(now[0].shape)
        channel = np.arange(x.shape[-1])
        for index, (group, groups) in enumerate(
            ((place, now[0].size), (channel * values + before, x.shape[-1] * values))
        ):
            joined = (np.broadcast_to(group, now.shape) * values + now).ravel()
            counted = np.bincount(joined, minlength=groups * values).reshape(groups, values)
            self._counts[index] = self._counts[index] + counted
        self._channels = x.shape[-1]

    def scores(self) -> dict[str, float]:
        """Mean cross-entropies of the frequencies, at each position, and after each value; nats."""
        by_place, by_before = self._counts
        by_channel = by_place.reshape(-1, self._channels, self._values).sum(0)
        return {
            "mean": _entropy(by_channel),
            "position_mean": _entropy(by_place),
            "previous": _entropy(by_before),
        }


def _entropy(counts: np.ndarray) -> float:
    """Entropy of the values within a group, averaged over everything counted `(groups, values)`."""
    total = counts.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(counts > 0, np.log(counts / total), 0.0)
    return float(-(counts * logs).sum() / counts.sum())
