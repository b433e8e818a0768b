"""What a `Recurrence` returns."""

from __future__ import annotations

from typing import NamedTuple

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry


class RecurrenceOutput(NamedTuple):
    """What a `Recurrence` returns.

    Attributes:
      outputs: h of the top layer at every step, with a `block` what that makes of it,
        `(batch, time, d)`, 2 d if bidirectional. Padded steps repeat the last valid one.
      last: the same after the last valid step of each direction, `(batch, d or 2 d)`.
      states: state of the top (forward) layer after every step, leaves `(batch, time, d)`.
      final: states after the last valid step, one per layer and direction; feed it back as
        `initial` to go on where this window ended.
      layers: states after every step, one per layer and direction (which has its own order of
        time), time first: leaves `(time, batch, d)`, as they come out of the loop.
      resets: as they were given to the call.
    """

    outputs: Array
    last: Array
    states: Carry
    final: tuple[Carry, ...]
    layers: tuple[Carry, ...]
    resets: Array | None = None
