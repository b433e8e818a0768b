"""Runs an experiment's variants for the same number of steps, and records what came out.

    python scripts/reproduce.py pmnist_gates --budget-minutes=60
    python scripts/reproduce.py char_shakespeare --set data.text_dir=DIR
    python scripts/reproduce.py --table          # only rewrite README's table from results/

Writes `results/NAME.json` (config, versions, commit, device, seeds, curves), `results/NAME.png`
and the README's table. A budget fixes the number of steps before the first run, so that all
variants together fit into it at the speed measured beforehand; their schedules stay those of the
full length, and the table says how far they got. Interrupted, the same command continues.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from lrd_jax.config import checks, command_line, record
from lrd_jax.errors import UserError
from lrd_jax.metrics import DerivedMetric, declared
from lrd_jax.reporting.plots import plot_curves
from lrd_jax.reporting.writers import read_metrics
from lrd_jax.runtime import devices, interrupts

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Variants of one config that are compared with each other.

    Attributes:
      title: for table and figure.
      config: value of `--config`.
      variants: name in the table -> overrides, `key=value`.
      metric: what is plotted; empty: what chooses the best step.
      sample: overrides of the evaluation that writes a sample of text; none where empty.
    """

    title: str
    config: str
    variants: dict[str, tuple[str, ...]]
    metric: str = ""
    sample: tuple[str, ...] = ()


_SAMPLE = ("eval.sample_tokens=300", "eval.temperature=0.8")

EXPERIMENTS = {
    "digits_urlstm": Experiment(
        "Permuted digits (64 steps), 128 units",
        "configs/urlstm_pdigits.py",
        {"UR-LSTM": ()},
    ),
    "digits_bfloat16": Experiment(
        "Permuted digits, precision of the products in time",
        "configs/urlstm_pdigits.py",
        {"float32": (), "bfloat16": ("model.compute_dtype=bfloat16",)},
    ),
    "mnist_rows_lstm": Experiment(
        "Row-wise MNIST (28 steps), 128 units",
        "configs/lstm_mnist_rows.py",
        {"LSTM (untied)": ()},
    ),
    "auxiliary_short": Experiment(
        "Permuted MNIST, four pixels a step (196 steps), 128 units",
        "configs/auxiliary_short.py:lstm",
        {
            "LSTM (untied)": (),
            "LSTM, truncated to 75": ("truncate.steps=75",),
            "r-LSTM, truncated to 75": ("aux.kind=reconstruct", "truncate.steps=75"),
            "p-LSTM, truncated to 75": ("aux.kind=predict", "truncate.steps=75"),
            "r-LSTM, labels train the head alone": (
                "aux.kind=reconstruct",
                "truncate.steps=75",
                "truncate.supervised=stop",
            ),
        },
    ),
    "pmnist_gates": Experiment(
        "Permuted MNIST (784 steps), 128 units",
        "configs/urlstm_pmnist.py",
        {"LSTM (untied)": ("model.cell=lstm",), "UR-LSTM": ("model.cell=urlstm",)},
    ),
    "copying_hdetach": Experiment(
        "Copying, preset hdetach, delay 100, LSTM (untied) of 128 units",
        "configs/hdetach_copying.py:H1",
        {
            "p_block 0": (),
            "p_block 0.5": ("detach.p_block=0.5", "detach.off_last_epochs=39"),
        },
    ),
    "copying_gates": Experiment(
        "Copying, preset gu, lag 480 (500 steps), 256 units",
        "configs/gating_synthetic.py:G1-UR",
        {"`--` (tied)": ("model.gates=--",), "UR-LSTM": ()},
    ),
    "adding_gates": Experiment(
        "Adding, 500 steps, 256 units",
        "configs/gating_synthetic.py:G2-UR",
        {
            "`--` (tied)": ("data.length=500", "model.gates=--"),
            "UR-LSTM": ("data.length=500",),
        },
    ),
    "caption_shapes": Experiment(  # --set num_seeds=5; greedy, see caption_controls.py for beams
        "Captions of generated pictures, 128 units",
        "configs/caption_shapes.py:SAT",
        {"Show, Attend & Tell": (), "Show & Tell": ("model.caption=show_tell",)},
    ),
    "caption_flickr8k_sat": Experiment(
        "Flickr8k, 753 training pictures, Show, Attend & Tell of 128 units",
        "configs/caption_flickr8k.py:SAT",
        {"p_block 0": ("detach.p_block=0.0",), "p_block 0.4": ()},
    ),
    "caption_flickr8k_st": Experiment(
        "Flickr8k, 753 training pictures, Show & Tell of 128 units",
        "configs/caption_flickr8k.py:ST",
        {"p_block 0": ("detach.p_block=0.0",), "p_block 0.25": ()},
    ),
    "char_shakespeare": Experiment(
        "Characters of tinyshakespeare, 2 layers of 256 units",
        "configs/char_shakespeare.py",
        {"LSTM": ()},
        sample=_SAMPLE,
    ),
    "wikitext2_word": Experiment(
        "Words of WikiText-2, 256 units, tied embeddings",
        "configs/wikitext2.py",
        {"LSTM": ()},
        sample=_SAMPLE,
    ),
}


