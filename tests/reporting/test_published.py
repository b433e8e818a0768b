"""The files of `results/`: what the schema refuses, and that every committed one holds to it."""

import copy
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from lrd_jax.errors import UserError
from lrd_jax.reporting import provenance, published

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "results").glob("*.json"))
COMMIT = "0123456789" * 4


def comparison():
    """A comparison of two variants, two seeds each, as it should be."""
    versions = {"jax": "1"}

    def variant(name):
        result = {
            "best": {"step": 4, "valid": {"accuracy": 0.5}},
            "test": {"accuracy": 0.5},
            "seeds": [
                {"seed": s, "best": {"step": 4, "valid": {"accuracy": 0.5}}, "test": {"a": None}}
                for s in (3, 4)
            ],
            "steps": 8,
            "num_steps": 10,
            "wall_time_s": 1.5,
            "device": "1 x cpu (cpu)",
            "versions": versions,
            "commit": COMMIT,
        }
        config = {"seed": 3, "num_seeds": 2, "train": {"stop_step": 8}}
        curve = [{"step": 4, "split": "valid"}, {"step": 8, "split": "test"}]
        begun = {"commit": COMMIT, "versions": versions}
        parts = {"name": name, "config": config, "result": result, "curve": curve}
        return copy.deepcopy(parts | {"begun": begun})

    return {
        "schema": published.SCHEMA,
        "name": "gates",
        "title": "Gates",
        "command": ["python", "scripts/reproduce.py", "gates"],
        "devices": ["1 x cpu (cpu)"],
        "cores": 2,
        "versions": versions,
        "commit": COMMIT,
        "tree": COMMIT[::-1],
        "config_format": 2,
        "variants": [variant("one"), variant("other")],
    }


def test_a_curve_is_thinned_to_what_can_be_drawn():
    curve = [
        {
            "step": step,
            "split": split,
            "seed": seed,
            "loss": 1 / 3 + seed,
            "time": "x",
            "train_s": 1,
        }
        for step in range(1, 1002)
        for split in ("train", "valid")[: 1 + (step % 10 == 1)]
        for seed in (3, 4)
    ]
    kept = published.thinned(curve)
    steps = {
        split: [line["step"] for line in kept if line["split"] == split]
        for split in ("train", "valid")
    }
    assert len(set(steps["train"])) == published.CURVE_POINTS
    assert steps["valid"] == sorted([*range(1, 1002, 10)] * 2)  # fewer than that: all of them
    for each in steps.values():
        assert (each[0], each[-1]) == (1, 1001)
        assert all(each.count(step) == 2 for step in each)  # both seeds
        gaps = np.diff(sorted(set(each)))
        assert gaps.max() - gaps.min() <= 1
    assert kept[0] == {**curve[0], "loss": 3.3333333}  # the first seed of a step has its times
    assert kept[1] == {"step": 1, "split": "train", "seed": 4, "loss": 4.3333333}
    assert published.thinned(kept) == kept


def test_each_line_of_a_curve_is_a_row():
    content = comparison()
    text = published.to_json(content)
    assert json.loads(text) == content
    assert '    {"step": 4, "split": "valid"},\n' in text


def put(content, place, value):
    *groups, last = (int(key) if key.isdigit() else key for key in place.split("."))
    for key in groups:
        content = content[key]
    if value is ...:
        del content[last]
    else:
        content[last] = value


RESULT = "variants.1.result"
HARMS = [  # place, value (...: taken out), what is said
    ("schema", 2, "schema is 2"),
    ("schema", ..., "schema is None"),
    ("commit", COMMIT + "-dirty", "no clean commit"),
    ("commit", "unknown", "no clean commit"),
    ("commit", COMMIT[:10], "no clean commit"),
    ("tree", "unknown", "no hash of the package"),
    ("tree", ..., "tree is missing"),
    ("cores", True, "cores is not of its type"),
    ("command", "python x", "command is not of its type"),
    ("devices", [], "devices is not of its type"),
    ("devices", ["1 x cpu (cpu)", "2 x cpu (cpu)"], "different devices"),
    ("versions", {"jax": 1}, "versions is not of its type"),
    ("variants", {}, "variants is not of its type"),
    ("variants", [], "variants is not of its type"),
    ("variants.0", 3, "variants is not of its type"),
    ("variants.1.name", "one", "two variants have one name"),
    ("variants.1.config", None, "config is not of its type"),
    (f"{RESULT}.best", ..., "result.best is missing"),
    (f"{RESULT}.best.valid", [], "best.valid is not of its type"),
    (f"{RESULT}.test.accuracy", "0.5", "test is not of its type"),
    (f"{RESULT}.test.accuracy", math.inf, "test is not of its type"),
    (f"{RESULT}.seeds", [], "seeds is not of its type"),
    (f"{RESULT}.seeds.0.best.step", ..., "step is missing"),
    (f"{RESULT}.seeds.0.best.step", 9, "best step"),
    (f"{RESULT}.seeds.0.seed", 7, "its seeds are not"),
    ("variants.1.config.num_seeds", 5, "its seeds are not"),
    (f"{RESULT}.steps", 10**9, "different steps"),
    ("variants.0.config.train.stop_step", 9, "says to stop at 9"),
    (f"{RESULT}.device", "8 x gpu (gpu)", "ran on 8 x gpu"),
    (f"{RESULT}.commit", COMMIT[::-1], "not all of it is of one commit"),
    ("variants.0.begun.commit", COMMIT + "-dirty", "not all of it is of one commit"),
    (f"{RESULT}.versions", {"jax": "2"}, "not all of it is of one version"),
    ("variants.0.curve", [{"step": 7}], "curve does not end at step 8"),
    ("variants.0.curve", [], "curve is not of its type"),
]


