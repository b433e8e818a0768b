"""What all objectives share; on independent sequences nothing travels between batches."""

from __future__ import annotations

import logging
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.data.spec import DataSpec
from lrd_jax.draws import Draws
from lrd_jax.horizon import Horizon
from lrd_jax.objectives.base import encode

Array = jax.Array

logger = logging.getLogger(__name__)


class SequenceObjective:
    """A network over whole sequences; a subclass builds it and adds `loss` and its metrics."""

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon, model: nn.Module) -> None:
        """Keeps the network.

        Args:
          config: the run's config.
          spec: shapes and scaling of the data.
          horizon: length of the run, for `detach.off_last_epochs`.
          model: called with inputs `(batch, time, n)`, draws and whether h-detach is on; returns
            outputs and whatever else.
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
        self.model = model

    def init(self, key: Array) -> Any:
        """Parameters of one seed."""
        x = jnp.zeros((1, self.spec.length, self.spec.features))
        return self.model.init(key, x)["params"]

    def initial_carry(self, batch_size: int) -> Any:
        """Nothing travels between batches of independent sequences."""
        del batch_size
        return ()

    def outputs(
        self, params: Any, batch: dict[str, Array], draws: Draws | None, step: Array | int
    ) -> Array:
        """What the network says of a batch; arguments as in `Objective.loss`."""
        active = self.horizon.detach_active(step, self.off_last_epochs)
        inputs = encode(batch["inputs"], self.spec)
        outputs, _ = self.model.apply({"params": params}, inputs, draws, active)
        return outputs
