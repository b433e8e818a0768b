"""Pictures with captions: rows and batches (ORC-38, ORC-42), the generated set, bad values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrd_jax.data import shapes
from lrd_jax.data.captions import CaptionDataset, Features, Picture, read_caption
from lrd_jax.errors import UserError

OPTIONS = {
    "name": "made",
    "batch_size": 4,
    "captions_per_image": 2,
    "max_words": 4,
    "min_count": 0,
    "vocabulary_from": "train",
    "standardise": False,
    "att": True,
}


def made(captions, splits=None, features=None, **options):
    """A data set of these captions, a list for each picture."""
    splits = splits or ["train"] * len(captions)
    pictures = [
        Picture.of_raw(f"{i}.png", i, split, each)
        for i, (each, split) in enumerate(zip(captions, splits, strict=True))
    ]
    count = len(captions)
    fc = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    att = np.arange(count * 8, dtype=np.float16).reshape(count, 4, 2)
    rows = {picture.name: row for row, picture in enumerate(pictures)}
    features = features or Features(fc, att, rows, "made")
    return CaptionDataset(pictures, features, **OPTIONS | options)


words = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=7).map(" ".join)


@given(st.lists(st.lists(words, min_size=1, max_size=4), min_size=3, max_size=5))
def test_rows(captions):
    """ORC-38: n words give n + 1 scored targets, the last of them the end; long ones are cut."""
    data = made(captions)
    batch = next(data.eval_batches("train", len(captions)))
    for place, each in enumerate(captions):
        for turn in range(2):
            row, targets = batch["inputs"]["words"][place, turn], batch["targets"][place, turn]
            if turn >= len(each):
                assert (targets == -1).all()  # repeated, and not scored
                np.testing.assert_array_equal(row, batch["inputs"]["words"][place, 0])
                continue
            kept = each[turn].split()[:4]
            scored = targets[targets >= 0]
            assert len(scored) == len(kept) + 1 and scored[-1] == 0 and row[0] == 0
            assert read_caption(data.spec.vocabulary, scored) == kept
            np.testing.assert_array_equal(row[1 : len(kept) + 1], scored[:-1])


@pytest.mark.parametrize("count, distinct", [(1, 1), (2, 2), (5, 2)])
def test_training_captions(count, distinct):
    """All, consecutive ones of more, or drawn again of fewer; a pure function of seed and step."""
    letters = "abcdef"
    data = made([list(letters[:count]) for _ in range(3)])
    symbols = data.spec.vocabulary.symbols
    seen = set()
    for step in range(20):
        batch = data.train_batch(3, step, slice(None))
        again = np.concatenate(
            [data.train_batch(3, step, rows)["targets"] for rows in (slice(0, 1), slice(1, 4))]
        )
        np.testing.assert_array_equal(batch["targets"], again)
        for picture in batch["targets"][:, :, 0]:
            said = [symbols[number] for number in picture]
            assert len(set(said)) == distinct
            first = letters.index(said[0])
            assert count == 1 or said == list(letters[first : first + 2])
            seen.add(said[0])
    assert len(seen) == max(1, count - 1)


def test_vocabulary_and_unknown_words():
    """By falling count, then by letter; of training captions alone unless all are asked for."""
    captions, splits = [["b a a c", "c b"], ["z z z"]], ["train", "valid"]
    data = made(captions, splits, min_count=1)
    assert data.spec.vocabulary.symbols == ("<end>", "a", "b", "c", "UNK")
    unknown = next(data.eval_batches("valid", 1))["targets"][0, 0]
    assert list(unknown) == [4, 4, 4, 0, -1]
    everything = made(captions, splits, min_count=2, vocabulary_from="all")
    assert everything.spec.vocabulary.symbols == ("<end>", "z", "UNK")
    assert "3 words, 0.0% of the training text unknown" in data.describe()


def test_evaluation_pads_with_nothing():
    data = made([["a"], ["b"], ["c"]])
    first, second = data.eval_batches("train", 2)
    assert first["mask"].tolist() == [1, 1] and second["mask"].tolist() == [1, 0]
    assert second["inputs"]["picture"].tolist() == [2, 0]
    halves = [next(data.eval_batches("train", 2, rows)) for rows in (slice(0, 1), slice(1, 2))]
    whole = np.concatenate([half["inputs"]["fc"] for half in halves])
    np.testing.assert_array_equal(whole, first["inputs"]["fc"])


def test_restval_trains_if_asked_for():
    captions, splits = [["a"], ["b"]], ["train", "restval"]
    assert made(captions, splits).num_train == 2
    assert made(captions, splits, use_restval=False).num_train == 1


def test_standardised_features():
    data = made([["a"], ["b"], ["c"]], ["train", "train", "test"], standardise=True)
    spec = data.spec.inputs["fc"]
    assert spec.offset == (1.5, 2.5, 3.5) and spec.scale == pytest.approx((1 / 1.5,) * 3)
    one = np.zeros((3, 3), np.float32)
    constant = Features(one, np.zeros((3, 4, 2), np.float16), {f"{i}.png": i for i in range(3)}, "")
    data = made([["a"]] * 3, features=constant, standardise=True)
    assert data.spec.inputs["att"].scale == (1.0, 1.0)


def features(**changes):
    rows = {"0.png": 0, "1.png": 1}
    given = {"fc": np.ones((2, 3), np.float32), "att": np.ones((2, 4, 2)), "rows": rows}
    return Features(**given | {"encoder": "made"} | changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rows": {"x.png": 0, "y.png": 1}}, r"other pictures .* 2 are missing \(0.png, 1.png\)"),
        ({"fc": np.ones((1, 3), np.float32)}, "fc.npy .* has 1 rows for 2 pictures"),
        ({"fc": np.array([[1, np.nan, 1]] * 2, np.float32)}, "hold NaN"),
        ({"att": np.full((2, 4, 2), np.inf)}, "hold NaN or infinite"),
        ({"att": None}, "made with --no_att"),
    ],
)
def test_bad_features(changes, message):
    with pytest.raises(UserError, match=message):
        made([["a"], ["b"]], features=features(**changes))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"captions_per_image": 0}, "data.captions_per_image=0"),
        ({"max_words": 0}, "data.max_words=0"),
        ({"max_words": 10**14}, "data.max_words=10+ is too large .*lower it"),
        ({"min_count": -1}, "data.min_count=-1"),
        ({"min_count": 1}, "no word .* occurs more than data.min_count=1 times: lower it"),
        ({"vocabulary_from": "test"}, "data.vocabulary_from="),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        made([["a"]], **options)


def test_no_training_captions():
    with pytest.raises(UserError, match="no training captions"):
        made([["a"]], ["test"])


# ---- The generated set --------------------------------------------------------------------------


def test_shapes():
    pictures, pixels = shapes.make(400)
    again, same = shapes.make(400)
    assert pictures == again
    np.testing.assert_array_equal(pixels, same)
    captions = {split: set() for split in ("train", "valid", "test")}
    for picture in pictures:
        captions[picture.split].add(picture.scored)
        assert all(7 <= len(caption) <= 12 for caption in picture.scored)
    assert not captions["train"] & (captions["valid"] | captions["test"])
    assert captions["valid"] and captions["test"]
    known = {word for picture in pictures for caption in picture.scored for word in caption}
    assert len(known) == 19


def test_shapes_say_what_is_there():
    """The first object's colour is left of, or above, the second's."""
    pictures, pixels = shapes.make(60)
    for picture, seen in zip(pictures, pixels, strict=True):
        caption = picture.scored[0]
        _, first, _, relation, *_ = caption
        second = caption[-2]
        if first == second:
            continue
        places = [
            np.argwhere((seen == shapes._COLOURS[colour]).all(-1)).mean(0)
            for colour in (first, second)
        ]
        axis = 0 if relation == "above" else 1
        assert places[0][axis] + 8 < places[1][axis]


def test_shapes_as_features():
    _, pixels = shapes.make(3)
    fc, att = shapes.encode(pixels)
    assert fc.shape == (3, 768) and att.shape == (3, 16, 200)
    ink = 1 - pixels.astype(float) / 255
    assert fc.mean() == pytest.approx(ink.mean(), rel=1e-5)
    np.testing.assert_allclose(att[0, 6, :192], ink[0, 8:16, 16:24].ravel(), rtol=1e-5)
    assert att[0, 6, 192:].tolist() == [0, 1, 0, 0, 0, 0, 1, 0]
