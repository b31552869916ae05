import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import BundleError
from krunpy.runtime.accepted import RULES, port_settings, require_accepted, review_config
from krunpy.runtime.setting import GUEST, HOST, NOWHERE, REFUSED

ID = "a" * 64
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture
def podman():
    return json.loads(Path(__file__).with_name("podman-4.3.1-config.json").read_text())


def refused(config):
    return [setting.name for setting in review_config(config) if setting.where == REFUSED]


def where(config, name):
    return next(setting.where for setting in review_config(config) if setting.name == name)


def bind(destination, source):
    return {"mounts": [{"destination": destination, "type": "bind", "source": source, "options": ["rbind"]}]}


def test_what_podman_adds_by_itself_is_accepted(podman):
    require_accepted(review_config(podman), "c1")


def test_every_setting_of_podman_has_a_place_and_a_reason(podman):
    settings = review_config(podman)

    assert len(settings) > 30
    assert all(setting.where in (GUEST, HOST, NOWHERE) for setting in settings)
    assert all(setting.reason and "\n" not in setting.value for setting in settings)
    assert not [setting for setting in settings if setting.reason == "not a setting that krunpy knows"]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("process.args", GUEST),
        ("root.path", GUEST),
        ("mounts /proc", GUEST),
        ("mounts /dev/shm", GUEST),
        ("mounts /etc/resolv.conf", GUEST),
        ("mounts /sys/fs/cgroup", NOWHERE),
        ("linux.namespaces network", NOWHERE),
        ("linux.seccomp", NOWHERE),
        ("linux.cgroupsPath", HOST),
        ("linux.maskedPaths", GUEST),
        ("linux.sysctl net.ipv4.ping_group_range", NOWHERE),
        ("process.capabilities.bounding", GUEST),
    ],
)
def test_the_place_of_a_setting_is_said(podman, name, place):
    assert where(podman, name) == place


def test_values_of_environment_variables_are_not_shown(podman):
    podman["process"]["env"] = ["TOKEN=hunter2"]

    shown = next(setting.value for setting in review_config(podman) if setting.name == "process.env")

    assert shown == "TOKEN"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"process": {"terminal": True}}, "process.terminal"),
        (bind("/data", "/srv"), "mounts /data"),
        (bind("/etc/hosts", "/srv/me/hosts"), "mounts /etc/hosts"),
        (bind("/etc/resolv.conf", f"/x/{ID}/userdata/hosts"), "mounts /etc/resolv.conf"),
        (bind("/run/secrets/key", f"/x/{ID}/userdata/secrets/key"), "mounts /run/secrets/key"),
        (bind("/run/podman-init", "/usr/libexec/podman/catatonit"), "mounts /run/podman-init"),
        (bind("/proc", "/proc"), "mounts /proc"),
        (bind("/var/lib/x", f"/var/lib/containers/storage/volumes/{ID}/_data"), "mounts /var/lib/x"),
        ({"mounts": [{"destination": "/x", "type": "nfs", "source": "h:/"}]}, "mounts /x"),
        ({"mounts": [{"destination": "/x", "type": "proc"}]}, "mounts /x"),
        ({"mounts": [{"destination": "/x", "type": "tmpfs", "options": ["bind"]}]}, "mounts /x"),
        ({"mounts": [{"destination": "/x"}]}, "mounts /x"),
        ({"hooks": {"createContainer": [{"path": "/x"}]}}, "hooks.createContainer"),
        ({"hooks": {"startContainer": [{"path": "/x"}]}}, "hooks.startContainer"),
        ({"linux": {"devices": [{"path": "/dev/fuse"}]}}, "linux.devices"),
        ({"linux": {"sysctl": {"kernel.shmmax": "1"}}}, "linux.sysctl kernel.shmmax"),
        (
            {"linux": {"sysctl": {"net.ipv4.ping_group_range": "0 1"}}},
            "linux.sysctl net.ipv4.ping_group_range",
        ),
        ({"linux": {"namespaces": [{"type": "user"}]}}, "linux.namespaces user"),
        ({"linux": {"namespaces": [{"type": "ipc", "path": "/proc/7/ns/ipc"}]}}, "linux.namespaces ipc"),
        ({"linux": {"uidMappings": [{"containerID": 0}]}}, "linux.uidMappings"),
        ({"linux": {"resources": {"unified": {"memory.high": "1"}}}}, "linux.resources.unified"),
        ({"linux": {"resources": {"blockIO": {"weight": 10}}}}, "linux.resources.blockIO"),
        ({"linux": {"intelRdt": {"closID": "x"}}}, "linux.intelRdt"),
        ({"vm": {"kernel": {"path": "/k"}}}, "vm"),
        ({"annotations": {"io.kubernetes.cri-o.ContainerType": "sandbox"}}, "pod"),
    ],
)
def test_what_cannot_hold_is_refused_by_name_with_a_reason(config, name):
    settings = review_config(config)

    assert refused(config) == [name]
    with pytest.raises(BundleError, match="is refused: ") as caught:
        require_accepted(settings, "c1")
    assert name in caught.value.why


