"""Whether this process is one of several that train together, and how they find each other.

Either the command line says so, or the environment that a launcher made. Needs no JAX, so that a
wrong flag is answered at once.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import logging
import re
import socket
from collections.abc import Mapping
from typing import NamedTuple

from lrd_jax.errors import UserError

logger = logging.getLogger(__name__)


class Launch(NamedTuple):
    """What `jax.distributed.initialize` is to be told.

    Attributes:
      launcher: who knows all the rest, which JAX then asks for; "" = the rest is given here.
      coordinator_address: host and port where process 0 listens.
      process_id: number of this process, from 0.
      num_processes: number of all.
    """

    launcher: str = ""
    coordinator_address: str = ""
    process_id: int = 0
    num_processes: int = 0


def find_launch(
    coordinator_address: str | None,
    process_id: int | None,
    num_processes: int | None,
    environment: Mapping[str, str],
) -> Launch | None:
    """Returns how this process finds the others, None if it is alone.

    Args:
      coordinator_address: the flags of these names, None where they are not given.
      process_id: see there.
      num_processes: see there.
      environment: of this process.

    Raises:
      UserError: some of the flags are missing, or wrong.
    """
    given = {
        "--coordinator_address": coordinator_address,
        "--process_id": process_id,
        "--num_processes": num_processes,
    }
    missing = [name for name, value in given.items() if value is None]
    if coordinator_address is None or process_id is None or num_processes is None:
        if len(missing) == len(given):
            return _from_environment(environment)
        raise UserError(
            f"{' and '.join(missing)} missing: several processes need {', '.join(given)}, one"
            " process none of them"
        )
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes} must be at least 1")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id} must be from 0 to {num_processes - 1}")
    host, _, port = coordinator_address.rpartition(":")
    if not re.fullmatch(r"[\w.-]+|\[[\da-fA-F:]+\]", host) or not port.isdecimal():
        raise UserError(
            f"--coordinator_address={coordinator_address} must be HOST:PORT of process 0, for"
            " instance 10.0.0.1:1234"
        )
    if not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator_address={coordinator_address}: there is no port {port}")
    return Launch("", coordinator_address, process_id, num_processes)


def bind_address(launch: Launch) -> str | None:
    """Returns where process 0 is to listen: on the coordinator's address alone.

    Whoever reaches that port can end the run. None = on every interface, with a warning, where the
    address is none of this machine's (a service's name, a port that is passed on), or a name that
    here means the loopback and elsewhere does not.
    """
    if launch.launcher or launch.process_id:
        return None
    host, _, port = launch.coordinator_address.rpartition(":")
    host = host.strip("[]")
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
        addresses = {address[0] for *_, address in found}
        own = host in addresses or host == "localhost"
        if own or not any(ipaddress.ip_address(a).is_loopback for a in addresses):
            return launch.coordinator_address
        reason = "which here means this machine alone"
    except (OSError, ValueError) as error:
        reason = f"which is no address of this machine ({error})"
    logger.warning(
        "process 0 listens for the others on every interface, port %s, not only on %s, %s",
        port,
        host,
        reason,
    )
    return None


def _from_environment(environment: Mapping[str, str]) -> Launch | None:
    """A launcher that JAX knows, if it really started more than one process.

    JAX's own detection also finds the allocation around a shell, where one process would wait in
    vain for the others: a Slurm step has SLURM_STEP_NUM_TASKS (1 for an interactive shell), while
    SLURM_NTASKS belongs to the allocation.
    """
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if set(slurm) <= environment.keys() and _number(environment, "SLURM_STEP_NUM_TASKS") > 1:
        return Launch("Slurm")
    if _number(environment, "OMPI_COMM_WORLD_SIZE") > 1:
        return Launch("Open MPI")
    indexed_job = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys()
    if indexed_job and importlib.util.find_spec("kubernetes"):
        return Launch("Kubernetes")
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else 0
