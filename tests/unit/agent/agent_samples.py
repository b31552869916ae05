"""Manifests for the tests of the agent."""

from __future__ import annotations

from krunpy.core.octets import Digest32, PublicKey32
from krunpy.formats.disk import Disk
from krunpy.formats.manifest import (
    Manifest,
    Overrides,
    Process,
    Rlimit,
    ServerIdentity,
    TmpfsMount,
)

CAPABILITIES = ("CAP_CHOWN", "CAP_KILL", "CAP_CHECKPOINT_RESTORE")
DISK = Disk(
    data_blocks=100,
    hash_start_block=101,
    root_hash=Digest32(bytes(range(32))),
    salt=Digest32(bytes(range(100, 132))),
    cipher="aes-xts-plain64",
    key_size=64,
    payload_offset=4096,
    payload_size=8192,
)
FULL = Manifest(
    workload="web-1.x_y",
    disk=DISK,
    process=Process(
        args=("sh", "-c", "printf 'é\n\t\"\\'"),
        env=("PATH=/bin", "EMPTY="),
        cwd="/srv/a",
        uid=1000,
        gid=2**32 - 2,
        groups=(1, 2),
        umask=0o77,
        no_new_privileges=True,
        capabilities=CAPABILITIES,
        rlimits=(Rlimit(type="RLIMIT_NOFILE", soft=1, hard=2**64 - 1),),
    ),
    server=ServerIdentity(url="http://127.0.0.1:8080", key=PublicKey32(bytes(32))),
    tees=("software", "tdx"),
    hostname="box",
    masked_paths=("/proc/kcore",),
    readonly_paths=("/proc/sys", "/a..b"),
    readonly_root=True,
    mounts=(TmpfsMount(path="/tmp", options="mode=1777,size=64m"),),
    overrides=Overrides(args=True, env=("A", "B"), etc=True, hostname=True),
)