def command(
    experiment: Experiment, overrides: tuple[str, ...], workdir: Path, *more: str
) -> list[str]:
    """The command line of one run."""
    flags = [f"--config.{override}" for override in overrides]
    return [
        sys.executable,
        *("-m", "lrd_jax.main", f"--config={experiment.config}", f"--workdir={workdir}"),
        *flags,
        *more,
    ]


def _run(argv: list[str]) -> None:
    status = interrupts.call(argv, cwd=ROOT)
    if status:
        raise SystemExit(status)


def steps_for(experiment: Experiment, extra: tuple[str, ...], minutes: float) -> int:
    """Number of steps that lets every variant run one after the other within the budget.

    Args:
      experiment: what to run.
      extra: overrides for every variant.
      minutes: wall time for all variants together.

    Returns:
      Steps, the same for all; evaluations are not counted, so a tenth is set aside for them.
    """
    seconds_per_step = 0.0
    for overrides in experiment.variants.values():
        with tempfile.TemporaryDirectory() as folder:
            probe = ("train.stop_step=40", "train.log_every_steps=20", "data.valid_split=last:64")
            workdir = Path(folder) / "probe"
            known, _, _ = applicable(experiment, (*overrides, *extra, *probe))
            _run(command(experiment, known, workdir))
            train = [r for r in read_metrics(workdir / "metrics.jsonl") if r["split"] == "train"]
            seconds_per_step += 1 / train[-1]["steps_per_s"]
    return max(1, int(0.9 * minutes * 60 / seconds_per_step))


