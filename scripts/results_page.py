"""`docs/results.md`, made of what is in `results/`: tables by task, and the published claims.

python scripts/reproduce.py --table --publish   # rewrites it, README's telling rows and the figures
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from claims import NOT_ATTEMPTED, PAPERS, Claim
from reproduce_experiments import EXPERIMENTS

from lrd_jax.config.command_line import load_module
from lrd_jax.metrics import DerivedMetric, Metric, declared
from lrd_jax.reporting import published
from lrd_jax.reporting.comparison import difference_text, differences
from lrd_jax.reporting.summary import value_over

ROOT = Path(__file__).resolve().parent.parent
# Heading -> how the names of its experiments begin; what fits none comes last.
TASKS = {
    "State tracking": ("tracking_",),
    "Copying": ("copying_", "lesson_copying"),
    "Adding": ("adding_",),
    "Images, pixel by pixel": ("pmnist_", "smnist_", "auxiliary_", "mnist_", "digits_", "lesson_"),
    "Language": ("char_", "wikitext"),
    "Captions": ("caption_",),
    "Own sequences": ("japanese_", "basic_", "arrow_", "gun_", "italy_"),
    "Others": ("",),
}
TELLING = (
    ("tracking_S3", "GRU"),
    ("tracking_S3", "LRU"),
    ("copying_gates", "UR-LSTM"),
    ("caption_shapes", "Show, Attend & Tell"),
    ("digits_urlstm", "UR-LSTM"),
)
"""Experiment and variant of the rows that README shows, where they have been run."""

_INTRO = """\
# Results

