"""How long a run is, in steps and epochs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax

from lrd_jax.errors import UserError

Array = jax.Array


class Horizon(NamedTuple):
    """Length of a run. Epochs are numbered from 0.

    Attributes:
      num_steps: optimizer steps in all.
      steps_per_epoch: ceil(examples / batch size).
    """

    num_steps: int
    steps_per_epoch: int

    @property
    def num_epochs(self) -> int:
        """Epochs, the last one counted even if it is cut short."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    def detach_active(self, step: Array | int, off_last_epochs: int) -> Array | bool:
        """Whether h-detach is on at `step` (updates applied so far).

        It is off in the last `off_last_epochs` epochs: on in epoch `e < num_epochs - N`. (The
        authors' code tests `epoch > E - 40`, which is N = 39.)
        """
        if off_last_epochs == 0:
            return True
        return step // self.steps_per_epoch < self.num_epochs - off_last_epochs


def make_horizon(train: Any, num_examples: int, batch_size: int) -> Horizon:
    """Resolves `train.num_steps` and `train.num_epochs`.

    Args:
      train: `config.train`; `num_steps` wins when it is positive.
      num_examples: training examples in an epoch.
      batch_size: examples per step.

    Raises:
      UserError: more steps than the step counter holds.
    """
    per_epoch = math.ceil(num_examples / batch_size)
    num_steps = train.num_steps or train.num_epochs * per_epoch
    if num_steps > 2**31 - 1:
        raise UserError(
            f"train.num_epochs={train.num_epochs} makes {num_steps:.4g} steps; fewer than 2**31 fit"
        )
    return Horizon(math.ceil(num_steps), per_epoch)
