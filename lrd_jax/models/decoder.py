"""A network that goes on from a state of another one: the decoder of an auxiliary loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, from_real, to_real
from lrd_jax.models.sequence import Head
from lrd_jax.recurrence import Recurrence, truncation_cuts

Embed = Callable[[Array], Array]


class Decoder(nn.Module):
    """Starts from a state, reads a segment, and says after each step what comes next.

    Its bottom layer starts from the given state, through a linear layer where the widths differ;
    the layers above start from zero.

    Attributes:
      recurrence: its layers.
      head: from the top layer's output to a prediction.
      state_size: width of the given state.
      embedding: maps the values of a step to what the first cell reads; None: it reads them, or
        what `embed` makes of them.
    """

    recurrence: Recurrence
    head: Head
    state_size: int
    embedding: nn.Module | None = None

    def setup(self) -> None:
        """Creates the projection of the state."""
        cell = self.recurrence.cell
        if cell.hidden_size != self.state_size:
            state = self._read(cell.initialize_carry(jax.random.key(0), (1, 1)))
            self.projection = nn.Dense(sum(leaf.size for leaf in state.values()))

    @nn.nowrap
    def _read(self, state: Carry) -> dict[str, Array]:
        """What a step reads of a state, as real arrays."""
        derived = self.recurrence.cell.derived
        return {k: to_real(leaf) for k, leaf in state._asdict().items() if k not in derived}

    def _own_embedding(self, values: Array) -> Array:
        return values if self.embedding is None else self.embedding(values)

    def begin(self, state: Carry) -> tuple[Carry, ...]:
        """The state of each layer before the first step."""
        cell = self.recurrence.cell
        if cell.hidden_size != self.state_size:
            batch = state.h.shape[0]
            given = [leaf.reshape(batch, -1) for leaf in self._read(state).values()]
            projected = self.projection(jnp.concatenate(given, axis=-1))
            state = cell.initialize_carry(jax.random.key(0), (batch, 1))
            read = self._read(state)
            ends = itertools.accumulate(leaf.size // batch for leaf in read.values())
            parts = jnp.split(projected, list(ends)[:-1], axis=-1)
            for (name, leaf), part in zip(read.items(), parts, strict=True):
                own = from_real(part.reshape(leaf.shape), getattr(state, name))
                state = state._replace(**{name: own})
        _, *above = self.recurrence.initial_carry(state.h.shape[0])
        return state, *above

    def __call__(
        self,
        state: Carry,
        values: Array,
        embed: Embed | None = None,
        own: Array | None = None,
        to_values: Embed | None = None,
        later_inputs: bool = True,
        key: Array | None = None,
    ) -> Array:
        """Decodes segments.

        Args:
          state: leaves `(batch, state_size)`.
          values: what is read, `(batch, steps, n)`.
          embed: in place of an embedding of its own, for one that is shared.
          own: where a step reads what the network itself said a step before, `(batch, steps)`
            booleans, False at the first step; None: nowhere. Takes a loop over steps.
          to_values: makes values of outputs, for `own`.
          later_inputs: False: all steps after the first read zeros.
          key: for the head's DropConnect; None in evaluation.

        Returns:
          Outputs `(batch, steps, head.outputs)`.
        """
        embed = embed or self._own_embedding
        carries = self.begin(state)
        if own is not None and not self.is_initializing():
            return self._feed_back(carries, values, embed, own, to_values, key)
        x = embed(values)
        if not later_inputs:
            x = x.at[:, 1:].set(0)
        return self.head(self.recurrence(x, initial=carries).outputs, key)

    def _feed_back(
        self, carries: Any, values: Array, embed: Embed, own: Array, to_values: Any, key: Any
    ) -> Array:
        """Decodes step by step, since inputs depend on the outputs before them."""
        recurrence = self.recurrence
        cuts = truncation_cuts(
            recurrence.truncate_steps, values.shape[1], counted_from=recurrence.truncate_from
        )

        def step(module: Decoder, state: Any, inputs: Any) -> tuple[Any, Array]:
            carries, said = state
            given, own, cut = inputs
            x = embed(jnp.where(own[:, None], said, given)[:, None])[:, 0]
            carries = module.recurrence.advance(carries, x, cut)
            outputs = module.head(module.recurrence.output(carries), key)
            return (carries, to_values(jax.lax.stop_gradient(outputs))), outputs

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        time_first = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (values, own))
        _, outputs = scan(self, (carries, values[:, 0]), (*time_first, cuts))
        return jnp.swapaxes(outputs, 0, 1)
