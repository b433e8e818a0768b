"""Networks: recurrence and head, by kind of task, built from the config."""

from lrd_jax.models.build import (
    make_captioner,
    make_decoder,
    make_embedding,
    make_head,
    make_pool,
    make_recurrence,
    make_table,
    network_options,
    supervised_reach,
)
from lrd_jax.models.captioner import CAPTIONERS, Captioner
from lrd_jax.models.decoder import Decoder
from lrd_jax.models.language import LanguageModel
from lrd_jax.models.sequence import (
    Head,
    SequenceClassifier,
    SequenceModel,
    SequenceTagger,
    pooled,
)

__all__ = [
    "CAPTIONERS",
    "Captioner",
    "Decoder",
    "Head",
    "LanguageModel",
    "SequenceClassifier",
    "SequenceModel",
    "SequenceTagger",
    "make_captioner",
    "make_decoder",
    "make_embedding",
    "make_head",
    "make_pool",
    "make_recurrence",
    "make_table",
    "network_options",
    "pooled",
    "supervised_reach",
]
