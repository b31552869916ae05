"""What a confidential image of libkrun is, and what is wrong with it: facts and findings, for people and programs.

Source of the findings: buildah and libkrun up to 1.19 as they are; docs/limits.md says the same of the formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.krun_footer import KrunConfig, parse_krun_config
from krunpy.formats.luks_open import find_obstacle
from krunpy.image.tree import NodeKind, walk_tree

if TYPE_CHECKING:
    from krunpy.core.octets import Secret
    from krunpy.image.ext4_source import Ext4Source
    from krunpy.image.legacy import LegacyImage

_STRING_LIMIT = 256  # bytes of a string in a guest of libkrun up to 1.16, with its end
_URL_LIMIT = 100  # bytes of the URL there, with its end
_TEXT_LIMIT = 1024 * 1024  # bytes of .krun_config.json that are searched
_KNOWN_TEES = ("snp", "sev", "tdx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """facts: by name, as JSON values; findings: sentences, the worst first."""

    facts: dict[str, object]
    findings: tuple[str, ...]


def report_image(image: LegacyImage, source: Ext4Source | None, passphrase: Secret | None) -> Report:
    """Return the report of an image. source: its root file system if it was opened, with the passphrase."""
    document = image.document if image.document is not None else image.footer
    config = _read_config(document)
    facts = {**_describe_config(config), **_describe_disk(image)}
    if source is not None:
        facts["filesystem"] = _describe_filesystem(source)
    findings = [
        *_find_leaks(image, source, passphrase),
        *_find_integrity(image),
        *_find_document(image, document, config),
        *_find_config(config),
    ]
    return Report(facts=facts, findings=tuple(findings))


def _read_config(document: bytes | None) -> KrunConfig | None:
    try:
        return None if document is None else parse_krun_config(document)
    except FormatError:
        return None


def _describe_config(config: KrunConfig | None) -> dict[str, object]:
    if config is None:
        return {}
    return {
        "tee": config.tee,
        "workload_id": config.workload_id,
        "attestation_url": config.attestation_url,
        "cpus": config.cpus,
        "memory_mib": config.ram_mib,
    }


def _describe_disk(image: LegacyImage) -> dict[str, object]:
    volume = image.volume
    facts: dict[str, object] = {"disk_size": image.disk.size, "encrypted": volume is not None}
    if volume is not None:
        slots = [
            {"name": slot.name, "kdf": str(slot.kdf), "opens_here": not find_obstacle(slot)}
            for slot in volume.keyslots
        ]
        facts |= {
            "luks_version": volume.version,
            "cipher": volume.cipher,
            "key_size": volume.key_size,
            "sector_size": volume.sector_size,
            "payload_offset": volume.offset,
            "key_slots": slots,
        }
    return facts


def _describe_filesystem(source: Ext4Source) -> dict[str, object]:
    block = source.filesystem.superblock
    kinds = [node.kind for _, node in walk_tree(source.tree)]
    return {
        "kind": "ext4",
        "label": block.label,
        "size": block.size,
        "block_size": block.block_size,
        "free": block.free_blocks * block.block_size,
        "files": kinds.count(NodeKind.FILE),
        "directories": kinds.count(NodeKind.DIRECTORY),
        "names": len(kinds),
    }


def _find_leaks(image: LegacyImage, source: Ext4Source | None, passphrase: Secret | None) -> list[str]:
    found = [
        f"{name.decode(errors='backslashreplace')} lies beside disk.img: the file system in the clear, left by buildah"
        for name in image.names
        if name.startswith(b"plain.img")
    ]
    if passphrase is None:
        return found
    secret = passphrase.reveal()
    documents = {"krun-sev.json": image.document, "the footer of disk.img": image.footer}
    if source is not None:
        documents["the image's configuration"] = repr(source.config).encode()[:_TEXT_LIMIT]
    found += [
        f"{name} holds the passphrase"
        for name, text in documents.items()
        if text and secret and secret in text
    ]
    return found


def _find_integrity(image: LegacyImage) -> list[str]:
    if image.volume is None:
        return ["the disk is not encrypted, and nothing protects it against change"]
    return [
        "the disk has no integrity protection: flipped bits are not noticed; `krunpy image import` adds it"
    ]


def _find_document(image: LegacyImage, document: bytes | None, config: KrunConfig | None) -> list[str]:
    if document is None:
        return ["there is neither krun-sev.json nor a footer: libkrun does not start it"]
    found = [] if config is not None else ["krun-sev.json is not one that libkrun reads"]
    if image.footer is None:
        found.append("the disk has no footer: guests of libkrun up to 1.19 do not find their server")
    elif image.document is not None and _read_config(image.footer) != config:
        found.append(
            "krun-sev.json and the footer of disk.img differ: the host and the guest are told different things"
        )
    return found


def _find_config(config: KrunConfig | None) -> list[str]:
    if config is None:
        return []
    found = []
    if config.tee not in _KNOWN_TEES:
        found.append(f'TEE "{config.tee[:40]}" is not one of {", ".join(_KNOWN_TEES)}')
    if config.tee == "snp" and "milan" in config.tee_data:
        found.append("it is for the processor generation milan only")
    if config.tee == "snp" and config.attestation_url:
        found.append("if buildah registered it, the registered policy allows a guest that the host can debug")
    if config.attestation_url.startswith("http:"):
        found.append("its attestation URL is plain http")
    if len(config.attestation_url.encode()) >= _URL_LIMIT:
        found.append(
            f"its attestation URL overflows guests of libkrun up to 1.16: {_URL_LIMIT} bytes or more"
        )
    for name, value in (("workload id", config.workload_id), ("TEE data", config.tee_data)):
        if len(value.encode()) >= _STRING_LIMIT:
            found.append(f"its {name} overflows guests of libkrun up to 1.16: {_STRING_LIMIT} bytes or more")
    return found
