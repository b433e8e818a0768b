"""Recurrent networks that remember for a long time: better gates, h-detach, auxiliary losses.

    import lrd_jax

    recurrence = lrd_jax.Recurrence(lrd_jax.URLSTMCell(128))  # a Flax module, in your own network
    result = lrd_jax.train("configs/urlstm_pdigits.py", "runs/mine")
    model = lrd_jax.load("runs/mine")

Nothing is imported before it is used: JAX takes a second, and what comes first may still have to
say how many devices it is to have.

The pieces, from the inside out: `cells` (one time step), `recurrence` (time), `models`,
`objectives`, `data`, `training`; `python -m lrd_jax.main` runs them from a config.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrd_jax.cells import CELLS as CELLS
    from lrd_jax.cells import CoRNNCell as CoRNNCell
    from lrd_jax.cells import GatedGRUCell as GatedGRUCell
    from lrd_jax.cells import GatedLegSCell as GatedLegSCell
    from lrd_jax.cells import GatedLSTMCell as GatedLSTMCell
    from lrd_jax.cells import GRUCell as GRUCell
    from lrd_jax.cells import IndRNNCell as IndRNNCell
    from lrd_jax.cells import LegSCell as LegSCell
    from lrd_jax.cells import LEMCell as LEMCell
    from lrd_jax.cells import LRUCell as LRUCell
    from lrd_jax.cells import LSTMCell as LSTMCell
    from lrd_jax.cells import MinGRUCell as MinGRUCell
    from lrd_jax.cells import MinLSTMCell as MinLSTMCell
    from lrd_jax.cells import ONLSTMCell as ONLSTMCell
    from lrd_jax.cells import RNNCell as RNNCell
    from lrd_jax.cells import S5Cell as S5Cell
    from lrd_jax.cells import SLSTMCell as SLSTMCell
    from lrd_jax.cells import UnICORNNCell as UnICORNNCell
    from lrd_jax.cells import URLSTMCell as URLSTMCell
    from lrd_jax.cells import make_cell as make_cell
    from lrd_jax.inference.model import load as load
    from lrd_jax.recurrence import Recurrence as Recurrence
    from lrd_jax.training.own import train as train

__version__ = "0.1.0"

_WHERE = {
    "Recurrence": "lrd_jax.recurrence",
    "load": "lrd_jax.inference.model",
    "train": "lrd_jax.training.own",
}
_CELLS = (
    "CELLS",
    "CoRNNCell",
    "GRUCell",
    "GatedGRUCell",
    "GatedLSTMCell",
    "GatedLegSCell",
    "IndRNNCell",
    "LEMCell",
    "LRUCell",
    "LSTMCell",
    "LegSCell",
    "MinGRUCell",
    "MinLSTMCell",
    "ONLSTMCell",
    "RNNCell",
    "S5Cell",
    "SLSTMCell",
    "URLSTMCell",
    "UnICORNNCell",
    "make_cell",
)
_WHERE |= dict.fromkeys(_CELLS, "lrd_jax.cells")


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'lrd_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
