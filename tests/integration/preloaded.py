"""Runs programs of the project, each in a process of its own, without loading JAX for each anew.

A job is a line of JSON on stdin: `module` or `script`, `arguments`, and the paths `out` and `err`;
the answer is its exit status. The program is what `python -m MODULE` runs, under `__main__`; what
it imports was imported before the fork, and nothing else has happened there.
"""

import json
import os
import runpy
import sys
import traceback
import warnings

from lrd_jax.evaluation import commands  # noqa: F401  (what takes long)
from lrd_jax.runtime import devices  # noqa: F401  (what takes long)
from lrd_jax.training import loop  # noqa: F401  (what takes long)


def run(job):
    for stream, path in ((1, job["out"]), (2, job["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [job.get("script", job.get("module")), *job["arguments"]]
    try:
        if "script" in job:
            runpy.run_path(job["script"], run_name="__main__")
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*found in sys.modules.*")
                runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        run(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
