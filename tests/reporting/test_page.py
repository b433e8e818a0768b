"""Pages hold all they show, escape what is text, and fetch nothing."""

import html.parser

import pytest

from lrd_jax.errors import UserError
from lrd_jax.reporting.page import Html, code, facts, folded, grid, page, picture, table, tag

EVIL = "<script>alert('x')</script>&\""


class Reader(html.parser.HTMLParser):
    """Collects elements, their attributes and the text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in ("meta", "link", "img", "br", "hr"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text += data


def test_text_is_escaped_wherever_it_stands():
    body = [
        tag("p", EVIL, title=EVIL),
        table((EVIL, "b"), [(EVIL, 1.5)]),
        facts({EVIL: EVIL}),
        folded(EVIL, code(EVIL)),
        picture(b"png", EVIL, caption=EVIL),
        grid(EVIL),
    ]
    read = Reader(page(EVIL, *body))
    assert "script" not in [name for name, _ in read.elements]
    assert read.text.count(EVIL) == 11  # the title twice, and what stands in the body
    assert not read.open
    assert ("p", {"title": EVIL}) in read.elements


def test_markup_stays_markup():
    assert tag("p", Html("<b>x</b>"), "<") == "<p><b>x</b>&lt;</p>"


def test_page_fetches_nothing():
    read = Reader(page("t", picture(b"png", "alt"), script="let a = 1 < 2"))
    links = [a[key] for _, a in read.elements for key in ("src", "href") if key in a]
    assert links and all(link.startswith("data:") for link in links)
    policy = next(a["content"] for _, a in read.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert any(a.get("name") == "viewport" for _, a in read.elements)
    assert "let a = 1 < 2" in page("t", script="let a = 1 < 2")


def test_picture_from_a_file_knows_its_kind(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>", encoding="utf-8")
    assert "data:image/svg+xml;base64,PHN2Zy8+" in picture(tmp_path / "a.svg", "a")
    with pytest.raises(UserError, match="cannot read the picture"):
        picture(tmp_path / "b.png", "b")
