"""The parameters by the names of PyTorch, where it has the cell."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrd_jax.errors import UserError
from lrd_jax.inference.model import Model
from lrd_jax.interchange import export_weights
from lrd_jax.interchange.weights import Arrays
from lrd_jax.models import LanguageModel


def for_torch(model: Model) -> Arrays:
    """The `state_dict` of the same network in PyTorch; the model card has the module for it.

    `recurrence` is a `torch.nn.LSTM` or `torch.nn.GRU` (the UR-LSTM: see `lrd_jax.interchange`);
    beside it stand `embedding` and `head` (`output` of a language model).

    Raises:
      UserError: PyTorch has no form of the network, or several seeds speak together.
    """
    if model.network.seeds:
        raise UserError("a state_dict holds one seed: export with --seeds=best")
    params, module = model.params, model.module
    arrays = export_weights(
        module.recurrence, {"params": params["recurrence"]}, prefix="recurrence"
    )
    if isinstance(module, LanguageModel):
        if module.tie_embeddings:
            raise UserError("tied embeddings have no module of their own in PyTorch")
        arrays |= {
            "embedding.weight": np.asarray(params["embedding"]),
            "output.weight": np.asarray(params["output_kernel"]),
            "output.bias": np.asarray(params["output_bias"]),
        }
        return arrays
    if "embedding" in params:
        arrays |= _linear("embedding", params["embedding"])
    # ReLUs, which have no weights, stand between the layers of an nn.Sequential.
    for number in range(len(params["head"])):
        arrays |= _linear(f"head.{2 * number}", params["head"][f"Dense_{number}"])
    return arrays


def _linear(name: str, dense: Any) -> Arrays:
    if "kernel" not in dense:
        raise UserError("a table of several channels has no module in PyTorch")
    return {
        f"{name}.weight": np.ascontiguousarray(np.asarray(dense["kernel"]).T),
        f"{name}.bias": np.asarray(dense["bias"]),
    }
