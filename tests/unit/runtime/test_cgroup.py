import pytest

from krunpy.core.errors import BundleError, HostError
from krunpy.runtime.cgroup import (
    UNIFIED,
    Hierarchy,
    apply_limits,
    make_cgroups,
    map_path,
    parse_hierarchies,
    plan_removal,
    remove_cgroups,
)
from krunpy.runtime.limits import cgroup_limits

MOUNTS = """\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0
cgroup /sys/fs/cgroup/with\\040blank cgroup rw,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
short line
"""


def test_both_versions_are_found_in_the_mounts():
    found = parse_hierarchies(MOUNTS)

    assert [each.directory for each in found] == [
        "/sys/fs/cgroup/cpu",
        "/sys/fs/cgroup/with blank",
        "/sys/fs/cgroup/unified",
    ]
    assert "cpu" in found[0].controllers
    assert found[2].controllers == {UNIFIED}


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/libpod_parent/libpod-1", "/libpod_parent/libpod-1"),
        ("relative/c", "/relative/c"),
        ("", "/krunpy/c1"),
        ("machine.slice:libpod:1", "/machine.slice/libpod-1.scope"),
        ("a-b.slice:p:1", "/a.slice/a-b.slice/p-1.scope"),
        (":p:1", "/system.slice/p-1.scope"),
        ("-.slice:p:1", "/p-1.scope"),
    ],
)
def test_a_cgroup_path_is_mapped_to_a_directory(given, path):
    assert map_path(given, "c1") == path


@pytest.mark.parametrize("given", ["/../x", "/a/../../b", "..", "/", "//"])
def test_a_cgroup_path_that_leads_out_is_refused(given):
    with pytest.raises(BundleError, match="out of the hierarchy"):
        map_path(given, "c1")


def test_what_was_made_is_removed_and_a_shared_parent_stays(tmp_path):
    hierarchy = Hierarchy(str(tmp_path), ["pids"])
    first = make_cgroups([hierarchy], "/krunpy/c1")
    second = make_cgroups([hierarchy], "/krunpy/c2")

    remove_cgroups(first)

    assert first == [f"{tmp_path}/krunpy", f"{tmp_path}/krunpy/c1"]
    assert second == [f"{tmp_path}/krunpy/c2"]
    assert [each.name for each in (tmp_path / "krunpy").iterdir()] == ["c2"]


def test_removing_twice_is_harmless(tmp_path):
    made = make_cgroups([Hierarchy(str(tmp_path), ["pids"])], "/krunpy/c1")

    remove_cgroups(made)
    remove_cgroups(made)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        ({}, {}),
        ({"pids": {"limit": 2048}}, {"pids.limit": {"pids.max": "2048"}}),
        ({"pids": {"limit": -1}}, {}),
        ({"cpu": {"shares": 2}}, {"cpu.shares": {"cpu.shares": "2", "cpu.weight": "1"}}),
        ({"cpu": {"shares": 262144}}, {"cpu.shares": {"cpu.shares": "262144", "cpu.weight": "10000"}}),
        (
            {"cpu": {"quota": 50000}},
            {"cpu.quota": {"cpu.cfs_quota_us": "50000", "cpu.max": "50000 100000"}},
        ),
        (
            {"cpu": {"quota": -1, "period": 1000}},
            {"cpu.period": {"cpu.cfs_period_us": "1000", "cpu.max": "max 1000"}},
        ),
        ({"cpu": {"cpus": "0-1", "mems": ""}}, {"cpu.cpus": {"cpuset.cpus": "0-1"}}),
        ({"memory": {"limit": 1 << 30}}, {}),
    ],
)
def test_limits_are_given_for_both_versions(resources, limits):
    assert cgroup_limits(resources) == {f"linux.resources.{name}": files for name, files in limits.items()}


def test_a_limit_is_written_where_its_file_is(tmp_path):
    for version, name in (("v1", "cpu.shares"), ("v2", "pids.max")):
        (tmp_path / version / "c").mkdir(parents=True)
        (tmp_path / version / "c" / name).touch()
    hierarchies = [Hierarchy(str(tmp_path / "v1"), ["cpu"]), Hierarchy(str(tmp_path / "v2"), [UNIFIED])]

    apply_limits(hierarchies, "/c", cgroup_limits({"cpu": {"shares": 2}, "pids": {"limit": 9}}))

    assert (tmp_path / "v1/c/cpu.shares").read_text() == "2"
    assert (tmp_path / "v2/c/pids.max").read_text() == "9"


def test_a_limit_that_would_hold_nowhere_is_refused_by_name(tmp_path):
    (tmp_path / "c").mkdir()
    hierarchies = [Hierarchy(str(tmp_path), ["memory"])]

    with pytest.raises(HostError, match=r"linux\.resources\.pids\.limit"):
        apply_limits(hierarchies, "/c", cgroup_limits({"pids": {"limit": 9}}))
    apply_limits(hierarchies, "/c", cgroup_limits({"pids": {"limit": -1}}))


def test_whoever_goes_last_removes_a_shared_parent(tmp_path):
    hierarchies = [Hierarchy(str(tmp_path), ["pids"])]
    first = plan_removal(hierarchies, "/shared/c1", [])
    make_cgroups(hierarchies, "/shared/c1")
    second = plan_removal(hierarchies, "/shared/c2", first)
    make_cgroups(hierarchies, "/shared/c2")

    remove_cgroups(first)
    assert [each.name for each in (tmp_path / "shared").iterdir()] == ["c2"]
    remove_cgroups(second)

    assert not list(tmp_path.iterdir())


def test_a_parent_that_an_engine_made_is_never_ours(tmp_path):
    (tmp_path / "engine").mkdir()
    hierarchies = [Hierarchy(str(tmp_path), ["pids"])]

    plan = plan_removal(hierarchies, "/engine/c1", [])
    make_cgroups(hierarchies, "/engine/c1")
    remove_cgroups(plan)

    assert plan == [f"{tmp_path}/engine/c1"]
    assert (tmp_path / "engine").exists()
