"""Self-contained pages of HTML: everything is in the one file, nothing is fetched.

    body = [tag("h2", "Scores"), table(("run", "accuracy"), rows), picture(png, "Curves of loss")]
    write_page("report.html", page("Three runs", *body))

What is given as `str` is text and is escaped; only `Html`, which these functions return, is not. So
names, captions and configs from runs cannot become markup. The page reads on a phone, in a dark
browser and on paper, and its content security policy forbids every request.
"""

from __future__ import annotations

import base64
import html
import mimetypes
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lrd_jax.errors import UserError


class Html(str):
    """Markup that is whole and safe as it stands."""


Content = str | int | float | Html

_EMPTY = {"br", "hr", "img", "meta"}  # elements without an end
# Pictures and plots stand on white in a dark browser too: their own colours are made for it.
_STYLE = """
:root{color-scheme:light dark;--text:#1a1a1a;--soft:#5a5a5a;--back:#fff;--line:#d8d8d8;
--tint:#f4f5f7;--link:#0060a0}
@media(prefers-color-scheme:dark){:root{
--text:#e6e6e6;--soft:#a8a8a8;--back:#16181b;--line:#3a3d42;
--tint:#202327;--link:#79b8ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1rem;font:1rem/1.5 system-ui,sans-serif;
color:var(--text);background:var(--back);overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1.25rem;margin-top:2rem}h3{font-size:1.05rem}
a{color:var(--link)}figcaption,.soft{color:var(--soft);font-size:.9rem}
figure{margin:1rem 0}figure img{display:block;max-width:100%;height:auto;background:#fff;
border-radius:4px}
.plot{background:#fff;color:#1a1a1a;border-radius:4px;width:100%;overflow:hidden}
.grid{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,18rem),1fr))}
.grid>*{margin:0;min-width:0}
pre,code{font-family:ui-monospace,monospace;font-size:.85rem}
pre{background:var(--tint);padding:.7rem;border-radius:4px;white-space:pre-wrap;margin:.5rem 0}
table{border-collapse:collapse;width:100%;font-size:.9rem;margin:1rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid var(--line)}
thead th{border-bottom:2px solid var(--line)}summary{cursor:pointer}
@media(max-width:40rem){table.stack thead{display:none}table.stack tr{display:block;
border-bottom:2px solid var(--line);padding:.4rem 0}table.stack td{display:grid;
grid-template-columns:8rem minmax(0,1fr);gap:.5rem;border:0;padding:.1rem 0}
table.stack td::before{content:attr(data-label);color:var(--soft)}}
@media print{:root{--text:#000;--soft:#333;--back:#fff;--line:#999;--tint:#fff;--link:#000}
body{max-width:none;font-size:10pt}figure,tr,.plot{break-inside:avoid}h2,h3{break-after:avoid}}
"""
_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def tag(name: str, /, *children: Content, **attributes: str | int | float) -> Html:
    """An element.

    Args:
      name: of the element.
      *children: what it holds, in order; all but `Html` is escaped.
      **attributes: escaped; `class_` is `class`, other underscores are hyphens.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
    )
    start = f"<{name}{given}>"
    return Html(start if name in _EMPTY else f"{start}{join(*children)}</{name}>")


def join(*children: Content) -> Html:
    """The children one after the other, all but `Html` escaped."""
    return Html(
        "".join(child if isinstance(child, Html) else html.escape(str(child)) for child in children)
    )


def table(header: Sequence[str], rows: Iterable[Sequence[Content]]) -> Html:
    """A table with a line of headings; on a narrow screen every row is a block of its own."""
    head = tag("tr", *(tag("th", cell) for cell in header))
    body = [
        tag(
            "tr",
            *(
                tag("td", tag("span", cell), data_label=label)
                for label, cell in zip(header, row, strict=True)
            ),
        )
        for row in rows
    ]
    return tag("table", tag("thead", head), tag("tbody", *body), class_="stack")


def facts(values: Mapping[str, Content]) -> Html:
    """A table of names and what they stand for."""
    rows = (tag("tr", tag("th", name), tag("td", value)) for name, value in values.items())
    return tag("table", tag("tbody", *rows))


def picture(
    image: bytes | str | os.PathLike[str],
    alt: str,
    *,
    caption: Content = "",
    kind: str = "image/png",
    width: int = 0,
) -> Html:
    """An embedded picture with a caption.

    Args:
      image: the file's content, or its path.
      alt: what it shows, for those who do not see it.
      caption: below it.
      kind: its media type; of a path it follows from the suffix.
      width: at most so many CSS pixels; 0 = its own.

    Raises:
      UserError: the file cannot be read.
    """
    if not isinstance(image, bytes):
        kind = mimetypes.guess_type(os.fspath(image))[0] or kind
        try:
            image = Path(image).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read the picture {image}: {error.strerror}") from error
    source = f"data:{kind};base64,{base64.b64encode(image).decode()}"
    size = {"style": f"width:{width}px"} if width else {}
    shown = tag("img", src=source, alt=alt, **size)
    return tag("figure", shown, *([tag("figcaption", caption)] if caption else []))


def grid(*children: Content) -> Html:
    """Children side by side, as many in a row as the screen is wide for."""
    return tag("div", *children, class_="grid")


def folded(summary: Content, *children: Content) -> Html:
    """Children that show when the summary is clicked."""
    return tag("details", tag("summary", summary), *children)


def code(text: str) -> Html:
    """Text in lines, as it stands."""
    return tag("pre", text)


def page(title: str, *body: Content, script: str = "") -> Html:
    """A whole page.

    Args:
      title: of the window, and the heading.
      *body: what follows.
      script: JavaScript of a library, inlined once before the body; not escaped.
    """
    head = [
        Html('<meta charset="utf-8">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        Html('<link rel="icon" href="data:,">'),  # or a browser asks for /favicon.ico
        tag("title", title),
        Html(f"<style>{_STYLE}</style>"),
        *([Html(f"<script>{script}</script>")] if script else []),
    ]
    whole = join(tag("head", *head), tag("body", tag("h1", title), *body))
    return Html(f'<!DOCTYPE html>\n<html lang="en">{whole}</html>\n')


def write_page(path: str | os.PathLike[str], whole: Html) -> Path:
    """Writes a page; its folder is made if missing.

    Raises:
      UserError: it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(whole, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the page {path}: {error.strerror}") from error
    return path
