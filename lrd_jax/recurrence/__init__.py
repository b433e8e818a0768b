"""Time: stacks of recurrent layers, unrolled fast, with what stops and holds their state."""

from lrd_jax.recurrence.controls import Masks, truncation_cuts
from lrd_jax.recurrence.perturbations import perturbations
from lrd_jax.recurrence.stack import Recurrence, RecurrenceOutput
from lrd_jax.recurrence.windows import take_states, take_windows

__all__ = [
    "Masks",
    "Recurrence",
    "RecurrenceOutput",
    "perturbations",
    "take_states",
    "take_windows",
    "truncation_cuts",
]
