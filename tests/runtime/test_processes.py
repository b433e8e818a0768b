"""Agreement between processes, imitated by threads, and what a single process makes of it."""

import random
import threading
import time
import types

import jax
import pytest

from lrd_jax.errors import Interrupted, RunError, UserError
from lrd_jax.runtime import processes


class Store:
    """The key-value store, shared by threads that stand for processes."""

    def __init__(self, count):
        self.count = count
        self._values = {}
        self._changed = threading.Condition()

    def link(self, index):
        return types.SimpleNamespace(
            index=index, count=self.count, put=self.put, get=self.get, listen=self.listen
        )

    def listen(self, wait):
        threading.Thread(target=wait, daemon=True).start()

    def put(self, key, value):
        with self._changed:
            self._values.setdefault(key, value)
            self._changed.notify_all()

    def get(self, key):
        with self._changed:
            assert self._changed.wait_for(lambda: key in self._values, timeout=60)
            return self._values[key]


@pytest.mark.parametrize("seed", range(8))
def test_a_signal_stops_all_processes_at_the_same_reading(seed):
    """Readings a process may be ahead, and a process that waits for another's next step."""
    draw = random.Random(seed)
    count, ahead, length = 3, draw.choice([0, 1, 2]), 40
    struck, moment = draw.randrange(count), draw.randrange(25)
    store, progress = Store(count), [0] * count
    own = [types.SimpleNamespace(signum=0) for _ in range(count)]
    stopped = [None] * count

    def work(index):
        shared = processes._Agreed(own[index], store.link(index))
        pause = random.Random(f"{seed} {index}")
        for step in range(length):
            # A collective of step `step - ahead` ends when every process has reached it.
            deadline = time.monotonic() + 60
            while min(progress) < step - ahead:
                assert time.monotonic() < deadline
                time.sleep(0.0005)
            time.sleep(pause.random() * 0.002)
            if index == struck and step == moment:
                own[index].signum = 15
            if shared.signum:
                stopped[index] = (step, shared.signum)
                progress[index] = length
                return
            progress[index] = step + 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(stopped)) == 1 and stopped[0] is not None
    step, signum = stopped[0]
    assert signum == 15 and step >= moment


def test_without_a_signal_nothing_stops():
    store = Store(2)
    shared = [
        processes._Agreed(types.SimpleNamespace(signum=0), store.link(index)) for index in range(2)
    ]
    assert [reader.signum for reader in shared * 3] == [0] * 6
    store.put("signal", 2)  # lets the threads end


# ---- Ends -----------------------------------------------------------------------------------


def test_every_error_has_a_status_and_a_line(monkeypatch):
    monkeypatch.setattr(processes, "FAREWELL_S", 0)
    assert processes._account(UserError("bad")) == (2, "bad")
    assert processes._account(RunError("NaN")) == (1, "NaN")
    assert processes._account(KeyboardInterrupt())[0] == 130
    assert processes._account(ValueError("a bug")) == (1, "ValueError: a bug")


def test_a_barrier_that_broke_is_no_full_disk(monkeypatch):
    monkeypatch.setattr(processes, "FAREWELL_S", 0)
    try:
        try:
            try:
                raise jax.errors.JaxRuntimeError("UNAVAILABLE: task 1 is unhealthy\nand more")
            except jax.errors.JaxRuntimeError as error:
                raise TimeoutError("Timed out while waiting for a barrier") from error
        except TimeoutError as error:
            raise RunError("could not write a checkpoint: free some space") from error
    except RunError as error:
        status, line = processes._account(error)
    assert status == 1 and "UNAVAILABLE: task 1 is unhealthy" in line
    assert "the same command continues" in line and "space" not in line


# ---- One process ------------------------------------------------------------------------------


def test_one_process_does_the_plain_thing():
    assert processes.count() == 1 and processes.is_first()
    assert processes.from_first(lambda: {"a": 1}) == {"a": 1}
    assert processes.together(divmod, 7, 2) == (3, 1)
    own = types.SimpleNamespace(signum=0)
    with processes.agreed(own) as shared:
        assert shared is own


@pytest.mark.parametrize("error", [UserError("x"), Interrupted(15), ValueError("y")])
def test_one_process_passes_errors_on(error):
    with pytest.raises(type(error)) as caught, processes.joined(None):
        raise error
    assert caught.value is error
