from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from krunpy.core.errors import BundleError
from krunpy.oci.bundle import load_bundle, parse_bundle

if TYPE_CHECKING:
    from pathlib import Path

CONFIG: dict[str, Any] = {
    "ociVersion": "1.0.2-dev",
    "process": {
        "terminal": True,
        "consoleSize": {"height": 33, "width": 99},
        "user": {"uid": 5, "gid": 6, "umask": 18, "additionalGids": [7, 8]},
        "args": ["/bin/sh", "-c", "true"],
        "env": ["A=b", "EMPTY="],
        "cwd": "/work",
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_KILL"], "ambient": []},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 18446744073709551615, "soft": 1024}],
        "noNewPrivileges": True,
        "oomScoreAdj": -5,
        "apparmorProfile": "p",
        "selinuxLabel": "l",
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box",
    "domainname": "example",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {"destination": "data", "source": "/host"},
    ],
    "hooks": {
        "prestart": [{"path": "/bin/a", "args": ["a", "b"], "env": ["X=y"], "timeout": 5}],
        "createRuntime": [{"path": "/bin/b"}],
        "poststop": [{"path": "/bin/c"}],
    },
    "annotations": {"io.krunpy.cpus": "2"},
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}],
        "resources": {
            "memory": {"limit": 1 << 30, "swap": -1},
            "cpu": {"quota": 5000, "period": 10000, "shares": 2, "cpus": "0-1"},
            "pids": {"limit": 2048},
            "devices": [{"allow": False, "access": "rwm"}],
        },
        "cgroupsPath": "/libpod_parent/libpod-x",
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "devices": [
            {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}
        ],
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
    },
    "unknown": {"to": ["everyone"]},
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "rootfs").mkdir()
    return tmp_path


def changed(path: str, value: object) -> bytes:
    """CONFIG with one key set, or taken away if the value is Ellipsis."""
    config = copy.deepcopy(CONFIG)
    at: Any = config
    *parents, last = path.split(".")
    for name in parents:
        at = at[int(name)] if isinstance(at, list) else at.setdefault(name, {})
    if value is ...:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return json.dumps(config).encode()


def test_every_part_of_a_bundle_is_told(place: Path) -> None:
    (place / "config.json").write_text(json.dumps(CONFIG))

    bundle = load_bundle(str(place))

    assert (bundle.path, bundle.root, bundle.root_readonly) == (str(place), str(place / "rootfs"), True)
    assert (bundle.oci_version, bundle.hostname, bundle.domainname) == ("1.0.2-dev", "box", "example")
    assert bundle.annotations == {"io.krunpy.cpus": "2"}
    process = bundle.process
    assert process is not None
    assert (process.args, process.env, process.cwd) == (("/bin/sh", "-c", "true"), ("A=b", "EMPTY="), "/work")
    assert (process.user.uid, process.user.gid, process.user.additional_gids, process.user.umask) == (
        5,
        6,
        (7, 8),
        18,
    )
    assert (process.terminal, process.console_size, process.no_new_privileges) == (True, (33, 99), True)
    assert process.capabilities is not None
    assert (process.capabilities.bounding, process.capabilities.effective) == (("CAP_CHOWN",), ("CAP_KILL",))
    assert [(each.type, each.soft, each.hard) for each in process.rlimits] == [
        ("RLIMIT_NOFILE", 1024, (1 << 64) - 1)
    ]
    assert (process.oom_score_adj, process.apparmor_profile, process.selinux_label) == (-5, "p", "l")


def test_the_linux_section_is_told(place: Path) -> None:
    linux = parse_bundle(json.dumps(CONFIG).encode(), str(place)).linux

    network = linux.find_namespace("network")
    assert network is not None
    assert network.path == "/run/netns/x"
    assert linux.find_namespace("ipc") is None
    assert (linux.resources.memory_limit, linux.resources.memory_swap, linux.resources.pids_limit) == (
        1 << 30,
        -1,
        2048,
    )
    assert (linux.resources.cpu_quota, linux.resources.cpu_period, linux.resources.cpus) == (
        5000,
        10000,
        "0-1",
    )
    assert (linux.cgroups_path, linux.masked_paths) == ("/libpod_parent/libpod-x", ("/proc/kcore",))
    assert (linux.readonly_paths, linux.sysctl) == (("/proc/sys",), {"net.ipv4.ip_forward": "1"})
    assert (linux.has_seccomp, linux.has_id_mappings) == (True, True)
    assert [(each.path, each.major, each.minor, each.mode) for each in linux.devices] == [
        ("/dev/fuse", 10, 229, 0o666)
    ]


