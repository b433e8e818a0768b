"""How many small faults put into a folder's source the tests see.

    python scripts/mutation.py FOLDER [--state=DIR] [--sample=N] [--minutes=M] [--again]
    python scripts/mutation.py --report [--state=DIR] > docs/mutation.md

The faults are those of Cosmic Ray (cosmic-ray.readthedocs.io): another operator, comparison,
number or condition, a loop that never starts, a decorator less. There are too many to try all, so

- the tree is copied from the last commit; nothing here is touched;
- every test file of the folder (`tests/mutation.toml`) runs once under coverage.py, which tells
  what lines each test runs, and how long it takes; it runs anew when it changes;
- of all places where a fault fits, a seeded sample is drawn, and one fault for each. Left out are
  annotations, f-strings (messages) and operators that no number here has;
- each fault is tried by the tests that run its line, the likeliest to see it in little time first,
  until one fails. Each try is a fork of this process, which has imported JAX but started
  no backend. A fault that hangs is killed, and counts so.

A fault that survives stays in DIR; `--again` tries it anew after tests were written. One that no
test can see has its reason in `tests/mutation.toml`, and counts apart.

Needs cosmic-ray and coverage (`pip install lrd-jax[mutation]`).
"""

import argparse
import ast
import collections
import io
import json
import os
import random
import re
import subprocess
import sys
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

from cosmic_ray import plugins  # pyright: ignore[reportMissingImports]
from cosmic_ray.ast import ast_nodes, get_ast  # pyright: ignore[reportMissingImports]
from cosmic_ray.mutating import mutate_code  # pyright: ignore[reportMissingImports]
from mutation_tests import Lines, Watcher, in_fork, run_tests

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "tests" / "mutation.toml"
SEED = 0
GRACE_S, SLACK = 120.0, 4.0  # tests are killed after so much more and so many times their seconds
# Replacing + by << is an error at once, and tells nothing of the tests.
STRANGE = re.compile(
    r"ReplaceBinaryOperator_\w+_(FloorDiv|Mod|Pow|RShift|LShift|BitOr|BitAnd|BitXor)$"
    r"|ReplaceUnaryOperator_\w+_(UAdd|Invert|Not)$|ReplaceComparisonOperator_\w+_(Is|IsNot)$"
)


def faults(source):
    """All faults for a file: place, operator, occurrence, new code's lines that differ."""
    code = Path(source).read_text(encoding="utf-8")
    left_out = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.keyword) and node.arg == "strict"
        ):
            left_out.append(node)
        left_out += [
            kept
            for name in ("annotation", "returns")
            if (kept := getattr(node, name, None)) is not None
        ]
    spans = [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in left_out]
    nodes = list(ast_nodes(get_ast(code)))
    for name in sorted(plugins.operator_names()):
        operator = plugins.get_operator(name)
        if operator.arguments() or STRANGE.search(name):
            continue
        places = [place for node in nodes for place in operator().mutation_positions(node)]
        for occurrence, (start, end) in enumerate(places):
            if not any(first <= start and end <= last for first, last in spans):
                yield {
                    "source": source,
                    "operator": name,
                    "occurrence": occurrence,
                    "start": start,
                    "end": end,
                }


def draw(folder, size):
    """A sample of places, one fault each, and how many places there are."""
    places = collections.defaultdict(list)
    for source in sorted(Path(f"lrd_jax/{folder}").rglob("*.py")):
        for fault in faults(str(source)):
            places[str(source), fault["start"], fault["end"]].append(fault)
    rng = random.Random(SEED)
    order = sorted(places)
    rng.shuffle(order)
    drawn = []
    for place in order:
        fault = rng.choice(places[place])
        code = Path(fault["source"]).read_text(encoding="utf-8")
        try:
            operator = plugins.get_operator(fault["operator"])()
            fault_code = mutate_code(code, operator, fault["occurrence"])
            assert fault_code is not None
            compile(fault_code, "", "exec")
        except (SyntaxError, AttributeError):  # no Python; a node that Cosmic Ray does not expect
            continue
        line = fault["start"][0]
        old, new = code.splitlines(), fault_code.splitlines()
        fault |= {"line": line, "old": old[line - 1].strip(), "code": fault_code}
        fault["new"] = new[line - 1].strip() if len(old) == len(new) else ""
        if fault["old"] == "*,":  # a parameter list's, which Cosmic Ray takes for a product
            continue
        if "RemoveDecorator" in fault["operator"]:
            fault["new"] = ""
        drawn.append(fault)
        if len(drawn) == size:
            break
    return drawn, len(order)


