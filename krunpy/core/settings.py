"""Where things are and what the operator configured: one value, read once, passed down.

Order, later wins: defaults, /etc/krunpy/krunpy.toml (or the file of --config or KRUNPY_CONFIG), then
KRUNPY_* variables. OCI verbs other than create read nothing of this but the state root.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError, UsageError
from krunpy.core.files import load_bounded

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEM_CONFIG = "/etc/krunpy/krunpy.toml"
_LIMIT = 1024 * 1024  # bytes
_MOST_DIGITS = 9
_PATHS = ("data_dir", "cache_dir", "guest_dir", "token_file", "ca_file", "libkrun", "libkrunfw")
_RANGES = {"cpus": (1, 64), "memory_mib": (128, 1024 * 1024), "boot_timeout_s": (1, 24 * 3600)}
CHOICES = {
    "accel": ("auto", "tcg", "kvm"),
    "tee": ("auto", "software", "snp", "tdx"),
    "vmm": ("auto", "qemu", "libkrun"),
    "manifest_in": ("initrd", "host-data"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The operator's settings. An empty string means: not set."""

    data_dir: str
    cache_dir: str
    guest_dir: str  # what `krunpy guest build` made
    server_url: str = ""  # empty: an embedded server on loopback
    server_key: str = ""  # 64 hex digits, Ed25519; required with server_url
    token_file: str = ""  # bearer token that may register
    ca_file: str = ""  # certificate authority of an https server
    accel: str = "auto"  # auto, tcg, kvm
    tee: str = "auto"  # auto: the hardware that the host offers, else software; software, snp, tdx
    vmm: str = "auto"  # auto: QEMU, else libkrun; qemu, libkrun
    libkrun: str = ""  # the library in place of the installed one
    libkrunfw: str = ""  # the bundle of its guest kernel, likewise
    manifest_in: str = "initrd"  # what binds it, or host-data: HOST_DATA, MRCONFIGID
    memory_mib: int = 512
    cpus: int = 1
    boot_timeout_s: int = 120  # from machine start to the end of attestation
    engine_annotations: str = ""  # io.krunpy annotations that engines may set: workload, integrity_only
    kds_url: str = ""  # a mirror of AMD's key distribution service
    pcs_url: str = ""  # a mirror of Intel's provisioning certification service, or a PCCS
    config_file: str = ""


def load_settings(environment: Mapping[str, str], *, config_file: str = "") -> Settings:
    """Return the settings.

    Raises UsageError on an unknown or wrongly typed name in the file or in a KRUNPY_ variable.
    """
    if os.geteuid() == 0:
        data, cache = "/var/lib/krunpy", "/var/cache/krunpy"
    else:
        home = environment.get("HOME", "/")
        data = environment.get("XDG_DATA_HOME", f"{home}/.local/share") + "/krunpy"
        cache = environment.get("XDG_CACHE_HOME", f"{home}/.cache") + "/krunpy"
    settings = Settings(data_dir=data, cache_dir=cache, guest_dir="")
    named = config_file or environment.get("KRUNPY_CONFIG", "")
    path = named or SYSTEM_CONFIG
    if named or os.path.exists(path):
        settings = replace(_with(settings, _load_toml(path), path), config_file=path)
    known = {f"KRUNPY_{field.name.upper()}": field.name for field in fields(Settings)}
    chosen = {known[name]: value for name, value in environment.items() if name in known}
    settings = _with(settings, dict(chosen), "the environment")
    return settings if settings.guest_dir else replace(settings, guest_dir=f"{settings.data_dir}/guest")


def _load_toml(path: str) -> dict[str, object]:
    import tomllib  # 3 ms, for those who have a file

    hint = "mend the file, or name another one with --config FILE"
    try:
        return tomllib.loads(load_bounded(path, _LIMIT).decode("utf-8"))
    except (FormatError, HostError) as error:
        error.next = hint
        raise
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}", why=f"not UTF-8 at byte {error.start}", next=hint) from error
    except RecursionError as error:
        raise UsageError(f"cannot read {path}", why="its values nest too deeply", next=hint) from error
    except tomllib.TOMLDecodeError as error:
        why = f"not TOML: {str(error)[:1].lower()}{str(error)[1:]}"
        raise UsageError(f"cannot read {path}", why=why, next=hint) from error


def _with(settings: Settings, values: Mapping[str, object], where: str) -> Settings:
    names = {field.name for field in fields(Settings)} - {"config_file"}
    for name, value in values.items():
        if name not in names:
            raise UsageError(
                f"cannot use {where}",
                why=f'unknown setting "{name}"',
                next=f"known: {', '.join(sorted(names))}",
            )
        if value == "" and name in ("data_dir", "cache_dir"):
            continue  # not set: the default stands
        if type(getattr(settings, name)) is int and _is_number(value):
            value = int(str(value))  # noqa: PLW2901 - variables hold digits as text
        wanted = _find_fault(name, value, type(getattr(settings, name)))
        if wanted:
            raise UsageError(
                f"cannot use {where}",
                why=f'setting "{name}" is {str(value)[:80]!r}, wanted {wanted}',
                next=f'mend the setting "{name}"',
            )
        settings = replace(settings, **{name: value})  # type: ignore[arg-type]
    return settings


def _is_number(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS


def _find_fault(name: str, value: object, kind: type) -> str:
    """Return what is wanted of a setting, empty if the value is that."""
    if kind is int:
        low, high = _RANGES[name]
        is_fine = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if is_fine else f"a number of {low} to {high}"
    if not isinstance(value, str):
        return "text"
    if value and name in _PATHS and (not value.startswith("/") or "\0" in value):
        return "an absolute path"
    if name in CHOICES and value not in CHOICES[name]:
        return " or ".join(CHOICES[name])
    return ""
