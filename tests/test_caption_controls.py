"""Controls of captions: what copies, and what the model is shown in the place of a picture."""

import numpy as np
import pytest

from scripts.caption_controls import Changed, _consensus, copied
from tests.data.test_captions import made

CAPTIONS = [["a dog runs", "a dog"], ["a cat sits", "a cat"], ["the sea"], ["a dog jumps"]]
SPLITS = ["train", "train", "train", "valid"]


def test_consensus_is_like_the_others():
    captions = [caption.split() for caption in ("the sea", "a dog runs", "a dog", "a dog runs far")]
    assert _consensus(captions) == ["a", "dog", "runs"]


def test_copied_captions():
    data = made([*CAPTIONS, ["a dog rests"]], [*SPLITS, "test"])
    found = copied(data, "test")
    assert all(len(captions) == 1 for captions in found.values())
    # `fc` grows from picture to picture: in direction the last training picture is nearest.
    assert found["nearest"] == [("the", "sea")]
    known = {words for picture in data.pictures[:3] for words in picture.scored}
    assert {words for captions in found.values() for words in captions} <= known


@pytest.mark.parametrize("standardise", [False, True])
def test_hidden_is_zero_as_the_network_sees_it(standardise):
    data = made(CAPTIONS, SPLITS, standardise=standardise)
    (batch,) = Changed(data, "hidden").eval_batches("train", 3)
    spec = data.spec.inputs["fc"]
    seen = (batch["inputs"]["fc"] - np.array(spec.offset)) * np.array(spec.scale)
    np.testing.assert_allclose(seen, 0, atol=1e-6)
    (other,) = Changed(data, "shuffled").eval_batches("train", 3)
    (whole,) = data.eval_batches("train", 3)
    np.testing.assert_array_equal(other["inputs"]["fc"][1:], whole["inputs"]["fc"][:-1])
    np.testing.assert_array_equal(other["targets"], whole["targets"])
