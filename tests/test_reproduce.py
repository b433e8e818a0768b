"""Reproduction: what it shows beside what is committed, and that it overwrites nothing unasked."""

import copy
import importlib
import itertools
import json
import shutil
from pathlib import Path

import pytest

from lrd_jax.errors import UserError
from lrd_jax.reporting import provenance, published

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield importlib.import_module("reproduce"), importlib.import_module("reproduce_report")


@pytest.fixture(scope="module")
def pages(scripts):
    return importlib.import_module("results_page")


@pytest.fixture
def committed():
    """A comparison as it was published: permuted digits in two precisions, one seed each."""
    return published.read(ROOT / "results" / "digits_bfloat16.json")


def with_seeds(content, scores):
    """The same with other scores on the test split, a seed each."""
    content = copy.deepcopy(content)
    for variant in content["variants"]:
        variant["config"]["num_seeds"] = len(scores)
        seed = variant["result"]["seeds"][0]
        seeds = [
            copy.deepcopy(seed) | {"seed": seed["seed"] + i, "test": {"accuracy": s, "loss": 1.0}}
            for i, s in enumerate(scores)
        ]
        variant["result"]["seeds"] = seeds
    assert list(published.problems(content)) == []
    return content


def write(folder, content, name="digits_bfloat16.json"):
    path = folder / name
    path.write_text(published.to_json(content), encoding="utf-8")
    return path


# ---- The pages ----------------------------------------------------------------------------------


def row(page, label):
    """The row of a table that begins with a label."""
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {label} |")]
    return line


def test_the_page_shows_seeds_mean_interval_and_difference(pages, committed, tmp_path):
    for name in ("copying_gates", "adding_gates", "copying_hdetach"):  # evidence of claims
        shutil.copy(ROOT / "results" / f"{name}.json", tmp_path)
    write(tmp_path, committed)
    assert "| 1 | 2080 | 92.80 % | 92.00 % | 0.7 min |" in row(pages.page(tmp_path), "float32")
    three = with_seeds(committed, [0.9, 0.92, 0.94])
    for seed in three["variants"][1]["result"]["seeds"]:
        seed["test"]["accuracy"] += 0.01 * (seed["seed"] - 1)
    write(tmp_path, three)
    # Student's t of 2 degrees of freedom: 4.303 * 2 / sqrt(3) = 4.97; of the differences, -1, 0, 1
    # by seed: 4.303 * 1 / sqrt(3) = 2.48.
    shown = pages.page(tmp_path)
    assert "| 3 | 2080 |" in row(shown, "float32")
    assert "| 92.00 ± 2.00 % [87.03, 96.97] |" in row(shown, "float32")
    assert "| +0.00 points [-2.48, +2.48] (3 seeds, paired) |" in row(shown, "bfloat16")
    write(tmp_path, with_seeds(committed, [0.9, 0.92, None]))
    assert "| 2 of 3, the others NaN |" in row(pages.page(tmp_path), "float32")


def test_the_page_shows_scores_at_other_lengths(pages, committed, tmp_path):
    content = with_seeds(committed, [0.9, 0.8])
    for variant in content["variants"]:
        rows = [
            {
                "length": length,
                "seeds": [{"test": {"accuracy": s}} for s in scores],
                "baselines": {"accuracy": 0.1},
            }
            for length, scores in ((32, (0.9, 0.8)), (64, (0.5, 0.6)))
        ]
        variant["transfer"] = {"split": "test", "varies": "length", "lengths": rows}
    (lines,) = [part for part in pages.lengths_table(content["variants"]).split("\n\n")]
    assert lines.splitlines()[0] == "| test length | 32 | 64 |"
    assert row(lines, "float32") == "| float32 | 85.00 (90.00, 80.00) % | 55.00 (50.00, 60.00) % |"
    assert row(lines, "without memory") == "| without memory | 10.00 % | 10.00 % |"


def test_the_page_shows_a_score_in_windows(pages, committed, tmp_path):
    content = with_seeds(committed, [0.9])
    content["variants"] = content["variants"][:1]
    seeds = [{"test": {"accuracy": 0.5}}]
    content["variants"][0]["context"] = {"tokens": 256, "seeds": seeds}
    line = "float32, its state starting anew every 256 tokens (`eval.context`): test 50.00 %."
    assert line in pages._experiment("digits_bfloat16", content, tmp_path)