def test_a_right_one_has_no_problems():
    assert list(published.problems(comparison())) == []


def test_a_variant_that_its_patience_ended_may_be_shorter():
    content = comparison()
    content["variants"][1]["curve"][1]["step"] = 6
    content["variants"][1]["result"] |= {"steps": 6, "ended_by": "train.patience"}
    assert list(published.problems(content)) == []
    content["variants"][1]["result"]["steps"] = 9  # later than where it had to stop
    assert any("9 steps of 10" in line for line in published.problems(content))


@pytest.mark.parametrize(("place", "value", "said"), HARMS)
def test_a_wrong_one_is_told(place, value, said):
    content = comparison()
    put(content, place, value)
    found = list(published.problems(content))
    assert any(said in line for line in found), found


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "null", "{", "[" * 100_000, '{"schema": NaN}', '{"schema": 1}', "\udcff", "{}"],
)
def test_a_damaged_file_is_one_line(tmp_path, text):
    path = tmp_path / "zz.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"zz\.json is damaged") as caught:
        published.read(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_what_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        published.read(tmp_path)


def test_what_is_published_comes_from_this_history(monkeypatch):
    content = comparison()
    with pytest.raises(UserError, match="not published"):  # no such commit
        published.check_publishable(content)
    monkeypatch.setattr(provenance, "without_history", lambda: "")
    monkeypatch.setattr(provenance, "in_history", lambda commit: commit == COMMIT)
    monkeypatch.setattr(provenance, "tree", lambda _: COMMIT[::-1])
    published.check_publishable(content)
    with pytest.raises(UserError, match="not that of commit"):
        published.check_publishable(content | {"tree": COMMIT})
    put(content, "variants.0.begun.commit", COMMIT + "-dirty")
    with pytest.raises(UserError, match="not all of it is of one commit"):
        published.check_publishable(content)


@pytest.mark.parametrize(
    ("without_history", "commit", "said"),
    [
        ("a shallow clone", COMMIT, "a shallow clone"),
        ("", COMMIT + "-dirty", "changes that are not committed"),
        ("", "unknown", "unknown"),
        ("", COMMIT, ""),
    ],
)
def test_a_run_to_be_published_begins_at_a_clean_commit(monkeypatch, without_history, commit, said):
    monkeypatch.setattr(provenance, "without_history", lambda: without_history)
    monkeypatch.setattr(provenance, "commit", lambda: commit)
    if not said:
        published.check_checkout()
        return
    with pytest.raises(UserError, match=said):
        published.check_checkout()


# ---- The committed ones -------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_a_committed_result_is_whole_and_of_a_clean_commit(path):
    published.read(path)  # raises where it is not


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_a_committed_result_is_of_this_history(path):
    if why := provenance.without_history():
        pytest.skip(f"the history is not at hand: {why}")
    assert list(published.history_problems(json.loads(path.read_text("utf-8")))) == []


def test_every_file_there_belongs_to_a_result():
    names = {path.stem for path in COMMITTED}
    assert len(names) > 5
    for path in (ROOT / "results").iterdir():
        if path.name == "models":  # tests/test_pretrained.py
            continue
        stem = path.stem.removesuffix("_lengths") if path.suffix == ".png" else path.stem
        assert path.suffix in (".json", ".png") and stem in names, path


def test_what_pages_and_configs_name_is_there():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").glob("*.py")]
    for page in pages:
        for name in re.findall(r"results/(\w+\.(?:json|png))", page.read_text("utf-8")):
            assert (ROOT / "results" / name).exists(), f"{page.name} names {name}"
