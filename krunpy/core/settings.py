"""Where things are and what the operator configured: one value, read once, passed down.

Order, later wins: defaults, /etc/krunpy/krunpy.toml (or the file of --config or KRUNPY_CONFIG), then
KRUNPY_* variables. OCI verbs other than create read nothing of this but the state root.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from krunpy.core.errors import UsageError
from krunpy.core.files import load_bounded

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEM_CONFIG = "/etc/krunpy/krunpy.toml"
_LIMIT = 1024 * 1024  # bytes


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
    memory_mib: int = 512
    cpus: int = 1
    boot_timeout_s: int = 120  # from machine start to the end of attestation
    config_file: str = ""


def find_state_root(environment: Mapping[str, str]) -> str:
    """Return where containers' states live: $XDG_RUNTIME_DIR/krunpy, or /run/krunpy (crun's rule)."""
    runtime_dir = environment.get("XDG_RUNTIME_DIR", "")
    return f"{runtime_dir}/krunpy" if runtime_dir else "/run/krunpy"


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
    try:
        return tomllib.loads(load_bounded(path, _LIMIT).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}", why=str(error)) from error


def _with(settings: Settings, values: Mapping[str, object], where: str) -> Settings:
    names = {field.name for field in fields(Settings)} - {"config_file"}
    for name, value in values.items():
        if name not in names:
            raise UsageError(
                f"cannot use {where}",
                why=f'unknown setting "{name}"',
                next=f"known: {', '.join(sorted(names))}",
            )
        kind = type(getattr(settings, name))
        if kind is int and isinstance(value, str) and value.isdigit():
            value = int(value)  # noqa: PLW2901 - variables hold digits as text
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UsageError(
                f"cannot use {where}", why=f'setting "{name}" is {value!r}, wanted {kind.__name__}'
            )
        settings = replace(settings, **{name: value})
    return settings