def try_out(fault, lines, extra, first, saw, state, budget_s):
    """Tries one fault; `killed`, `survived` or `timeout`, the test that saw it, how many ran."""
    path = Path(fault["source"])
    code = path.read_text(encoding="utf-8")
    tests = lines.of(fault["source"], fault["line"], ast.parse(code))

    # By chance of seeing it, per second: what the table names, what saw others, what runs much.
    def rank_of(test):
        named = any(test.startswith(name) for name in first)
        return -(named + saw[test] + lines.share(test)) / (0.05 + lines.seconds.get(test, 0))

    order = sorted(tests, key=rank_of)
    chosen, spent = [], 0.0
    for test in order:
        spent += lines.seconds.get(test, 0)
        if chosen and spent > budget_s:
            break
        chosen.append(test)
    if not chosen and not extra:
        return {"outcome": "survived", "by": None, "tests": 0}
    rank = {test: i for i, test in enumerate(chosen)}
    stages = [sorted({test.split("::")[0] for test in chosen}), rank], [extra, None]
    path.write_text(fault["code"], encoding="utf-8")
    try:
        for files, ranks in [stage for stage in stages if stage[0]]:
            found = in_fork(
                lambda files=files, ranks=ranks: run_tests(files, Watcher(ranks)),
                state / "log",
                GRACE_S + SLACK * min(spent, budget_s),
            )
            if isinstance(found, str):
                outcome = {"crash": "killed"}.get(found, found)
                return {"outcome": outcome, "by": found, "tests": len(chosen)}
            lines.seconds |= {t: s for t, s in found["seconds"].items() if t != found["failed"]}
            if found["status"] not in (0, 5):
                saw[found["failed"]] += 1
                return {"outcome": "killed", "by": found["failed"], "tests": len(chosen)}
    finally:
        path.write_text(code, encoding="utf-8")
    return {"outcome": "survived", "by": None, "tests": len(chosen)}


def git(*arguments):
    """What a git command prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def copy_of_commit(state):
    """A fresh copy of the last commit; its hash."""
    tree = state / "tree"
    subprocess.run(["rm", "-rf", str(tree)], check=True)
    tree.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=git("archive", "HEAD"), check=True)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    return git("rev-parse", "--short", "HEAD").decode().strip()


def explained(config):
    """Reasons of survivors, by file, old and new line."""
    return {(r["source"], r["old"], r["new"]): r["reason"] for r in config.get("survivor", ())}


def run_folder(folder, state, size, minutes, again, budget_s):
    """Tries a folder's faults that have no result yet, and keeps the results in `state`."""
    config = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    table, reasons = config["folders"][folder], explained(config)
    end = time.monotonic() + 60 * minutes
    commit = copy_of_commit(state)
    (state / "lines").mkdir(exist_ok=True)
    kept = state / f"{folder}.json"
    results = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    files = [str(f) for t in table["tests"] for f in sorted(Path().glob(t))]
    lines = Lines(folder, files, state)
    if not lines.seconds:
        sys.exit("no test could be run; see " + str(state))
    drawn, places = draw(folder, size)
    (state / f"{folder}.places").write_text(str(places), encoding="utf-8")
    saw = collections.Counter(r["by"] for r in results.values() if r["outcome"] == "killed")
    for fault in drawn:
        name = f"{fault['source']}:{fault['line']} {fault['operator']}#{fault['occurrence']}"
        before = results.get(name)
        known = (fault["source"], fault["old"], fault["new"]) in reasons
        if before and (before["outcome"] != "survived" or known or not again):
            continue
        if time.monotonic() > end:
            print("the time is up")
            break
        extra, first = (table.get(k, {}).get(fault["source"], []) for k in ("extra", "first"))
        started = time.monotonic()
        found = try_out(fault, lines, extra, first, saw, state, budget_s)
        found |= {k: fault[k] for k in ("source", "line", "old", "new", "operator")}
        results[name] = found | {"commit": commit, "seconds": time.monotonic() - started}
        kept.write_text(json.dumps(results, indent=1), encoding="utf-8")
        place = f"{found['source']}:{found['line']} {time.monotonic() - started:.0f} s"
        print(f"{found['outcome']:8} {place} of {found['tests']} tests, {found['by']}")
        print(f"    - {found['old']}\n    + {found['new']}", flush=True)


