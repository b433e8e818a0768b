"""The files of `results/`: one schema for who writes and who reads them, and what may be published.

A file is a comparison (`variants`, by `scripts/reproduce.py`) or a benchmark (`records`, by
`scripts/bench_*.py`). The `curve` of a variant is thinned to 200 points a seed, see `thinned`. A
file names the commit that made its numbers and the hash of the package's files at that commit; a
number is published only of a clean commit of this history.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrd_jax.config.record import FORMAT
from lrd_jax.errors import UserError
from lrd_jax.reporting import provenance
from lrd_jax.reporting.tensorboard import TIMING_KEYS

SCHEMA = 1
_HASH = re.compile(r"[0-9a-f]{40}")

# Key -> the type of its value, of a dict's values (`{str: T}`) or of a list's items (`[T]`).
_NUMBER = (int, float)
_VALUES = {str: (int, float, type(None))}
_BOTH = {
    "schema": int,
    "command": [str],
    "devices": [str],
    "cores": int,
    "versions": {str: str},
    "commit": str,
    "tree": str,
}
_COMPARISON = {"name": str, "title": str, "config_format": int, "variants": [dict]}
_BENCHMARK = {"date": str, "records": [dict]}
_VARIANT = {"name": str, "config": dict, "result": dict, "curve": [dict]}
_BEST = {"step": int, "valid": _VALUES}
_RESULT = {
    "best": dict,
    "test": _VALUES,
    "seeds": [dict],
    "steps": int,
    "num_steps": int,
    "wall_time_s": _NUMBER,
    "device": str,
    "versions": {str: str},
    "commit": str,
}
_SEED = {"seed": int, "best": dict, "test": _VALUES}


def stamp(content: Mapping[str, Any]) -> dict[str, Any]:
    """Adds schema and tree to what names its `commit`."""
    commit = str(content["commit"])
    tree = provenance.tree(commit.removesuffix("-dirty"))
    return {"schema": SCHEMA, **content, "tree": tree}


def comparison(content: Mapping[str, Any]) -> dict[str, Any]:
    """Completes a comparison of this version: `stamp`, and the format of its configs."""
    return stamp({**content, "config_format": FORMAT})


CURVE_POINTS = 200  # steps of each split that a file keeps, at most
_TIMES = ("time", *TIMING_KEYS)


def thinned(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns what a file keeps of the lines of `metrics.jsonl`: enough to draw its curves.

    Of each split at most 200 steps, evenly spread over those that were logged, the first and the
    last among them, and there the lines of all seeds; times in the first line of a step alone, as
    they are those of all seeds; numbers with eight digits, more than a float32 has.

    Args:
      curve: the lines, in their order.
    """
    kept: dict[str, set[int]] = {}
    for split in {line["split"] for line in curve}:
        steps = sorted({line["step"] for line in curve if line["split"] == split})
        count = min(len(steps), CURVE_POINTS)
        last = max(count - 1, 1)
        kept[split] = {steps[round(i * (len(steps) - 1) / last)] for i in range(count)}
    found, timed = [], set()
    for line in curve:
        place = (line["split"], line["step"])
        if line["step"] in kept[line["split"]]:
            own = line if place not in timed else {k: line[k] for k in line if k not in _TIMES}
            found.append(
                {k: float(f"{v:.8g}") if isinstance(v, float) else v for k, v in own.items()}
            )
            timed.add(place)
    return found


# ---- The schema ---------------------------------------------------------------------------------


def problems(content: Any) -> Iterator[str]:
    """Yields what is wrong with the content of a file, in a few words each; nothing if it is right.

    Whether its commit is one of this history is told by `history_problems`.
    """
    if not isinstance(content, dict):
        yield "it holds no object"
        return
    if content.get("schema") != SCHEMA:
        yield f"schema is {content.get('schema')!r}, and this version knows {SCHEMA}"
        return
    kind = _COMPARISON if "variants" in content else _BENCHMARK
    found = [*_mistyped(content, _BOTH | kind, "")]
    for index, variant in enumerate(content.get("variants", []) if not found else []):
        found += _mistyped(variant, _VARIANT, f"variants[{index}].")
        if not found:
            found += _mistyped_result(variant["result"], f"variants[{index}].result.")
    yield from found or _inconsistent(content)


