"""Locks: held, in use, and on file systems that have none."""

import errno
import fcntl
import os

import pytest

from lrd_jax.data.prepare import is_prepared, main, open_builder
from lrd_jax.errors import UserError
from lrd_jax.reporting.workdir import work_directory
from lrd_jax.runtime import locks

LOCKLESS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO]


@pytest.fixture
def flock(monkeypatch):
    """Lets every lock fail with an error."""
    locks._tell_lockless.cache_clear()

    def fail(number):
        def flock(file, operation):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    return fail


def test_a_lock_is_held_until_its_file_is_closed(tmp_path):
    with (tmp_path / "a").open("w") as one, (tmp_path / "a").open("w") as other:
        assert locks.lock(one) and not locks.lock(other)
        one.close()
        assert locks.lock(other, wait=True)


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES])
def test_what_means_in_use(tmp_path, flock, caplog, number):
    flock(number)
    with pytest.raises(UserError, match="is in use by another run"), work_directory(tmp_path):
        raise AssertionError
    assert not caplog.records


@pytest.mark.parametrize("number", LOCKLESS)
def test_without_locks_there_is_one_warning(tmp_path, flock, caplog, number):
    flock(number)
    for _ in range(2):
        with work_directory(tmp_path / "run"):
            pass
    (record,) = caplog.records
    assert f"run cannot be locked ({os.strerror(number)})" in record.getMessage()


def test_data_are_prepared_without_locks(tmp_path, flock, caplog):
    flock(errno.ENOLCK)
    assert main(["digits", f"--data_dir={tmp_path}"]) == 0
    assert len(caplog.records) == 1
    assert is_prepared(open_builder("digits", tmp_path))
