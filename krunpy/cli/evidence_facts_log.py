"""Every event of an event log, for people: the register it went into, its kind, its digest, what it says.

Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.1 (event types).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from krunpy.cli.evidence_facts import Fact, Section
from krunpy.formats.eventlog import EventType
from krunpy.measure.replay import is_extended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krunpy.formats.eventlog import Event

_SHOWN = 128  # bytes of an event's data
_TEXT = frozenset(b"\t\n\r") | frozenset(range(0x20, 0x7F))
_REGISTERS = ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3")
_KINDS = {
    0x00: "EV_PREBOOT_CERT",
    0x01: "EV_POST_CODE",
    0x03: "EV_NO_ACTION",
    0x04: "EV_SEPARATOR",
    0x05: "EV_ACTION",
    0x06: "EV_EVENT_TAG",
    0x07: "EV_S_CRTM_CONTENTS",
    0x08: "EV_S_CRTM_VERSION",
    0x09: "EV_CPU_MICROCODE",
    0x0A: "EV_PLATFORM_CONFIG_FLAGS",
    0x0B: "EV_TABLE_OF_DEVICES",
    0x0C: "EV_COMPACT_HASH",
    0x0D: "EV_IPL",
    0x0E: "EV_IPL_PARTITION_DATA",
    0x0F: "EV_NONHOST_CODE",
    0x10: "EV_NONHOST_CONFIG",
    0x11: "EV_NONHOST_INFO",
    0x12: "EV_OMIT_BOOT_DEVICE_EVENTS",
    int(EventType.DSTACK_RUNTIME): "dstack",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
    0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}


def describe_log(events: Sequence[Event]) -> Section:
    """Return one fact for each event, in the log's order."""
    return Section(
        title=f"event log of {len(events)} events; only verify replays it",
        facts=tuple(_describe_event(event) for event in events),
    )


def _describe_event(event: Event) -> Fact:
    kind = _KINDS.get(event.kind, f"{event.kind:#010x}")
    said = f"{event.name}: {_show(event.data)}" if event.name else _show(event.data)
    if not is_extended(event):
        covered = "in no RTMR, so nothing vouches for its data"
    elif event.is_vouched:
        covered = "the digest is that of its data"
    else:
        covered = "the digest is NOT that of its data"
    return Fact(
        name=f"{_REGISTERS[event.register]} {kind}", value=event.digest.hex(), meaning=f"{covered}: {said}"
    )


def _show(data: bytes) -> str:
    """Return data as quoted ASCII, zeros at its end aside, or else in hex; no more than its first bytes."""
    if not data:
        return "none"
    start = data[:_SHOWN]
    text = start.rstrip(b"\0")
    is_text = text and all(octet in _TEXT for octet in text)
    shown = json.dumps(text.decode("ascii")) if is_text else start.hex()
    return shown if len(data) <= _SHOWN else f"{shown} and {len(data) - _SHOWN} bytes more"
