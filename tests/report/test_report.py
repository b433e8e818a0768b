"""A page about runs of any state: all escaped, nothing fetched, never a traceback."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lrd_jax.config import defaults, record
from lrd_jax.errors import UserError
from lrd_jax.report import build, plotted
from lrd_jax.report.__main__ import main

EVIL = "<img src=x onerror=alert(1)>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def make_run(folder, *, finished=True, seeds=(0, 1, 2), nan=False, **changes):
    """A work directory as a run leaves it, without checkpoints."""
    folder.mkdir()
    config = defaults.get_config()
    config.update_from_flattened_dict({"model.cell": "urlstm", "data.text_dir": EVIL} | changes)
    text = record.to_json(config, versions={"jax": EVIL}, commit=EVIL)
    (folder / "config.json").write_text(text, encoding="utf-8")
    lines = []
    for step in (10, 20, 30):
        for seed in seeds:
            common = {"step": step, "epoch": 1.0, "seed": seed}
            loss = None if nan and seed == 1 else 1 / step + 0.01 * seed
            lines.append(common | {"split": "train", "loss": loss, "steps_per_s": 5.0})
            lines.append(common | {"split": "valid", "loss": loss, "accuracy": 0.02 * step})
    if finished:
        for seed in seeds:
            score = None if nan and seed == 1 else 0.7 + 0.01 * seed
            lines.append({"step": 30, "split": "test", "seed": seed, "accuracy": score, "loss": 1})
        entries = [{"seed": s, "best": {"step": 30, "valid": {}}, "test": {}} for s in seeds]
        if nan:
            entries[1]["first_nonfinite_step"] = 12
        result = {"seeds": entries, "wall_time_s": 3.0, "device": EVIL}
        result |= {"steps": 30, "num_steps": 30, "best": entries[0]["best"], "test": {}}
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


@pytest.fixture
def page(tmp_path):
    pytest.importorskip("plotly")
    runs = [
        make_run(tmp_path / "whole"),
        make_run(tmp_path / "nan", nan=True, **{"detach.p_block": 0.25}),
        make_run(tmp_path / "unfinished", finished=False, seeds=(0,)),
    ]
    newer = tmp_path / "newer"
    shutil.copytree(tmp_path / "whole", newer)
    content = json.loads((newer / "config.json").read_text(encoding="utf-8"))
    (newer / "config.json").write_text(json.dumps(content | {"format": 99}), encoding="utf-8")
    told = []
    whole = build.build([*runs, str(newer)], figures=False, say=told.append)
    return whole, told


def test_page_is_whole_and_everything_from_runs_is_escaped(page):
    whole, _ = page
    assert "<img src=x" not in whole and "&lt;img src=x" in whole
    script, body = re.search(r"<script>(.*?)</script>(.*)", whole, re.S).groups()
    assert "Plotly" in script
    for word in ("whole", "nan", "unfinished", "newer", "0.25", "seed"):
        assert word in body
    shown = re.sub(r"<script.*?</script>", "", body, flags=re.S)
    assert not re.findall(r"""(?:src|href|srcset)=["'](?!data:)""", shown)


def test_runs_of_other_versions_unfinished_and_with_nan_are_told(tmp_path, page):
    whole, _ = page
    assert "has format 99" in whole  # the command that makes it again is not known
    assert "best score on validation data" in whole


def test_without_plotly_the_page_has_pictures_and_a_line(tmp_path, monkeypatch):
    def missing():
        raise UserError("curves that can be hovered need plotly: pip install lrd-jax[report]")

    monkeypatch.setattr(plotted, "_library", missing)
    told = []
    whole = build.build([make_run(tmp_path / "a")], figures=False, say=told.append)
    assert told == ["curves that can be hovered need plotly: pip install lrd-jax[report]"]
    assert "data:image/png;base64," in whole and "lrd-jax[report]" in whole


def test_what_cannot_be_loaded_costs_its_figures_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(plotted, "_library", lambda: (_ for _ in ()).throw(UserError("none")))
    told = []
    whole = build.build([make_run(tmp_path / "a")], say=told.append)
    assert any("no figures of the model" in line for line in told)
    assert "<h2>Scores: digits</h2>" in whole