def test_mounts_and_hooks_keep_their_order(place: Path) -> None:
    bundle = parse_bundle(json.dumps(CONFIG).encode(), str(place))

    assert [(each.destination, each.type, each.source, each.options) for each in bundle.mounts] == [
        ("/proc", "proc", "proc", ("nosuid",)),
        ("/data", "", "/host", ()),
    ]
    (first,) = bundle.hooks.prestart
    assert (first.path, first.args, first.env, first.timeout_s) == ("/bin/a", ("a", "b"), ("X=y",), 5)
    assert bundle.hooks.create_runtime[0].timeout_s is None
    assert [each.path for each in bundle.hooks.poststop] == ["/bin/c"]
    assert bundle.hooks.create_container == ()


def test_the_least_bundle_needs_a_version_and_a_root_only(place: Path) -> None:
    bundle = parse_bundle(b'{"ociVersion": "1.3.0", "root": {"path": "rootfs"}}', str(place))

    assert bundle.process is None
    assert bundle.linux.namespaces == ()
    assert (bundle.linux.resources.memory_limit, bundle.linux.has_seccomp) == (None, False)


def test_root_may_be_absolute_or_a_symlink(place: Path) -> None:
    (place / "link").symlink_to("rootfs")

    assert parse_bundle(changed("root.path", str(place / "rootfs")), "/nowhere").root == str(place / "rootfs")
    assert parse_bundle(changed("root.path", "link"), str(place)).root == str(place / "rootfs")


def test_null_is_the_same_as_nothing(place: Path) -> None:
    bundle = parse_bundle(changed("linux", None), str(place))

    assert bundle.linux.masked_paths == ()
    assert parse_bundle(changed("process.capabilities", None), str(place)).process.capabilities is None  # type: ignore


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0", "1.99.0-rc.1"])
def test_every_minor_version_is_accepted(place: Path, version: str) -> None:
    assert parse_bundle(changed("ociVersion", version), str(place)).oci_version == version


BAD: list[tuple[str, object, str]] = [
    ("ociVersion", ..., "ociVersion: seen nothing, wanted a string"),
    ("ociVersion", "2.0.0", "ociVersion: seen '2.0.0', wanted version 1.x"),
    ("ociVersion", "1", "wanted version 1.x"),
    ("ociVersion", "1.", "wanted version 1.x"),
    ("ociVersion", "10.0", "wanted version 1.x"),
    ("ociVersion", 1.0, "ociVersion: seen 1.0, wanted a string"),
    ("root", ..., "root: seen nothing"),
    ("root", "rootfs", "root: seen 'rootfs', wanted an object"),
    ("root.path", ..., "root.path: seen nothing, wanted a string"),
    ("root.path", "", "root.path: seen '', wanted a path"),
    ("root.path", "missing", "root.path: .*missing is not a directory"),
    ("root.path", "config.json", "is not a directory"),
    ("root.path", "a\0b", "a string without a zero byte"),
    ("root.readonly", "yes", "root.readonly: seen 'yes', wanted true or false"),
    ("process", [], "process: seen a list, wanted an object"),
    ("process.cwd", ..., "process.cwd: seen nothing"),
    ("process.cwd", "relative", "process.cwd: seen 'relative', wanted an absolute path"),
    ("process.args", "ls", "process.args: seen 'ls', wanted a list"),
    ("process.args", ["ls", 5], r"process.args\[1\]: seen 5, wanted a string"),
    ("process.args", ["a\0"], "a string without a zero byte"),
    ("process.env", {"A": "b"}, "process.env: seen an object, wanted a list"),
    ("process.env", [None], r"process.env\[0\]: seen nothing"),
    ("process.user", 5, "process.user: seen 5, wanted an object"),
    ("process.user.uid", -1, "process.user.uid: seen -1, wanted an integer of 0 to 4294967295"),
    ("process.user.gid", 1 << 32, "process.user.gid: seen 4294967296"),
    ("process.user.uid", 1.5, "process.user.uid: seen 1.5, wanted an integer"),
    ("process.user.uid", True, "process.user.uid: seen true, wanted an integer"),
    ("process.user.additionalGids", [[]], r"process.user.additionalGids\[0\]: seen a list"),
    ("process.user.umask", 0o10000, "process.user.umask: seen 4096"),
    ("process.terminal", 1, "process.terminal: seen 1, wanted true or false"),
    ("process.consoleSize", {"height": "x"}, "process.consoleSize.height: seen 'x'"),
    ("process.capabilities", [], "process.capabilities: seen a list"),
    ("process.capabilities.bounding", "ALL", "process.capabilities.bounding: seen 'ALL'"),
    ("process.rlimits.0.soft", -1, r"process.rlimits\[0\].soft: seen -1"),
    ("process.rlimits.0.hard", 1 << 64, r"process.rlimits\[0\].hard: seen 18446744073709551616"),
    ("process.rlimits.0.type", ..., r"process.rlimits\[0\].type: seen nothing"),
    ("process.oomScoreAdj", 1001, "process.oomScoreAdj: seen 1001, wanted an integer of -1000 to 1000"),
    ("hostname", 5, "hostname: seen 5"),
    ("mounts", {}, "mounts: seen an object, wanted a list"),
    ("mounts.0.destination", ..., r"mounts\[0\].destination: seen nothing"),
    ("mounts.1", None, r"mounts\[1\].destination: seen nothing"),
    ("mounts.0.options", "ro", r"mounts\[0\].options: seen 'ro', wanted a list"),
    ("hooks", [], "hooks: seen a list, wanted an object"),
    ("hooks.prestart.0.path", "relative", r"hooks.prestart\[0\].path: seen 'relative'"),
    ("hooks.prestart.0.timeout", 0, r"hooks.prestart\[0\].timeout: seen 0"),
    ("hooks.poststop", {"path": "/x"}, "hooks.poststop: seen an object"),
    ("annotations", {"a": 1}, "annotations.a: seen 1, wanted a string"),
    ("annotations", [], "annotations: seen a list"),
    ("linux", 5, "linux: seen 5, wanted an object"),
    ("linux.namespaces.0.type", ..., r"linux.namespaces\[0\].type: seen nothing"),
    (
        "linux.namespaces.1.path",
        "netns",
        r"linux.namespaces\[1\].path: seen 'netns', wanted an absolute path",
    ),
    ("linux.resources.memory.limit", "1g", "linux.resources.memory.limit: seen '1g', wanted an integer"),
    ("linux.resources.memory.limit", -2, "linux.resources.memory.limit: seen -2"),
    ("linux.resources", [], "linux.resources: seen a list"),
    ("linux.sysctl", {"a": 1}, "linux.sysctl.a: seen 1"),
    ("linux.maskedPaths", [5], r"linux.maskedPaths\[0\]: seen 5"),
    ("linux.devices.0.path", ..., r"linux.devices\[0\].path: seen nothing"),
]


