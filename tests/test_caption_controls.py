"""Controls of captions: what copies, and what the model is shown in the place of a picture."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from lrd_jax.config import defaults
from lrd_jax.reporting import published
from scripts.caption_controls import CONTROLS, Changed, _consensus, content_of, copied
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


def test_its_file_is_of_the_schema_and_shown(monkeypatch):
    flags.FLAGS.mark_as_parsed()
    score = {"cider": 0.25, "bleu_4": 0.125}
    found = {"random": score, "hidden": [score, {**score, "cider": 0.75}]}
    config = defaults.get_config().to_dict()
    monkeypatch.setattr("lrd_jax.reporting.provenance.commit", lambda: "0" * 40)
    monkeypatch.setattr("lrd_jax.reporting.provenance.tree", lambda _: "1" * 40)
    content = content_of(found, title="Flickr", split="test", pictures=8, config=config)
    assert [*published.problems(json.loads(published.to_json(content)))] == []
    assert content["config"]["data"]["data_dir"] == "DIR" != config["data"]["data_dir"]
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    page = importlib.import_module("results_page")._controls("controls", content)
    assert f"| {CONTROLS['random']} | 1 | 0.250 | 0.125 |" in page
    assert "| 2 | 0.500 (0.250, 0.750) | 0.125 (0.125, 0.125) |" in page