def test_bad_input_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no run in" in capsys.readouterr().err
    assert main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_that_makes_a_run_again_names_what_differs(tmp_path):
    command = build.again(Path(make_run(tmp_path / "a", **{"optim.learning_rate": 0.5})))
    assert command.startswith("python -m lrd_jax.main --config=configs/base.py")
    assert (
        "--config.optim.learning_rate=0.5" in command
        and f"'--config.data.text_dir={EVIL}'" in command
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the page is not tried in a browser")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_nothing_is_wider_than_the_screen(tmp_path, page, width):
    """From disk: every figure shows, no scroll bar, no error, and nothing is asked for.

    In a frame of that width: no window of a browser is as narrow as a phone.
    """
    watch = """<script>
    const told = [];
    addEventListener("error", e => told.push("error: " + e.message));
    addEventListener("securitypolicyviolation", e => told.push("request: " + e.blockedURI));
    addEventListener("load", () => setTimeout(() => parent.postMessage({
        fits: document.documentElement.scrollWidth <= innerWidth,
        pictures: [...document.images].every(i => i.naturalWidth > 0),
        plots: document.querySelectorAll(".plot .main-svg").length > 0,
        fetched: performance.getEntriesByType("resource").map(e => e.name)
            .filter(name => !name.startsWith("data:")),
        width: innerWidth, told}, "*"), 1000));
    </script>"""
    whole, _ = page
    (tmp_path / "page.html").write_text(whole.replace("<style>", watch + "<style>", 1), "utf-8")
    (tmp_path / "frame.html").write_text(
        "<script>onmessage = e => document.title = JSON.stringify(e.data)</script>"
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>',
        "utf-8",
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
    command += ["--virtual-time-budget=10000", "--dump-dom", (tmp_path / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    seen = json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout)[1]))
    expected = {"fits": True, "pictures": True, "plots": True, "fetched": [], "told": []}
    assert seen == expected | {"width": width}


def test_a_page_that_cannot_be_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "none"), f"--out={tmp_path / 'file'}"]) == 2
    assert "is a file: name a folder" in capsys.readouterr().err


def test_band_and_mean_are_those_of_the_seeds(tmp_path):
    pytest.importorskip("plotly")
    from lrd_jax.probe import curves

    read = curves.read([make_run(tmp_path / "a")])
    values = np.array(read["runs"][0]["curves"]["train loss"]["values"])
    np.testing.assert_allclose(values.mean(1), [1 / s + 0.01 for s in (10, 20, 30)])
    assert read["runs"][0]["scores"] == {0: 0.7, 1: 0.71, 2: 0.72}


def test_labels_intervals_and_what_was_left_out_are_said(tmp_path):
    from lrd_jax.probe import curves

    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    path = Path(runs[0], "result.json")
    cut = {"evaluated": {"valid": {"examples": 200, "of": 1000}}}
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | cut), "utf-8")
    read = curves.read(runs, ["one", "two"])
    header, body = curves.rows(read)
    assert [row[0] for row in body] == ["one", "two"]
    assert header[-2:] == ["seeds", "difference to the first [95 %]"]
    assert "test accuracy (%) [95 %]" in header
    assert curves.note(read) == (
        "line: mean of 3 seeds; band: 95 % interval over 3 seeds;"
        " first 200 of 1000 validation examples"
    )
    with pytest.raises(UserError, match=r"1 --label for 2 runs: give one for each"):
        curves.read(runs, ["one"])


def test_what_stopped_with_nan_has_no_score_and_no_other_is_blamed(tmp_path):
    """Of a sweep, only the value that never validated is without one."""
    from lrd_jax.probe import curves

    made = Path(make_run(tmp_path / "swept", seeds=(0,)))
    result = json.loads((made / "result.json").read_text("utf-8"))
    (entry,) = result["seeds"]
    lost = entry | {"first_nonfinite_step": 2, "best": entry["best"] | {"step": 0}}
    result["seeds"] = [
        entry | {"sweep": {"learning_rate": 0.1}},
        lost | {"sweep": {"learning_rate": 1e30}},
    ]
    (made / "result.json").write_text(json.dumps(result), "utf-8")
    lines = [json.loads(s) for s in (made / "metrics.jsonl").read_text("utf-8").splitlines()]
    swept = [line | {"learning_rate": rate} for rate in (0.1, 1e30) for line in lines]
    (made / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in swept), "utf-8")
    fine, stopped = curves.read([str(made)])["runs"]
    assert fine["notes"] == [] and list(fine["scores"].values()) != [None]
    assert stopped["notes"] == ["seed 0 stopped with NaN at step 2"]
    assert stopped["scores"] == {0: None}
