"""Words of a caption, one after the other, from features of a picture."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.attention import AttendingCell, Memory, torch_dense
from lrd_jax.cells.base import Carry
from lrd_jax.models.embedding import uniform_table
from lrd_jax.models.language import Readout
from lrd_jax.recurrence import Recurrence
from lrd_jax.streams import StepContext, dropout

CAPTIONERS = ("show_tell", "show_attend_tell")


class Captioner(nn.Module):
    """Show & Tell, or Show, Attend & Tell where the recurrence is of `AttendingCell`s.

    Show & Tell (Vinyals et al. 2015, arXiv:1411.4555): a linear map of `fc` is the first input of
    the recurrence, whose output is dropped; the words follow. Show, Attend & Tell (Xu et al. 2015,
    arXiv:1502.03044): a linear map of `fc` is the initial state, h and c alike, of every layer; at
    every step the cells look at `att`. Both without finetuned features, and with h-detach where
    Arpit et al. (2019), arXiv:1810.03023, draw it: on the h that enters the recurrent product. The
    first draw has no effect in Show & Tell, whose state is zero then; in the other model it leaves
    the map of `fc` the ways through c and through the query.

    Tables start in U(-0.1, 0.1), linear layers like PyTorch's, as in the code of Arpit et al.

    Attributes:
      recurrence: the layers over time.
      vocabulary_size: different words, the end among them.
      embedding_size: width of a word's vector.
      fc_features: width of `fc`.
      att_features: width of `att`; 0 where it is not looked at.
      output_dropout: rate on the last layer's output.
    """

    recurrence: Recurrence
    vocabulary_size: int
    embedding_size: int
    fc_features: int
    att_features: int = 0
    output_dropout: float = 0.0

    @property
    def attends(self) -> bool:
        """Whether it looks at `att`."""
        return isinstance(self.recurrence.cell, AttendingCell)

    def setup(self) -> None:
        """Creates the parameters outside of the recurrence."""
        cell, vocabulary = self.recurrence.cell, self.vocabulary_size
        self.words = self.param("words", uniform_table, (vocabulary, self.embedding_size))
        self.output_kernel = self.param(
            "output_kernel", uniform_table, (vocabulary, cell.hidden_size)
        )
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (vocabulary,))
        width = cell.hidden_size if self.attends else self.embedding_size
        self.picture = torch_dense(width, self.fc_features)
        if isinstance(cell, AttendingCell):
            self.keys = torch_dense(cell.attention_size, self.att_features)

    def _memory(self, inputs: dict[str, Array]) -> Memory | None:
        """What attention reads: computed once, before the loop."""
        return Memory(inputs["att"], self.keys(inputs["att"])) if self.attends else None

    def _readout(self) -> Readout:
        return Readout(self.output_kernel, self.output_bias)

    def _initial(self, mapped: Array, copies: int) -> tuple[Carry, ...] | None:
        """The state that `fc` makes, in rows of each picture; None where it is not made of it."""
        if not self.attends:
            return None
        rows = jnp.repeat(mapped, copies, axis=0)
        zero = self.recurrence.initial_carry(len(rows))
        return tuple(jax.tree.map(lambda _: rows, carry) for carry in zero)

    def __call__(
        self, inputs: dict[str, Array], step: StepContext | None = None
    ) -> tuple[Array, Readout]:
        """Reads captions word by word.

        Args:
          inputs: `words` `(pictures, R, time)` int32, `fc`, and perhaps `att`.
          step: a training step, None in evaluation.

        Returns:
          Features after each word, `(pictures * R, time, d)`, and what makes logits of them.
        """
        pictures, copies, length = inputs["words"].shape
        if step is not None:  # one example is a caption here, not a picture
            step = step._replace(first=step.first * copies)
        features, _ = self._read(inputs, step)
        if self.output_dropout and step is not None:
            keys = step.per_example("output_dropout", pictures * copies)
            features = dropout(features, self.output_dropout, keys)
        return features[:, -length:], self._readout()

    def _read(self, inputs: dict[str, Array], step: StepContext | None) -> tuple[Array, Array]:
        """Outputs at every step, and the h of the first layer that entered each, time first."""
        words, memory = inputs["words"], self._memory(inputs)
        _, copies, length = words.shape
        mapped = self.picture(inputs["fc"])
        x = self.words[words.reshape(-1, length)]
        if not self.attends:
            x = jnp.concatenate([jnp.repeat(mapped, copies, axis=0)[:, None], x], axis=1)
        initial = self._initial(mapped, copies)
        masks = self.recurrence.draw(step, x.shape[1], x.shape[0])
        out = self.recurrence(x, initial=initial, masks=masks, context=memory)
        states = out.layers[0].h
        first = jnp.zeros_like(states[0]) if initial is None else initial[0].h
        return out.outputs, jnp.concatenate([first[None], states[:-1]])

    def attention(self, inputs: dict[str, Array]) -> Array:
        """Where the first layer looked before each word that comes next, `(pictures, time, P)`.

        Args:
          inputs: as for a call, with one caption of each picture.
        """
        _, entered = self._read(inputs, None)
        memory, (time, pictures) = self._memory(inputs), entered.shape[:2]
        rows = jnp.swapaxes(entered, 0, 1).reshape(pictures * time, -1)
        return self.recurrence.layers[0].weights(rows, memory)

    def begin(
        self, inputs: dict[str, Array], copies: int
    ) -> tuple[tuple[Carry, ...], Memory | None]:
        """The state before the first word, in `copies` rows of each picture, and the memory."""
        mapped, memory = self.picture(inputs["fc"]), self._memory(inputs)
        carries = self._initial(mapped, copies)
        if carries is None:
            zero = self.recurrence.initial_carry(len(mapped) * copies)
            carries = self.recurrence.advance(zero, jnp.repeat(mapped, copies, axis=0))
        return carries, memory

    def next(
        self, carries: tuple[Carry, ...], memory: Memory | None, words: Array
    ) -> tuple[tuple[Carry, ...], Array]:
        """Reads one more word.

        Args:
          carries: state before it, leaves `(rows, d)`.
          memory: from `begin`.
          words: `(rows,)` int32; 0 begins.

        Returns:
          The state after it, and the logits of the next word, `(rows, vocabulary)`.
        """
        asked: Any = {} if memory is None else {"context": memory}
        carries = self.recurrence.advance(carries, self.words[words], **asked)
        return carries, self._readout().logits(self.recurrence.output(carries))
