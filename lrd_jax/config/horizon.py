"""How long a run is, in steps and epochs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.errors import UserError


class Horizon(NamedTuple):
    """Length of a run. Epochs are numbered from 0.

    Attributes:
      num_steps: optimizer steps in all.
      steps_per_epoch: ceil(examples / batch size).
      pretrain_steps: the first of them, which minimise the auxiliary loss alone.
    """

    num_steps: int
    steps_per_epoch: int
    pretrain_steps: int = 0

    @property
    def num_epochs(self) -> int:
        """Epochs, the last one counted even if it is cut short."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    @property
    def joint(self) -> Horizon:
        """The phase after pre-training, as a run of its own."""
        return Horizon(self.num_steps - self.pretrain_steps, self.steps_per_epoch)

    def is_joint(self, step: Array | int) -> Array | bool:
        """Whether pre-training is over at `step` (updates applied so far)."""
        return True if self.pretrain_steps == 0 else step >= self.pretrain_steps

    def phase_progress(self, step: Array | int) -> Array | float:
        """How much of the phase that `step` is in lies behind it, in [0, 1)."""
        joint = (step - self.pretrain_steps) / self.joint.num_steps
        if self.pretrain_steps == 0:
            return joint
        return jnp.where(self.is_joint(step), joint, step / self.pretrain_steps)

    def detach_active(self, step: Array | int, off_last_epochs: int) -> Array | bool:
        """Whether h-detach is on at `step` (updates applied so far).

        It is off in the last `off_last_epochs` epochs: on in epoch `e < num_epochs - N`. (The
        authors' code tests `epoch > E - 40`, which is N = 39.)
        """
        if off_last_epochs == 0:
            return True
        return step // self.steps_per_epoch < self.num_epochs - off_last_epochs


def steps_between_evaluations(train: Any, horizon: Horizon) -> int:
    """Resolves `train.eval_every_steps`: 0 = once an epoch."""
    return train.eval_every_steps or horizon.steps_per_epoch


def run_horizon(config: Any, num_examples: int) -> Horizon:
    """Length of the run that a config describes.

    Args:
      config: the run's config.
      num_examples: training examples in an epoch.

    Raises:
      UserError: a batch larger than an epoch, or what `make_horizon` refuses.
    """
    batch_size = config.data.batch_size
    if batch_size > num_examples:
        raise UserError(
            f"data.batch_size={batch_size} is more than the {num_examples} training examples;"
            " choose a smaller one"
        )
    pretrain_epochs = config.aux.pretrain_epochs if config.aux.kind != "none" else 0.0
    return make_horizon(config.train, num_examples, batch_size, pretrain_epochs=pretrain_epochs)


def make_horizon(
    train: Any, num_examples: int, batch_size: int, pretrain_epochs: float = 0.0
) -> Horizon:
    """Resolves `train.num_steps` and `train.num_epochs`.

    Args:
      train: `config.train`; `num_steps` wins when it is positive.
      num_examples: training examples in an epoch.
      batch_size: examples per step.
      pretrain_epochs: `aux.pretrain_epochs`, a part of the run.

    Raises:
      UserError: more steps than the step counter holds, or pre-training that leaves none.
    """
    per_epoch = math.ceil(num_examples / batch_size)
    num_steps = train.num_steps or train.num_epochs * per_epoch
    if num_steps > 2**31 - 1:
        raise UserError(
            f"train.num_epochs={train.num_epochs} makes {num_steps:.4g} steps; fewer than 2**31 fit"
        )
    num_steps = math.ceil(num_steps)
    pretrain_steps = math.ceil(min(pretrain_epochs * per_epoch, num_steps))
    if pretrain_steps == num_steps:
        raise UserError(
            f"aux.pretrain_epochs={pretrain_epochs:g} ({per_epoch} steps each) covers all"
            f" {num_steps} steps of the run, which count pre-training too; raise train.num_epochs"
            " (or train.num_steps), or lower aux.pretrain_epochs"
        )
    return Horizon(num_steps, per_epoch, pretrain_steps)
