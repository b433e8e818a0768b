"""Curves that can be hovered and zoomed, by plotly; the one place that knows it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from lrd_jax.errors import UserError
from lrd_jax.metrics import Metric
from lrd_jax.probe.curves import references
from lrd_jax.reporting.figures import COLOURS
from lrd_jax.reporting.page import Html, join, tag
from lrd_jax.reporting.statistics import band


def _library() -> Any:
    """plotly; UserError, naming its extra, where it is missing."""
    try:
        import plotly.graph_objects  # pyright: ignore[reportMissingImports]
        import plotly.io  # pyright: ignore[reportMissingImports]
        import plotly.offline  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "curves that can be hovered need plotly: pip install lrd-jax[report]"
        ) from error
    return plotly


def script() -> str:
    """The library, to be inlined once.

    Raises:
      UserError: it is not installed.
    """
    return _library().offline.get_plotlyjs()


def curves(record: Mapping[str, Any]) -> Html:
    """Draws the curves of `probe.curves.read`, a plot a metric, over optimizer steps.

    Raises:
      UserError: plotly is not installed.
    """
    plotly = _library()
    metric, runs = record["metric"], record["runs"]
    plots = []
    for key in dict.fromkeys(key for run in runs for key in run["curves"]):
        split, name = key.split(" ", 1)
        shown = metric if name == metric.name else Metric(name)
        figure = plotly.graph_objects.Figure()
        for index, run in enumerate(runs):
            if curve := run["curves"].get(key):
                _add(plotly, figure, index, run["label"], curve, shown)
        if key == f"valid {metric.name}":
            for value, text in references(runs, metric.name).items():
                figure.add_hline(
                    metric.factor * value,
                    line={"color": "#666", "width": 1, "dash": "dot"},
                    annotation_position="bottom left",
                    annotation={"text": html.escape(text), "font": {"size": 10}},
                )
        unit = f" ({shown.unit})" if shown.unit else ""
        words = {"valid": "validation", "train": "training"}[split]
        figure.update_layout(
            template="plotly_white",
            height=380,
            margin={"l": 60, "r": 10, "t": 40, "b": 40},
            title=html.escape(f"{words} {shown.label}{unit}"),
            xaxis_title="optimizer steps",
            legend={"orientation": "h", "y": -0.25},
            hovermode="x unified",
        )
        whole = plotly.io.to_html(
            figure,
            full_html=False,
            include_plotlyjs=False,
            default_width="100%",
            default_height="380px",
            config={"displaylogo": False, "responsive": True},
        )
        plots.append(tag("figure", tag("div", Html(whole), class_="plot")))
    return join(*plots)


def _add(plotly: Any, figure: Any, index: int, name: str, curve: Any, metric: Metric) -> None:
    """One run: the mean over seeds, and the 95 % interval as a band, from three seeds on."""
    values, factor = np.array(curve["values"], float), metric.factor
    colour = COLOURS[index % len(COLOURS)]
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    steps, mean = curve["steps"], factor * values.mean(1)
    name, scatter = html.escape(name), plotly.graph_objects.Scatter
    if (ends := band(values, metric.range)) is not None:
        low, high = (factor * end for end in ends)
        figure.add_trace(
            scatter(
                x=[*steps, *steps[::-1]],
                y=[*high, *low[::-1]],
                mode="lines",
                fill="toself",
                fillcolor=f"rgba({red},{green},{blue},0.15)",
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=name,
            )
        )
    figure.add_trace(
        scatter(
            x=steps,
            y=mean.tolist(),
            name=name,
            legendgroup=name,
            mode="lines+markers" if len(steps) < 30 else "lines",
            line={"color": colour},
        )
    )