PAGE = """# Faults put in by a tool, and what the tests see of them

`scripts/mutation.py` (its head says how; {tool}) puts one small fault at a time into
a copy of the source, and runs the default tests that reach it. A seeded sample (seed {seed}) of all
places where a fault fits was tried, one fault each:

    python scripts/mutation.py FOLDER --sample=N
    python scripts/mutation.py FOLDER --sample=N --again    # survivors, after tests were written
    python scripts/mutation.py --report > docs/mutation.md

"explained" are faults that no test can see, or none should: the second table has each with its
reason. The score leaves them out: killed / (tried - explained). "By hand" are those of the killed
that survived the tool's last try (before a test was written or listed for the folder, or cut off);
a test run by hand with the fault in place killed them, since there was no time for another try.
"""


def report(state, out):
    """Writes the table, and every survivor with its reason."""
    print(PAGE.format(tool=f"Cosmic Ray {version('cosmic-ray')}", seed=SEED), file=out)
    config = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    reasons = explained(config)
    rows, survivors = [], []
    for folder in config["folders"]:
        path = state / f"{folder}.json"
        found = list(json.loads(path.read_text(encoding="utf-8")).values()) if path.exists() else []
        left = [f for f in found if f["outcome"] == "survived"]
        survivors += left
        known = sum((f["source"], f["old"], f["new"]) in reasons for f in left)
        killed = len(found) - len(left)
        places = (state / f"{folder}.places").read_text(encoding="utf-8") if found else "?"
        share = f"{100 * killed / max(1, len(found) - known):.1f} %"
        hung = sum(f["outcome"] == "timeout" for f in found)
        commits = " ".join(sorted({f["commit"] for f in found}))
        hand = sum(f.get("hand", False) for f in found)
        row = (places, len(found), killed, hand, hung, known, len(left) - known, share, commits)
        rows.append(" | ".join((f"| `{folder}/`", *map(str, row))) + " |")
    head = ("folder", "places", "tried", "killed", "by hand", "hung", "explained", "not", "score")
    print(
        "| " + " | ".join((*head, "commits")) + " |", "|---" * 10 + "|", *rows, sep="\n", file=out
    )
    print("\n| file | line | with the fault | why no test sees it |\n|---|---|---|---|", file=out)
    for f in sorted(survivors, key=lambda f: (f["source"], f["line"])):
        cells = [f"`{f[k]}`" if f[k] else "(removed)" for k in ("old", "new")]
        cells += [reasons.get((f["source"], f["old"], f["new"]), "**not explained**")]
        cells = [f"`{f['source'].removeprefix('lrd_jax/')}`", *cells]
        print("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |", file=out)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="How many faults the tests see.")
    parser.add_argument("folder", nargs="?", help="a folder of lrd_jax/ in tests/mutation.toml")
    parser.add_argument("--state", type=Path, default=Path("mutation"), help="where results stay")
    parser.add_argument("--sample", type=int, default=100, help="how many faults")
    parser.add_argument("--minutes", type=float, default=60, help="when to stop")
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests for each")
    parser.add_argument("--again", action="store_true", help="try survivors again")
    parser.add_argument("--report", action="store_true", help="write the table to stdout")
    flags = parser.parse_args()
    state = flags.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    if flags.report:
        text = io.StringIO()
        report(state, text)
        print(text.getvalue(), end="")
    else:
        run_folder(flags.folder, state, flags.sample, flags.minutes, flags.again, flags.budget)


if __name__ == "__main__":
    main()
