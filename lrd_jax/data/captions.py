"""Pictures with captions, as batches: numbers of words beside features of the picture."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lrd_jax.data.caption_tokens import tokenize
from lrd_jax.data.pipeline import SPLITS, batch_indices, pad_rows
from lrd_jax.data.spec import Batch, CaptionSpec, DataSpec, InputSpec
from lrd_jax.data.vocabulary import CAPTION, END_OF_CAPTION, UNKNOWN_WORD, Vocabulary, checksum
from lrd_jax.errors import UserError, check_choice, unknown

_SAMPLE = 4096  # training pictures at most from which mean and deviation are taken
_UNSCORED = -1


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture and its captions.

    Attributes:
        name: of its file.
        number: in COCO's result format.
        split: "train", "valid", "test" or "restval" (of COCO: trains if `use_restval`).
        tokens: words of each caption, to train on.
        scored: words of each caption, as `caption_tokens` splits them, to score against.
    """

    name: str
    number: int
    split: str
    tokens: tuple[tuple[str, ...], ...]
    scored: tuple[tuple[str, ...], ...]

    @classmethod
    def of_raw(cls, name: str, number: int, split: str, captions: Sequence[str]) -> "Picture":
        """Makes one of captions as they were written; they are split in the same way for both.

        Args:
            name: of the file.
            number: in COCO's files.
            split: "train", "valid", "test" or "restval".
            captions: texts.
        """
        words = tuple(tuple(tokenize(caption)) for caption in captions)
        return cls(name, number, split, words, words)


@dataclasses.dataclass(frozen=True)
class Features:
    """What an encoder says of some pictures.

    Attributes:
        fc: (pictures, F) float32, one vector of each.
        att: (pictures, P, F) float16 or float32, one vector of each part; None without.
        rows: name of a picture -> its row.
        encoder: what made them, for people.
    """

    fc: np.ndarray
    att: np.ndarray | None
    rows: Mapping[str, int]
    encoder: str