@pytest.mark.parametrize(
    "config",
    [
        {"process": {"terminal": False}},
        {"linux": {"devices": [], "sysctl": {}, "uidMappings": [], "intelRdt": {}}},
        {"linux": {"personality": {"domain": "LINUX"}}},
        {"hooks": {"createContainer": []}},
        {"mounts": [{"destination": "/scratch", "type": "tmpfs", "options": ["size=1m"]}]},
        bind("/etc/hosts", f"/run/containers/storage/overlay-containers/{ID}/userdata/hosts"),
        bind("/etc/hostname", f"/var/lib/docker/containers/{ID}/hostname"),
    ],
)
def test_what_asks_for_nothing_or_can_hold_is_accepted(config):
    assert refused(config) == []


def test_an_option_that_no_tmpfs_of_the_guest_has_is_refused_and_not_dropped():
    mount = {"destination": "/scratch", "type": "tmpfs", "options": ["rprivate", "tmpcopyup", "mpol=local"]}

    assert refused({"mounts": [mount]}) == ["mounts /scratch"]


def test_every_rule_that_refuses_does_refuse():
    for path, rule in RULES.items():
        config = ["something"]
        for key in reversed(path.split(".")):
            config = {key: config}

        assert (refused(config) == [path]) == (rule.where == REFUSED), path


def test_published_ports_are_refused_by_address():
    with pytest.raises(BundleError, match=r"published port 0\.0\.0\.0:80/tcp is refused"):
        require_accepted(port_settings(["0.0.0.0:80/tcp"]), "c1")


def test_a_long_list_of_refusals_is_cut():
    config = {"linux": {"devices": [{"path": f"/dev/{number}"} for number in range(500)]}}

    with pytest.raises(BundleError, match="and 492 more") as caught:
        require_accepted(review_config(config), "c1")
    assert len(caught.value.why) < 4096


def test_a_setting_nobody_knows_is_shown_as_not_held():
    assert where({"linux": {"newThing": 1}}, "linux.newThing") == NOWHERE


@given(st.dictionaries(st.sampled_from(["mounts", "linux", "process", "hooks", "annotations", "root"]), JSON))
def test_any_document_can_be_reviewed(config):
    for setting in review_config(config):
        assert len(setting.value) <= 200


@pytest.mark.parametrize(
    ("namespaces", "name"),
    [([{"type": "frob"}], "linux.namespaces frob"), ([{}], "linux.namespaces ")]
    + [
        ([{"type": kind}, {"type": kind}], f"linux.namespaces {kind}") for kind in ("pid", "network", "mount")
    ],
)
def test_a_namespace_that_is_unknown_or_named_twice_is_refused(namespaces, name):
    assert refused({"linux": {"namespaces": namespaces}}) == [name]


def test_every_namespace_of_linux_once_is_accepted():
    kinds = ("cgroup", "ipc", "mount", "network", "pid", "time", "uts")

    assert refused({"linux": {"namespaces": [{"type": kind} for kind in kinds]}}) == []


@pytest.mark.parametrize(
    ("mount", "lost"),
    [
        ({"destination": "/proc", "type": "proc", "options": ["nosuid", "hidepid=2"]}, "hidepid=2"),
        ({"destination": "/sys", "type": "sysfs", "options": ["rw", "rprivate", "noexec"]}, "rw"),
        ({"destination": "/dev", "type": "tmpfs", "options": ["nosuid", "size=1g"]}, "size=1g"),
        ({"destination": "/dev/pts", "type": "devpts", "options": ["gid=7"]}, "gid=7"),
    ],
)
def test_an_option_that_the_agent_does_not_mount_with_is_said_to_be_lost(mount, lost):
    settings = review_config({"mounts": [mount]})

    assert [(item.where, item.value) for item in settings if item.name.endswith(" options")] == [
        (NOWHERE, lost)
    ]


def test_podmans_own_options_are_the_agents_but_for_noexec_on_dev(podman):
    lost = {item.name: item.value for item in review_config(podman) if item.name.endswith(" options")}

    assert lost == {"mounts /dev options": "noexec"}


def test_a_manifest_that_forbids_the_hosts_settings_is_told_apart(podman):
    names = ("hostname", "mounts /etc/hosts", "mounts /etc/resolv.conf", "mounts /etc/hostname")
    assert {where(podman, name) for name in names} == {GUEST}

    podman["annotations"]["io.krunpy.no_host_settings"] = "true"

    assert {where(podman, name) for name in names} == {NOWHERE}
    assert where(podman, "mounts /proc") == GUEST


def test_each_annotation_of_krunpys_is_shown_with_its_meaning(podman):
    podman["annotations"] |= {"io.krunpy.integrity_only": "true", "io.krunpy.prepared": "x"}

    assert where(podman, "annotations io.krunpy.integrity_only") == GUEST
    assert where(podman, "annotations io.krunpy.prepared") == HOST
    assert where(podman, "annotations") == HOST
