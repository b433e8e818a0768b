"""Cross-entropy on the next word of a caption; captions are decoded and scored in evaluation."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lrd_jax.arrays import Array
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.captions import read_caption
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import check_choice
from lrd_jax.metrics import FROM_ZERO, CollectedMetric, DerivedMetric, Metric
from lrd_jax.models import make_captioner
from lrd_jax.objectives.base import Sums, blank, encode, score_weights
from lrd_jax.objectives.beam import Decoding, Found, decode
from lrd_jax.objectives.sequence import SequenceObjective
from lrd_jax.objectives.softmax import cross_entropy
from lrd_jax.reporting.caption_metrics import CaptionScorer, exact
from lrd_jax.streams import StepContext

WORD_LOSS = Metric("loss", unit="nats per word", range=FROM_ZERO)
WORD_PERPLEXITY = DerivedMetric("perplexity", digits=2, range=(1.0, float("inf")), finish=np.exp)
DECODES = ("beam", "sample")
_SCORES = ("cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l")


class Captioning(SequenceObjective):
    """A `Captioner` with its loss; an example is a picture.

    The metric `loss` is in nats per word, the end counted as a word. Evaluation decodes a caption
    of each picture and scores it by CIDEr, BLEU and ROUGE-L against the references of the split;
    CIDEr chooses the best step, after `exact` where the references are all that is right.

    Attributes:
      reads_several: see `SequenceObjective`.
      how: decoding; greedy in training, what `config.eval` says in an evaluation.
      scores: scores captions.
    """

    reads_several = True

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon) -> None:
        """Builds the network; arguments as in `make_objective`.

        Raises:
          UserError: a config value that does not fit.
        """
        assert spec.captions is not None
        att = spec.inputs.get("att")
        model = make_captioner(
            config,
            vocabulary_size=spec.classes,
            length=spec.length,
            fc_features=spec.inputs["fc"].features,
            att_features=att.features if att else 0,
        )
        super().__init__(config, spec, horizon, model)
        banned = -1 if config.eval.allow_unknown else spec.captions.unknown
        self.how = Decoding(1, spec.length - 1, banned=banned)
        self.scores = Scores(spec)

        def metric(name: str, digits: int = 4, unit: str = "", top: float = 1.0) -> CollectedMetric:
            finish = functools.partial(self.scores, name)
            return CollectedMetric(name, unit, digits, True, (0.0, top), finish=finish)

        right = [metric("exact", 2, "%")] if spec.captions.complete else []
        decoded = [metric(name, 3, top=10.0 if name == "cider" else 1.0) for name in _SCORES]
        self.metrics = (WORD_LOSS, WORD_PERPLEXITY, *right, *decoded)
        self.select = (*right, decoded[0])

    def decode_as(self, options: Any) -> None:
        """Decodes from now on as `config.eval` says: for an evaluation.

        Raises:
          UserError: an unknown way.
        """
        check_choice("eval.decode", options.decode, DECODES)
        drawn = options.decode == "sample"
        self.how = self.how._replace(
            beam_size=options.beam_size,
            length_power=options.length_power,
            temperature=options.temperature if drawn else None,
            seed=options.sample_seed,
        )

    def init(self, key: Array) -> Any:
        """Parameters of one seed."""
        return self.model.init(key, blank(self.spec, 0))["params"]

    def loss(
        self,
        variables: Any,
        carry: Any,
        batch: dict[str, Array],
        step: StepContext | None,
    ) -> tuple[Array, tuple[Sums, Any]]:
        """See `Objective.loss`."""
        inputs = encode(batch["inputs"], self.spec)
        outputs: Any = self.model.apply(variables, inputs, self.in_force(step))
        features, readout = outputs
        weights = score_weights(batch)
        total = cross_entropy(
            features.reshape(weights.size, -1), readout, batch["targets"].ravel(), weights.ravel()
        )
        return total, ({"loss": (total, weights.sum())}, carry)

    def decoded(self, params: Any, batch: Mapping[str, Any]) -> Found:
        """Captions of the pictures of a batch, with the parameters of one seed."""
        inputs = encode(batch["inputs"], self.spec)
        return decode(self.model, params, inputs, self.how, batch["inputs"]["picture"])

    def collect(self, params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        """See `Objective.collect`: the words, `(pictures, max_words)`, and whose they are."""
        words = self.decoded(params, batch).words
        return {"words": words, "picture": jnp.asarray(batch["inputs"]["picture"])}


class Scores:
    """Scores of captions; those of one member are made once for all metrics."""

    def __init__(self, spec: DataSpec) -> None:
        """Keeps vocabulary and references."""
        assert spec.captions is not None and spec.vocabulary is not None
        self._vocabulary, self._captions = spec.vocabulary, spec.captions
        self._scorer: tuple[bytes, CaptionScorer] | None = None
        self._last: tuple[Any, dict[str, float]] | None = None

    def __call__(self, name: str, outputs: Mapping[str, np.ndarray]) -> float:
        """One score of what `Captioning.collect` gave, for a `CollectedMetric`."""
        words, pictures = outputs["words"], outputs["picture"]
        key = (words.tobytes(), pictures.tobytes())
        if self._last is None or self._last[0] != key:
            captions = [read_caption(self._vocabulary, row) for row in words]
            self._last = (key, self.of(captions, pictures))
        return self._last[1][name]

    def of(self, captions: Sequence[Sequence[str]], pictures: np.ndarray) -> dict[str, float]:
        """All scores of captions, one for each of some pictures, by name of the metric."""
        scorer = self._references(pictures)
        scores = scorer(captions)
        if self._captions.complete:
            scores = {"exact": exact(captions, scorer.references), **scores}
        return scores

    def _references(self, pictures: np.ndarray) -> CaptionScorer:
        key = pictures.tobytes()
        if self._scorer is None or self._scorer[0] != key:
            references = [self._captions.references[place] for place in pictures.tolist()]
            self._scorer = (key, CaptionScorer(references))
        return self._scorer[1]