class CaptionDataset:
    """A `Dataset` of pictures, each with several captions; an example is a picture.

    A batch has `inputs`: `words` (batch, R, max_words + 1) int32, what is read, from a 0 on;
    `fc` (batch, F); `att` (batch, P, F) if asked for; and `picture` (batch,) int32, its place
    among all. `targets` (batch, R, max_words + 1) are the words that come next, a 0 at the end,
    and -1 (not scored) after it. A caption that was cut ends with a 0 too, as in the code of
    Arpit et al. (2019), arXiv:1810.03023.

    Attributes:
        spec: sizes, vocabulary and references.
        num_train: pictures in one epoch.
        pictures: of all splits.
        draw: makes the picture of a place, (height, width, 3) uint8; None where it is not at hand.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        features: Features,
        *,
        name: str,
        batch_size: int,
        captions_per_image: int,
        max_words: int,
        min_count: int,
        vocabulary_from: str,
        standardise: bool,
        att: bool,
        use_restval: bool = True,
        draw: Callable[[int], np.ndarray | None] = lambda _: None,
    ) -> None:
        """Numbers the words; features stay where they are.

        Args:
            pictures: of all splits.
            features: of all of them.
            name: of the data set.
            batch_size: pictures of the global training batch.
            captions_per_image: R.
            max_words: longer captions are cut.
            min_count: words are kept that occur more often than this.
            vocabulary_from: "train", or "all" splits.
            standardise: see features less their mean, over their deviation.
            att: whether `att` is read.
            use_restval: whether pictures of the split "restval" train.
            draw: see the class.

        Raises:
            UserError: an option out of range, no training captions, or features that do not fit.
        """
        for key, value, least in (
            ("batch_size", batch_size, 1),
            ("captions_per_image", captions_per_image, 1),
            ("max_words", max_words, 1),
            ("min_count", min_count, 0),
        ):
            if value < least:
                raise UserError(f"data.{key}={value} must be at least {least}")
        check_choice("data.vocabulary_from", vocabulary_from, ("train", "all"))
        self.pictures, self.draw = tuple(pictures), draw
        self._features, self._name = features, name
        self._batch_size, self._per_image = batch_size, captions_per_image
        self._splits = self._by_split(use_restval)
        self.num_train = len(self._splits["train"])
        if not any(self.pictures[place].tokens for place in self._splits["train"]):
            raise UserError(f"{name} has no training captions")
        self._rows = _feature_rows(self.pictures, features, name)
        if att and features.att is None:
            raise UserError(
                f"model.caption=show_attend_tell needs att.npy, and the features {features.encoder}"
                f" of {name} were made with --no_att: prepare them without, or use"
                " model.caption=show_tell"
            )
        self._att = features.att if att else None
        vocabulary = self._make_vocabulary(min_count, vocabulary_from)
        self._words, self._first = self._number(vocabulary, max_words)
        scale = self._scales(standardise)
        references = tuple(picture.scored for picture in self.pictures)
        self.spec = DataSpec(
            kind="caption",
            length=max_words + 1,
            features=features.fc.shape[1],
            classes=len(vocabulary.symbols),
            vocabulary=vocabulary,
            captions=CaptionSpec(
                references, captions_per_image, len(vocabulary.symbols) - 1, name == "shapes"
            ),
            inputs={
                "words": InputSpec(
                    (captions_per_image, max_words + 1),
                    looked_up=True,
                    values=len(vocabulary.symbols),
                ),
                "picture": InputSpec((), looked_up=True, values=len(self.pictures)),
                **{
                    key: InputSpec(array.shape[1:], array.shape[-1], *scale[key])
                    for key, array in self._arrays().items()
                },
            },
        )

    def _by_split(self, use_restval: bool) -> dict[str, np.ndarray]:
        names: dict[str, tuple[str, ...]] = {split: (split,) for split in SPLITS}
        if use_restval:
            names["train"] = ("train", "restval")
        return {
            split: np.array(
                [p for p, picture in enumerate(self.pictures) if picture.split in known], np.int32
            )
            for split, known in names.items()
        }

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"fc": self._features.fc} | ({} if self._att is None else {"att": self._att})

    def _make_vocabulary(self, min_count: int, vocabulary_from: str) -> Vocabulary:
        """The words that occur often enough, by falling frequency, and checksums of the texts."""
        counts: Counter[str] = Counter()
        places = {"train": self._splits["train"], "all": range(len(self.pictures))}
        for place in places[vocabulary_from]:
            for words in self.pictures[place].tokens:
                counts.update(words)
        kept = sorted((w for w in counts if counts[w] > min_count), key=lambda w: (-counts[w], w))
        if not kept:
            raise UserError(
                f"no word of the captions of {self._name} occurs more than data.min_count="
                f"{min_count} times: lower it"
            )
        texts = {
            split: checksum([[self.pictures[p].name, self.pictures[p].tokens] for p in places])
            for split, places in self._splits.items()
        }
        return Vocabulary(CAPTION, (END_OF_CAPTION, *kept, UNKNOWN_WORD), texts)

    def _number(self, vocabulary: Vocabulary, max_words: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows of a 0, words and zeros, with the length before, and where pictures begin.

        The rows are (captions, max_words + 3): the number of words, a 0, the words, and zeros.
        """
        numbers, unknown_word = vocabulary.numbers, len(vocabulary.symbols) - 1
        captions = [words for picture in self.pictures for words in picture.tokens]
        try:
            rows = np.zeros((len(captions), max_words + 3), np.int32)
        except MemoryError as error:
            raise UserError(
                f"data.max_words={max_words} is too large ({error}): lower it"
            ) from error
        for row, words in zip(rows, captions, strict=True):
            words = words[:max_words]
            row[0] = len(words)
            row[2 : 2 + len(words)] = [numbers.get(word, unknown_word) for word in words]
        first = np.cumsum([0, *(len(picture.tokens) for picture in self.pictures)])
        return rows, first

    def _scales(self, standardise: bool) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Returns offset and scale of each feature, from training pictures; checks them for NaN."""
        found, train = {}, self._splits["train"]
        sample = train[:: max(1, -(-len(train) // _SAMPLE))]
        for name, array in self._arrays().items():
            seen = np.asarray(array[np.sort(self._rows[sample])], np.float32)
            seen = seen.reshape(-1, seen.shape[-1])
            if not np.isfinite(seen).all() or (name == "fc" and not np.isfinite(array).all()):
                raise UserError(
                    f"the features {self._features.encoder} of {self._name} hold NaN or infinite"
                    f" numbers ({name}.npy): make them again"
                )
            if not standardise:
                found[name] = ((0.0,), (1.0,))
                continue
            mean, deviation = seen.mean(0, np.float64), seen.std(0, dtype=np.float64)
            scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 1.0)
            found[name] = (tuple(mean.tolist()), tuple(scale.tolist()))
        return found

    def train_batch(self, seed: int, step: int, rows: slice) -> Batch:
        """Returns `rows` of the global training batch `step`.

        Of a picture with more captions than R consecutive ones are taken from a random start, of
        one with fewer they are drawn with replacement, as in the code of Arpit et al.
        """
        index = batch_indices(self.num_train, self._batch_size, seed, step, rows)
        places = self._splits["train"][index]
        chosen = [self._draw_captions(seed, step, int(place)) for place in places]
        return self._batch(places, np.stack(chosen), np.ones((len(places), self._per_image), bool))

    def _draw_captions(self, seed: int, step: int, place: int) -> np.ndarray:
        """Places of a picture's captions for a training step, `(R,)`: neighbours of more."""
        first, end = self._first[place : place + 2]
        spare = end - first - self._per_image
        if spare == 0:
            return np.arange(first, end)
        stream = np.random.SeedSequence(seed, spawn_key=(step, place))
        rng = np.random.Generator(np.random.Philox(stream))
        if spare > 0:
            return first + rng.integers(spare + 1) + np.arange(self._per_image)
        return first + rng.integers(end - first, size=self._per_image)

    def eval_batches(
        self, split: str, batch_size: int, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """Yields every picture of a split once, in stored order, in batches of equal size.

        Each has its first R captions; where there are fewer they are repeated, and not scored.
        """
        places = self._split(split)
        if batch_size < 1:
            raise UserError(f"evaluation batch size {batch_size} must be at least 1")
        return self._eval_batches(places, batch_size, range(batch_size)[rows])

    def _eval_batches(self, places: np.ndarray, batch_size: int, rows: range) -> Iterator[Batch]:
        """Yields `rows` of each batch of pictures; captions are repeated where too few."""
        turns = np.arange(self._per_image)
        for start in range(0, len(places), batch_size):
            here = places[start + rows.start : start + rows.stop]
            counts = self._first[here + 1] - self._first[here]
            chosen = self._first[here][:, None] + turns % counts[:, None]
            batch = self._batch(here, chosen, turns < counts[:, None])
            padding = len(rows) - len(here)
            batch["inputs"] = {n: pad_rows(a, padding) for n, a in batch["inputs"].items()}
            yield {**batch, **{key: pad_rows(batch[key], padding) for key in ("targets", "mask")}}

    def _batch(self, places: np.ndarray, captions: np.ndarray, scored: np.ndarray) -> Batch:
        words = self._words[captions]  # (pictures, R, max_words + 3)
        lengths, read, targets = words[..., :1], words[..., 1:-1], words[..., 2:].copy()
        steps = np.arange(targets.shape[-1])
        targets[(steps > lengths) | ~scored[..., None]] = _UNSCORED
        inputs = {"words": read, "picture": places}
        inputs |= {name: array[self._rows[places]] for name, array in self._arrays().items()}
        return {"inputs": inputs, "targets": targets, "mask": np.ones(len(places), np.float32)}

    def eval_size(self, split: str) -> int:
        """Returns the number of pictures of a split."""
        return len(self._split(split))

    def places(self, split: str) -> np.ndarray:
        """Returns where the pictures of a split stand among all, in the order of evaluation."""
        return self._split(split)

    def features_of(self, places: np.ndarray) -> np.ndarray:
        """Returns `fc` of pictures, as stored, (pictures, F)."""
        return np.asarray(self._features.fc[self._rows[places]])

    def describe(self) -> str:
        """Returns name, vocabulary, how much of the text it knows, and the splits' sizes."""
        sizes = " / ".join(f"{self.eval_size(split)}" for split in SPLITS)
        train = {int(place) for place in self._splits["train"]}
        mine = np.concatenate(
            [np.arange(self._first[p], self._first[p + 1]) for p in sorted(train)]
        )
        words = self._words[mine]
        total = max(1, int(words[:, 0].sum()))
        unknown_words = (words[:, 2:] == self.spec.classes - 1).sum() / total
        known = self.spec.classes - 2
        return (
            f"{self._name} ({self._features.encoder}): {known} words, {unknown_words:.1%} of the"
            f" training text unknown; pictures train / valid / test {sizes}"
        )

    def _split(self, split: str) -> np.ndarray:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return self._splits[split]


def _feature_rows(pictures: Sequence[Picture], features: Features, name: str) -> np.ndarray:
    """Returns the row of each picture in the features."""
    if missing := [picture.name for picture in pictures if picture.name not in features.rows]:
        raise UserError(
            f"the features {features.encoder} of {name} are of other pictures than its captions:"
            f" {len(missing)} are missing ({', '.join(missing[:3])}); make them again"
        )
    for part, array in (("fc", features.fc), ("att", features.att)):
        if array is not None and len(array) < len(features.rows):
            raise UserError(
                f"{part}.npy of the features {features.encoder} of {name} has {len(array)} rows for"
                f" {len(features.rows)} pictures: make them again"
            )
    return np.array([features.rows[picture.name] for picture in pictures], np.int64)


def read_caption(vocabulary: Vocabulary, numbers: Sequence[int] | np.ndarray) -> list[str]:
    """Returns the words before the first 0."""
    words: list[str] = []
    for number in numbers:
        if not number:
            break
        words.append(vocabulary.symbols[int(number)])
    return words
