"""From a bundle and a workload image to the manifest: what is measured, and what the host says at run time."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError
from krunpy.formats.frames import Tag, encode_items, encode_mounting
from krunpy.formats.manifest import (
    Manifest,
    Overrides,
    Process,
    Rlimit,
    ServerIdentity,
    TmpfsMount,
    encode_manifest,
)
from krunpy.oci.annotations import parse_annotations
from krunpy.runtime.accepted_lists import is_tmpfs_option
from krunpy.runtime.shm import find_shm_mount
from krunpy.runtime.vm_shares import read_shares

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from krunpy.formats.disk import Disk
    from krunpy.formats.frames import Mounting
    from krunpy.oci.bundle import Bundle
    from krunpy.oci.config import Mount

ETC_TAGS = {"/etc/hosts": Tag.HOSTS, "/etc/resolv.conf": Tag.RESOLV_CONF, "/etc/hostname": Tag.HOSTNAME_FILE}
# what the agent mounts on /dev/shm by itself; engines write it in these words
_OWN_SHM = frozenset(("nosuid", "noexec", "nodev", "rw", "mode=1777", "size=65536k"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What the host passes at run time, outside the measurement; the agent applies what the manifest allows."""

    hostname: str = ""
    etc: Mapping[str, bytes] = field(default_factory=dict)  # paths of ETC_TAGS
    volumes: tuple[Mounting, ...] = ()

    def encode(self, *, stdin_is_empty: bool) -> bytes:
        """Return the payload of RUN."""
        items = [(int(Tag.HOSTNAME), self.hostname.encode())] if self.hostname else []
        items += [(int(Tag.STDIN_IS_EMPTY), b"")] if stdin_is_empty else []
        items += [(int(ETC_TAGS[path]), contents) for path, contents in self.etc.items()]
        items += [(int(Tag.VOLUME), encode_mounting(volume)) for volume in self.volumes]
        return encode_items(items)


def make_manifest(
    bundle: Bundle, disk: Disk, *, server: ServerIdentity, tees: tuple[str, ...], workload: str
) -> bytes:
    """Return the manifest of a bundle's process on a disk.

    workload: its id; empty for one derived from the manifest itself. Raises FormatError if a value cannot be
    in a manifest.
    """
    wishes = parse_annotations(bundle.annotations)
    is_open = not wishes.no_host_settings
    manifest = Manifest(
        workload=workload or "unnamed",
        disk=disk,
        process=_make_process(bundle),
        server=server,
        tees=tees,
        masked_paths=bundle.linux.masked_paths,
        readonly_paths=bundle.linux.readonly_paths,
        readonly_root=bundle.root_readonly,
        mounts=_make_mounts(bundle.mounts),
        overrides=Overrides(etc=is_open, hostname=is_open, volumes=read_shares(wishes).guest_paths),
    )
    if workload:
        return encode_manifest(manifest)
    name = "w-" + hashlib.sha256(encode_manifest(manifest)).hexdigest()[:20]
    return encode_manifest(replace(manifest, workload=name))


def is_guest_tmpfs(mount: Mount) -> bool:
    """Return whether a mount of config.json becomes a tmpfs in the guest that the agent would not make itself."""
    path = "/" + mount.destination.strip("/")
    is_own = path == "/dev" or (path == "/dev/shm" and _OWN_SHM.issuperset(_kept_options(mount)))  # noqa: S108
    return mount.type == "tmpfs" and not is_own


def _kept_options(mount: Mount) -> list[str]:
    return [word for word in mount.options if is_tmpfs_option(word)]


def _make_mounts(mounts: Sequence[Mount]) -> tuple[TmpfsMount, ...]:
    shm = find_shm_mount(mounts)
    own = tuple(_make_mount(mount) for mount in mounts if is_guest_tmpfs(mount))
    return own if shm is None else (shm, *own)


def _make_mount(mount: Mount) -> TmpfsMount:
    return TmpfsMount(path=mount.destination, options=",".join(_kept_options(mount)))


def _make_process(bundle: Bundle) -> Process:
    process = bundle.process
    if process is None:
        raise BundleError(f"cannot run bundle {bundle.path}", why="config.json has no process")
    capabilities = process.capabilities.bounding if process.capabilities else ()
    # given by the engine anew for every container: a manifest with it would name one container, not a workload
    engine_env = {f"HOSTNAME={name}" for name in (bundle.hostname, os.uname().nodename)}
    return Process(
        args=process.args,
        env=tuple(item for item in process.env if item not in engine_env),
        cwd=process.cwd,
        uid=process.user.uid,
        gid=process.user.gid,
        groups=process.user.additional_gids,
        umask=0o022 if process.user.umask is None else process.user.umask,
        no_new_privileges=process.no_new_privileges,
        capabilities=tuple(sorted(capabilities)),
        rlimits=tuple(Rlimit(type=item.type, soft=item.soft, hard=item.hard) for item in process.rlimits),
    )
