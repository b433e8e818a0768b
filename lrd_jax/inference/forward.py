"""What a trained network says, of whole sequences and one step at a time: pure functions."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry
from lrd_jax.errors import UserError
from lrd_jax.models import LanguageModel, SequenceClassifier, SequenceModel
from lrd_jax.objectives import Objective
from lrd_jax.objectives.sequence import SequenceObjective

NUMBERS = ("regress", "regress_steps", "forecast")  # kinds of data whose targets are no classes


class State(NamedTuple):
    """What a network keeps between two steps; leaves `(batch, ...)`, of an ensemble under `seeds`.

    Attributes:
      carry: of the recurrence, one per layer.
      steps: how many were read, `(batch,)`.
      pooled: sum or maximum of the outputs so far, `(batch, d)`; None where the last one counts.
    """

    carry: tuple[Carry, ...]
    steps: Array
    pooled: Array | None


class Network:
    """The network of a task as three functions of its parameters; several seeds speak as one.

    Of an ensemble the leaves of parameters and state have a leading axis of seeds, and what is said
    is the mean of their probabilities, or numbers. (Of probabilities, not of logits: a seed that is
    unsure counts less.)

    Attributes:
      task: holds the module, and knows how stored values are encoded.
      seeds: how many speak as one; 0 = one, whose parameters have no such axis.
    """

    def __init__(self, objective: Objective, seeds: int = 0) -> None:
        """Takes the task's own network; the decoders of an auxiliary loss are left out.

        Raises:
          UserError: it does not read a sequence of values.
        """
        task: Any = getattr(objective, "task", objective)
        if not isinstance(getattr(task, "model", None), SequenceModel | LanguageModel):
            raise UserError(
                "this model does not read a sequence of values, so nothing can be predicted from"
                " arrays; of pictures, python -m lrd_jax.predict makes captions"
            )
        self.task: SequenceObjective = task
        self.seeds = seeds

    def whole(self, params: Any, inputs: Array, lengths: Array) -> Array:
        """What is said of whole sequences.

        Args:
          params: of the network.
          inputs: as a data set stores them, `(batch, time, n)`; of text, `(batch, time)` ids.
          lengths: valid steps of each, `(batch,)`; the rest is padding.

        Returns:
          Probabilities of the classes, or numbers: `(batch, outputs)`, or `(batch, time, outputs)`
          where every step has its own; of text, probabilities of the next token.
        """
        if self.seeds:
            return jax.vmap(lambda p: self._whole(p, inputs, lengths))(params).mean(0)
        return self._whole(params, inputs, lengths)

    def start(self, params: Any, batch: int) -> State:
        """The state before the first step.

        Raises:
          UserError: the network also reads from the end: nothing can be said before that.
        """
        if self.task.model.recurrence.bidirectional:
            raise UserError(
                "model.bidirectional=True reads from both ends, so nothing can be said after a"
                " step: use predict, on whole sequences"
            )
        if self.seeds:
            return jax.vmap(lambda p: self._apply(p, _begin, batch))(params)
        return self._apply(params, _begin, batch)

    def step(self, params: Any, state: State, x: Array) -> tuple[State, Array]:
        """Reads one more step.

        Args:
          params: of the network.
          state: from `start`, or the step before.
          x: `(batch, n)`; of text, `(batch,)` ids.

        Returns:
          The state after it, and what `whole` says of all that was read so far (of its last step),
          `(batch, outputs)`.
        """
        if self.seeds:
            state, said = jax.vmap(lambda p, s: self._step(p, s, x))(params, state)
            return state, said.mean(0)
        return self._step(params, state, x)

    def _whole(self, params: Any, inputs: Array, lengths: Array) -> Array:
        if self.reads_tokens:
            begins = jnp.ones(inputs.shape[:1], bool)
            carry = self.task.initial_carry(inputs.shape[0])
            return self._tokens(params, inputs, carry, begins)[0]
        return self._said(self._apply(params, _read, self.task.values(inputs), lengths))

    def _step(self, params: Any, state: State, x: Array) -> tuple[State, Array]:
        if self.reads_tokens:
            none = jnp.zeros(x.shape, bool)
            said, carry = self._tokens(params, x[:, None], state.carry, none)
            return State(carry, state.steps + 1, None), said[:, 0]
        state, outputs = self._apply(params, _advance, state, self.task.values(x[:, None]))
        return state, self._said(outputs)

    @property
    def reads_tokens(self) -> bool:
        """Whether it is a language model."""
        return isinstance(self.task.model, LanguageModel)

    def _tokens(self, params: Any, tokens: Array, carry: Any, begins: Array) -> tuple[Array, Any]:
        out: Any = self.task.model.apply({"params": params}, tokens, carry, begins)
        features, readout, carry = out
        return self._said(readout.logits(features)), carry

    def _apply(self, params: Any, method: Any, *args: Any) -> Any:
        return self.task.model.apply({"params": params}, *args, method=method)

    def _said(self, outputs: Array) -> Array:
        """Probabilities where outputs are logits; numbers in the units of the files."""
        spec = self.task.spec
        if spec.kind not in NUMBERS:
            return nn.softmax(outputs)
        return outputs / jnp.array(spec.target_scale) + jnp.array(spec.target_offset)


def _begin(module: Any, batch: int) -> State:
    carry, steps = module.recurrence.initial_carry(batch), jnp.zeros(batch, jnp.int32)
    pool = module.pool if isinstance(module, SequenceClassifier) else "last"
    if pool == "last":
        return State(carry, steps, None)
    shape = batch, module.recurrence.cell.hidden_size
    return State(carry, steps, jnp.full(shape, -jnp.inf if pool == "max" else 0.0))


def _read(module: SequenceModel, x: Array, lengths: Array) -> Array:
    out = module.run(x, lengths=lengths)
    return module.read(module.features(out, lengths))


def _advance(module: SequenceModel, state: State, x: Array) -> tuple[State, Array]:
    """One step of a trained network: the state after it, and outputs `(batch, classes)`."""
    recurrence = module.recurrence
    asked = {"time": state.steps} if "time" in recurrence.cell.asks() else {}
    carry = recurrence.advance(state.carry, module.embed(x)[:, 0], **asked)
    steps, pooled = state.steps + 1, state.pooled
    features = h = recurrence.output(carry)
    if pooled is not None:
        assert isinstance(module, SequenceClassifier)
        pooled = jnp.maximum(pooled, h) if module.pool == "max" else pooled + h
        features = pooled if module.pool == "max" else pooled / steps[:, None]
    return State(carry, steps, pooled), module.read(features)