def collect(
    name: str, experiment: Experiment, workdirs: dict[str, Path], argv: list[str]
) -> dict[str, Any]:
    """What `results/NAME.json` holds."""
    variants = []
    for label, workdir in workdirs.items():
        result = json.loads((workdir / "result.json").read_text())
        config: Any = record.from_json((workdir / "config.json").read_text())
        curve = [
            {key: value for key, value in record.items() if key != "epoch"}
            for record in read_metrics(workdir / "metrics.jsonl")
        ]
        # Train lines are for the eye: about two hundred are enough.
        train = [r for r in curve if r["split"] == "train"]
        thinned = train[:: max(1, len(train) // 200)]
        curve = [r for r in curve if r["split"] != "train" or r in thinned]
        variant = {"name": label, "config": config.to_dict(), "result": result}
        if experiment.sample:
            _run(command(experiment, experiment.sample, workdir, "--mode=eval"))
            variant["sample"] = (workdir / "eval" / "sample.txt").read_text()
            tokens = config.data.batch_size * config.data.length
            rates = [r["steps_per_s"] for r in train]
            variant["tokens_per_s"] = tokens * statistics.median(rates)
        variants.append(variant | {"curve": curve})
    return {
        "name": name,
        "title": experiment.title,
        "command": " ".join(["python", *argv]),
        "device": variants[0]["result"]["device"],
        "cores": devices.available_cores(),
        "versions": variants[0]["result"]["versions"],
        "commit": variants[0]["result"]["commit"],
        "variants": variants,
    }


def _score(result: dict[str, Any], values: dict[str, float]) -> str:
    """What the table shows of a split: what chooses the best step, and what is derived of that."""
    known = declared(result, values)
    main, *others = known.values()
    derived = [m for m in others if isinstance(m, DerivedMetric) and m.of == main.name]
    texts = [main.text(values[main.name])]
    return ", ".join(texts + [m.labelled(m.text(values[m.name])) for m in derived])


def table() -> str:
    """The README's table, made of everything in `results/` that has variants."""
    lines = [
        "| experiment | variant | steps (of full length) | best valid. | test | wall time |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        try:
            record = json.loads(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): run its command again") from error
        for variant in record.get("variants", []):
            result = variant["result"]
            part = result["steps"] / result["num_steps"]
            done = "all" if part == 1 else f"{100 * part:.0f} %, unfinished"
            speed = f", {variant['tokens_per_s']:.0f} tokens/s" if "tokens_per_s" in variant else ""
            lines.append(
                f"| [{record['title']}](results/{path.name}) | {variant['name']}"
                f" | {result['steps']} ({done})"
                f" | {_score(result, result['best']['valid'])} | {_score(result, result['test'])}"
                f" | {result['wall_time_s'] / 60:.1f} min{speed} |"
            )
    return "\n".join(lines)


def rewrite_readme() -> None:
    """Puts `table()` between the markers in README.md, so that text and data cannot drift apart."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    pattern = r"(<!-- results -->\n).*?(<!-- /results -->)"
    new, found = re.subn(
        pattern, lambda m: m[1] + table() + "\n" + m[2], text, count=1, flags=re.DOTALL
    )
    if not found:
        raise UserError("README.md has lost the markers <!-- results --> and <!-- /results -->")
    readme.write_text(new)


def check_overrides(experiment: Experiment, extra: tuple[str, ...]) -> Experiment:
    """Tries the overrides on every variant, before the first one runs for hours.

    Returns:
      The experiment, every variant with the extra overrides that its component knows; those left
      out are told.

    Raises:
      UserError: a variant would refuse them, or two variants are the same model.
    """
    variants, models, told = {}, {}, set()
    for label, overrides in experiment.variants.items():
        known, left_out, model = applicable(experiment, (*overrides, *extra))
        for key, reason in left_out.items():
            if (key, reason) not in told:
                print(f"{key} is left out: {reason}")
            told.add((key, reason))
        if model in models:
            raise UserError(f"{models[model]!r} and {label!r} are the same model with these values")
        variants[label], models[model] = known, label
    return dataclasses.replace(experiment, variants=variants)


def applicable(
    experiment: Experiment, overrides: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, str], str]:
    """Leaves out what the chosen component does not know.

    Returns:
      The overrides that remain; key -> why, for those left out; and all that has an effect, as
      text.
    """
    argv = ["reproduce", f"--config={ROOT / experiment.config}"]
    argv += [f"--config.{override}" for override in overrides]
    config = command_line.parse_flags(argv, flags.FlagValues()).config
    checks.validate(config)
    from lrd_jax.training import effects  # loads JAX: after what is wrong without it

    unused = effects.unused(config)
    known = tuple(o for o in overrides if o.partition("=")[0] not in unused)
    given = {override.partition("=")[0] for override in overrides}
    left_out = {key: reason for key, reason in unused.items() if key in given}
    return known, left_out, repr(sorted(effects.effective(config).items()))


def stop_step(folder: Path, wanted: int) -> int:
    """The step at which all variants stop, once it was fixed; 0 before that.

    Args:
      folder: of the comparison.
      wanted: on the command line, 0 = none.

    Raises:
      UserError: the comparison was begun with another one.
    """
    path = folder / "stop_step"
    try:
        fixed = int(path.read_text()) if path.exists() else 0
    except ValueError as error:
        raise UserError(f"{path} is damaged: write the number of steps into it") from error
    if fixed and wanted and fixed != wanted:
        raise UserError(f"this comparison was begun with --steps={fixed}: remove {folder} first")
    return fixed


def main() -> None:
    """Parses the command line, runs, records."""
    parser = command_line.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", choices=sorted(EXPERIMENTS))
    parser.add_argument("--budget-minutes", type=float, default=0.0, help="0 = full length")
    parser.add_argument("--steps", type=int, default=0, help="stop every variant at this step")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key")
    parser.add_argument("--table", action="store_true", help="only rewrite README's table")
    args = parser.parse_args()
    if args.table:
        rewrite_readme()
        return
    if args.name is None:
        parser.error("name an experiment: " + ", ".join(sorted(EXPERIMENTS)))
    if args.steps < 0 or not 0 <= args.budget_minutes < math.inf:
        parser.error("--steps and --budget-minutes must be 0 or more")
    if args.steps and args.budget_minutes:
        parser.error("--steps and --budget-minutes exclude each other")
    experiment, extra = EXPERIMENTS[args.name], tuple(args.set)
    experiment, extra = check_overrides(experiment, extra), ()
    folder = ROOT / "runs" / "reproduce" / args.name
    if args.steps or args.budget_minutes:
        # Fixed once, so that a resumed comparison stays one.
        steps = stop_step(folder, args.steps)
        if not steps:
            steps = args.steps or steps_for(experiment, extra, args.budget_minutes)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "stop_step").write_text(str(steps))
        extra += (f"train.stop_step={steps}",)
    workdirs = {}
    for label, overrides in experiment.variants.items():
        workdirs[label] = folder / re.sub(r"\W+", "_", label).strip("_")
        _run(command(experiment, (*overrides, *extra), workdirs[label]))
    RESULTS.mkdir(exist_ok=True)
    record = collect(args.name, experiment, workdirs, [*map(_relative, sys.argv)])
    (RESULTS / f"{args.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    plot_curves(
        {label: workdir for label, workdir in workdirs.items()},
        RESULTS / f"{args.name}.png",
        curves=(("valid", experiment.metric), ("train", "loss")),
        title=experiment.title,
    )
    rewrite_readme()


def _relative(argument: str) -> str:
    """The script's path as seen from the project, so that no machine's path is recorded."""
    path = Path(argument)
    return str(path.resolve().relative_to(ROOT)) if path.suffix == ".py" else argument


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"reproduce: error: {error}", file=sys.stderr)
        sys.exit(2)
