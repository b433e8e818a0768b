"""What `reproduce.py` shows: new numbers beside the committed ones; and the pages it rewrites."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import results_page
from reproduce_experiments import EXPERIMENTS

from lrd_jax.config import record
from lrd_jax.errors import UserError
from lrd_jax.reporting import published
from lrd_jax.reporting.plots import Run, plot_curves, plot_transfer
from lrd_jax.reporting.workdir import write_atomically

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


def draw(content: Mapping[str, Any], path: Path) -> list[Path]:
    """Draws the curves of a comparison and, where it has some, its scores at other lengths.

    Args:
      content: of its file, see `lrd_jax.reporting.published`.
      path: of the first picture.

    Returns:
      The pictures.
    """
    variants = content["variants"]
    runs = {v["name"]: Run(v["curve"], v["result"]) for v in variants}
    experiment = EXPERIMENTS.get(content["name"])
    curves = (("valid", experiment.metric if experiment else ""), ("train", "loss"))
    plots = [plot_curves(runs, path, curves=curves, title=content["title"])]
    if all("transfer" in variant for variant in variants):
        transfers = {variant["name"]: variant["transfer"] for variant in variants}
        trained = variants[0]["config"]["data"]["length"]
        lengths = path.with_name(f"{path.stem}_lengths{path.suffix}")
        plots.append(plot_transfer(transfers, lengths, trained=trained, title=content["title"]))
    return plots


def redraw(results: Path = RESULTS) -> None:
    """Draws the pictures of all comparisons again.

    Raises:
      UserError: a result is not as the schema has it.
    """
    for path in sorted(results.glob("*.json")):
        content = published.read(path)
        if "variants" in content:
            draw(content, path.with_suffix(".png"))


def rewrite_pages(root: Path = ROOT) -> None:
    """Makes `docs/results.md` and README's rows of `results/`, so that text and data cannot differ.

    Raises:
      UserError: README's markers are lost, or a result is not as the schema has it.
    """
    whole, rows = results_page.page(root / "results"), results_page.telling_rows(root / "results")
    readme = root / "README.md"
    pattern = r"(<!-- results -->\n).*?(<!-- /results -->)"
    new, found = re.subn(
        pattern,
        lambda m: m[1] + rows + "\n" + m[2],
        readme.read_text(encoding="utf-8"),
        count=1,
        flags=re.DOTALL,
    )
    if not found:
        raise UserError("README.md has lost the markers <!-- results --> and <!-- /results -->")
    write_atomically(readme, new)
    write_atomically(root / "docs" / "results.md", whole)


def comparison(committed: Path, yours: Mapping[str, Any]) -> str:
    """The committed numbers beside new ones, a line a variant, and what differs between the two.

    Args:
      committed: a file of `results/`, which need not exist.
      yours: the content of a new one.

    Raises:
      UserError: the committed one is not as the schema has it.
    """
    if not committed.exists():
        ours = [f"{v['name']}: test {_alone(v['result'])}" for v in yours["variants"]]
        return "\n".join([*ours, f"no {committed.name} is committed to compare with"])
    theirs = published.read(committed)
    found = {variant["name"]: variant for variant in theirs["variants"]}
    lines = []
    for variant in yours["variants"]:
        name, result = variant["name"], variant["result"]
        if name not in found:
            lines.append(f"{name}: test {_alone(result)}; none committed")
            continue
        old = found[name]["result"]
        metric = results_page.main_metric(result)
        lines.append(
            f"{name}: test {metric.label}: committed {_alone(old)}, yours {_alone(result)},"
            f" difference {results_page.difference_of(old, result)}"
        )
        differing = _differing(theirs, found[name], yours, variant)
        lines += [f"  not alike: {line}" for line in differing]
    for key in ("commit", "devices", "versions"):
        if theirs[key] != yours[key]:
            lines.append(f"committed {key}: {_words(theirs[key])}; yours: {_words(yours[key])}")
    return "\n".join(lines)


def _alone(result: Mapping[str, Any]) -> str:
    """The test score with its number of seeds, e.g. "98.02 ± 0.11 % [97.88, 98.16] (5 seeds)"."""
    count = len(result["seeds"])
    return f"{results_page.score(result, 'test')} ({count} seed{'s' * (count > 1)})"


def _differing(
    theirs: Mapping[str, Any],
    old: Mapping[str, Any],
    yours: Mapping[str, Any],
    new: Mapping[str, Any],
) -> list[str]:
    """What of config and length is not the same; the number of seeds is shown anyway."""
    configs: list[Any] = [
        record.complete(
            record.from_json(json.dumps({"format": c["config_format"], "config": v["config"]}))
        )
        for c, v in ((theirs, old), (yours, new))
    ]
    lines = [
        line for line in record.conflicts(*configs).values() if not line.startswith("num_seeds:")
    ]
    steps = [variant["result"]["steps"] for variant in (old, new)]
    return lines + [f"steps: {steps[0]} -> {steps[1]}"] * (steps[0] != steps[1])


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return value if isinstance(value, str) else ", ".join(value)
