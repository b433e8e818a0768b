"""A text on which every token is coloured by how little it was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lrd_jax.reporting import page

_NATS = 6.0  # the surprise with the deepest colour


def coloured(entry: Mapping[str, Any]) -> page.Html:
    """The text, each token on a colour by its surprise; the number shows on hover.

    Args:
      entry: `label`, a heading, and `surprise`: `unit` of the vocabulary, `tokens`, `nats` of each.
    """
    surprise = entry["surprise"]
    parts = []
    for token, nats in zip(surprise["tokens"], surprise["nats"], strict=True):
        depth = min(nats / _NATS, 1.0)
        text = token if surprise["unit"] == "char" else f"{token} "
        span = page.tag(
            "span", text, style=f"background:rgba(213,94,0,{depth:.2f})", title=f"{nats:.2f} nats"
        )
        parts.append(span)
        if token in ("<eos>",):
            parts.append(page.Html("<br>"))
    mean = float(np.mean(surprise["nats"])) if surprise["nats"] else 0.0
    said = f"Mean {mean:.3f} nats a token; the deepest colour stands for {_NATS:g} nats or more."
    return page.join(
        page.tag("h2", entry["label"]),
        page.tag("p", said, class_="soft"),
        page.tag("pre", *parts),
    )
