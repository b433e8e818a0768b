"""What a data set tells the rest of the library: `DataSpec`, `Batch` and the `Dataset` protocol."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from lrd_jax.data.vocabulary import Vocabulary

Batch = dict[str, Any]
"""`inputs` (batch, time, features) in the stored dtype, or a dict of arrays (batch, ...) where
`DataSpec.inputs` names some; `targets` as `DataSpec.kind` says, where a label of -1 is not scored;
and `mask` (batch,) float32, which is 1 for a real example and 0 for padding. Where sequences differ
in length, `lengths` (batch,) int32 counts the valid steps of each, at least 1; what follows them is
zeros, in targets of each step too.

In running text (kind "language") an example is a token: `inputs`, `targets` and `mask` are (batch,
time), and `start` (batch,) bool says where a stream begins, so that no state may be carried in."""


@dataclass(frozen=True)
class InputSpec:
    """One of several inputs, e.g. an image beside words; the rest as in `DataSpec`.

    Attributes:
        shape: of the stored array of one example; without a time axis where it has no time.
        features: width of a one-hot vector.
        offset: subtracted from the stored numbers.
        scale: what they are multiplied by then.
        one_hot: stored as (..., 1) ids below `features`, and seen one-hot.
        looked_up: ids that the network looks up in a table of its own; they reach it as stored.
        values: the stored numbers are whole and below this; 0: they are not whole.
    """

    shape: tuple[int, ...]
    features: int = 1
    offset: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    one_hot: bool = False
    looked_up: bool = False
    values: int = 0


@dataclass(frozen=True)
class CaptionSpec:
    """What captions are scored against.

    Attributes:
        references: of each picture its captions, in words.
        per_image: captions of a picture in a batch.
        unknown: number of the word that stands for all others.
        complete: the references are all that is right, so that `exact` means something.
    """

    references: tuple[tuple[tuple[str, ...], ...], ...]
    per_image: int
    unknown: int
    complete: bool = False


@dataclass(frozen=True)
class DataSpec:
    """Sizes and scaling of one data set.

    The network sees `(inputs - offset) * scale`, computed on the device: a stored uint8 costs a
    quarter of the transfer of a float32.

    Attributes:
        kind: what is predicted. "classify": one label per sequence, targets (batch,) int32;
            "tag": a label for each of the last `scored` steps, targets (batch, scored), whole;
            "regress": numbers for a sequence, targets (batch,) float32, or (batch, numbers);
            "regress_steps": numbers at every step, targets (batch, time, numbers) float32;
            "forecast": the same, the values of the next step, which nothing may have read before;
            "language": the next token after each step, targets (batch, time) int32;
            "caption": captions of a picture, targets (batch, captions, time) int32.
        length: time steps of a sequence.
        features: width of one time step.
        classes: width of the network's output.
        class_names: what the outputs are called, one for each; empty: by their numbers.
        offset: one value for each feature, or one for all.
        scale: one value for each feature, or one for all.
        one_hot: the stored inputs are (batch, time, 1) ids below `features`, and the network sees
            them one-hot (made on the device: a tenth of the transfer, or less).
        values: the stored inputs are whole numbers below this (values of pixels, ids of tokens);
            0: they are not whole.
        symbols: the stored inputs are ids, whose order means nothing.
        scored: "tag": this many last steps may have a label; those of -1 are not scored.
        recalled: "tag": accuracy counts the labels of this many last steps; 0: all.
        varied: the sequences differ in length: batches have `lengths`, and `length` is that of the
            longest training sequence. With "tag", every step is scored then.
        target_offset: of each number that is predicted; targets are `(number - offset) * scale`.
        target_scale: the same.
        baselines: metric -> what predicting without memory scores; empty where nothing is known.
        vocabulary: "language", "caption": what the numbers stand for.
        class_weights: "classify", "tag": what a label of each class counts in the training loss;
            empty: 1.
        captions: "caption": what they are scored against.
        inputs: name -> its spec, where an example has several inputs; what is said above of one
            input then means nothing.
    """

    kind: str
    length: int
    features: int
    classes: int
    offset: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    one_hot: bool = False
    values: int = 0
    symbols: bool = False
    scored: int = 0
    recalled: int = 0
    varied: bool = False
    target_offset: tuple[float, ...] = (0.0,)
    target_scale: tuple[float, ...] = (1.0,)
    baselines: Mapping[str, float] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    class_weights: tuple[float, ...] = ()
    captions: CaptionSpec | None = None
    inputs: Mapping[str, InputSpec] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Returns the text of a work directory's `spec.json`: all but what is scored against.

        The vocabulary has a file of its own, and what captions are compared with stays with the
        data.
        """
        bare = self.captions and dataclasses.replace(self.captions, references=())
        kept = dataclasses.replace(self, vocabulary=None, captions=bare)
        content = dataclasses.asdict(kept)  # sizes and scales may be NumPy's
        return (
            json.dumps(content, indent=2, ensure_ascii=False, default=lambda x: x.tolist()) + "\n"
        )

    @classmethod
    def from_json(cls, text: str, vocabulary: Vocabulary | None = None) -> "DataSpec":
        """Reads what `to_json` wrote; ValueError if it is damaged."""
        try:
            content: Any = {key: _tuples(value) for key, value in dict(json.loads(text)).items()}
            captions = content.pop("captions", None)
            inputs = {key: InputSpec(**value) for key, value in content.pop("inputs", {}).items()}
            content |= {"vocabulary": vocabulary, "inputs": inputs}
            return cls(**content, captions=None if captions is None else CaptionSpec(**captions))
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"not what data look like: {error}") from error


def _tuples(value: Any) -> Any:
    """A JSON value with the tuples that its lists were."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class Resident(NamedTuple):
    """Training examples that may stay on the devices, which then are told numbers alone.

    A data set that can offers one by a method `resident()`, see `lrd_jax.data.pipeline.resident`.

    Attributes:
        arrays: a tree of arrays (examples, ...).
        index: `index(seed, step, rows)` numbers the examples of `Dataset.train_batch`, int32.
        take: `take(arrays, index)` makes the batch of them, whatever the leading axes of the
            numbers; NumPy's and JAX's arrays will do.
    """

    arrays: Any
    index: Callable[[int, int, slice], np.ndarray]
    take: Callable[[Any, Any], Batch]


class Dataset(Protocol):
    """A source of batches by random access; it holds no position, so a checkpoint needs none."""

    spec: DataSpec
    num_train: int
    """Examples in one epoch."""

    def train_batch(self, seed: int, step: int, rows: slice) -> Batch:
        """Returns `rows` of the global training batch number `step`.

        A pure function of its arguments: slices that cover the batch concatenate to the batch.

        Args:
            seed: of the run.
            step: number of updates before it.
            rows: of the global batch, which lie within it.
        """
        ...

    def eval_batches(
        self, split: str, batch_size: int, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """Yields every example of "train", "valid" or "test" once; the last batch is padded.

        Args:
            split: its name.
            batch_size: of the global batch.
            rows: of each global batch, which lie within it; the others are left out.

        Raises:
            UserError: an unknown split, or one that is drawn afresh.
        """
        ...

    def eval_size(self, split: str) -> int:
        """Returns the number of examples of a split."""
        ...

    def describe(self) -> str:
        """Returns one line for the start-up log."""
        ...
