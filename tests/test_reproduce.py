"""Reproduction: what it shows beside what is committed, and that it overwrites nothing unasked."""

import copy
import importlib
import json
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


# ---- The table ----------------------------------------------------------------------------------


def test_the_table_shows_seeds_mean_deviation_and_interval(scripts, committed, tmp_path):
    _, report = scripts
    write(tmp_path, committed)
    one = report.table(tmp_path).splitlines()[2]
    assert "| float32 | 1 (no interval) | 2080 (all) | 92.80 % | 92.00 % |  | 0.7 min |" in one
    other = report.table(tmp_path).splitlines()[3]
    assert "| 88.80 % | -3.20 points (1 seed, paired, no interval) |" in other
    write(tmp_path, with_seeds(committed, [0.9, 0.92, 0.94]))
    three = report.table(tmp_path).splitlines()[2]
    # Student's t of 2 degrees of freedom: 4.303 * 2 / sqrt(3) = 4.97.
    assert "| float32 | 3 | 2080 (all) |" in three
    assert "| 92.00 ± 2.00 % [87.03, 96.97] |" in three
    other = report.table(tmp_path).splitlines()[3]
    assert "| +0.00 points [+0.00, +0.00] (3 seeds, paired) |" in other
    write(tmp_path, with_seeds(committed, [0.9, 0.92, None]))
    assert "| 2 of 3, the others NaN |" in report.table(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", "{", "3", '{"schema": 1, "variants": [{}]}'])
def test_an_odd_file_among_the_results_is_one_line(scripts, committed, tmp_path, text):
    _, report = scripts
    write(tmp_path, committed)
    (tmp_path / "zz.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"zz\.json is damaged") as caught:
        report.table(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_readme_keeps_its_text_around_the_table(scripts, tmp_path):
    _, report = scripts
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- results -->\nold\n<!-- /results -->\nz\n", encoding="utf-8")
    report.rewrite_readme(readme)
    text = f"a\n<!-- results -->\n{report.table()}\n<!-- /results -->\nz\n"
    assert readme.read_text(encoding="utf-8") == text
    readme.write_text("no markers\n", encoding="utf-8")
    with pytest.raises(UserError, match="lost the markers"):
        report.rewrite_readme(readme)
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
    monkeypatch.setattr(reproduce, "plot_curves", lambda _, path, **__: path.write_bytes(b"png"))
    monkeypatch.setattr(reproduce, "table", lambda: "")
    readmes = []
    monkeypatch.setattr(reproduce, "rewrite_readme", lambda: readmes.append(1))
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
