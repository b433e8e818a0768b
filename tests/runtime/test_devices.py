"""How many devices, and what is refused."""

import types

import jax
import numpy as np
import pytest

from lrd_jax.config import defaults
from lrd_jax.errors import UserError
from lrd_jax.runtime import devices, processes
from lrd_jax.runtime.devices import (
    check_split,
    choose_cpu_devices,
    configure,
    local_rows,
    make_mesh,
)


@pytest.mark.parametrize(
    ("requested", "batch_size", "cores", "expected"),
    [
        (0, 64, 2, 2),
        (0, 50, 4, 2),
        (0, 50, 8, 5),
        (0, 7, 4, 1),
        (0, 7, 8, 7),
        (0, 1, 8, 1),
        (4, 64, 2, 4),
        (1, 7, 8, 1),
    ],
)
def test_number_of_cpu_devices(requested, batch_size, cores, expected):
    assert choose_cpu_devices(requested, batch_size, cores) == expected


def test_an_explicit_number_must_divide_the_batch():
    with pytest.raises(UserError, match="devices=3 does not divide data"):
        choose_cpu_devices(3, 64, 8)


@pytest.mark.parametrize(("seeds", "values", "expected"), [(5, (), 1), (4, (), 2), (5, (1, 2), 2)])
def test_split_seeds_take_the_most_cores_that_divide_them(monkeypatch, seeds, values, expected):
    config = defaults.get_config()
    config.devices.split, config.num_seeds, config.sweep.clip_norm = "seeds", seeds, values
    config.data.batch_size = 7
    chosen = {}
    monkeypatch.setattr(devices, "available_cores", lambda: 2)
    monkeypatch.setattr(devices.jax.config, "update", chosen.__setitem__)
    monkeypatch.setattr(devices.os, "environ", dict(devices.os.environ))
    devices.configure(config)
    assert chosen["jax_num_cpu_devices"] == expected
    config.devices.cpu_devices = 3
    with pytest.raises(UserError, match="devices=3 does not divide the number of seeds"):
        devices.configure(config)


@pytest.mark.parametrize(
    ("cores", "asked", "expected"),
    [
        (2, "", "3"),
        (2, "16", "16"),
        (2, "2", "2"),
        (2, "1", "3"),
        (2, "all", "3"),
        (1, "", "2"),
        (2, "99999", "3"),
        (2, "9" * 5000, "3"),
    ],
)
def test_pool_of_threads_has_one_more_than_there_are_devices(monkeypatch, cores, asked, expected):
    config = defaults.get_config()
    monkeypatch.setattr(devices, "available_cores", lambda: cores)
    monkeypatch.setattr(devices.jax.config, "update", lambda *_: None)
    monkeypatch.setattr(devices.os, "environ", {"NPROC": asked})
    devices.configure(config)
    assert devices.os.environ["NPROC"] == expected


def test_one_device_has_a_thread_a_core(monkeypatch):
    config = defaults.get_config()
    config.devices.cpu_devices = 1
    monkeypatch.setattr(devices, "available_cores", lambda: 8)
    monkeypatch.setattr(devices.jax.config, "update", lambda *_: None)
    monkeypatch.setattr(devices.os, "environ", {})
    devices.configure(config)
    assert devices.os.environ["NPROC"] == "8"


def test_the_batch_must_divide_over_the_mesh():
    mesh = make_mesh(jax.devices()[:4])
    check_split("batch", 8, 1, mesh)
    for size, nearest in ((10, 8), (1, 4), (15, 16)):
        with pytest.raises(UserError, match=f"nearest that does is {nearest}$"):
            check_split("batch", size, 1, mesh)
    check_split("seeds", 10, 8, mesh)  # whole batches: any size
    with pytest.raises(UserError, match=r"6 runs .* do not divide over 4 devices"):
        check_split("seeds", 8, 6, mesh)


def mesh_of(*owners):
    """A mesh whose devices belong to these processes."""
    devices = np.array([types.SimpleNamespace(process_index=owner) for owner in owners])
    return types.SimpleNamespace(devices=devices, size=len(owners))


def test_one_process_holds_all_rows():
    assert local_rows(8, make_mesh(jax.devices()[:4])) == slice(0, 8)


@pytest.mark.parametrize("owners", [(0, 1, 2), (0, 0, 1, 1, 2, 2)])
def test_processes_hold_the_rows_of_their_devices(monkeypatch, owners):
    for process in range(3):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        # `shard_map` gives device d the rows from d * 12 / devices on.
        assert local_rows(12, mesh_of(*owners)) == slice(4 * process, 4 * process + 4)


@pytest.mark.parametrize("owners", [(0, 0, 1), (0, 1, 0, 1), (1, 0)])
def test_unequal_or_scattered_devices_are_refused(monkeypatch, owners):
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with pytest.raises(UserError, match="different numbers of devices"):
        local_rows(12, mesh_of(*owners))


