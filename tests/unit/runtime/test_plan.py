import json
import os
from dataclasses import replace

import pytest

from krunpy.core.errors import BundleError, UsageError
from krunpy.core.octets import Digest32, PublicKey32
from krunpy.formats.disk import Disk
from krunpy.formats.frames import Tag, parse_items
from krunpy.formats.manifest import Overrides, ServerIdentity, parse_manifest
from krunpy.oci.annotations import INTEGRITY_ONLY, SOURCE, parse_annotations
from krunpy.oci.bundle import parse_bundle
from krunpy.oci.manifest import ImageConfig
from krunpy.runtime.intake import Request, take_in
from krunpy.runtime.plan import PATH_ENV, Plan, make_config, merge_env, write_bundle
from krunpy.runtime.request import HostSettings, make_manifest

DISK = Disk(
    data_blocks=1000,
    hash_start_block=1001,
    root_hash=Digest32(bytes(32)),
    salt=Digest32(bytes(32)),
    cipher="none",
    key_size=0,
    payload_offset=0,
    payload_size=4096 * 900,
)
SERVER = ServerIdentity(url="embedded:", key=PublicKey32(bytes(32)))


@pytest.fixture
def rootfs(tmp_path):
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n")
    (root / "etc/group").write_text("web:x:34:\nextra:x:77:web\n")
    return root


def make(plan, tmp_path, stored=None):
    config = make_config(plan, stored)
    bundle_dir = tmp_path / "bundle"
    bundle_dir.mkdir(exist_ok=True)
    write_bundle(str(bundle_dir), config)
    return parse_bundle(json.dumps(config).encode(), str(bundle_dir))


def test_a_directory_and_a_command_become_a_bundle(rootfs, tmp_path):
    plan = Plan(
        source=str(rootfs), args=("id",), env=("A=1", "A=2"), user="web", cwd="/etc", integrity_only=True
    )

    bundle = make(plan, tmp_path)

    assert bundle.process.args == ("id",)
    assert bundle.process.env == (PATH_ENV, "A=2")
    assert (bundle.process.user.uid, bundle.process.user.gid) == (33, 34)
    assert bundle.process.user.additional_gids == (77,)
    assert bundle.annotations[SOURCE] == str(rootfs)
    assert bundle.annotations[INTEGRITY_ONLY] == "true"


def test_nothing_to_run_says_how_to_say_it(rootfs):
    with pytest.raises(UsageError) as caught:
        make_config(Plan(source=str(rootfs)))
    assert "-- COMMAND" in caught.value.next


def test_an_image_of_the_cache_runs_as_its_configuration_says(tmp_path):
    stored = ImageConfig(entrypoint=("init",), cmd=("serve",), env=("A=1",), cwd="/srv", user="33:34")

    process = make(Plan(source="image:ab"), tmp_path, stored).process

    assert process.args == ("init", "serve")
    assert process.env == (PATH_ENV, "A=1")
    assert process.cwd == "/srv"
    assert (process.user.uid, process.user.gid) == (33, 34)


def test_what_the_user_says_comes_before_the_configuration_in_the_cache(tmp_path):
    stored = ImageConfig(cmd=("serve",), env=("A=1",), cwd="/srv", user="web")

    plan = Plan(source="image:ab", args=("id",), env=("A=2",), cwd="/", user="5")
    process = make(plan, tmp_path, stored).process

    assert (process.args, process.env, process.cwd) == (("id",), (PATH_ENV, "A=2"), "/")
    assert process.user.uid == 5


def test_a_users_name_in_the_configuration_of_the_cache_asks_for_its_number():
    with pytest.raises(UsageError, match='"web"') as caught:
        make_config(Plan(source="image:ab"), ImageConfig(cmd=("serve",), user="web"))
    assert "UID:GID" in caught.value.next


def test_an_unknown_user_is_refused(rootfs):
    with pytest.raises(BundleError, match="nobody"):
        make_config(Plan(source=str(rootfs), args=("id",), user="nobody"))


