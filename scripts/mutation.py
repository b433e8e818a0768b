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
import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import coverage
import flax.linen
import hypothesis
import jax
import numpy as np
import optax
import orbax.checkpoint
import pytest
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

PRELOADED = (flax.linen, np, optax, orbax.checkpoint)  # imported once, for all tries
ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "tests" / "mutation.toml"
SEED = 0
GRACE_S, SLACK = 120.0, 4.0  # tests are killed after so much more and so many times their seconds
# Replacing + by << is an error at once, and tells nothing of the tests.
STRANGE = re.compile(
    r"ReplaceBinaryOperator_\w+_(FloorDiv|Mod|Pow|RShift|LShift|BitOr|BitAnd|BitXor)$"
    r"|ReplaceUnaryOperator_\w+_(UAdd|Invert|Not)$|ReplaceComparisonOperator_\w+_(Is|IsNot)$"
)


class Watcher:
    """A pytest plugin: chooses and orders tests, notes times, failures and (if asked) lines."""

    def __init__(self, order=None, lines=None):
        self.order, self.lines = order, lines
        self.seconds, self.failed = collections.Counter(), None

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self):
        everything = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # but for shrinking
        settings = {"deadline": None, "database": None, "derandomize": True, "phases": everything}
        hypothesis.settings.register_profile("mutation", **settings)
        hypothesis.settings.load_profile("mutation")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        if self.order is not None:
            items[:] = [item for item in items if item.nodeid in self.order]
            items.sort(key=lambda item: self.order[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        if self.lines is not None:
            jax.clear_caches()  # or a function traced before would not be seen
            self.lines.switch_context(item.nodeid)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if self.lines is None or fixturedef.scope == "function":
            return (yield)
        # What a shared fixture runs, it runs for every test of the file.
        self.lines.switch_context(str(request.node.nodeid).split("::")[0])
        try:
            return (yield)
        finally:
            self.lines.switch_context(request._pyfuncitem.nodeid)

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and self.failed is None:
            self.failed = report.nodeid


def in_fork(work, log, timeout):
    """What `work` returns in a process of its own (JSON), or "timeout" or "crash"."""
    answer = log.with_suffix(".json")
    answer.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            answer.write_text(json.dumps(work()), encoding="utf-8")
        except BaseException as error:
            print("crash:", repr(error), flush=True)
        sys.stdout.flush()
        os._exit(0)
    end = time.monotonic() + timeout
    ended = 0
    while not ended and time.monotonic() < end:
        ended = os.waitpid(pid, os.WNOHANG)[0]
        time.sleep(0.02)
    try:
        os.killpg(pid, signal.SIGKILL)  # and what the tests have started
    except ProcessLookupError:
        pass
    if not ended:
        os.waitpid(pid, 0)
        return "timeout"
    return json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else "crash"


def run_tests(files, watcher):
    """Runs test files here, to the first failure; status, the test that failed, times."""
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning", *files]  # of what is preloaded
    status = int(pytest.main(arguments, plugins=[watcher]))
    return {"status": status, "failed": watcher.failed, "seconds": dict(watcher.seconds)}


class Lines:
    """What lines of the source each test runs, from one run of every test file."""

    def __init__(self, folder, tests, state):
        self.seconds, self._tests = {}, {}  # of a test; of (source, line)
        self._count = collections.Counter()  # lines of each test
        for test in tests:
            digest = hashlib.sha256(Path(test).read_bytes()).hexdigest()[:12]
            kept = state / "lines" / f"{folder}-{test.replace('/', '.')}-{digest}.json"
            if not kept.exists():
                print(f"{test}: under coverage ...", flush=True)
                found = in_fork(lambda test=test: self._measure(test, folder), state / "log", 900)
                if not isinstance(found, dict) or found["status"] not in (0, 5):
                    print(f"{test} fails or hangs without any fault: left out; see {state}/log")
                    os.replace(state / "log", state / f"failed-{test.replace('/', '.')}.log")
                    continue
                kept.write_text(json.dumps(found), encoding="utf-8")
            found = json.loads(kept.read_text(encoding="utf-8"))
            self.seconds |= found["seconds"]
            for source, lines in found["lines"].items():
                for line, contexts in lines.items():
                    here = self._tests.setdefault((source, int(line)), set())
                    for context in contexts:
                        everyone = found["seconds"] if context == test else (context,)
                        here.update(everyone if context else ())
        for tests in self._tests.values():
            self._count.update(tests)

    @staticmethod
    def _measure(test, folder):
        lines = coverage.Coverage(data_file=None, source=[f"lrd_jax/{folder}"], config_file=False)
        lines.start()
        found = run_tests([test], Watcher(lines=lines))
        lines.stop()
        data, here = lines.get_data(), os.getcwd()
        return found | {
            "lines": {
                os.path.relpath(path, here): data.contexts_by_lineno(path)
                for path in data.measured_files()
            }
        }

    def share(self, test):
        """Which part of the source's lines a test runs."""
        return self._count[test] / max(1, len(self._tests))

    def of(self, source, line, tree):
        """Tests that run a line; of a signature, its body; of a module's line, any of its lines."""
        found = self._tests.get((source, line), set())
        inside = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and min([node.lineno] + [d.lineno for d in node.decorator_list]) <= line
            and line <= node.end_lineno
        ]
        for node in reversed(inside):  # the innermost first
            if not found:
                body = range(node.body[0].lineno, node.end_lineno + 1)
                found = set().union(*(self._tests.get((source, n), set()) for n in body))
        if not found and not any(isinstance(node, ast.FunctionDef) for node in inside):
            found = set().union(*(t for (path, _), t in self._tests.items() if path == source))
        return found


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


def try_out(fault, lines, extra, saw, state, budget_s):
    """Tries one fault; `killed`, `survived` or `timeout`, the test that saw it, how many ran."""
    path = Path(fault["source"])
    code = path.read_text(encoding="utf-8")
    tests = lines.of(fault["source"], fault["line"], ast.parse(code))
    # By chance of seeing it, per second: what saw others, and what runs much of the source.
    order = sorted(tests, key=lambda t: -(saw[t] + lines.share(t)) / (1 + lines.seconds.get(t, 0)))
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
    return {(r["source"], r["old"], r["new"]): r["reason"] for r in config.get("survivor", ())}


def run_folder(folder, state, size, minutes, again, budget_s):
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
        extra = table.get("extra", {}).get(fault["source"], [])
        started = time.monotonic()
        found = try_out(fault, lines, extra, saw, state, budget_s)
        found |= {k: fault[k] for k in ("source", "line", "old", "new", "operator")}
        results[name] = found | {"commit": commit, "seconds": time.monotonic() - started}
        kept.write_text(json.dumps(results, indent=1), encoding="utf-8")
        place = f"{found['source']}:{found['line']} {time.monotonic() - started:.0f} s"
        print(f"{found['outcome']:8} {place} of {found['tests']} tests, {found['by']}")
        print(f"    - {found['old']}\n    + {found['new']}", flush=True)
    (state / f"{folder}.places").write_text(str(places), encoding="utf-8")


def report(state, out):
    """Writes the table, and every survivor with its reason."""
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
        places = (state / f"{folder}.places").read_text() if found else "?"
        share = f"{100 * killed / max(1, len(found) - known):.1f} %"
        hung = sum(f["outcome"] == "timeout" for f in found)
        rows.append((folder, places, len(found), killed, hung, known, len(left) - known, share))
    print("| folder | places | tried | killed | of them hung | explained | not | score |", file=out)
    print("|---|---|---|---|---|---|---|---|", file=out)
    for row in rows:
        print("| " + " | ".join(f"`{x}/`" if x is row[0] else str(x) for x in row) + " |", file=out)
    print("\n| file | line | with the fault | why no test sees it |\n|---|---|---|---|", file=out)
    for f in sorted(survivors, key=lambda f: (f["source"], f["line"])):
        cells = [f"`{f[k]}`" if f[k] else "(removed)" for k in ("old", "new")]
        cells += [reasons.get((f["source"], f["old"], f["new"]), "**not explained**")]
        cells = [f"`{f['source'].removeprefix('lrd_jax/')}`", *cells]
        print("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |", file=out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
