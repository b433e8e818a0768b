"""The models in results/models: small, with a complete card, and as good as it says."""

import re
import shutil
from pathlib import Path

import pytest

import lrd_jax
from lrd_jax.evaluation import commands

ROOT = Path(__file__).resolve().parents[1]
MODELS = sorted(path.parent for path in (ROOT / "results" / "models").glob("*/config.json"))
# The other models of state tracking are scored as this one.
SCORED = ("digits_urlstm", "digits_gated_legs", "tracking_s3_lstm")


def test_there_are_few():
    assert 5 <= len(MODELS) <= 10


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_it_is_small_and_its_card_is_complete(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2 * 2**20
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "python -m lrd_jax.main --config=configs/" in card
    assert "To be filled in" not in card and "Apache-2.0" in card
    assert all("/work" not in path.read_text("utf-8") for path in folder.glob("*.[jm][sd]*[dn]"))
    model = lrd_jax.load(folder)
    assert len(model.members) == 1


@pytest.mark.parametrize("name", SCORED)
def test_it_scores_what_its_card_says(tmp_path, digits_dir, name):
    folder = shutil.copytree(ROOT / "results" / "models" / name, tmp_path / name)
    data = {"data.data_dir": str(digits_dir)} if name.startswith("digits") else {}
    (seed,) = commands.evaluate(folder, data)["seeds"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"^\| accuracy \| ([\d.]+) % \|", card, re.M)
    assert 100 * seed["test"]["accuracy"] == pytest.approx(float(said), abs=0.005)