@pytest.mark.parametrize(
    ("key", "value", "fragment"), BAD, ids=[f"{each[0]}={each[1]!r:.20}" for each in BAD]
)
def test_a_bad_value_is_refused_by_its_key(place: Path, key: str, value: object, fragment: str) -> None:
    (place / "config.json").write_bytes(b"")

    with pytest.raises(BundleError, match=fragment):
        parse_bundle(changed(key, value), str(place))


@pytest.mark.parametrize(
    ("raw", "fragment"),
    [
        (b"", "it is not JSON"),
        (b"\xff\xfe", "it is not UTF-8 at byte 0"),
        (b"[]", "the document: seen a list, wanted an object"),
        (b"[" * 100_000, "nests too deeply"),
        (b'{"a":' * 50_000, "nests too deeply"),
        (b'{"ociVersion": Infinity}', "seen Infinity, wanted a value that JSON has"),
        (b"9" * 10_000, "exceeds the limit"),
        (b'{"a": "' + b"x" * (4 << 20) + b'"}', "at most 4194304 are allowed"),
    ],
)
def test_what_is_no_document_is_refused(place: Path, raw: bytes, fragment: str) -> None:
    with pytest.raises(BundleError, match=fragment):
        parse_bundle(raw, str(place))


def test_a_config_of_a_gigabyte_is_refused_unread(place: Path) -> None:
    (place / "config.json").touch()
    os.truncate(place / "config.json", 1 << 30)

    with pytest.raises(BundleError, match="1073741824 bytes, at most 4194304"):
        load_bundle(str(place))


def test_a_config_that_is_missing_or_no_file_is_refused_at_once(place: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        load_bundle(str(place))
    os.mkfifo(place / "config.json")
    with pytest.raises(BundleError, match="is not a regular file"):
        load_bundle(str(place))
    with pytest.raises(BundleError, match=r"cannot read config\.json"):
        load_bundle("a\0b")


def test_a_long_value_is_cut_in_the_message(place: Path) -> None:
    with pytest.raises(BundleError) as caught:
        parse_bundle(changed("process.cwd", "x" * 100_000), str(place))

    assert len(str(caught.value)) < 200


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted({each[0] for each in BAD})


@given(st.sampled_from(KEYS), values)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_is_a_bundle_or_a_bundle_error(place: Path, key: str, value: object) -> None:
    try:
        reason = parse_bundle(changed(key, value), str(place)).path
    except BundleError as error:
        reason = error.why

    assert reason


def test_nothing_heavy_is_imported(place: Path) -> None:
    (place / "config.json").write_text(json.dumps(CONFIG))
    heavy = "opencontainers cryptography numpy msgspec typer subprocess asyncio logging pathlib hashlib"
    code = (
        "import sys; from krunpy.oci.bundle import load_bundle; load_bundle(sys.argv[1]);"
        f"print([name for name in {heavy.split()!r} if name in sys.modules])"
    )

    run = subprocess.run(
        [sys.executable, "-S", "-c", code, str(place)], capture_output=True, check=True, text=True
    )

    assert run.stdout == "[]\n"
