import pytest

from sapling.workflows.memory import free_memory

GB, KB = 2**30, 2**10
HOST = {"proc/meminfo": f"MemTotal:  {90 * GB // KB} kB\nMemAvailable:   {64 * GB // KB} kB\n"}
V2 = {"proc/self/cgroup": "0::/pod/box\n"}
V1 = {"proc/self/cgroup": "12:cpu,cpuacct:/pod/box\n7:memory:/pod/box\n0::/\n"}


@pytest.fixture
def machine(tmp_path):
    """Writes the files of a machine, and says how much memory is free there."""

    def made(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return free_memory("cpu", tmp_path)

    return made


def group(place, most, used, inactive=0):
    """The files of one group, of version 1 below ``memory``."""
    old = place.startswith("memory")
    limit, taken = ("limit_in_bytes", "usage_in_bytes") if old else ("max", "current")
    stat = f"cache 99\n{'total_' if old else ''}inactive_file {inactive}\n"
    files = {f"memory.{limit}": f"{most}\n", f"memory.{taken}": f"{used}\n", "memory.stat": stat}
    return {f"sys/fs/cgroup/{place}/{name}": text for name, text in files.items()}


def test_a_machine_without_limits_has_what_it_says(machine):
    assert machine({}) is None
    assert machine({"proc/meminfo": "MemTotal:  100 kB\n"}) is None
    assert machine({"proc/meminfo": "MemTotal:  100 kB\nMemFree:  5 kB\nMemAvailable:   17 kB\n"}) == 17 * KB
    assert machine({**V2, **group("pod/box", "max", 5 * GB)}) == 17 * KB


@pytest.mark.parametrize(("groups", "version"), [("pod/box", V2), ("memory/pod/box", V1)])
def test_a_container_of_2_gb_on_a_machine_of_64(machine, groups, version):
    assert machine({**HOST, **version, **group(groups, 2 * GB, GB // 2)}) == 3 * GB // 2
    # what lies in memory only as a copy of files can be had
    assert machine(group(groups, 2 * GB, GB, inactive=GB // 4)) == 5 * GB // 4
    assert machine(group(groups, 2 * GB, 3 * GB)) == 0


@pytest.mark.parametrize(("around", "version"), [("pod", V2), ("", V2), ("memory/pod", V1), ("memory", V1)])
def test_the_groups_around_it_count_too(machine, around, version):
    # "" and "memory": the name is the host's and leads nowhere inside the container, whose own group is on top
    assert machine({**HOST, **version, **group(around, 3 * GB, GB)}) == 2 * GB


def test_what_says_no_limit_is_none(machine):
    assert machine({**HOST, **V1, **group("memory/pod/box", 9223372036854771712, GB)}) == 64 * GB
    assert machine({"sys/fs/cgroup/memory/pod/box/memory.usage_in_bytes": "?"}) == 64 * GB
    assert machine({"proc/self/cgroup": "nonsense\n:\n0:\n"}) == 64 * GB
