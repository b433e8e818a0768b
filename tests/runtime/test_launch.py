"""One process, or one of several: what flags and environment say."""

import socket

import pytest

from lrd_jax.errors import UserError
from lrd_jax.runtime.launch import Launch, bind_address, find_launch

ALONE = (None, None, None)
SLURM_STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("10.0.0.1:1234", None, None), "--process_id and --num_processes missing"),
        (("10.0.0.1:1234", 0, None), "--num_processes missing"),
        (("10.0.0.1:1234", None, 2), "--process_id missing"),
        ((None, 0, 2), "--coordinator_address missing"),
        ((None, None, 2), "--coordinator_address and --process_id missing"),
        (("10.0.0.1:1234", 2, 2), "--process_id=2 must be from 0 to 1"),
        (("10.0.0.1:1234", -1, 2), "--process_id=-1 must be from 0 to 1"),
        (("10.0.0.1:1234", 0, 0), "--num_processes=0 must be at least 1"),
        (("10.0.0.1", 0, 2), "must be HOST:PORT of process 0"),
        (("10.0.0.1:", 0, 2), "must be HOST:PORT of process 0"),
        ((":1234", 0, 2), "must be HOST:PORT of process 0"),
        (("", 0, 2), "must be HOST:PORT of process 0"),
        (("tcp://10.0.0.1:1234", 0, 2), "must be HOST:PORT of process 0"),
        (("10.0.0.1:70000", 0, 2), "there is no port 70000"),
        (("10.0.0.1:0", 0, 2), "there is no port 0"),
    ],
)
def test_wrong_flags_are_refused(flags, message):
    with pytest.raises(UserError) as caught:
        find_launch(*flags, environment=SLURM_STEP)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["10.0.0.1:1234", "node-1.cluster:65535", "[::1]:80"])
def test_flags_win_over_the_environment(address):
    assert find_launch(address, 1, 2, SLURM_STEP) == Launch("", address, 1, 2)


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({}, None),
        (SLURM_STEP, "Slurm"),
        # A shell or a batch script in an allocation of four tasks: nobody else is coming.
        ({**SLURM_STEP, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({k: v for k, v in SLURM_STEP.items() if "STEP" not in k}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "Open MPI"),
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_a_launcher_counts_where_it_started_several(environment, launcher):
    found = find_launch(*ALONE, environment)
    assert found == (launcher and Launch(launcher))


@pytest.mark.parametrize("installed", [True, False])
def test_an_indexed_job_needs_the_client_of_kubernetes(monkeypatch, installed):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed or None)
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
    assert find_launch(*ALONE, environment) == (Launch("Kubernetes") if installed else None)


@pytest.mark.parametrize("address", ["127.0.0.1:4321", "localhost:4321"])
def test_process_0_listens_on_the_given_address_alone(address, caplog):
    assert bind_address(Launch("", address, 0, 2)) == address
    assert bind_address(Launch("", address, 1, 2)) is None
    assert bind_address(Launch("Slurm")) is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("address", "found", "reason"),
    [
        ("192.0.2.1:4321", None, "no address of this machine"),  # reserved for documentation
        ("no-such-host.invalid:4321", None, "no address of this machine"),
        ("node-1:4321", "127.0.1.1", "this machine alone"),  # as Debian writes into /etc/hosts
    ],
)
def test_an_address_that_cannot_be_bound_is_told_of(address, found, reason, caplog, monkeypatch):
    if found:
        entry = (socket.AF_INET, socket.SOCK_STREAM, 0, "", (found, 0))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [entry])
    assert bind_address(Launch("", address, 0, 2)) is None
    (record,) = caplog.records
    assert "on every interface, port 4321" in record.getMessage()
    assert reason in record.getMessage()
