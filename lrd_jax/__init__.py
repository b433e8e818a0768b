"""Recurrent networks that remember for a long time: better gates, h-detach, auxiliary losses.

The pieces, from the inside out: `cells` (one time step), `recurrence` (time), `models`,
`objectives`, `data`, `training`; `python -m lrd_jax.main` runs them from a config.
"""

__version__ = "0.1.0"
