"""Forms of cells that are unrolled faster than by a plain scan: what they fix, what they leave."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, InputKernel, RecurrentCell, keywords

_EPSILON = 1e-5  # of the variance, as in torch.nn.LayerNorm


def _normalised(x: Array) -> Array:
    """Mean 0 and variance 1 over the last axis."""
    return jax.nn.standardize(x, axis=-1, epsilon=_EPSILON)


class PointwiseCell(RecurrentCell):
    r"""A cell whose step is `update(carry, zx, zh)`, zh being the recurrent product.

    The split lets the fast path form the gradient of the recurrent weights in one matmul after the
    loop. For that `update` has neither parameters nor anything random, and `project` and `recur`
    are products with the weights of `input_weights` and `recurrent_weights`.

    With `layer_norm` both products are normalised before biases are added, and so is a memory c
    before it is squashed into h, by gains inside the step, so that the fast path is not for it:

    $$z = g_h \mathrm{LN}(W_h h_{t-1}) + g_x \mathrm{LN}(W_x x_t) + b, \qquad
    h_t = o \tanh(g_c \mathrm{LN}(c_t) + b_c)$$

    each over all of its K (or d) units. Of an input of a single feature the sign alone gets through
    the second term; give it an embedding (`model.embedding_size`).

    Reference: Ba, Kiros and Hinton (2016), "Layer Normalization", arXiv 1607.06450, eq. 20-22.
    Differences from it: one bias b instead of one for each product.

    Attributes:
      layer_norm: whether the step is normalised so. Gains start at 1, b_c at 0.
    """

    layer_norm: bool = False

    fixed: ClassVar[tuple[str, ...]] = (
        *(name for name in RecurrentCell.fixed if name != "update"),
        *("step", "project", "recur", "recurrent_input", "__call__"),
    )

    def setup(self) -> None:
        """Creates the parameters, those of the normalisation among them."""
        super().setup()
        if self.layer_norm:
            width, ones = sum(self.blocks().values()), nn.initializers.ones
            self.input_gain = self.param("input_gain", ones, (width,), self.param_dtype)
            self.recurrent_gain = self.param("recurrent_gain", ones, (width,), self.param_dtype)
            if "c" in self.carry_type._fields:
                zeros, units = nn.initializers.zeros, (self.hidden_size,)
                self.memory_gain = self.param("memory_gain", ones, units, self.param_dtype)
                self.memory_bias = self.param("memory_bias", zeros, units, self.param_dtype)

    def project(self, x: Array) -> Array:
        """See `RecurrentCell.project`."""
        if not self.layer_norm:
            return super().project(x)
        kernel, bias = self.input_weights(x.shape[-1])
        return self.input_gain * _normalised(x.astype(self.param_dtype) @ kernel) + bias

    def recur(self, h: Array) -> Array:
        """See `RecurrentCell.recur`."""
        if not self.layer_norm:
            return super().recur(h)
        kernel, bias = self.recurrent_weights()
        zh = self.recurrent_gain * _normalised(self.dot(h, kernel))
        return zh if bias is None else zh + bias

    @nn.nowrap
    def memory(self, c: Array) -> Array:
        """What of the memory is squashed into h, `(..., d)`."""
        if not self.layer_norm:
            return c
        return self.memory_gain * _normalised(c) + self.memory_bias

    @nn.nowrap
    def update(self, carry: Carry, zx: Array, zh: Array) -> Carry:
        """The parameter-free rest of the step.

        Args:
          carry: state before the step, leaves `(batch, d)`.
          zx: `project(x_t)`, `(batch, K)`.
          zh: `recur(h)`, `(batch, K)`.

        Returns:
          The state after the step.
        """
        raise NotImplementedError

    def step(self, carry: Carry, zx: Array, h: Array) -> Carry:
        """One step from projected inputs.

        Args:
          carry: state before the step, leaves `(batch, d)`.
          zx: `project(x_t)`, `(batch, K)`.
          h: what enters the recurrent product, `(batch, d)`, or more columns where more leaves do.
        """
        return self.update(carry, zx, self.recur(h))


class AdditiveCell(PointwiseCell):
    """A cell whose step is `advance(carry, z)`, of the sum z = zx + zh alone.

    The fast path then stores one array of pre-activations, and gradients of one.
    """

    fixed: ClassVar[tuple[str, ...]] = (
        *(name for name in PointwiseCell.fixed if name != "advance"),
        "update",
    )

    @nn.nowrap
    def advance(self, carry: Carry, z: Array) -> Carry:
        """The parameter-free rest of the step.

        Args:
          carry: state before the step, leaves `(batch, d)`.
          z: the whole pre-activation, `(batch, K)`.

        Returns:
          The state after the step.
        """
        raise NotImplementedError

    @nn.nowrap
    def update(self, carry: Carry, zx: Array, zh: Array) -> Carry:
        """`advance` with the sum of both parts; see `PointwiseCell.update`."""
        return self.advance(carry, zx + zh)


class LinearCarry(NamedTuple):
    """State of a linear recurrence and what is read out of it.

    Attributes:
      s: the state, `(batch, units)`, real or complex.
      h: output, `(batch, hidden)`.
    """

    s: Array
    h: Array


class LinearCell(RecurrentCell):
    r"""A cell whose state is a diagonal linear recurrence, run by a parallel scan.

    $$s_t = a_t s_{t-1} + b_t, \qquad h_t = \mathrm{read}(s_t, x_t)$$

    with $a_t$, $b_t$ = `coefficients(x_t)`, products of elements. The state enters no matrix
    product, so that there is nothing for h-detach to block.

    Parameters: where `blocks()` names pre-activations, `input/kernel` `(n, K)` and `bias` `(K,)`,
    used by `affine`. A cell that needs others overrides `setup`. All are real: a complex one is a
    pair. `coefficients` may ask for the step's index by a keyword-only argument `time`, which is
    `(batch,)`, or `(time, batch)` over all steps.

    A state that is complex, or of another width than the output, overrides `initialize_carry`.
    """

    carry_type: ClassVar[type[Any]] = LinearCarry
    recurrent_inputs: ClassVar[tuple[str, ...]] = ()
    derived: ClassVar[tuple[str, ...]] = ("h",)
    fixed: ClassVar[tuple[str, ...]] = (
        *(name for name in RecurrentCell.fixed if name != "coefficients"),
        *("step", "project", "recur", "recurrent_weights", "recurrent_input", "__call__"),
        *("carry_type", "recurrent_inputs", "derived"),
    )

    def setup(self) -> None:
        """Creates the parameters of `affine`."""
        if width := sum(self.blocks().values()):
            self.input = InputKernel(width, self.init_kernel, self.param_dtype)
            self.bias = self.param("bias", self.init_bias, (width,), self.param_dtype)

    @nn.nowrap
    def without_effect(self) -> dict[str, str]:
        """See `RecurrentCell.without_effect`."""
        found = super().without_effect()
        if not self.blocks():
            found["kernel_init"] = "cell draws its weights in a way of its own"
        return found

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Name and width of each slice of `affine`; by default it is not used."""
        return {}

    def affine(self, x: Array) -> Array:
        """The packed pre-activations, `(..., n) -> (..., K)`."""
        kernel, bias = self.input_weights(x.shape[-1])
        return x @ kernel + bias

    def coefficients(self, x: Array) -> tuple[Array, Array]:
        """What the state is multiplied with, and what is added to it.

        Args:
          x: `(..., n)`: one step, or all of them.

        Returns:
          a and b, each `(..., units)` and of the state's dtype.
        """
        raise NotImplementedError

    def read(self, s: Array, x: Array) -> Array:
        """The output, `(..., d)`; by default the state itself.

        Args:
          s: state after the step, `(..., units)`.
          x: input of the step, `(..., n)`.
        """
        del x
        return s

    @classmethod
    def asks(cls) -> frozenset[str]:
        """What `coefficients` asks for: `time`, if anything."""
        return keywords(cls.coefficients)

    def project(self, x: Array) -> Array:
        """The input itself: its coefficients are those of `coefficients`."""
        return x.astype(self.param_dtype)

    def step(self, carry: LinearCarry, zx: Array, h: Any, **asked: Array) -> LinearCarry:
        """One step: $s_t = a_t s_{t-1} + b_t$, and h as `read` has it.

        Args:
          carry: state before the step, leaves `(batch, d)`.
          zx: the input, `(batch, n)`.
          h: None, as nothing enters a recurrent product.
          **asked: what `coefficients` asks for, see `asks`.
        """
        del h
        a, b = self.coefficients(zx, **asked)
        s = a * carry.s + b
        return LinearCarry(s=s, h=self.read(s, zx))