def test_the_page_compares_with_what_others_published(pages):
    page = pages.page(ROOT / "results")
    after = page[page.index("### JapaneseVowels") :]
    assert "To compare: 94.90 %, 1-NN DTW" in after


def test_the_title_says_what_was_set(pages, tmp_path):
    reproduce = importlib.import_module("reproduce")
    experiment = reproduce.EXPERIMENTS["digits_urlstm"]
    changes = ["model.hidden_size=64", "data.data_dir=DIR"]
    title = reproduce.titled(experiment, changes).title
    assert title == f"{experiment.title} (model.hidden_size=64)"
    assert reproduce.titled(experiment, changes[1:]) == experiment


def test_every_claim_has_its_evidence_or_is_not_tested():
    claims = importlib.import_module("claims")
    for claim in itertools.chain(*claims.PAPERS.values()):
        assert claim.verdict in ("reproduced", "not reproduced", "not tested")
        if claim.verdict != "not tested":
            assert claim.evidence and claim.note
        assert not claim.evidence or (ROOT / "results" / f"{claim.evidence}.json").exists()


def test_every_row_with_a_published_number_is_among_the_claims():
    claims = importlib.import_module("claims")
    named = {row for claim in itertools.chain(*claims.PAPERS.values()) for row in rows_of(claim)}
    for file in ("gating_images", "hdetach_mnist", "auxiliary_images"):
        module = importlib.import_module(f"configs.{file}")
        assert set(getattr(module, "PUBLISHED", {})) <= named


def rows_of(claim):
    """The rows that a claim is about: "A1-A3" are A1, A2, A3."""
    first, _, last = claim.rows.partition("-")
    numbers = range(int(first[1:]), int((last or first)[1:]) + 1)
    return [f"{first[0]}{number}" for number in numbers]


