"""Recurrences: cells stacked and unrolled over time, what a step draws for them."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, RecurrentCell, from_real, to_real
from lrd_jax.errors import UserError, check_fields
from lrd_jax.recurrence.checks import Call, check_cell, check_fits, check_values
from lrd_jax.recurrence.controls import Masks, between, stop_where, where_mask
from lrd_jax.recurrence.draws import draw_masks, drop_weights
from lrd_jax.recurrence.options import Options
from lrd_jax.recurrence.output import RecurrenceOutput
from lrd_jax.recurrence.segments import controls_by_direction, reverse
from lrd_jax.recurrence.unroll import choose_backend, unroll
from lrd_jax.recurrence.windows import take_states
from lrd_jax.streams import RngStreams, Streams


def _rows(leaf: Array, copies: int) -> Array:
    """A leaf of every example, once for each of its windows."""
    return jnp.concatenate([leaf] * copies)


class Recurrence(nn.Module):
    """A stack of recurrent layers unrolled over time, batch first.

    Gradients can be differentiated in turn, on every backend and under `vmap`: `jax.grad` or
    `jax.jvp` of a gradient, `jax.hessian`. On the fused path they cannot while detaching or
    truncation is in force (UserError; `backend="scan"` can). Nor can JAX take forward mode
    straight through that path's custom gradient, or a gradient of forward mode (`jax.jvp`,
    `jax.jacfwd` and `jax.linearize` of the call itself: TypeError): `backend="scan"` again.

    Attributes:
      cell: an unbound cell; every layer and direction gets its own copy, with its own parameters.
      num_layers: layers, each reading the outputs of the one below.
      block: around every layer above the first, from y to y' over time: `none`: y' = layer(y);
        `residual`: y + layer(y) (He et al. 2016, arXiv 1512.03385); `prenorm`:
        y + layer(LayerNorm(y)) (Xiong et al. 2020, arXiv 2002.04745). Dropout acts inside.
      bidirectional: adds to every layer one that reads the sequence backwards.
      dropout: rate between layers.
      zoneout_h: probability, per step and unit, that h stays as it was; in evaluation the mean of
        both (Krueger et al. 2017, "Zoneout", arXiv 1606.01305).
      zoneout_c: the same of c.
      recurrent_dropconnect: rate at which elements of the recurrent kernels are zeroed, the same
        ones at all steps (Merity et al. 2018, arXiv 1708.02182).
      learn_initial: the initial state is a parameter (zero at first), else zero.
      p_block: probability of blocking the gradient through h, per step (h-detach).
      c_block: the same through c (c-detach).
      mask_scope: `batch` or `example`: who shares a draw. (A Flax module's `scope` is taken.)
      stack_mask: `shared`: one draw for all layers; `per_layer`.
      truncate_steps: gradients reach back this many steps; 0 = all the way.
      truncate_from: which end of the sequence these are counted from, see `truncation_cuts`.
      backend: `auto`, or a key of `unroll.BACKENDS`.
      recompute: of the fused backend: less memory, one more product per step and a little more
        time.

    Raises:
      UserError: when an attribute has a value that no recurrence can work with, or, as it is used,
        one that does not fit the cell.
    """

    cell: RecurrentCell
    num_layers: int = 1
    block: str = "none"
    bidirectional: bool = False
    dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    recurrent_dropconnect: float = 0.0
    learn_initial: bool = False
    p_block: float = 0.0
    c_block: float = 0.0
    mask_scope: str = "batch"
    stack_mask: str = "shared"
    truncate_steps: int = 0
    truncate_from: str = "end"
    backend: str = "auto"
    recompute: bool = False

    def __post_init__(self):
        check_fields(self)
        check_cell(self.cell)
        check_values(vars(self))
        super().__post_init__()

    @nn.nowrap
    def check(self) -> None:
        """Raises UserError where the options do not fit the cell."""
        choose_backend(self.backend, self.cell, Options(self.recompute))
        check_fits(self.cell, vars(self))

    def setup(self) -> None:
        """Creates the cells, named layer_0, layer_1, ..., backward ones layer_0_reverse."""
        self.check()
        cells = []
        for layer in range(self.num_layers):
            for suffix in ("", "_reverse") if self.bidirectional else ("",):
                cell = self.cell.clone(parent=None, name=None)
                setattr(self, f"layer_{layer}{suffix}", cell)
                cells.append(getattr(self, f"layer_{layer}{suffix}"))
        self.layers = cells
        if self.block == "prenorm":
            self.norms = [
                nn.LayerNorm(param_dtype=self.cell.param_dtype, name=f"norm_{layer}")
                for layer in range(1, self.num_layers)
            ]
        if self.learn_initial:
            zero = jax.tree.map(lambda leaf: leaf[0], self._zero_carry(1))
            self.initial = [
                {
                    name: self.param(f"initial_{index}_{name}", lambda _, v=value: to_real(v))
                    for name, value in carry._asdict().items()
                    if name not in self.cell.derived
                }
                for index, carry in enumerate(zero)
            ]

    def _zero_carry(self, batch: int) -> tuple[Carry, ...]:
        """The start of the cells themselves, leaves `(batch, d)`."""
        return tuple(cell.initialize_carry(jax.random.key(0), (batch, 1)) for cell in self.layers)

    def initial_carry(self, batch: int) -> tuple[Carry, ...]:
        """State before the first step, one per layer and direction, leaves `(batch, d)`."""
        zero = self._zero_carry(batch)
        if not self.learn_initial:
            return zero
        return tuple(
            carry._replace(
                **{
                    name: jnp.broadcast_to(from_real(p, leaf := getattr(carry, name)), leaf.shape)
                    for name, p in learnt.items()
                }
            )
            for carry, learnt in zip(zero, self.initial, strict=True)
        )

    @nn.nowrap
    def streams_in_use(self) -> tuple[str, ...]:
        """Names of the `rngs` that a training call draws from."""
        rates = {
            "h_detach": self.p_block,
            "c_detach": self.c_block,
            "dropout": self.dropout if self.num_layers > 1 else 0,
            "zoneout": max(self.zoneout_h, self.zoneout_c),
            "recurrent_dropconnect": self.recurrent_dropconnect,
        }
        return tuple(name for name, rate in rates.items() if rate)

    @nn.nowrap
    def draw(self, streams: Streams | None, length: int, batch: int) -> Masks:
        """Draws what a training step needs.

        Args:
          streams: randomness of the step; None in evaluation, which draws nothing, and has the
            expectation of zoneout.
          length: time steps.
          batch: examples on this device.
        """
        return draw_masks(self, streams, length, batch)

    def _rng_streams(self, deterministic: bool | None) -> RngStreams | None:
        """The streams of Flax's `rngs` where a call draws, None where it does not.

        Raises:
          UserError: the call should draw, or was not told whether to, and rngs are missing.
        """
        needed = self.streams_in_use()
        missing = [name for name in needed if not self.has_rng(name)]
        if deterministic or not needed or (missing and self.is_initializing()):
            return None
        if missing:
            given = ", ".join(f"'{name}': key" for name in needed)
            lacks = (
                f"this call draws and lacks the rngs {', '.join(missing)}: give rngs={{{given}}}"
            )
            otherwise = ", or deterministic=True for none" if deterministic is None else ""
            raise UserError(lacks + otherwise)
        return RngStreams({name: self.make_rng(name) for name in needed})

    def advance(
        self, carries: tuple[Carry, ...], x: Array, cut: Array | None = None, **asked: Any
    ) -> tuple[Carry, ...]:
        """One step of a one-directional stack as in evaluation: nothing is drawn.

        Args:
          carries: state before the step, one per layer.
          x: `(batch, n)`.
          cut: whether the whole state is stopped first, `()`.
          **asked: `time`, `(batch,)`, and `context`, for cells that ask for them.

        Returns:
          The states after it.
        """
        carries, new = stop_where(cut, carries), []
        rates = {"h": self.zoneout_h, "c": self.zoneout_c}
        for layer, (cell, old) in enumerate(zip(self.layers, carries, strict=True)):
            carry, _ = cell(old, self._branch(layer, x), **asked)
            for name, rate in rates.items():
                if rate:
                    zoned = between(rate, getattr(old, name), getattr(carry, name))
                    carry = carry._replace(**{name: zoned})
            x = x + carry.h if layer and self.block != "none" else carry.h
            new.append(carry)
        return tuple(new)

    @nn.nowrap
    def output(self, carries: tuple[Carry, ...]) -> Array:
        """What a one-directional stack gives after a step with these states, `(batch, d)`."""
        if self.block == "none":
            return carries[-1].h
        return functools.reduce(jnp.add, [carry.h for carry in carries])

    def _branch(self, layer: int, y: Array) -> Array:
        """What a layer reads of the output of the one below, `(..., features)`."""
        return self.norms[layer - 1](y) if layer and self.block == "prenorm" else y

    def rerun(
        self,
        x: Array,
        before: RecurrenceOutput,
        starts: Array,
        masks: Masks,
        *,
        context: Any = None,
    ) -> RecurrenceOutput:
        """Runs windows of sequences again, each from the stopped state that it began with.

        Gradients thus reach the first step of a window and end there, wherever they come from;
        those of a window at the very start reach the initial state.

        Args:
          x: the windows' inputs, `(windows * batch, size, n)`, from `take_windows`.
          before: of the whole sequences, read from the initial state on.
          starts: as for `take_windows`.
          masks: of the whole sequences.
          context: of the whole sequences, as for `__call__`.

        Raises:
          UserError: the sequences have resets, which a window might cross.
        """
        if before.resets is not None:
            raise UserError(
                "windows of auxiliary losses cannot cross resets: run the sequences without resets,"
                " or without windows"
            )
        batch, size = before.last.shape[0], x.shape[1]
        first = starts if starts.ndim == 2 else jnp.repeat(starts[:, None], batch, axis=1)
        first = first.reshape(-1)

        def entering(initial: Array, previous: Array) -> Array:
            return where_mask(first == 0, _rows(initial, len(starts)), previous)

        stopped = lax.stop_gradient(before.layers)
        previous = tuple(take_states(states, jnp.maximum(starts - 1, 0)) for states in stopped)
        initial = jax.tree.map(entering, self.initial_carry(batch), previous)
        return self(
            x,
            initial=initial,
            masks=masks.windows(starts, size, batch),
            context=jax.tree.map(lambda leaf: _rows(leaf, len(starts)), context),
            first_step=first,
        )

    def __call__(
        self,
        x: Array,
        *,
        initial: tuple[Carry, ...] | None = None,
        lengths: Array | None = None,
        deterministic: bool | None = None,
        masks: Masks | None = None,
        resets: Array | None = None,
        context: Any = None,
        first_step: Array | int = 0,
    ) -> RecurrenceOutput:
        """Runs the stack over a batch of sequences.

        Args:
          x: `(batch, time, n)`.
          initial: state before the first step; None = zero or learnt.
          lengths: valid steps of each example, `(batch,)`; the rest is padding that changes
            neither results nor gradients. None = all.
          deterministic: as in `nn.Dropout`. True draws nothing; False draws from the `rngs`
            `h_detach`, `c_detach`, `dropout`, `zoneout` and `recurrent_dropconnect`, those whose
            rate is above 0; None (in a call whose rates are not all 0) draws where they are given.
            `init` needs `params` alone.
          masks: what `draw` gave, instead.
          resets: where a segment begins inside a sequence, `(batch, time)` booleans: before such a
            step the state is put back to its zero or learnt start, and no gradient crosses.
            Truncation is counted within each segment. The layer that reads backwards reads the same
            segments. So several sequences, packed into one row, are as if run one by one.
          context: what the cells see at every step, a tree of leaves `(batch, ...)`; for a cell
            whose step asks for `context`.
          first_step: index of the first step, one or `(batch,)`, for a cell whose step asks for
            `time`: where this is a window of longer sequences.

        Returns:
          A `RecurrenceOutput`.

        Raises:
          UserError: a rate is above 0, and neither rngs nor `deterministic=True` are given; an
            argument of another shape or dtype, or of values that do not fit, where these are known;
            a cell that asks for a context and gets none, or a context that no cell asks for.
        """
        call = Call(self.cell, x, deterministic)
        x, batch, length = call.x, call.batch, call.length
        lengths, resets = call.lengths(lengths), call.resets(resets)
        first_step = call.first_step(first_step)
        call.context(context)
        call.masks(masks, self.num_layers, 2 if self.bidirectional else 1)
        if initial is not None:
            call.initial(initial, jax.eval_shape(lambda: self._zero_carry(batch)))
        asks = self.cell.asks()
        start = self.initial_carry(batch) if initial is None or resets is not None else ()
        carries = start if initial is None else initial
        by_direction = controls_by_direction(
            directions := 2 if self.bidirectional else 1,
            (batch, length),
            lengths,
            resets,
            self.truncate_steps,
            self.truncate_from,
            first_step if "time" in asks else None,
        )
        valid = by_direction[0].valid
        if masks is None:
            masks = self.draw(self._rng_streams(deterministic), length, batch)

        y = jnp.swapaxes(x, 0, 1)  # time first: the scan slices its leading axis
        if valid is not None:
            # The step of a padded input is computed and dropped; a NaN would still turn its zero
            # gradient into NaN.
            y = where_mask(valid, y, 0)
        final: list[Carry] = []
        layers: list[Carry] = []
        for layer in range(self.num_layers):
            below, keep = y, masks.keep[layer]
            y = self._branch(layer, y)
            if keep is not None:
                y = jnp.where(jnp.swapaxes(keep, 0, 1), y / (1.0 - self.dropout), 0)
            outputs = []
            for direction in range(directions):
                index = layer * directions + direction
                inputs = reverse(y, lengths) if direction else y
                controls = by_direction[direction]._replace(
                    block_h=masks.block_h[layer],
                    block_c=masks.block_c[layer],
                    zone_h=masks.zone_h[index] if masks.zone_h else None,
                    zone_c=masks.zone_c[index] if masks.zone_c else None,
                )
                options = Options(self.recompute, None if resets is None else start[index], context)
                run = unroll
                if masks.weights:
                    drop = functools.partial(
                        drop_weights, self.recurrent_dropconnect, masks.weights[index]
                    )
                    run = nn.map_variables(unroll, "params", drop)
                last, every = run(
                    self.layers[index],
                    carries[index],
                    inputs,
                    controls,
                    self.backend,
                    options,
                )
                final.append(last)
                layers.append(every)
                outputs.append(reverse(every.h, lengths) if direction else every.h)
            y = outputs[0] if directions == 1 else jnp.concatenate(outputs, axis=-1)
            if layer and self.block != "none":
                y = below + y
        last = jnp.concatenate([carry.h for carry in final[-directions:]], axis=-1)
        if self.num_layers > 1 and self.block != "none":
            # Padding repeats the last valid step; the layer that reads backwards ends at the first.
            d = self.cell.hidden_size
            last = jnp.concatenate([y[-1, :, :d], y[0, :, d:]], axis=-1)
        return RecurrenceOutput(
            outputs=jnp.swapaxes(y, 0, 1),
            last=last,
            states=jax.tree.map(lambda s: jnp.swapaxes(s, 0, 1), layers[-directions]),
            final=tuple(final),
            layers=tuple(layers),
            resets=resets,
        )
