"""Cores at hand: what the process is bound to, and the quotas of its control groups."""

import os

import pytest

from lrd_jax.runtime.cores import available_cores

BOUND = 16


@pytest.fixture(autouse=True)
def bound(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(BOUND), raising=False)


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


V1 = "9:name=systemd:/\n3:cpuset:/pod/a\n2:cpuacct,cpu:/pod/a\n0::/"
FS = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        pytest.param(None, {}, BOUND, id="no control groups"),
        pytest.param("0::/", {}, BOUND, id="no quota file"),
        pytest.param("0::/", {"cpu.max": "max 100000"}, BOUND, id="no quota"),
        pytest.param("0::/", {"cpu.max": "200000 100000"}, 2, id="container"),
        pytest.param("0::/", {"cpu.max": "250000 100000"}, 2, id="half a core more"),
        pytest.param("0::/", {"cpu.max": "50000 100000"}, 1, id="half a core"),
        pytest.param("0::/", {"cpu.max": "9900000 100000"}, BOUND, id="more than there are"),
        pytest.param("0::/", {"unified/cpu.max": "300000 100000"}, 3, id="hybrid"),
        pytest.param("0::/a/b", {"a/b/cpu.max": "400000 100000"}, 4, id="own group"),
        pytest.param(
            "0::/a/b",
            {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"},
            3,
            id="around it",
        ),
        pytest.param(
            "0::/a/b", {"a/b/cpu.max": "500000 100000", "a/cpu.max": "700000 100000"}, 5, id="least"
        ),
        pytest.param("0::/host/c", {"cpu.max": "600000 100000"}, 6, id="path of the host"),
        pytest.param("0::/", {"cpu.max": "soon"}, BOUND, id="garbage"),
        pytest.param("0::/../../x", {"cpu.max": "600000 100000"}, 6, id="above the name space"),
        pytest.param(
            V1,
            {"cpu/pod/a/cpu.cfs_quota_us": "200000", "cpu/pod/a/cpu.cfs_period_us": "100000"},
            2,
            id="version 1",
        ),
        pytest.param(
            V1,
            {
                "cpuacct,cpu/pod/cpu.cfs_quota_us": "75000",
                "cpuacct,cpu/pod/cpu.cfs_period_us": "25000",
            },
            3,
            id="version 1, around it",
        ),
        pytest.param(
            V1,
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            BOUND,
            id="version 1, no quota",
        ),
        pytest.param(V1, {"cpu/cpu.cfs_quota_us": "100000"}, BOUND, id="version 1, half"),
        pytest.param(
            "4:cpuset:/\n",
            {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
            BOUND,
            id="another controller",
        ),
    ],
)
def test_the_quota_counts(tmp_path, cgroup, files, expected):
    write(tmp_path, {f"{FS}/{name}": text for name, text in files.items()})
    if cgroup is not None:
        write(tmp_path, {"proc/self/cgroup": cgroup})
    assert available_cores(tmp_path) == expected


def test_on_this_machine_there_is_at_least_one():
    assert 1 <= available_cores() <= BOUND
