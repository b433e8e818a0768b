"""Captioning from training to the page: generated pictures, own pictures, what is refused."""

import csv
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from absl import flags

from lrd_jax.config import command_line
from lrd_jax.data import shapes
from lrd_jax.errors import UserError
from lrd_jax.evaluation import commands
from lrd_jax.predict import main as predict
from lrd_jax.reporting import meteor
from lrd_jax.training import loop
from tests.integration.conftest import ROOT
from tests.reporting.test_caption_metrics import CAPTIONS, REFERENCES

Image = pytest.importorskip("PIL.Image", reason="Pillow (extra captioning) is not installed")
METEOR_IS_MISSING = meteor.missing()


def config(argument, **changes):
    c = command_line.load_config(f"{ROOT}/configs/caption_shapes.py:{argument}")
    c = c.copy_and_resolve_references().unlock()
    c.update_from_flattened_dict(changes)
    return c.lock()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two seeds of Show, Attend & Tell, hardly trained."""
    workdir = tmp_path_factory.mktemp("run") / "SAT"
    changes = {"num_seeds": 2, "train.num_steps": 4, "train.eval_every_steps": 2}
    loop.train(config("SAT,quick", **changes, **{"devices.cpu_devices": 1}), workdir)
    return workdir


@pytest.mark.slow
def test_training_says_what_it_reached(run):
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert list(result["metrics"])[:2] == ["exact", "cider"]
    test = result["seeds"][0]["test"]
    names = {"loss", "perplexity", "exact", "cider", "rouge_l", *(f"bleu_{n}" for n in range(1, 5))}
    assert set(test) == names and test["loss"] < 3.2
    vocabulary = json.loads((run / "vocabulary.json").read_text(encoding="utf-8"))
    assert vocabulary["unit"] == "caption" and len(vocabulary["symbols"]) == 21


class Pictures(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.links = 0, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.images += tag == "img"
        self.links += [v for k, v in attributes if k in ("src", "href")]


@pytest.mark.slow
def test_captions_of_a_split(run, capsys):
    overrides = {"eval.ensemble": True, "eval.sheet_images": 2, "eval.meteor": "off"}
    result = commands.evaluate(run, overrides)
    printed = capsys.readouterr().out
    assert result["decoding"]["beam_size"] == 2 and set(result["ensemble"]) >= {"exact", "cider"}
    assert json.loads((run / "eval/test.json").read_text(encoding="utf-8")) == result
    captions = json.loads((run / "eval/test_captions.json").read_text(encoding="utf-8"))
    pictures, _ = shapes.make()
    numbers = [picture.number for picture in pictures if picture.split == "test"]
    assert [entry["image_id"] for entry in captions] == numbers
    assert all(set(entry) == {"image_id", "caption"} for entry in captions)
    page = Pictures((run / "eval/test.html").read_text(encoding="utf-8"))
    assert page.images > 2  # the pictures, and one for every word
    assert page.links and all(link.startswith("data:") for link in page.links)
    assert "2 runs together" in (run / "eval/test.html").read_text(encoding="utf-8")
    assert "ensemble" in printed and "page in" in printed


@pytest.mark.slow
def test_captions_of_own_pictures(run, tmp_path, capsys):
    _, pixels = shapes.make(3)
    folder, table = tmp_path / "pictures", tmp_path / "captions.csv"
    folder.mkdir()
    for number, each in enumerate(pixels):
        Image.fromarray(np.kron(each, np.ones((4, 4, 1), np.uint8))).save(
            folder / f"{number}<b>.png"
        )
    (folder / "3.png").write_bytes(b"nothing")
    before = sorted(run.rglob("*"))

    def captions(where, seeds="best"):
        named = [f"--workdir={run}", f"--input={where}", f"--output={table}", f"--seeds={seeds}"]
        assert predict([*named, "--config.eval.batch_size=2"]) == 0
        with table.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    written = captions(folder)
    assert [entry["id"] for entry in written] == [f"{number}<b>.png" for number in range(3)]
    assert "3.png cannot be read" in capsys.readouterr().err
    text = table.with_suffix(".html").read_text(encoding="utf-8")
    assert "0&lt;b&gt;.png" in text and "<b>.png" not in text
    page = Pictures(text)
    assert page.images > 3 and all(link.startswith("data:") for link in page.links)
    # The same picture alone, and of the size that training saw.
    alone = tmp_path / "1.png"
    Image.fromarray(pixels[1]).save(alone)
    (again,) = captions(alone)
    assert again["caption"] == written[1]["caption"]
    captions(alone, "all")
    assert "2 runs together" in table.with_suffix(".html").read_text(encoding="utf-8")
    assert sorted(run.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"eval.beam_size": 0}, "eval.beam_size=0: must be 1 or more"),
        ({"eval.meteor": "perhaps"}, "eval.meteor="),
        ({"eval.decode": "guess"}, "eval.decode="),
        ({"eval.sample_tokens": 5}, "is for trained language models"),
    ],
)
def test_refused(run, tmp_path, overrides, message):
    before = sorted(run.rglob("*"))
    overrides = {
        key: value.format(here=tmp_path) if isinstance(value, str) else value
        for key, value in overrides.items()
    }
    with pytest.raises(UserError, match=message) as caught:
        commands.evaluate(run, overrides)
    assert "\n" not in str(caught.value)
    assert sorted(run.rglob("*")) == before


@pytest.mark.slow
def test_no_pictures(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "holds no pictures"), ("none", "no such file or folder")):
        out = tmp_path / "out.csv"
        named = [f"--workdir={run}", f"--input={tmp_path / name}", f"--output={out}"]
        assert predict(named) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not out.exists()


def test_the_key_of_before_says_what_took_its_place():
    with pytest.raises(UserError, match=r"python -m lrd_jax\.predict"):
        command_line.parse_flags(
            ["main", "--config=configs/base.py", "--config.eval.image_dir=x"], flags.FlagValues()
        )


def test_one_seed_is_no_ensemble(tmp_path):
    with pytest.raises(UserError, match="needs a run of several seeds"):
        commands.COMMANDS["captions"].check(tmp_path, config("ST", **{"eval.ensemble": True}))


@pytest.mark.skipif(bool(METEOR_IS_MISSING), reason=f"no METEOR: {METEOR_IS_MISSING} is missing")
def test_meteor_oracle():
    """ORC-34; an empty caption is no end of it."""
    assert meteor.meteor(CAPTIONS, REFERENCES) == pytest.approx(0.343110469, abs=1e-6)
    assert meteor.meteor([[], *CAPTIONS[1:]], REFERENCES) < 0.3


@pytest.mark.skipif(not METEOR_IS_MISSING, reason="METEOR can run")
def test_meteor_is_missing(capsys):
    assert not meteor.wanted("auto") and "captioning-meteor" in capsys.readouterr().out
    assert not meteor.wanted("off") and not capsys.readouterr().out
    with pytest.raises(UserError, match=r"eval\.meteor=on needs"):
        meteor.wanted("on")


@pytest.mark.slow
def test_it_learns(tmp_path):
    """Show, Attend & Tell says what is there of scenes that it never saw, after 600 steps."""
    result = loop.train(config("SAT", **{"train.num_steps": 600}), tmp_path / "run")
    assert result["test"]["exact"] > 0.5