def test_the_batch_must_divide_over_the_processes(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(UserError, match="batch_size=64 does not divide over 3 processes"):
        configure(defaults.get_config())


@pytest.mark.parametrize(("asked", "told"), [(0, ""), (3, "devices.cpu_devices has no effect")])
def test_a_gpu_leaves_the_cpu_as_jax_has_it(monkeypatch, caplog, asked, told):
    config = defaults.get_config()
    config.devices.cpu_devices = asked
    changed = {}
    monkeypatch.setattr(devices, "uses_gpu", lambda: True)
    monkeypatch.setattr(devices.jax.config, "update", changed.__setitem__)
    monkeypatch.setattr(devices.os, "environ", {})
    configure(config)
    assert changed == {} and set(devices.os.environ) == {"XLA_FLAGS"}
    assert (told in caplog.text) if told else not caplog.text


def test_memory_is_the_machines_or_the_devices():
    total, where = devices.memory_of(jax.devices()[0])
    assert total > 2**28 and where == "this machine"

    def gpu(stats):
        return types.SimpleNamespace(platform="gpu", device_kind="H100", memory_stats=stats)

    def unknown():
        raise NotImplementedError

    assert devices.memory_of(gpu(lambda: {"bytes_limit": 7})) == (7, "H100")
    for stats in (lambda: None, dict, unknown):
        assert devices.memory_of(gpu(stats)) == (0, "H100")


@pytest.mark.parametrize(
    ("deterministic", "before", "after"),
    [
        (False, "--xla_foo=1", "--xla_foo=1"),
        (
            True,
            "",
            "--xla_gpu_deterministic_ops=true --xla_gpu_enable_scatter_determinism_expander=true",
        ),
        (
            True,
            "--xla_gpu_deterministic_ops=false",
            "--xla_gpu_deterministic_ops=false --xla_gpu_enable_scatter_determinism_expander=true",
        ),
    ],
)
def test_flags_for_exact_resumption_on_a_gpu(monkeypatch, deterministic, before, after):
    config = defaults.get_config()
    config.devices.deterministic = deterministic
    monkeypatch.setattr(devices.jax.config, "update", lambda *_: None)
    monkeypatch.setattr(devices.os, "environ", {"XLA_FLAGS": before})
    configure(config)
    assert devices.os.environ["XLA_FLAGS"] == after


@pytest.mark.parametrize(
    ("batch", "evaluated", "asked", "expected"),
    [(8, 0, 2, 2), (7, 0, 2, 1), (8, 6, 4, 3), (6, 0, 4, 3)],
)
def test_an_evaluation_takes_devices_that_divide_its_batches(
    monkeypatch, batch, evaluated, asked, expected
):
    config = defaults.get_config()
    config.data.batch_size, config.eval.batch_size = batch, evaluated
    config.devices.cpu_devices, config.devices.split = asked, "seeds"
    kept = {}
    monkeypatch.setattr(devices.jax.config, "update", kept.__setitem__)
    monkeypatch.setattr(devices.os, "environ", {})
    devices.configure(config, training=False)
    assert kept == {"jax_num_cpu_devices": expected}


def without_devices(monkeypatch, wanted, error=None, missing="there is no GPU"):
    """JAX on a machine without what is asked for."""

    def jax_devices():
        if error:
            raise error
        return [types.SimpleNamespace(platform="cpu")]

    asked = types.SimpleNamespace(jax_platforms=wanted)
    fake = types.SimpleNamespace(config=asked, devices=jax_devices)
    monkeypatch.setattr(devices, "jax", fake)
    monkeypatch.setattr(devices, "why_not", lambda: missing)
    monkeypatch.setattr(devices, "uses_gpu", lambda: not missing)
    devices._tell_once.cache_clear()


UNKNOWN = RuntimeError("Backend 'foo' is not\nknown. (set JAX_PLATFORMS='' to choose)")


@pytest.mark.parametrize(
    ("wanted", "error", "missing", "message"),
    [
        ("cuda", AssertionError(), "there is no GPU", "cpu alone: there is no GPU (GPUs of NVIDIA"),
        ("gpu", UNKNOWN, devices.WHEELS, f"cpu alone: {devices.WHEELS}"),
        ("foo", UNKNOWN, "there is no GPU", "cpu alone: Backend 'foo' is not known (GPUs of"),
        ("foo,cpu", UNKNOWN, "", "cpu and cuda: Backend 'foo' is not known (GPUs of NVIDIA"),
        ("cuda", RuntimeError("out of order"), "", "cpu and cuda: out of order"),
    ],
)
def test_a_platform_that_is_not_there(monkeypatch, wanted, error, missing, message):
    without_devices(monkeypatch, wanted, error, missing)
    with pytest.raises(UserError) as caught:
        devices.find_devices()
    line = f"JAX_PLATFORMS={wanted} cannot be used here, where there is {message}"
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    assert str(caught.value).count(devices.WHEELS) == 1


@pytest.mark.parametrize(
    ("wanted", "missing", "told"),
    [
        ("", "there is no GPU", None),
        ("cpu", "", None),
        ("cpu,cuda", "there is no GPU", None),
        ("cuda,cpu", "there is no GPU", "no GPU is used, the CPU takes its place: there is no GPU"),
        ("", "", "no GPU is used, the CPU takes its place: JAX could not start the GPU"),
    ],
)
def test_a_cpu_in_the_place_of_a_gpu_is_told(monkeypatch, caplog, wanted, missing, told):
    without_devices(monkeypatch, wanted, missing=missing)
    assert devices.find_devices() == devices.find_devices()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (told is not None)
    assert not told or messages[0].startswith(told)