@pytest.mark.parametrize("item", ["A", "=1", ""])
def test_an_environment_without_name_and_value_is_refused(item):
    with pytest.raises(UsageError, match="NAME=VALUE"):
        merge_env((), (item,))


def test_a_bundle_keeps_its_process_and_takes_what_the_user_adds(rootfs, tmp_path):
    source = tmp_path / "given"
    source.mkdir()
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": "../root"},
        "process": {"args": ["sh"], "cwd": "/", "env": ["A=1"], "user": {"uid": 5, "gid": 6}},
    }
    (source / "config.json").write_text(json.dumps(config))

    bundle = make(Plan(source=str(source), args=("ls", "-l"), env=("B=2",)), tmp_path)

    assert bundle.root == os.path.realpath(rootfs)
    assert bundle.process.args == ("ls", "-l")
    assert bundle.process.env == ("A=1", "B=2")
    assert bundle.process.user.uid == 5
    assert SOURCE not in bundle.annotations


def test_the_manifest_holds_what_is_measured_and_not_what_the_engine_makes_up(rootfs, tmp_path):
    plan = Plan(
        source=str(rootfs),
        args=("id",),
        env=("HOSTNAME=abc", "A=1"),
        hostname="abc",
        tmpfs=("/run:size=1m,rprivate,nosuid",),
    )
    bundle = make(plan, tmp_path)

    manifest = parse_manifest(make_manifest(bundle, DISK, server=SERVER, tees=("software",), workload=""))

    assert "HOSTNAME=abc" not in manifest.process.env
    assert "A=1" in manifest.process.env
    assert manifest.mounts[0].options == "size=1m,nosuid"
    assert manifest.overrides.hostname
    assert not manifest.overrides.args
    assert manifest.workload.startswith("w-")


def test_a_hostname_variable_that_is_not_the_engines_is_kept(rootfs, tmp_path):
    bundle = make(Plan(source=str(rootfs), args=("id",), env=("HOSTNAME=mine",), hostname="abc"), tmp_path)

    manifest = parse_manifest(make_manifest(bundle, DISK, server=SERVER, tees=("software",), workload=""))

    assert "HOSTNAME=mine" in manifest.process.env


def test_every_tmpfs_that_is_said_to_be_in_the_guest_is_in_the_manifest(rootfs, tmp_path):
    own_shm = "/dev/shm:nosuid,noexec,nodev,mode=1777,size=65536k"
    tmpfs = ("/dev/shm:size=1g", "/dev/scratch:noatime,size=1m", "/dev/:size=1m")
    manifests = [
        parse_manifest(
            make_manifest(
                make(Plan(source=str(rootfs), args=("id",), tmpfs=words), tmp_path),
                DISK,
                server=SERVER,
                tees=("software",),
                workload="",
            )
        )
        for words in (tmpfs, (own_shm,))
    ]

    assert [(item.path, item.options) for item in manifests[0].mounts] == [
        ("/dev/shm", "size=1g"),
        ("/dev/scratch", "noatime,size=1m"),
    ]
    assert manifests[1].mounts == ()


def make_foreign(rootfs, tmp_path, annotations, settings=""):
    """Return the request of an engine to create a container with these annotations, under these settings."""
    (rootfs / "bin/id").touch(mode=0o755)
    config = make_config(Plan(source=str(rootfs), args=("id",)))
    config["annotations"] = annotations
    config["root"] = {"path": str(rootfs)}
    bundle = tmp_path / "foreign"
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps(config))
    (tmp_path / "krunpy.toml").write_text(settings)
    return Request(
        container_id="c1",
        bundle=str(bundle),
        root=str(tmp_path / "state"),
        launcher=int,
        environment={"KRUNPY_CONFIG": str(tmp_path / "krunpy.toml")},
    )


WEAKER = {"io.krunpy.integrity_only": "true"}
NAMED = {"io.krunpy.workload": "somebody-elses"}
FAR = 'server_url = "http://s"\n'


