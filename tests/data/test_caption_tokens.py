"""Words of captions: oracle ORC-35, which PTBTokenizer gave, and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrd_jax.data.caption_tokens import tokenize


@pytest.mark.parametrize(
    "caption, words",
    [
        (
            "A man's T-shirt (red) isn't new, says \"Bob\".",
            "a man 's t-shirt -lrb- red -rrb- is n't new says bob",
        ),
        (
            "Two dogs -- one black, one white -- run!",
            "two dogs one black one white run",
        ),
        (
            "A T.V. at 5:30 p.m. costs $1,000; it's 50% off.",
            "a t.v. at 5:30 p.m. costs $ 1,000 it 's 50 % off",
        ),
        (
            "Person can't  see the well-lit sign on 5th Ave.",
            "person ca n't see the well-lit sign on 5th ave.",
        ),
        ("They cannot \u201csee\u201d it\u2019s\u2026", "they can not see it 's \u2026"),
        ("", ""),
    ],
)
def test_oracle(caption, words):
    assert " ".join(tokenize(caption)) == words


@given(st.text(alphabet="ab'n t.-,\"()5", max_size=30))
def test_words_have_no_blanks_and_losing_nothing_but_punctuation(caption):
    words = tokenize(caption)
    assert all(word and not any(c.isspace() for c in word) for word in words)
    kept = [c for c in "".join(words).replace("-lrb-", "").replace("-rrb-", "") if c.isalnum()]
    assert kept == [c for c in caption if c.isalnum()]
    assert tokenize(caption.upper()) == words
