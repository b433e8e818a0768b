"""What a call asks of the way in which time is unrolled, beside the masks over time."""

from __future__ import annotations

from typing import Any, NamedTuple


class Options(NamedTuple):
    """Options of one call, as far as a backend's answer or work depends on them.

    Attributes:
      recompute: of the fused backend: compute pre-activations again in the backward pass; others
        store none.
      start: the state that a reset puts back, leaves `(batch, ...)`; None without resets.
      context: what a cell that asks for it sees at every step, leaves `(batch, ...)`.
    """

    recompute: bool = False
    start: Any = None
    context: Any = None
