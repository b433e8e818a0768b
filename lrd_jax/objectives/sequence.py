"""What all objectives share; on independent sequences nothing travels between batches."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from lrd_jax.data.spec import Dataset, DataSpec
from lrd_jax.draws import Draws
from lrd_jax.horizon import Horizon
from lrd_jax.models import supervised_reach
from lrd_jax.objectives.base import Sums, blank, encode

Array = jax.Array

logger = logging.getLogger(__name__)


class SequenceObjective:
    """A network over whole sequences; a subclass builds it and adds `score` and its metrics.

    Attributes:
      model: the network, a `SequenceModel` for what is trained on independent sequences.
      spec: shapes and scaling of the data.
      horizon: length of the run.
      metrics: see `Objective`.
      select: see `Objective`.
    """

    metrics: tuple[str, ...]
    select: tuple[str, ...]

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon, model: nn.Module) -> None:
        """Keeps the network.

        Args:
          config: the run's config.
          spec: shapes and scaling of the data.
          horizon: length of the run, for `detach.off_last_epochs`.
          model: the network.
        """
        self.spec = spec
        self.horizon = horizon
        self.off_last_epochs = config.detach.off_last_epochs
        blocks = config.detach.p_block or config.detach.c_block
        if blocks and self.off_last_epochs >= horizon.num_epochs:
            logger.warning(
                "detach.off_last_epochs=%d covers all %d epochs: no gradient is ever blocked",
                self.off_last_epochs,
                horizon.num_epochs,
            )
        self.model: Any = model
        self._looks_up = config.aux.embedding == "full"
        self._stops = supervised_reach(config, spec.length) is None

    def init(self, key: Array) -> Any:
        """Parameters of one seed."""
        return self.model.init(key, self.values(blank(self.spec, self.spec.length)))["params"]

    def initial_carry(self, batch_size: int) -> Any:
        """Nothing travels between batches of independent sequences."""
        del batch_size
        return ()

    def values(self, stored: Array) -> Array:
        """What the model's embedding takes: the stored numbers for a table, else encoded ones."""
        return stored if self._looks_up else encode(stored, self.spec)

    def outputs(
        self, params: Any, batch: dict[str, Array], draws: Draws | None, step: Array | int
    ) -> Array:
        """What the network says of a batch; arguments as in `Objective.loss`."""
        active = self.horizon.detach_active(step, self.off_last_epochs)
        apply = functools.partial(self.model.apply, {"params": params})
        out = apply(self.values(batch["inputs"]), draws, active, method="run")
        features = self.model.features(out)
        if self._stops:
            features = jax.lax.stop_gradient(features)
        return apply(features, draws, method="read")

    def score(self, outputs: Array, batch: dict[str, Array]) -> tuple[Array, Sums]:
        """What the network's outputs cost.

        Args:
          outputs: from `outputs`.
          batch: as in `Objective.loss`.

        Returns:
          The loss summed over the real examples, and the metrics as sums.
        """
        raise NotImplementedError

    def loss(
        self,
        params: Any,
        carry: Any,
        batch: dict[str, Array],
        draws: Draws | None,
        step: Array | int,
    ) -> tuple[Array, tuple[Sums, Any]]:
        """See `Objective.loss`."""
        total, sums = self.score(self.outputs(params, batch, draws, step), batch)
        return total, (sums, carry)

    def baselines(self, dataset: Dataset, split: str) -> Mapping[str, float]:
        """See `Objective.baselines`."""
        del split
        return dataset.spec.baselines