def _mistyped(content: Mapping[str, Any], wanted: Mapping[str, Any], place: str) -> Iterator[str]:
    for key, kind in wanted.items():
        if key not in content:
            yield f"{place}{key} is missing"
        elif not _fits(content[key], kind):
            yield f"{place}{key} is not of its type"


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type of the tables above; bools and infinities are no numbers."""
    if isinstance(kind, dict):
        ((_, item),) = kind.items()
        return isinstance(value, dict) and all(_fits(each, item) for each in value.values())
    if isinstance(kind, list):
        return (
            isinstance(value, list) and bool(value) and all(_fits(each, kind[0]) for each in value)
        )
    finite = not isinstance(value, float) or math.isfinite(value)
    return isinstance(value, kind) and not isinstance(value, bool) and finite


def _mistyped_result(result: Mapping[str, Any], place: str) -> Iterator[str]:
    """Yields the keys of a `result` that are missing or of another type; `place` names it."""
    wrong = [*_mistyped(result, _RESULT, place)]
    yield from wrong
    if wrong:
        return
    yield from _mistyped(result["best"], _BEST, f"{place}best.")
    for index, seed in enumerate(result["seeds"]):
        here = f"{place}seeds[{index}]."
        wrong = [*_mistyped(seed, _SEED, here)]
        yield from wrong or _mistyped(seed["best"], _BEST, f"{here}best.")


def _inconsistent(content: Mapping[str, Any]) -> Iterator[str]:
    """What types do not tell: values that cannot be, or that contradict each other."""
    if not _HASH.fullmatch(content["commit"]):
        yield f"commit {content['commit']!r} is no clean commit"
    if not _HASH.fullmatch(content["tree"]):
        yield f"tree {content['tree']!r} is no hash of the package's files"
    if "variants" not in content:
        return
    if len(content["devices"]) > 1:
        yield f"its variants ran on different devices: {', '.join(content['devices'])}"
    names = [variant["name"] for variant in content["variants"]]
    if len(set(names)) < len(names):
        yield "two variants have one name"
    whole = [v["result"] for v in content["variants"] if not v["result"].get("ended_by")]
    if len({result["steps"] for result in whole}) > 1:
        yield "its variants stopped at different steps"
    for variant in content["variants"]:
        for problem in _inconsistent_variant(content, variant):
            yield f"{variant['name']}: {problem}"


def _inconsistent_variant(content: Mapping[str, Any], variant: Mapping[str, Any]) -> Iterator[str]:
    """Yields what of a variant contradicts its config, its result or the rest of the file."""
    config, result = variant["config"], variant["result"]
    begun = variant.get("begun", {"commit": result["commit"], "versions": result["versions"]})
    for key in ("commit", "versions"):
        if not content[key] == result[key] == begun[key]:
            yield f"not all of it is of one {key.removesuffix('s')}"
    if [result["device"]] != content["devices"]:
        yield f"it ran on {result['device']}"
    steps, num_steps = result["steps"], result["num_steps"]
    stop_step = config.get("train", {}).get("stop_step", 0) or num_steps
    end = min(stop_step, num_steps)  # or before it, where `train.patience` ended the run
    if not (0 < steps <= end if result.get("ended_by") else 0 < steps == end):
        yield f"it has {steps} steps of {num_steps}, and its config says to stop at {stop_step}"
    if max((line.get("step", 0) for line in variant["curve"]), default=0) != steps:
        yield f"its curve does not end at step {steps}"
    best = [run["best"]["step"] for run in (result, *result["seeds"])]
    if not 0 <= min(best) <= max(best) <= steps:
        yield f"its best step is not one of its {steps} steps"
    first, count = config.get("seed", 0), config.get("num_seeds", 1)
    if {run["seed"] for run in result["seeds"]} != set(range(first, first + count)):
        yield f"its seeds are not the {count} from {first} on that its config names"


def history_problems(content: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with the provenance, where `provenance.without_history` is ""."""
    commit = content["commit"]
    if not provenance.in_history(commit):
        yield f"commit {commit[:10]} is not in this history"
    elif provenance.tree(commit) != content["tree"]:
        yield f"tree {content['tree'][:10]} is not that of commit {commit[:10]}"


# ---- Files --------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """Reads a file of `results/`.

    Raises:
      UserError: it cannot be read, or is not as the schema has it; one line.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
        wrong = next(problems(content), None)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        wrong = " ".join(str(error).split())[:200]
    if wrong:
        raise UserError(f"{path} is damaged ({wrong}): run its command again, or remove it")
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def to_json(content: Mapping[str, Any]) -> str:
    """The text of a file, a row for each line of a curve; ValueError where it holds NaN or inf."""
    marks: dict[str, str] = {}
    variants = []
    for index, variant in enumerate(content.get("variants", [])):
        rows = [json.dumps(line, allow_nan=False) for line in variant["curve"]]
        marks[f'"curve of {index}"'] = "[\n    " + ",\n    ".join(rows) + "\n   ]"
        variants.append({**variant, "curve": f"curve of {index}"})
    whole = {**content, "variants": variants} if variants else content
    text = json.dumps(whole, indent=1, allow_nan=False) + "\n"
    for mark, rows in marks.items():
        text = text.replace(f'"curve": {mark}', f'"curve": {rows}', 1)
    return text


def check_checkout() -> None:
    """Refuses to begin what is to be published; before hours are spent.

    Raises:
      UserError: this is no clean checkout with its history.
    """
    why = provenance.without_history()
    if not why and not _HASH.fullmatch(commit := provenance.commit()):
        why = "one with changes that are not committed" if commit.endswith("-dirty") else "unknown"
    if why:
        raise UserError(
            f"only numbers of a clean commit are published, and this checkout is {why}:"
            " commit first, or leave out --publish"
        )


def check_publishable(content: Mapping[str, Any]) -> None:
    """Refuses numbers of which nobody can tell what made them.

    Raises:
      UserError: not as the schema has it, or not of a clean commit of this history.
    """
    why = provenance.without_history()
    wrong = [why] if why else [*problems(content)] or [*history_problems(content)]
    if wrong:
        raise UserError(
            f"this is not published ({wrong[0]}): run it anew from a clean commit, in another --out"
        )