@pytest.mark.parametrize("text", ["{}", "[]", "{", "3", '{"schema": 1, "variants": [{}]}'])
def test_an_odd_file_among_the_results_is_one_line(pages, committed, tmp_path, text):
    write(tmp_path, committed)
    (tmp_path / "zz.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"zz\.json is damaged") as caught:
        pages.page(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_readme_keeps_its_text_around_the_table(scripts, pages, tmp_path):
    _, report = scripts
    shutil.copytree(ROOT / "results", tmp_path / "results")
    (tmp_path / "docs").mkdir()
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "results.md"
    readme.write_text("a\n<!-- results -->\nold\n<!-- /results -->\nz\n", encoding="utf-8")
    report.rewrite_pages(tmp_path)
    rows = pages.telling_rows(ROOT / "results")
    text = f"a\n<!-- results -->\n{rows}\n<!-- /results -->\nz\n"
    assert readme.read_text(encoding="utf-8") == text
    assert page.read_text(encoding="utf-8") == pages.page(ROOT / "results")
    readme.write_text("no markers\n", encoding="utf-8")
    with pytest.raises(UserError, match="lost the markers"):
        report.rewrite_pages(tmp_path)
    assert readme.read_text(encoding="utf-8") == "no markers\n"


# ---- New numbers beside committed ones ----------------------------------------------------------


def test_equal_runs_are_compared_in_one_line_each(scripts, committed, tmp_path):
    _, report = scripts
    path = write(tmp_path, committed)
    yours = with_seeds(committed, [0.9, 0.92, 0.94])
    assert report.comparison(path, yours).splitlines() == [
        f"{name}: test accuracy: committed {score} % (1 seed),"
        f" yours 92.00 ± 2.00 % [87.03, 96.97] (3 seeds), difference {change} points"
        " (1 seed, paired, no interval)"
        for name, score, change in (("float32", "92.00", "-2.00"), ("bfloat16", "88.80", "+1.20"))
    ]


def test_what_differs_is_told(scripts, committed, tmp_path):
    _, report = scripts
    path = write(tmp_path, committed)
    yours = copy.deepcopy(committed) | {"commit": "1" * 40, "devices": ["1 x gpu (gpu)"]}
    first = yours["variants"][0]
    first["config"]["optim"]["learning_rate"] = 0.5
    first["config"]["data"]["data_dir"] = "elsewhere"  # changes no number
    first["result"]["steps"] = 10
    yours["variants"][1]["name"] = "float8"
    text = report.comparison(path, yours)
    rate = committed["variants"][0]["config"]["optim"]["learning_rate"]
    assert f"  not alike: optim.learning_rate: {rate} -> 0.5" in text
    assert "  not alike: steps: 2080 -> 10" in text and "data_dir" not in text
    assert "float8: test 88.80 % (1 seed); none committed" in text
    assert f"committed commit: {committed['commit']}; yours: {'1' * 40}" in text
    assert "committed devices: 2 x cpu (cpu); yours: 1 x gpu (gpu)" in text


def test_without_a_committed_one_it_says_so(scripts, committed, tmp_path):
    _, report = scripts
    text = report.comparison(tmp_path / "digits_bfloat16.json", committed)
    assert text.splitlines()[0] == "float32: test 92.00 % (1 seed)"
    assert "no digits_bfloat16.json is committed to compare with" in text


# ---- What a comparison was begun with -----------------------------------------------------------


def test_a_comparison_goes_on_as_it_was_begun(scripts, tmp_path):
    reproduce, _ = scripts
    request = {"seeds": 5, "steps": 0, "set": ["a=1"], "budget_minutes": 3.0}
    assert reproduce.keep_request(tmp_path, request) == -1
    kept = json.dumps({"request": request, "stop_step": 17})
    (tmp_path / "request.json").write_text(kept, encoding="utf-8")
    assert reproduce.keep_request(tmp_path, request) == 17
    for change in ({"seeds": 1}, {"steps": 9}, {"set": []}, {"budget_minutes": 0.0}):
        with pytest.raises(UserError, match=f"was begun with {next(iter(change))}"):
            reproduce.keep_request(tmp_path, request | change)
    for text in ("", "[]", "{}", '{"request": 3, "stop_step": 1}'):
        (tmp_path / "request.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="is damaged"):
            reproduce.keep_request(tmp_path, request)


# ---- From the command line, with the runs left out ----------------------------------------------


@pytest.fixture
def ran(scripts, committed, tmp_path, monkeypatch):
    """A call of the script whose runs are there already; what it would start, and its folders."""
    reproduce, _ = scripts
    results, out = tmp_path / "results", tmp_path / "out"
    results.mkdir()
    write(results, committed)
    (tmp_path / "README.md").write_text("<!-- results --><!-- /results -->", encoding="utf-8")
    started = []

    def run(argv):
        started.append(argv)
        workdir = next(Path(a.partition("=")[2]) for a in argv if a.startswith("--workdir="))
        label = {"float32": 0, "bfloat16": 1}[workdir.name]
        variant = with_seeds(committed, [0.9, 0.92, 0.94, 0.9, 0.92])["variants"][label]
        result = variant["result"]
        about = {key: result[key] for key in ("commit", "versions")}
        workdir.mkdir(parents=True, exist_ok=True)
        lines = "\n".join(map(json.dumps, variant["curve"]))
        (workdir / "metrics.jsonl").write_text(lines + "\n", encoding="utf-8")
        (workdir / "result.json").write_text(json.dumps(result), encoding="utf-8")
        config = json.dumps({"config": variant["config"], **about})
        (workdir / "config.json").write_text(config, encoding="utf-8")

    def call(*words):
        monkeypatch.setattr("sys.argv", ["scripts/reproduce.py", *words, f"--out={out}"])
        reproduce.main()

    monkeypatch.setattr(reproduce, "_run", run)
    monkeypatch.setattr(reproduce, "RESULTS", results)
    monkeypatch.setattr(
        importlib.import_module("reproduce_report"),
        "plot_curves",
        lambda _, path, **__: (path.write_bytes(b"png"), path)[1],
    )
    monkeypatch.setattr(reproduce.results_page, "page", lambda _: "")
    readmes = []
    monkeypatch.setattr(reproduce, "rewrite_pages", lambda: readmes.append(1))
    call.started, call.out, call.results, call.readmes = started, out, results, readmes
    return call


def test_it_writes_beside_its_runs_alone_and_compares(ran, capsys):
    before = {path: path.read_bytes() for path in ran.results.iterdir()}
    ran("digits_bfloat16")
    assert {path: path.read_bytes() for path in ran.results.iterdir()} == before
    assert not ran.readmes
    content = published.read(ran.out / "digits_bfloat16.json")
    assert content["command"] == ["python", "scripts/reproduce.py", "digits_bfloat16", "--out=DIR"]
    assert (ran.out / "digits_bfloat16.png").exists()
    for argv in ran.started:  # methods are compared: five seeds
        assert "--config.num_seeds=5" in argv
    out = capsys.readouterr().out
    assert "float32: test accuracy: committed 92.00 % (1 seed), yours 91.60 ± 1.67 %" in out


def test_publishing_begins_at_a_clean_commit(ran, monkeypatch):
    monkeypatch.setattr(provenance, "without_history", lambda: "")
    monkeypatch.setattr(provenance, "commit", lambda: "1" * 40 + "-dirty")
    with pytest.raises(UserError, match="changes that are not committed"):
        ran("digits_bfloat16", "--publish")
    assert not ran.started and not ran.out.exists()


def test_publishing_what_ran_at_a_clean_commit(ran, committed, monkeypatch):
    monkeypatch.setattr(provenance, "without_history", lambda: "")
    monkeypatch.setattr(provenance, "in_history", lambda commit: commit == committed["commit"])
    monkeypatch.setattr(provenance, "tree", lambda _: committed["tree"])
    ran("digits_bfloat16")
    # Everything ran: changes of today do not matter, nor that another result was just published.
    monkeypatch.setattr(provenance, "commit", lambda: "1" * 40 + "-dirty")
    ran("digits_bfloat16", "--publish")
    new = published.read(ran.results / "digits_bfloat16.json")
    assert new == published.read(ran.out / "digits_bfloat16.json") and ran.readmes
    assert len(new["variants"][0]["result"]["seeds"]) == 5
    monkeypatch.setattr(provenance, "in_history", lambda _: False)
    before = (ran.results / "digits_bfloat16.json").read_bytes()
    with pytest.raises(UserError, match="is not in this history"):
        ran("digits_bfloat16", "--publish")
    assert (ran.results / "digits_bfloat16.json").read_bytes() == before


def test_the_number_of_seeds(ran):
    ran("digits_bfloat16", "--seeds=5", "--steps=2080")
    assert all("--config.train.stop_step=2080" in argv for argv in ran.started)
    with pytest.raises(UserError, match="was begun with seeds 5"):
        ran("digits_bfloat16", "--seeds=2", "--steps=2080")


# ---- The learning rate, chosen before -----------------------------------------------------------


def trial(folder, scores, best):
    """A result of a swept trial: learning rate -> validation accuracy."""
    folder.mkdir(parents=True, exist_ok=True)
    values = [
        {"sweep": {"learning_rate": r}, "best": {"valid": {"accuracy": s}}} for r, s in scores
    ]
    result = {"sweep": {"learning_rate": best}, "by_value": values}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def test_every_variant_gets_the_rate_that_its_own_trial_found(scripts, tmp_path):
    tuning = importlib.import_module("reproduce_tuning")
    experiment = importlib.import_module("reproduce_experiments").Experiment(
        "t", "c", {"a": ("num_seeds=5", "model.cell=lstm"), "b": ("num_seeds=5",)}, rates=(0.1, 0.2)
    )
    asked = []

    def run(overrides, workdir):
        asked.append(overrides)
        best = {"a": 0.2, "b": 0.1}[workdir.name]
        trial(workdir, [(0.1, 0.5), (0.2, 0.6)], best)

    folders = {label: tmp_path / label for label in "ab"}
    chosen, found = tuning.tune(experiment, folders, {"a": 100, "b": 40}, run)
    # One seed that is not compared, a quarter of the steps, all rates in one program.
    assert asked[0] == (
        *("model.cell=lstm", "seed=0", "sweep.learning_rate=(0.1, 0.2)", "train.stop_step=25"),
    )
    assert asked[1][-1] == "train.stop_step=10"
    assert chosen.variants["a"][-2:] == ("optim.learning_rate=0.2", "seed=1")
    assert chosen.variants["b"] == ("num_seeds=5", "optim.learning_rate=0.1", "seed=1")
    assert found["b"]["tried"][1] == {"learning_rate": 0.2, "valid": {"accuracy": 0.6}}


def test_a_rate_that_is_given_is_not_chosen(scripts, capsys):
    tuning = importlib.import_module("reproduce_tuning")
    experiment = scripts[0].EXPERIMENTS["tracking_S3"]
    assert tuning.check_rates(experiment, ["optim.learning_rate=0.1"]).rates == ()
    assert "no others are tried" in capsys.readouterr().out
    assert tuning.check_rates(experiment, ["train.num_steps=9"]) == experiment
    with pytest.raises(UserError, match="seed 0 tries learning rates"):
        tuning.check_rates(experiment, ["seed=3"])
