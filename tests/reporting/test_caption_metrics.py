"""Scores of captions: oracle ORC-34 (from pycocoevalcap 1.2), ORC-44, and properties."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrd_jax.data.caption_tokens import tokenize
from lrd_jax.reporting.caption_metrics import CaptionScorer, exact, longest_common, rouge_l

REFERENCES = [
    [caption.split() for caption in each]
    for each in (
        ("a black dog runs through the grass", "a dog is running in a field", "the dog runs"),
        (
            "two children play football",
            "two boys are playing with a ball",
            "kids play soccer on the grass",
        ),
        ("a man rides a red bike", "a man on a bicycle", "a cyclist in the street"),
    )
]
CAPTIONS = [
    caption.split()
    for caption in ("a dog runs through a field", "two boys play soccer", "a man a man a man a man")
]


def bleu(scores):
    return [scores[f"bleu_{n}"] for n in (1, 2, 3, 4)]


def test_oracle():
    """ORC-34, first part."""
    scorer = CaptionScorer(REFERENCES)
    scores, each = scorer(CAPTIONS), scorer.each(CAPTIONS)
    assert bleu(scores) == pytest.approx(
        [0.722222222, 0.580548910, 0.303970983, 0.000042030], abs=1e-6
    )
    assert scores["rouge_l"] == pytest.approx(0.549415205, abs=1e-6)
    assert scores["cider"] == pytest.approx(1.496397956, abs=1e-6)
    assert [e["rouge_l"] for e in each] == pytest.approx([2 / 3, 0.5, 0.481578947], abs=1e-6)
    expected = [2.571026202, 1.549790121, 0.368377544]
    assert [e["cider"] for e in each] == pytest.approx(expected, abs=1e-6)


def test_oracle_with_an_empty_caption():
    """ORC-34, second part."""
    scores = CaptionScorer(REFERENCES)([[], *CAPTIONS[1:]])
    assert bleu(scores)[:2] == pytest.approx([0.536692575, 0.384882192], abs=1e-6)
    assert scores["cider"] == pytest.approx(0.639389222, abs=1e-6)
    assert scores["rouge_l"] == pytest.approx(0.327192982, abs=1e-6)


def test_oracle_of_one_image():
    """ORC-34, third part: idf of one image is 0, and so is CIDEr."""
    scores = CaptionScorer(REFERENCES[:1])(CAPTIONS[:1])
    expected = [0.846481725, 0.757116271, 0.495025516, 0.0000764883]
    assert bleu(scores) == pytest.approx(expected, abs=1e-6)
    assert scores["cider"] == 0


def test_human_ceiling():
    """ORC-44: the first reference of Flickr8k's test images against the other four."""
    folder = Path(os.environ.get("LRD_JAX_TEST_DATA", "")) / "flickr8k"
    if not (folder / "Flickr8k.token.txt").exists():
        pytest.skip("no captions of Flickr8k under LRD_JAX_TEST_DATA")
    test = (folder / "Flickr_8k.testImages.txt").read_text(encoding="utf-8").split()
    captions = {name: [] for name in test}
    for line in (folder / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        key, caption = line.split("\t")
        if (name := key.rpartition("#")[0]) in captions:
            captions[name].append(tokenize(caption))
    images = list(captions.values())
    scores = CaptionScorer([each[1:] for each in images])([each[0] for each in images])
    assert bleu(scores) == pytest.approx([0.636, 0.446, 0.306, 0.210], abs=1e-3)
    assert scores["rouge_l"] == pytest.approx(0.488, abs=1e-3)
    assert scores["cider"] == pytest.approx(0.789, abs=1e-3)


words = st.lists(st.sampled_from("abcd"), max_size=8)


@given(st.lists(st.lists(words.filter(bool), min_size=1, max_size=3), min_size=2, max_size=4))
def test_a_reference_scores_at_its_best(references):
    """A reference itself has BLEU-1 and ROUGE-L of 1, and more CIDEr than nothing at all."""
    scorer = CaptionScorer(references)
    scores = scorer([each[0] for each in references])
    assert scores["bleu_1"] == pytest.approx(1) and scores["rouge_l"] == pytest.approx(1)
    empty = scorer([[]] * len(references))
    assert empty["bleu_1"] == empty["rouge_l"] == empty["cider"] == 0 <= scores["cider"]
    assert exact([each[-1] for each in references], references) == 1
    assert exact([["z"]] * len(references), references) == 0


@given(words, words)
def test_longest_common_subsequence(a, b):
    """Against the recursion that defines it."""

    def by_definition(i, j):
        if not i or not j:
            return 0
        if a[i - 1] == b[j - 1]:
            return 1 + table[i - 1, j - 1]
        return max(table[i - 1, j], table[i, j - 1])

    table = {}
    for i in range(len(a) + 1):
        for j in range(len(b) + 1):
            table[i, j] = by_definition(i, j)
    assert longest_common(a, b) == table[len(a), len(b)]
    assert (rouge_l(a, [b]) > 0) == (table[len(a), len(b)] > 0)
