"""Weights to and from PyTorch: `torch.nn.LSTM`, `torch.nn.GRU` and the UR-LSTM. No torch needed.

Weights travel as a dict of NumPy arrays with PyTorch's names, or as an `.npz` or `.safetensors`
file of them. Which names those are follows from the cell:

* `LSTMCell`: `torch.nn.LSTM`, gates stacked i, f, g, o, two biases that only act as their sum.
* `GRUCell`: `torch.nn.GRU`, gates stacked r, z, n; the two biases of the candidate n stay apart,
  because one is inside the reset.
* `URLSTMCell`: `igates` and `hgates` (linear maps with bias, gates stacked f, r, u, o) and
  `forget_bias`, which enters f with + and r with -; stacked layers in `layers.<k>.`, as in
  https://github.com/r0mainK/ur-lstm. A package that names even a single layer so is read, and
  written for, with `prefix="layers.0."`.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lrd_jax.cells import GRUCell, LSTMCell, RecurrentCell, URLSTMCell
from lrd_jax.errors import UserError
from lrd_jax.interchange.weights import Arrays, named, real, write
from lrd_jax.recurrence import Recurrence


def import_weights(
    recurrence: Recurrence,
    source: Mapping[str, Any] | str | os.PathLike[str],
    prefix: str = "",
) -> dict[str, Any]:
    """Builds the parameters with which `recurrence` computes what the weights came from.

    Args:
      recurrence: unbound; its cell, layers and directions say what `source` must hold.
      source: name -> array, or a `.npz` or `.safetensors` file of that. Arrays may be tensors of
        PyTorch, of any floating type (bfloat16 too), on any device, requiring gradients or not. A
        module without biases (`bias=False`) has zeros for them.
      prefix: where the module lies in a larger model, for instance `"encoder.lstm."`, with or
        without the last dot; other names are then left alone.

    Returns:
      The variables `{"params": ...}` of `recurrence`; those of a single cell are
      `variables["params"]["layer_0"]`. A learnt initial state is zero, as PyTorch's is.

    Raises:
      UserError: a file that cannot be read, names that are missing or unknown, wrong shapes,
        values that are no real numbers, or a cell that PyTorch has no form of.
    """
    layout, prefix = _layout(recurrence), _dotted(prefix)
    given = named(source)
    places = [_place(recurrence, k) for k in range(_cells(recurrence))]
    known = [name for place in places for name in layout.names(recurrence, place)]
    found = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
    if prefix and not found:
        raise UserError(f"no weight's name begins with {prefix!r}{_elsewhere(given, known)}")
    if unknown := sorted(set(found) - set(known)):
        raise UserError(
            f"{_some(unknown)} not known to a {_describe(recurrence)}; expected {_some(known)}"
            f"{_elsewhere(given, known)}"
        )
    without = [kind for kind in layout.optional if not any(kind in name for name in found)]
    absent = {name for name in known if any(kind in name for kind in without)}
    if missing := [name for name in known if name not in found and name not in absent]:
        raise UserError(
            f"{_some(missing)} missing from the weights of a {_describe(recurrence)}"
            f"{_elsewhere(given, known)}"
        )

    cell, d = recurrence.cell, recurrence.cell.hidden_size
    arrays = {name: real(prefix + name, value) for name, value in found.items()}
    width = arrays[layout.names(recurrence, places[0])[0]].shape[-1:]
    params: dict[str, Any] = {}
    for place in places:
        fan_in = d * _directions(recurrence) if place.layer else (width[0] if width else 0)
        names = layout.names(recurrence, place)
        weights = []
        for name, shape in zip(names, layout.shapes(fan_in, d), strict=True):
            weight = np.zeros(shape) if name in absent else arrays[name]
            if weight.shape != shape:
                raise UserError(
                    f"{prefix}{name} has shape {weight.shape}, but a {_describe(recurrence)} has"
                    f" {shape}"
                )
            weights.append(weight)
        tree = layout.load(cell, *weights)
        wx, wh, *rest = (jnp.asarray(array, cell.param_dtype) for array in tree)
        params[place.ours] = {
            "input": {"kernel": wx},
            "recurrent_kernel": wh,
            **dict(zip(layout.vectors, rest, strict=True)),
        }
    if recurrence.learn_initial:
        for index in range(len(places)):
            for field in cell.carry_type._fields:
                params[f"initial_{index}_{field}"] = jnp.zeros(d, cell.param_dtype)
    return {"params": params}


def export_weights(
    recurrence: Recurrence,
    variables: Mapping[str, Any],
    path: str | os.PathLike[str] = "",
    prefix: str = "",
) -> Arrays:
    """The inverse of `import_weights`, exact to the last bit.

    PyTorch's second bias, where it has no part of its own, is zero. Parameters in bfloat16, which
    NumPy's files cannot hold, are written as float32.

    Args:
      recurrence: unbound.
      variables: its variables, `{"params": ...}`.
      path: also write the weights to this `.npz` or `.safetensors` file.
      prefix: put before every name, with a dot after it.

    Returns:
      Name -> array, for `load_state_dict` after `torch.from_numpy`.

    Raises:
      UserError: a cell that PyTorch has no form of, variables of another recurrence, a learnt
        initial state that is not zero, or a file of another kind.
    """
    layout, prefix = _layout(recurrence), _dotted(prefix)
    params = _params(recurrence, layout, variables)
    if any(np.any(np.asarray(v)) for k, v in params.items() if k.startswith("initial_")):
        raise UserError("PyTorch's modules start from zero: a learnt initial state has no place")
    arrays: Arrays = {}
    for index in range(_cells(recurrence)):
        place = _place(recurrence, index)
        cell = params[place.ours]
        vectors = (np.asarray(cell[name]) for name in layout.vectors)
        weights = layout.save(
            recurrence.cell,
            np.asarray(cell["input"]["kernel"]),
            np.asarray(cell["recurrent_kernel"]),
            *vectors,
        )
        for name, weight in zip(layout.names(recurrence, place), weights, strict=True):
            plain = weight if weight.dtype.kind == "f" else weight.astype(np.float32)
            arrays[prefix + name] = np.ascontiguousarray(plain)
    if path:
        write(pathlib.Path(path), arrays)
    return arrays


def _params(recurrence: Recurrence, layout: _Layout, variables: Any) -> Mapping[str, Any]:
    """Returns the parameters of a recurrence, which have all parts, of its sizes."""
    described, d = _describe(recurrence), recurrence.cell.hidden_size
    try:
        params = variables["params"]
        places = [_place(recurrence, index) for index in range(_cells(recurrence))]
        known = {place.ours for place in places}
        if more := [n for n in params if n not in known and not n.startswith("initial_")]:
            raise UserError(f"a {described} has no {more[0]}, and the variables have")
        for place in places:
            cell = params[place.ours]
            fan_in = d * _directions(recurrence) if place.layer else len(cell["input"]["kernel"])
            width = layout.shapes(fan_in, d)[0][0]
            parts = {
                "input/kernel": (cell["input"]["kernel"], (fan_in, width)),
                "recurrent_kernel": (cell["recurrent_kernel"], (d, width)),
                **{name: (cell[name], np.shape(cell[name])[:1]) for name in layout.vectors},
            }
            for name, (found, shape) in parts.items():
                if np.shape(found) != shape:
                    raise UserError(
                        f"{place.ours}/{name} has shape {np.shape(found)}, but a {described} has"
                        f" {shape}"
                    )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"the variables are not those of a {described}: give {{'params': ...}} as its `init`"
            " returned them"
        ) from error
    return params


# ---- Names and shapes of one layer -----------------------------------------------------------


class _Place(NamedTuple):
    layer: int
    reverse: bool
    ours: str  # name of the cell in the tree of `Recurrence`


class _Layout(NamedTuple):
    """How one kind of module stores one layer.

    Attributes:
      names: `(recurrence, place)` to the names of its arrays.
      shapes: `(fan_in, d)` to their shapes.
      vectors: our parameters beside the two kernels.
      load: `(cell, *theirs)` to our kernels and vectors.
      save: `(cell, *ours)` to theirs.
      optional: parts of the names that a module without biases lacks, in every layer.
    """

    names: Callable[[Recurrence, _Place], list[str]]
    shapes: Callable[[int, int], list[tuple[int, ...]]]
    vectors: tuple[str, ...]
    load: Callable[..., tuple[np.ndarray, ...]]
    save: Callable[..., tuple[np.ndarray, ...]]
    optional: tuple[str, ...]


def _torch_names(recurrence: Recurrence, place: _Place) -> list[str]:
    del recurrence
    suffix = f"_l{place.layer}" + ("_reverse" if place.reverse else "")
    return [kind + suffix for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def _urlstm_names(recurrence: Recurrence, place: _Place) -> list[str]:
    # A single cell is stored without its place in a stack.
    prefix = f"layers.{place.layer}." if recurrence.num_layers > 1 else ""
    names = ("igates.weight", "hgates.weight", "igates.bias", "hgates.bias", "forget_bias")
    return [prefix + name for name in names]


def _stack(cell: RecurrentCell, order: str, packed: np.ndarray) -> np.ndarray:
    """Our blocks along the last axis to their gates, in `order`, along the first."""
    names = list(cell.blocks())
    parts = np.split(packed.T, len(names))
    return np.concatenate([parts[names.index(name)] for name in order])


def _pack(cell: RecurrentCell, order: str, stacked: np.ndarray) -> np.ndarray:
    """The inverse of `_stack`."""
    parts = np.split(stacked, len(order))
    return np.concatenate([parts[order.index(name)] for name in cell.blocks()]).T


_LSTM, _GRU, _URLSTM = "ifuo", "sku", "fruo"  # their orders, in the names of our blocks


def _load_lstm(cell, w_ih, w_hh, b_ih, b_hh):
    return tuple(_pack(cell, _LSTM, w) for w in (w_ih, w_hh, b_ih + b_hh))


def _save_lstm(cell, *ours):
    w_ih, w_hh, bias = (_stack(cell, _LSTM, w) for w in ours)
    return w_ih, w_hh, bias, np.zeros_like(bias)


def _load_gru(cell, w_ih, w_hh, b_ih, b_hh):
    gates = 2 * cell.hidden_size
    bias = b_ih + np.where(np.arange(len(b_hh)) < gates, b_hh, 0)
    return *(_pack(cell, _GRU, w) for w in (w_ih, w_hh, bias)), b_hh[gates:]


def _save_gru(cell, *ours):
    *packed, candidate_bias = ours
    w_ih, w_hh, bias = (_stack(cell, _GRU, w) for w in packed)
    return w_ih, w_hh, bias, np.pad(candidate_bias, (2 * cell.hidden_size, 0))


def _shares_bias(cell: URLSTMCell) -> bool:
    return cell.share_refine_bias and cell.refine_bias == "neg_forget"


def _load_urlstm(cell, w_i, w_h, b_i, b_h, forget_bias):
    """Theirs adds b_f + forget_bias and b_r - forget_bias; ours, shared, b_f and b_r - b_f."""
    f, r, u, o = np.split(b_i + b_h, 4)
    r = r + f if _shares_bias(cell) else r - forget_bias
    bias = np.concatenate([f + forget_bias, r, u, o])
    return tuple(_pack(cell, _URLSTM, w) for w in (w_i, w_h, bias))


def _save_urlstm(cell, *ours):
    w_i, w_h, bias = (_stack(cell, _URLSTM, w) for w in ours)
    d = cell.hidden_size
    forget_bias = np.zeros_like(bias[:d])
    if _shares_bias(cell):
        forget_bias, bias[:d] = bias[:d].copy(), 0
    return w_i, w_h, bias, np.zeros_like(bias), forget_bias


def _kernels(gates: int, fan_in: int, d: int) -> list[tuple[int, ...]]:
    return [(gates * d, fan_in), (gates * d, d), (gates * d,), (gates * d,)]


_LAYOUTS: dict[type[RecurrentCell], _Layout] = {
    LSTMCell: _Layout(
        _torch_names,
        lambda n, d: _kernels(4, n, d),
        ("bias",),
        _load_lstm,
        _save_lstm,
        ("bias_",),
    ),
    GRUCell: _Layout(
        _torch_names,
        lambda n, d: _kernels(3, n, d),
        ("bias", "candidate_bias"),
        _load_gru,
        _save_gru,
        ("bias_",),
    ),
    URLSTMCell: _Layout(
        _urlstm_names,
        lambda n, d: [*_kernels(4, n, d), (d,)],
        ("bias",),
        _load_urlstm,
        _save_urlstm,
        ("igates.bias", "hgates.bias"),
    ),
}


def _layout(recurrence: Recurrence) -> _Layout:
    """How PyTorch lays out this cell's weights; UserError where it has no such module."""
    if not isinstance(recurrence, Recurrence):
        raise UserError(
            f"the recurrence is of type {type(recurrence).__name__}: give lrd_jax.Recurrence(cell)"
        )
    cell = recurrence.cell
    layout = _LAYOUTS.get(type(cell))
    if layout is None or getattr(cell, "tied_input", True) is not True:
        known = ", ".join(kind.__name__ for kind in _LAYOUTS)
        raise UserError(
            f"PyTorch has no form of this {type(cell).__name__}; those it has are {known} (tied)"
        )
    if not getattr(cell, "use_bias", True):
        raise UserError("weights of a cell without a bias are not exchanged; set use_bias=True")
    if getattr(cell, "layer_norm", False):
        raise UserError("PyTorch's modules have no layer_norm inside the step")
    if recurrence.block != "none" and recurrence.num_layers > 1:
        raise UserError("PyTorch's modules have no block around a layer; use block='none'")
    if recurrence.zoneout_h or recurrence.zoneout_c:
        raise UserError("PyTorch's modules have no zoneout, which evaluation averages over")
    if recurrence.bidirectional and type(cell) is URLSTMCell:
        raise UserError("the UR-LSTM of PyTorch reads in one direction; set bidirectional=False")
    return layout


