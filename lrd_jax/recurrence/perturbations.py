"""Gradients with respect to every state: Flax's `perturb`, at h and c of every step.

    zeros = perturbations(module, variables, x)
    loss = lambda p: f(module.apply(variables | {"perturbations": p}, x))
    gradients = jax.grad(loss)(zeros)  # per layer dL/dh_t and dL/dc_t of all steps

They are total derivatives at the new state of a step, before padding holds it. Only the backend
`scan` has these points; without the collection nothing changes, to the bit.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.errors import UserError

COLLECTION = "perturbations"


def perturbations(module: nn.Module, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """Makes zeros to perturb every state with, for one batch; nothing is computed.

    Args:
      module: a `Recurrence`, or a module that holds one.
      variables: with `params` alone.
      *args: of the call.
      **kwargs: of the call, `method` and `rngs` among them.

    Returns:
      The collection `perturbations`: `h` (and `c`) of each layer, `(time, batch, d)`.

    Raises:
      UserError: no state has a point, as on a backend other than `scan`.
    """
    apply = functools.partial(module.apply, mutable=[COLLECTION], **kwargs)
    _, made = jax.eval_shape(apply, variables, *args)
    if COLLECTION not in made:
        raise UserError("no recurrence was called, so there is no state to perturb")
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), made[COLLECTION])


def perturbed(module: nn.Module) -> bool:
    """Whether a call of a bound module is one with perturbations, or makes their shapes."""
    if module.is_initializing():
        return False
    return COLLECTION in module.variables or module.is_mutable_collection(COLLECTION)
