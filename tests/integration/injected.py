"""`lrd_jax.main`, and at a chosen instant of it something that the code in $INJECT asks for."""

import errno
import itertools
import os
import runpy
import signal

from lrd_jax.data import prepare  # noqa: F401  (for $INJECT, like the rest)
from lrd_jax.reporting.writers import Writers  # noqa: F401
from lrd_jax.runtime import checkpoints  # noqa: F401
from lrd_jax.runtime.checkpoints import Checkpoints  # noqa: F401
from lrd_jax.training import loop  # noqa: F401
from lrd_jax.training.program import Program


def before(owner, name, act, call=1):
    """Lets `act` happen before the `call`-th call of a function."""
    original, calls = getattr(owner, name), itertools.count(1)

    def function(*args, **kwargs):
        if next(calls) == call:
            act()
        return original(*args, **kwargs)

    setattr(owner, name, function)


def before_step(name, act, call=1):
    """The same for a compiled step of the program."""
    build = Program.__init__

    def init(self, *parts):
        build(self, *parts)
        before(self.evaluate if name == "eval_step" else self, name, act, call)

    Program.__init__ = init


def send(*signums):
    """Sends signals to this process."""

    def act():
        for signum in signums:
            os.kill(os.getpid(), signum)

    return act


def fill(path, leave=0):
    """Fills the disk up with a file."""

    def act():
        with open(path, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC
            file.truncate(file.tell() - leave)

    return act


sigterm, sigint, kill = send(signal.SIGTERM), send(signal.SIGINT), send(signal.SIGKILL)

if __name__ == "__main__":
    exec(os.environ["INJECT"])
    runpy.run_module("lrd_jax.main", run_name="__main__", alter_sys=True)