@pytest.mark.parametrize(
    ("annotations", "settings"),
    [
        (WEAKER, ""),
        (NAMED, ""),
        (WEAKER, 'engine_annotations = "workload"'),
        (NAMED, 'engine_annotations = "integrity_only"'),
        (NAMED, FAR + 'token_file = "/t"'),  # here it could be registered under that name
        (WEAKER, FAR),
    ],
)
def test_an_image_cannot_leave_its_disk_in_the_clear_or_take_a_name(rootfs, tmp_path, annotations, settings):
    request = make_foreign(rootfs, tmp_path, annotations, settings)

    with pytest.raises(BundleError, match="image could have set it") as caught:
        take_in(request)
    assert next(iter(annotations)) in caught.value.what
    with pytest.raises(BundleError, match="image could have set it"):
        make_config(Plan(source=request.bundle))


@pytest.mark.parametrize(
    ("annotations", "settings"),
    [
        (WEAKER | NAMED, 'engine_annotations = "workload, integrity_only"'),
        (NAMED, FAR),  # who cannot register can only ask for what the owner registered
        ({"io.krunpy.integrity_only": "false", "io.krunpy.cpus": "2", "io.krunpy.memory_mib": "256"}, ""),
        ({"io.krunpy.no_host_settings": "true"}, ""),
    ],
)
def test_what_the_settings_leave_to_engines_and_what_weakens_nothing_is_taken(
    rootfs, tmp_path, annotations, settings
):
    assert take_in(make_foreign(rootfs, tmp_path, annotations, settings)).raw


def test_a_misspelt_trust_is_refused(rootfs, tmp_path):
    with pytest.raises(UsageError, match="engine_annotations"):
        take_in(make_foreign(rootfs, tmp_path, NAMED, 'engine_annotations = "workloads"'))


def test_the_owner_can_forbid_the_hosts_settings(rootfs, tmp_path):
    def overrides(**more):
        bundle = make(Plan(source=str(rootfs), args=("id",), **more), tmp_path)
        data = make_manifest(bundle, DISK, server=SERVER, tees=("software",), workload="w")
        return parse_manifest(data).overrides

    assert (overrides().hostname, overrides().etc) == (True, True)
    assert overrides(no_host_settings=True) == Overrides()
    with pytest.raises(UsageError, match="--no-host-settings"):
        make_config(Plan(source=str(rootfs), args=("id",), hostname="h", no_host_settings=True))


@pytest.mark.parametrize("name", ["io.krunpy.source", "io.krunpy.tamper"])
def test_an_image_cannot_choose_what_only_krunpy_may_ask_for(rootfs, tmp_path, name):
    """podman copies the annotations of an image into config.json."""
    request = make_foreign(rootfs, tmp_path, {name: "disk"})

    with pytest.raises(BundleError, match=name):
        take_in(request)
    with pytest.raises(BundleError, match=name):
        make_config(Plan(source=request.bundle))
    assert take_in(replace(request, is_own_bundle=True)).raw


def test_the_derived_workload_id_changes_with_every_word_that_is_measured(rootfs, tmp_path):
    def name(**more):
        bundle = make(Plan(source=str(rootfs), args=("id",), **more), tmp_path)
        data = make_manifest(bundle, DISK, server=SERVER, tees=("software",), workload="")
        return parse_manifest(data).workload

    names = {
        name(),
        name(env=("A=1",)),
        name(cwd="/etc"),
        name(user="5"),
        name(read_only=True),
        name(tmpfs=("/t",)),
    }
    assert len(names) == 6
    assert name() == name(hostname="other")


def test_the_host_says_hostname_and_whether_stdin_is_empty():
    items = parse_items(HostSettings(hostname="h").encode(stdin_is_empty=True))

    assert items == [(Tag.HOSTNAME, b"h"), (Tag.STDIN_IS_EMPTY, b"")]
    assert HostSettings().encode(stdin_is_empty=False) == b""


@pytest.mark.parametrize(
    "annotations", [{"io.krunpy.tamper": "x"}, {"io.krunpy.integrity_only": "yes"}, {"io.krunpy.memory": "1"}]
)
def test_wrong_annotations_are_refused(annotations):
    with pytest.raises(BundleError):
        parse_annotations(annotations)