Made by `python scripts/reproduce.py --table --publish` of the files in `results/`, which hold every
curve, config, version and commit; do not edit it by hand. ± is the standard deviation over seeds,
[ ] the 95 % interval of their mean (Student's t, from three seeds on); it is about seeds, on one
test set. The time is that of all seeds together; "-" was not recorded then. "Tuned" means: learning
rates tried by one more seed for a quarter of the steps, chosen on validation data, the same effort
for every row. "Difference" is that of the test score to the first row of its table, with its 95 %
interval, paired by seed. A row that stopped before the end of its training says so.
"""


def page(results: Path) -> str:
    """The whole page.

    Raises:
      UserError: a file there is not as the schema has it.
    """
    found = {path.stem: published.read(path) for path in sorted(results.glob("*.json"))}
    experiments = {name: c for name, c in found.items() if "variants" in c}
    parts = [_INTRO, "## What the three papers claim\n"]
    for paper, claims in PAPERS.items():
        parts.append(f"### {paper}\n\n{_claims(claims, experiments)}\n")
    parts.append("Not attempted:\n\n" + "\n".join(f"- {line}" for line in NOT_ATTEMPTED) + "\n")
    for heading, names in _by_task(experiments):
        parts.append(f"## {heading}\n")
        parts += [_experiment(name, experiments[name], results) for name in names]
    controlled = {n: c for n, c in found.items() if "control" in c.get("records", [{}])[0]}
    if controlled:
        parts.append("## Captions beside controls\n")
        parts += [_controls(name, content) for name, content in controlled.items()]
    if models := sorted((results / "models").glob("*/README.md")):
        parts.append("## Pretrained models\n\n" + _models(models))
    return "\n".join(parts)


def _models(cards: Sequence[Path]) -> str:
    """A list of the exported models that are committed, by their cards."""
    lines = [
        'Each folder is used like a run: `lrd_jax.load("results/models/NAME")`, or `--workdir=` of'
        " `predict`, `probe` and `--mode=eval`. Its card says what made it and how good it is.\n",
        "| model | network | size |",
        "|---|---|---|",
    ]
    for card in cards:
        name, size = card.parent.name, (card.parent / "model.safetensors").stat().st_size
        what = card.read_text(encoding="utf-8").split("\n\n")[1]
        lines.append(
            f"| [{name}](../results/models/{name}/README.md) | {what} | {size // 1024} KiB |"
        )
    return "\n".join(lines) + "\n"


def telling_rows(results: Path) -> str:
    """The rows that README shows, as a table.

    Raises:
      UserError: a file there is not as the schema has it.
    """
    lines = ["| experiment | model | seeds | test | training |", "|---|---|---|---|---|"]
    for name, label in TELLING:
        path = results / f"{name}.json"
        if not path.exists():
            continue
        content = published.read(path)
        for variant in content["variants"]:
            if variant["name"] == label:
                result = variant["result"]
                lines.append(
                    f"| [{content['title']}](results/{path.name}) | {label} | {_seeds(result)}"
                    f" | {score(result, 'test')} | {_steps(result)}, {_time(variant)} |"
                )
    return "\n".join(lines)


def _by_task(experiments: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    left = list(experiments)
    for heading, beginnings in TASKS.items():
        names = [name for name in left if name.startswith(beginnings)]
        left = [name for name in left if name not in names]
        if names:
            yield heading, names


def _claims(claims: Sequence[Claim], experiments: Mapping[str, Any]) -> str:
    """The table of a paper's claims: what was published, and what is known here."""
    lines = [
        "| row | what | published | by | its training | here | evidence |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in claims:
        evidence = claim.note
        if claim.evidence:
            link = f"[{experiments[claim.evidence]['title']}](../results/{claim.evidence}.json)"
            evidence = f"{link}{': ' * bool(claim.note)}{claim.note}"
        lines.append(
            f"| {claim.rows} | {claim.what} | {claim.number} | {claim.source} | {claim.cost}"
            f" | {claim.verdict} | {evidence} |"
        )
    return "\n".join(lines)


def _experiment(name: str, content: Mapping[str, Any], results: Path) -> str:
    """A heading, how it was made, and its tables and figures."""
    variants = content["variants"]
    command = " ".join(content["command"]).replace(" --publish", "")
    cores = f"{content['cores']} core{'s' * (content['cores'] != 1)}"
    parts = [
        f"### {content['title']}\n",
        f"`{command}`, commit {content['commit'][:10]}, {', '.join(content['devices'])}, {cores}:"
        f" [{name}.json](../results/{name}.json), [curves](../results/{name}.png)\n",
        _scores(variants),
    ]
    if len(variants) == 1 and (known := _published(name, main_metric(variants[0]["result"]))):
        parts.append(f"\n{known}")
    for variant in variants:
        if "context" in variant:
            found = variant["context"]
            said = value_over(
                main_metric(variant["result"]), [s["test"] for s in found["seeds"]], interval=True
            )
            parts.append(
                f"\n{variant['name']}, its state starting anew every {found['tokens']} tokens"
                f" (`eval.context`): test {said}."
            )
    if all("transfer" in variant for variant in variants):
        parts.append("\n" + lengths_table(variants))
        if (results / f"{name}_lengths.png").exists():
            parts.append(f"\n![Test score over the length](../results/{name}_lengths.png)")
    return "\n".join(parts) + "\n"


def _controls(name: str, content: Mapping[str, Any]) -> str:
    """The table of a file of `scripts/caption_controls.py`: a row a control."""
    metrics = [
        Metric(key, digits=3, range=(0.0, 10.0 if key == "cider" else 1.0))
        for key in content["records"][0]["scores"][0]
    ]
    names = ["captions", "seeds", *(metric.label for metric in metrics)]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in content["records"]:
        cells = [row["what"], str(len(row["scores"]))]
        cells += [value_over(metric, row["scores"], interval=True) for metric in metrics]
        lines.append("| " + " | ".join(cells) + " |")
    about = f"{content['pictures']} pictures ({content['split']})"
    return (
        f"### {content['title']}, p_block {content['config']['detach']['p_block']:g}\n\n"
        f"`{' '.join(content['command'])}`, commit"
        f" {content['commit'][:10]}, {', '.join(content['devices'])}, {about}:"
        f" [{name}.json](../results/{name}.json)\n\n" + "\n".join(lines) + "\n"
    )


def _published(name: str, metric: Metric) -> str:
    """What others published for the row of an experiment with one variant; "" where none is known.

    Args:
      name: of the experiment.
      metric: that chose the best step.
    """
    file, _, row = EXPERIMENTS[name].config.partition(":") if name in EXPERIMENTS else ("", "", "")
    known = getattr(load_module(ROOT / file), "PUBLISHED", {}).get(row, {}) if file else {}
    if metric.name not in known:
        return ""
    return f"To compare: {metric.text(known[metric.name])}, {known['source']}."


def _scores(variants: Sequence[Mapping[str, Any]]) -> str:
    """The table of an experiment: a row a variant, with seeds, interval, difference and time."""
    compared = len(variants) > 1 and all(len(v["result"]["seeds"]) > 1 for v in variants)
    names = ["model", "parameters", "learning rate", "seeds", "steps", "validation", "test"]
    names += ["difference"] * compared + ["time"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for variant in variants:
        result = variant["result"]
        count = result.get("parameters")
        rate = f"{variant['config']['optim']['learning_rate']:g}"
        cells = [
            variant["name"],
            f"{count:,}".replace(",", " ") if count else "-",
            f"{rate}, tuned" if "tuned" in variant else rate,
            _seeds(result),
            _steps(result),
            score(result, "valid"),
            score(result, "test"),
        ]
        if compared:
            cells.append(
                "" if variant is variants[0] else difference_of(variants[0]["result"], result)
            )
        lines.append("| " + " | ".join([*cells, _time(variant)]) + " |")
    return "\n".join(lines)


def difference_of(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """The test score of the second result minus that of the first, with its interval."""
    metric = main_metric(second)
    found = differences(first["seeds"], second["seeds"], [metric])
    return difference_text(metric, found[metric.name])


def lengths_table(variants: Sequence[Mapping[str, Any]]) -> str:
    """The test score at every length."""
    rows = [variant["transfer"]["lengths"] for variant in variants]
    lengths = [row["length"] for row in rows[0]]
    lines = [
        "| test length | " + " | ".join(map(str, lengths)) + " |",
        "|---" * (1 + len(lengths)) + "|",
    ]
    for variant, found in zip(variants, rows, strict=True):
        metric = main_metric(variant["result"])
        cells = [
            value_over(metric, [seed["test"] for seed in row["seeds"]], interval=False)
            for row in found
        ]
        lines.append(f"| {variant['name']} | " + " | ".join(cells) + " |")
    metric = main_metric(variants[0]["result"])
    if all(metric.name in row["baselines"] for row in rows[0]):
        chance = [value_over(metric, [row["baselines"]]) for row in rows[0]]
        lines.append("| without memory | " + " | ".join(chance) + " |")
    return "\n".join(lines)


def _seeds(result: Mapping[str, Any]) -> str:
    count = len(result["seeds"])
    whole = len(_runs(result, "test", main_metric(result)))
    return str(count) if whole == count else f"{whole} of {count}, the others NaN"


def _steps(result: Mapping[str, Any]) -> str:
    part = result["steps"] / result["num_steps"]
    if result.get("ended_by"):
        return f"{result['steps']} (ended by {result['ended_by']})"
    return f"{result['steps']}" + ("" if part == 1 else f" ({100 * part:.0f} %, unfinished)")


def _time(variant: Mapping[str, Any]) -> str:
    speed = f", {variant['tokens_per_s']:.0f} tokens/s" if "tokens_per_s" in variant else ""
    return f"{variant['result']['wall_time_s'] / 60:.1f} min{speed}"


def main_metric(result: Mapping[str, Any]) -> Metric:
    """The metric that chose the best step."""
    return next(iter(declared(result, result["test"]).values()))


def _runs(result: Mapping[str, Any], split: str, metric: Metric) -> list[dict[str, Any]]:
    runs = [run["best"]["valid"] if split == "valid" else run["test"] for run in result["seeds"]]
    return [run for run in runs if run.get(metric.name) is not None]


def score(result: Mapping[str, Any], split: str) -> str:
    """The metric that chose the best step, and what is derived of it, over the seeds of a split."""
    main, *others = declared(result, result["test"]).values()
    shown = [main, *(m for m in others if isinstance(m, DerivedMetric) and m.of == main.name)]
    runs, interval = _runs(result, split, main), split == "test"
    texts = [value_over(metric, runs, interval) for metric in shown]
    labels = ["", *("" if metric.unit else f"{metric.label} " for metric in shown[1:])]
    return ", ".join(label + text for label, text in zip(labels, texts, strict=True))
