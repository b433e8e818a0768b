"""Cross-entropy on the next token of running text."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrd_jax.arrays import Array
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.metrics import BITS_PER_CHAR, NATS, PERPLEXITY
from lrd_jax.models import LanguageModel, make_recurrence
from lrd_jax.objectives.base import Sums, score_weights
from lrd_jax.objectives.sequence import SequenceObjective
from lrd_jax.objectives.softmax import cross_entropy
from lrd_jax.streams import StepContext


class Language(SequenceObjective):
    """A `LanguageModel` whose state travels from window to window.

    The metric `loss` is in nats per token; beside it stand perplexity, or bits per character where
    a token is one. Gradients end at the border of a window: the state that
    comes in is a constant there.
    """

    select = (NATS,)

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon) -> None:
        """Builds the network; arguments as in `make_objective`.

        Raises:
          UserError: a config value that does not fit.
        """
        options = config.model
        if options.bidirectional:
            raise UserError("model.bidirectional=True would read the tokens that are to be guessed")
        if options.embedding_size < 0:
            raise UserError(f"model.embedding_size={options.embedding_size} must be 0 or more")
        for key in ("embedding_dropout", "output_dropout"):
            if not 0 <= options[key] < 1:
                raise UserError(f"model.{key}={options[key]} is a rate; use a value in [0, 1)")
        model = LanguageModel(
            recurrence=make_recurrence(config, spec.length),
            vocabulary_size=spec.classes,
            embedding_size=options.embedding_size or options.hidden_size,
            tie_embeddings=options.tie_embeddings,
            embedding_dropout=options.embedding_dropout,
            output_dropout=options.output_dropout,
        )
        super().__init__(config, spec, horizon, model)
        by_character = spec.vocabulary is not None and spec.vocabulary.unit == "char"
        self.metrics = (NATS, BITS_PER_CHAR if by_character else PERPLEXITY)

    def init(self, key: Array) -> Any:
        """Parameters of one seed."""
        tokens, start = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, bool)
        return self.model.init(key, tokens, self.initial_carry(1), start)["params"]

    def initial_carry(self, batch_size: int) -> Any:
        """Zero states, one per layer; what a stream begins with is up to the model."""
        recurrence = self.model.recurrence
        zero = recurrence.cell.initialize_carry(jax.random.key(0), (batch_size, 1))
        return (zero,) * recurrence.num_layers

    def loss(
        self,
        variables: Any,
        carry: Any,
        batch: dict[str, Array],
        step: StepContext | None,
    ) -> tuple[Array, tuple[Sums, Any]]:
        """See `Objective.loss`."""
        outputs: Any = self.model.apply(
            variables, batch["inputs"], carry, batch["start"], self.in_force(step)
        )
        features, readout, carry = outputs
        weights = score_weights(batch)
        total = cross_entropy(
            features.reshape(weights.size, -1), readout, batch["targets"].ravel(), weights.ravel()
        )
        return total, ({"loss": (total, weights.sum())}, carry)

    def surprise(self, params: Any, carry: Any, batch: dict[str, Array]) -> tuple[Array, Any]:
        """How little each token was expected, -log of its probability.

        Args:
          params: of one seed.
          carry: as for `loss`.
          batch: as for `loss`, in evaluation.

        Returns:
          Nats, `(batch, time)`, and the carry for the next batch.
        """
        outputs: Any = self.model.apply(
            {"params": params}, batch["inputs"], carry, batch["start"], None
        )
        features, readout, carry = outputs
        logits = readout.logits(features)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
        return each, carry
