"""Scores of captions against references: BLEU-1..4, ROUGE-L and CIDEr-D.

The rules are those of the COCO challenge's tools (`pycocoevalcap` 1.2, to 1e-15), written anew.
Captions are sequences of words, from `lrd_jax.data.caption_tokens`. An empty caption scores 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Words = Sequence[str]
Ngrams = Counter[tuple[str, ...]]

_ORDERS = (1, 2, 3, 4)


class CaptionScorer:
    """Scores captions of some images; what the references alone decide is computed once.

    Attributes:
      references: of each image its captions, at least one.
    """

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        """Counts n-grams of the references.

        Args:
          references: of each image its captions, at least one each.
        """
        self.references = references
        self._counts = [[_ngrams(words) for words in each] for each in references]
        seen: Counter[tuple[str, ...]] = Counter()
        for each in self._counts:
            seen.update(set().union(*each))
        log_images = math.log(len(references)) if references else 0.0
        self._idf = {ngram: log_images - math.log(count) for ngram, count in seen.items()}
        self._unseen = log_images  # of an n-gram that no reference has
        self._vectors = [[self._vector(counts) for counts in each] for each in self._counts]

    def __call__(self, captions: Sequence[Words]) -> dict[str, float]:
        """Returns `bleu_1` to `bleu_4`, `rouge_l` and `cider` of one caption for each image."""
        counts = [_ngrams(words) for words in captions]
        bleu = _bleu(captions, counts, self.references, self._counts)
        rouge = [rouge_l(c, refs) for c, refs in zip(captions, self.references, strict=True)]
        cider = self._cider(counts)
        means = {"rouge_l": _mean(rouge), "cider": _mean(cider)}
        return {f"bleu_{n}": value for n, value in zip(_ORDERS, bleu, strict=True)} | means

    def each(self, captions: Sequence[Words]) -> list[dict[str, float]]:
        """Returns `rouge_l` and `cider` of every image, whose means `__call__` gives."""
        cider = self._cider([_ngrams(words) for words in captions])
        both = zip(captions, self.references, cider, strict=True)
        return [{"rouge_l": rouge_l(c, refs), "cider": value} for c, refs, value in both]

    def _cider(self, counts: Sequence[Ngrams]) -> list[float]:
        """CIDEr-D of each image (Vedantam et al. 2015, arXiv:1411.5726), times 10.

        The gap of lengths is taken between the numbers of bigrams, as in the tools.
        """
        scores = []
        for found, references in zip(counts, self._vectors, strict=True):
            hypothesis = self._vector(found)
            scores.append(10 * _mean([_similarity(hypothesis, r) for r in references]))
        return scores

    def _vector(self, counts: Ngrams) -> _Vector:
        """The weights of n-grams by their order, their norms, and the number of bigrams."""
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in _ORDERS]
        squares, bigrams = [0.0] * len(_ORDERS), 0
        idf, unseen = self._idf, self._unseen
        for ngram, count in counts.items():
            order = len(ngram) - 1
            weight = count * idf.get(ngram, unseen)
            weights[order][ngram] = weight
            squares[order] += weight * weight
            if order == 1:
                bigrams += count
        return weights, [math.sqrt(square) for square in squares], bigrams


_Vector = tuple[list[dict[tuple[str, ...], float]], list[float], int]


def _similarity(hypothesis: _Vector, reference: _Vector) -> float:
    """CIDEr-D of two captions over 10: clipped cosines of tf-idf, less for unequal lengths."""
    total = 0.0
    for found, wanted, norm, other in zip(
        hypothesis[0], reference[0], hypothesis[1], reference[1], strict=True
    ):
        product = 0.0
        for ngram, weight in found.items():
            if ngram in wanted:
                product += min(weight, wanted[ngram]) * wanted[ngram]
        if norm and other:
            total += product / (norm * other)
    gap = hypothesis[2] - reference[2]
    return total / len(_ORDERS) * math.exp(-gap * gap / 72)  # sigma 6


def _ngrams(words: Words) -> Ngrams:
    """Counts all n-grams of up to four words."""
    words = tuple(words)
    counts: Ngrams = Counter(zip(words))
    for n in _ORDERS[1:]:
        counts.update(words[i : i + n] for i in range(len(words) - n + 1))
    return counts


def _bleu(
    captions: Sequence[Words],
    counts: Sequence[Ngrams],
    references: Sequence[Sequence[Words]],
    reference_counts: Sequence[Sequence[Ngrams]],
) -> list[float]:
    """BLEU-1 to -4 of a corpus (Papineni et al. 2002), with the closest reference's length."""
    guessed, correct = [0] * len(_ORDERS), [0] * len(_ORDERS)
    length = reference_length = 0
    for words, found, refs, ref_counts in zip(
        captions, counts, references, reference_counts, strict=True
    ):
        length += len(words)
        reference_length += min((abs(len(r) - len(words)), len(r)) for r in refs)[1]
        for n in _ORDERS:
            guessed[n - 1] += max(0, len(words) - n + 1)
        for ngram, count in found.items():
            correct[len(ngram) - 1] += min(count, max(r.get(ngram, 0) for r in ref_counts))
    ratio = (length + 1e-15) / (reference_length + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n, right, all_ in zip(_ORDERS, correct, guessed, strict=True):
        product *= (right + 1e-15) / (all_ + 1e-9)
        scores.append(product ** (1 / n) * brevity)
    return scores


def rouge_l(words: Words, references: Sequence[Words]) -> float:
    """ROUGE-L of one caption (Lin 2004) with beta 1.2; the best precision and the best recall."""
    if not words:
        return 0.0
    common = [longest_common(words, reference) for reference in references]
    precision = max(common) / len(words)
    recall = max(c / len(r) if r else 0.0 for c, r in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def longest_common(a: Words, b: Words) -> int:
    """Returns the length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def exact(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Returns how many captions are one of their references, as a fraction."""
    pairs = zip(captions, references, strict=True)
    return _mean([float(list(c) in [list(r) for r in refs]) for c, refs in pairs])
