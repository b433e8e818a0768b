"""What the README says, run or compared."""

import importlib
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


PYTHON = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
CONFIGS = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [README, PYTHON], ids=["README", "python.md"])
def test_python_examples_run(text):
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        names = {}
        exec(block, names)
        assert names["out"].outputs.shape == (8, 100, 64)
        assert names["out"].last.shape == (8, 64)
        assert_blocks(names["ours"], names["params"], names["x"])


def assert_blocks(model, params, x):
    """What it says of h-detach is so: a training call has other gradients than evaluation."""

    def gradient(**how):
        return jax.grad(lambda p: model.apply(p, x, **how).last.sum())(params)

    blocked, free = gradient(rngs={"h_detach": jax.random.key(1)}), gradient(deterministic=True)
    for one, other in zip(*map(jax.tree.leaves, (blocked, free)), strict=True):
        assert jnp.abs(one - other).max() > 0


def test_the_shown_results_are_what_the_results_say(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    page = importlib.import_module("results_page")
    shown = re.search(r"<!-- results -->\n(.*?)\n<!-- /results -->", README, re.DOTALL)
    assert shown
    assert shown[1] == page.telling_rows(ROOT / "results")
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert text == page.page(ROOT / "results")


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


def test_times_of_configs_are_those_of_the_results():
    shown = re.findall(
        r"\[([\d.]+)(?: to ([\d.]+))? min a seed\]\(\.\./results/(\w+)\.json\)", CONFIGS
    )
    assert len(shown) >= 5 and len(re.findall(r"\d min", CONFIGS)) == len(shown)
    for least, most, name in shown:
        variants = json.loads((ROOT / "results" / f"{name}.json").read_text("utf-8"))["variants"]
        results = [variant["result"] for variant in variants]
        minutes = [result["wall_time_s"] / 60 / len(result["seeds"]) for result in results]
        assert (least, most or least) == (f"{min(minutes):.1f}", f"{max(minutes):.1f}"), name


def test_named_configs_exist():
    named = re.findall(r"`(?:configs/)?(\w+\.py)(?::[\w,-]+)?` \|", CONFIGS)
    assert len(named) >= 5
    for name in named:
        assert (ROOT / "configs" / name).exists(), name