def _directions(recurrence: Recurrence) -> int:
    return 2 if recurrence.bidirectional else 1


def _cells(recurrence: Recurrence) -> int:
    return recurrence.num_layers * _directions(recurrence)


def _place(recurrence: Recurrence, index: int) -> _Place:
    layer, reverse = divmod(index, _directions(recurrence))
    return _Place(layer, bool(reverse), f"layer_{layer}" + ("_reverse" if reverse else ""))


def _describe(recurrence: Recurrence) -> str:
    directions = "bidirectional " if recurrence.bidirectional else ""
    layers = f"{recurrence.num_layers} layer" + ("s" if recurrence.num_layers > 1 else "")
    kind = type(recurrence.cell).__name__
    return f"{directions}{kind} of {recurrence.cell.hidden_size} units in {layers}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _dotted(prefix: str) -> str:
    """The path of a module as a prefix of names; one that ends in a sign is meant as it is."""
    if not isinstance(prefix, str):
        raise UserError(f"prefix={prefix!r}: must be a string such as 'encoder.lstm.'")
    return prefix + "." if prefix[-1:].isalnum() else prefix


def _elsewhere(given: Mapping[str, Any], known: list[str]) -> str:
    """Says under which prefixes there are such weights, if under any."""
    first = known[0]
    places = sorted(name.removesuffix(first) for name in given if name.endswith("." + first))
    return f"; such weights lie under prefix={' and prefix='.join(map(repr, places[:4]))}" * bool(
        places
    )
