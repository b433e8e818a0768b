"""The memory that a process may come to have: the machine's, and what control groups grant."""

import pytest

from lrd_jax.runtime.memory import available_memory

FREE = "MemTotal: 9000 kB\nMemAvailable:    4000 kB\nSwapFree:    96 kB\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        pytest.param("", {}, 4096 * 1024, id="machine"),
        pytest.param("0::/\n", {"memory.max": "max\n"}, 4096 * 1024, id="no limit"),
        pytest.param("0::/a/b\n", {"a/memory.max": "1000\n"}, 1000, id="around"),
        pytest.param("0::/a\n", {"unified/a/memory.max": "700"}, 700, id="hybrid"),
        pytest.param(
            "4:cpu:/x\n5:memory:/x\n", {"memory/x/memory.limit_in_bytes": "512"}, 512, id="first"
        ),
        pytest.param(
            "5:memory:/\n",
            {"memory/memory.limit_in_bytes": "9223372036854771712"},
            4096 * 1024,
            id="first, no limit",
        ),
        pytest.param("5:memory:/\n", {"memory/memory.limit_in_bytes": "x"}, 4096 * 1024, id="odd"),
    ],
)
def test_the_least_of_what_is_free_and_what_is_granted(tmp_path, cgroup, files, expected):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(FREE)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_memory(tmp_path) == expected


def test_elsewhere_it_is_not_known(tmp_path):
    assert available_memory(tmp_path) == 0
