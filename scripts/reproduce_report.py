"""What `reproduce.py` shows: README's table, and new numbers beside the committed ones."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrd_jax.config import record
from lrd_jax.errors import UserError
from lrd_jax.metrics import DerivedMetric, Metric, declared
from lrd_jax.reporting import published
from lrd_jax.reporting.comparison import difference_text, differences
from lrd_jax.reporting.summary import value_over
from lrd_jax.reporting.workdir import write_atomically

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


def table(results: Path = RESULTS) -> str:
    """README's table, made of everything in `results/` that has variants.

    Raises:
      UserError: a file there is not as the schema has it.
    """
    lines = [
        "| experiment | variant | seeds | steps (of full length) | best valid. | test"
        " | test, minus the first variant's | time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(results.glob("*.json")):
        content = published.read(path)
        variants = content.get("variants", [])
        for variant in variants:
            result = variant["result"]
            part = result["steps"] / result["num_steps"]
            other = "" if variant is variants[0] else _difference(variants[0]["result"], result)
            done = "all" if part == 1 else f"{100 * part:.0f} %, unfinished"
            speed = f", {variant['tokens_per_s']:.0f} tokens/s" if "tokens_per_s" in variant else ""
            lines.append(
                f"| [{content['title']}](results/{path.name}) | {variant['name']}"
                f" | {_seeds(result)} | {result['steps']} ({done})"
                f" | {_score(result, 'valid')} | {_score(result, 'test', interval=True)}"
                f" | {other}"
                f" | {result['wall_time_s'] / 60:.1f} min{speed} |"
            )
    return "\n".join(lines)


def _seeds(result: Mapping[str, Any]) -> str:
    """How many seeds, and how many of them have a result."""
    count, whole = len(result["seeds"]), len(_runs(result, "test", main=True))
    if count == 1:
        return "1 (no interval)"
    return str(count) if whole == count else f"{whole} of {count}, the others NaN"


def _shown(result: Mapping[str, Any]) -> list[Metric]:
    """What chooses the best step, and what is derived of that."""
    main, *others = declared(result, result["test"]).values()
    return [main, *(m for m in others if isinstance(m, DerivedMetric) and m.of == main.name)]


def _runs(result: Mapping[str, Any], split: str, main: bool = False) -> list[dict[str, Any]]:
    """The values of every seed; with `main`, of those whose first metric is a number."""
    runs = [run["best"]["valid"] if split == "valid" else run["test"] for run in result["seeds"]]
    return [run for run in runs if not main or run.get(_shown(result)[0].name) is not None]


def _score(result: Mapping[str, Any], split: str, interval: bool = False) -> str:
    """What the table shows of a split, over seeds."""
    main, *derived = _shown(result)
    runs = _runs(result, split)
    texts = [value_over(main, runs, interval)]
    return ", ".join(texts + [m.labelled(value_over(m, runs, interval)) for m in derived])


def _difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """The test score of the second minus that of the first, by what chooses the best step."""
    metric = _shown(second)[0]
    found = differences(first["seeds"], second["seeds"], [metric])
    return difference_text(metric, found[metric.name])


def rewrite_readme(readme: Path = ROOT / "README.md") -> None:
    """Puts `table()` between the markers in README.md, so that text and data cannot drift apart.

    Raises:
      UserError: the markers are lost, or a result is not as the schema has it.
    """
    text = readme.read_text(encoding="utf-8")
    pattern = r"(<!-- results -->\n).*?(<!-- /results -->)"
    rows = table()
    new, found = re.subn(
        pattern, lambda m: m[1] + rows + "\n" + m[2], text, count=1, flags=re.DOTALL
    )
    if not found:
        raise UserError("README.md has lost the markers <!-- results --> and <!-- /results -->")
    write_atomically(readme, new)


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
        metric = _shown(result)[0]
        lines.append(
            f"{name}: test {metric.label}: committed {_alone(old)}, yours {_alone(result)},"
            f" difference {_difference(old, result)}"
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
    return f"{_score(result, 'test', interval=True)} ({count} seed{'s' * (count > 1)})"


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
