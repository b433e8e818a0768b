"""The processes of a run: how they meet, agree on something, and end together.

Every process executes the same program with devices of its own, and reads its own rows of every
batch. Process 0 alone writes and prints. A run of one process passes through here unchanged: each
function below then does the plain thing.

What processes tell each other beside their devices' collectives goes through the small key-value
store that JAX's coordination service keeps in process 0. JAX ends all processes when one of them
dies; what this module adds is a clear line with status 1 instead of an abort, and that an error in
one process, of whatever kind, ends the others at once and with the same line.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import jax

from lrd_jax.errors import Interrupted, RunError, UserError
from lrd_jax.runtime.launch import Launch, bind_address
from lrd_jax.runtime.link import FAREWELL_S, AbortAnswer, Link, membership

T = TypeVar("T")

# JAX's default of 100 s is longer than the minute within which the others shall end. A heartbeat is
# sent at half the time, so a process on a busy machine may be late by the other half.
_HEARTBEAT_TIMEOUT_S = 40
_START_TIMEOUT_S = 300  # a scheduler may start the processes minutes apart


_link: Link | None = None  # None: this process is alone


@contextlib.contextmanager
def joined(launch: Launch | None) -> Iterator[None]:
    """Meets the other processes, and shares their fate; nothing may have asked JAX for a device.

    Args:
      launch: how to find them, None if there are none.

    Raises:
      UserError: JAX cannot make sense of the launcher's environment.
      RunError: the others did not come.
    """
    if launch is not None and launch.num_processes != 1:
        _meet(launch)
    with shared_fate():
        try:
            yield
        except Interrupted:
            _part()
            raise
        _part()


def _meet(launch: Launch) -> None:
    """Brings the processes of a launch together, by JAX's coordinator.

    Raises:
      RunError: they did not come together in time.
      UserError: the launcher's environment says nothing that JAX understands.
    """
    global _link
    not_met = (
        f"the processes of this run did not come together within {_START_TIMEOUT_S} s: are all of"
        " them started, and can each reach the coordinator's address, without a proxy?"
    )
    abort = AbortAnswer(not_met)
    # It would catch SIGTERM; `agreed` does what it is for, for every signal.
    jax.config.update("jax_enable_preemption_service", False)
    # It warns of every variable with "_proxy" in its name; the error below tells when it matters.
    jax.config.update("jax_check_proxy_envs", False)
    try:
        jax.distributed.initialize(
            coordinator_address=launch.coordinator_address or None,
            coordinator_bind_address=bind_address(launch),
            num_processes=launch.num_processes or None,
            process_id=None if launch.launcher else launch.process_id,
            cluster_detection_method=None if launch.launcher else "deactivate",
            initialization_timeout=_START_TIMEOUT_S,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S,
        )
    except jax.errors.JaxRuntimeError as error:
        raise RunError(f"{not_met} ({_first_line(error)})") from error
    except Exception as error:  # whatever JAX's readers of the environment raise
        if not launch.launcher:
            raise
        raise UserError(
            f"cannot join the other processes of this {launch.launcher} launch"
            f" ({_first_line(error)}); give --coordinator_address, --process_id, --num_processes"
        ) from error
    if membership().count > 1:
        _link = Link(abort)
        abort.message = (
            "lost another process of this run (see above, and its own messages); the same command"
            " continues from the last checkpoint"
        )


def _part() -> None:
    """Leaves the other processes, when all have come to their end."""
    if _link is not None:
        _link.close()
        jax.distributed.shutdown()


def count() -> int:
    """Number of processes."""
    return _link.count if _link else 1


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return _link is None or _link.index == 0


def say(text: str) -> None:
    """Prints, in process 0 alone; a stream that takes nothing does not end a run."""
    if is_first():
        with contextlib.suppress(OSError, UnicodeError):
            print(text, flush=True)


def from_first(make: Callable[[], T]) -> T:
    """Calls a function in process 0 alone, and returns its result, a JSON value, in all.

    All processes must come here; those that do stay until the function has returned.
    """
    if _link is None:
        return make()
    return _link.share(make() if is_first() else None, range(1))[0]


def together(make: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Calls a function in every process; where it fails in one, it fails in all.

    Args:
      make: communicates with no other process.
      *args: what it is called with.
      **kwargs: see there.

    Raises:
      Exception: what `make` raised here.
      RunError: it succeeded here and not in another process.
    """
    if _link is None:
        return make(*args, **kwargs)
    result, failure = None, None
    try:
        result = make(*args, **kwargs)
    except Exception as error:
        failure = error
    reasons = _link.share(None if failure is None else _first_line(failure), range(count()))
    if failure is not None:
        raise failure
    for source, reason in enumerate(reasons):
        if reason is not None:
            raise RunError(f"in process {source}: {reason}")
    return result  # pyright: ignore[reportReturnType]


