"""The page of pictures with captions: everything is in it, escaped, and it fits any screen."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from lrd_jax.reporting import sheet as module
from lrd_jax.reporting.sheet import Entry, sheet

EVIL = "<script>alert(1)</script>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def entries(count=2, parts=9):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, 400, 3), dtype=np.uint8)
    weights = rng.dirichlet(np.ones(parts), size=3)
    references = [[EVIL, "dog"], ["dogs"]]
    return [Entry(EVIL, ["a", EVIL], -1.5, references, pixels, weights, "CIDEr 0.5")] * count


def test_page_holds_everything_escaped():
    pytest.importorskip("PIL", reason="Pillow (extra captioning) is not installed")
    text = sheet("Captions", EVIL, entries(1))
    assert EVIL not in text and text.count(html.escape(EVIL)) >= 4
    # The picture, and one for each of two words and the end.
    assert text.count("<img") == text.count('src="data:image/jpeg;base64,') == 4
    assert "log p -1.50, CIDEr 0.5" in text and "(end)" in text
    bare = entries(1)[0]._replace(pixels=None, caption=[], references=())
    text = sheet("Captions", "", [bare])
    assert "<img" not in text and "(no words)" in text and "<details" not in text


def test_without_pillow_the_text_stands_alone(monkeypatch):
    monkeypatch.setattr(module, "pillow", lambda: None)
    text = sheet("Captions", "", entries(1))
    assert "<img" not in text and "log p -1.50" in text


def test_brightest_where_attention_looked_most():
    image = module.pillow() or pytest.skip("Pillow (extra captioning) is not installed")
    pixels = np.full((30, 60, 3), 200, np.uint8)
    weights = np.zeros(9)
    weights[5] = 1.0  # second row, third column
    seen = np.asarray(module._heat(image, pixels, weights).convert("L"), int)
    height, width = seen.shape
    assert width == 2 * height  # of the picture's own form
    place = np.unravel_index(seen.argmax(), seen.shape)
    assert (3 * place[0] // height, 3 * place[1] // width) == (1, 2)
    flat = np.asarray(module._heat(image, pixels, np.ones(7)).convert("L"), int)
    assert flat.min() >= 195  # no square: the picture as it is


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the page is not tried in a browser")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_it_fits_the_screen(tmp_path, width):
    """From disk, details open: pictures show, no scroll bar, no error, nothing is asked for."""
    watch = """<script>
    const told = [];
    addEventListener("error", e => told.push("error: " + e.message));
    addEventListener("securitypolicyviolation", e => told.push("request: " + e.blockedURI));
    addEventListener("load", () => {
        document.querySelectorAll("details").forEach(d => d.open = true);
        setTimeout(() => parent.postMessage({
            fits: document.documentElement.scrollWidth <= innerWidth,
            pictures: [...document.images].every(i => i.naturalWidth > 0),
            count: document.images.length,
            fetched: performance.getEntriesByType("resource").map(e => e.name)
                .filter(name => !name.startsWith("data:")),
            told}, "*"), 1000)});
    </script>"""
    text = sheet("Captions", "about", entries())
    (tmp_path / "page.html").write_text(text.replace("<style>", watch + "<style>", 1), "utf-8")
    (tmp_path / "frame.html").write_text(
        "<script>onmessage = e => document.title = JSON.stringify(e.data)</script>"
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>',
        "utf-8",
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
    command += ["--virtual-time-budget=10000", "--dump-dom", (tmp_path / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    seen = json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout)[1]))
    assert seen == {"fits": True, "pictures": True, "count": 8, "fetched": [], "told": []}
