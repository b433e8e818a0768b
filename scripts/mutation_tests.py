"""Runs tests in forks, and what lines each of them runs; for mutation.py."""

import ast
import collections
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import coverage  # pyright: ignore[reportMissingImports]
import flax.linen
import hypothesis
import jax
import numpy as np
import optax
import orbax.checkpoint
import pytest

PRELOADED = (flax.linen, np, optax, orbax.checkpoint)  # imported once, for all forks


class Watcher:
    """A pytest plugin: chooses and orders tests, notes times, failures and (if asked) lines."""

    def __init__(self, order=None, lines=None):
        self.order, self.lines = order, lines
        self.seconds, self.failed = collections.Counter(), None

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self):
        """Hypothesis draws the same examples for every fault, and shrinks none."""
        everything = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # but for shrinking
        settings = {"deadline": None, "database": None, "derandomize": True, "phases": everything}
        hypothesis.settings.register_profile("mutation", **settings)
        hypothesis.settings.load_profile("mutation")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        """Keeps the chosen tests, in their order."""
        if (order := self.order) is not None:
            items[:] = [item for item in items if item.nodeid in order]
            items.sort(key=lambda item: order[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        """Counts lines for this test from here on."""
        if self.lines is not None:
            jax.clear_caches()  # or a function traced before would not be seen
            self.lines.switch_context(item.nodeid)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        """Counts lines of a shared fixture for every test of the file."""
        if self.lines is None or fixturedef.scope == "function":
            return (yield)
        self.lines.switch_context(str(request.node.nodeid).split("::")[0])
        try:
            return (yield)
        finally:
            self.lines.switch_context(request._pyfuncitem.nodeid)

    def pytest_runtest_logreport(self, report):
        """Adds up seconds, and notes the first failure."""
        self.seconds[report.nodeid] += report.duration
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def pytest_collectreport(self, report):
        """Notes a file that does not even load."""
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
        """Tests that run a line of a function, for its signature its body; of other lines, all.

        What is outside of a body runs as a file is imported, and may be read by any test.
        """
        found = self._tests.get((source, line), set())
        inside = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            and min([node.lineno] + [d.lineno for d in node.decorator_list]) <= line
            and line <= (node.end_lineno or 0)
        ]
        if not inside:
            return set(self.seconds)
        body = inside[-1].body  # of the innermost function
        if line >= body[0].lineno:
            return found
        lines = range(body[0].lineno, (body[-1].end_lineno or 0) + 1)
        run = set().union(*(self._tests.get((source, n), set()) for n in lines))
        return found | run if run else set(self.seconds)