class Signal(Protocol):
    """Something that holds the signal that arrived, 0 if none."""

    @property
    def signum(self) -> int:
        """Number of the signal."""
        ...


@contextlib.contextmanager
def agreed(own: Signal) -> Iterator[Signal]:
    """Makes a signal that reaches one process known to all at the same point of the program.

    Args:
      own: holds what reached this process.

    Yields:
      What reached any of them. All processes must read it equally often: a reading stands for a
      point of the program, and the same one is the first to tell of the signal in every process.
    """
    yield own if _link is None else _Agreed(own, _link)


class _Agreed:
    """Chooses the first reading that no process has passed yet.

    Waiting for the others in a reading would deadlock: one of them may be waiting for a device of
    this process, which gets its work from the main thread. So a thread tells them how far this
    process is, and holds the main thread up only until it knows the same of all.
    """

    def __init__(self, own: Signal, link: Link) -> None:
        self._own, self._link = own, link
        self._lock = threading.Lock()
        self._readings = 0
        self._told = self._heard = False
        self._decided = threading.Event()
        self._stop_at = self._signum = 0
        link.listen(self._listen)

    @property
    def signum(self) -> int:
        """The signal at which all processes stop at this step, 0 for none; see the class."""
        if self._own.signum and not self._told:
            self._link.put("signal", self._own.signum)
            self._told = True
        with self._lock:
            self._readings += 1
            heard = self._heard
        if not heard:
            return 0
        self._decided.wait()
        return self._signum if self._readings >= self._stop_at else 0

    def _listen(self) -> None:
        link = self._link
        self._signum = link.get("signal")
        with self._lock:
            self._heard, readings = True, self._readings
        link.put(f"readings/{link.index}", readings)
        self._stop_at = 1 + max(link.get(f"readings/{i}") for i in range(link.count))
        self._decided.set()


@contextlib.contextmanager
def shared_fate() -> Iterator[None]:
    """Ends all processes of the run when an exception leaves this block in one of them.

    An `Interrupted` passes: all processes raise it together. In a run of one process everything
    passes.
    """
    try:
        yield
    except Interrupted:
        raise
    except BaseException as error:
        if _link is None:
            raise
        _link.fail(*_account(error))


def _account(error: BaseException) -> tuple[int, str]:
    """Exit status and message for an error."""
    if isinstance(error, UserError):
        return 2, str(error)
    if (broken := _broken_contact(error)) is not None:
        # The other one, or JAX's client, may be about to say more; they end this process then.
        time.sleep(FAREWELL_S)
        return 1, (
            f"a computation with the other processes failed ({_first_line(broken)}): most likely"
            " one of them died, see its own messages; the same command continues from the last"
            " checkpoint"
        )
    if isinstance(error, RunError):
        return 1, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, "interrupted"
    traceback.print_exception(error)
    return 1, f"{type(error).__name__}: {error}"


def _broken_contact(error: BaseException | None) -> BaseException | None:
    """The failed collective, barrier or call of the store that an error comes from, if any.

    Orbax, for one, reports a barrier that broke as a TimeoutError.
    """
    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
