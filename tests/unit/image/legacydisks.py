"""Confidential images of libkrun for tests: ext4 by mke2fs, LUKS1 and footer by hand, sound and broken."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from krunpy.core.proc import run

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE = b"correct horse"
KEY = bytes(range(64))
PAYLOAD = 4096 * 512  # bytes before the payload, as cryptsetup has it
STRIPES = 4000
CONFIG = {
    "tee": "snp", "tee_data": '{"gen":"milan"}', "workload_id": "wl", "cpus": 2, "ram_mib": 512, "attestation_url": "",
}  # fmt: skip


def make_ext4(tree: Path, target: Path, *options: str, size: str = "4M") -> Path:
    """A file system with the tree in it."""
    run(["truncate", "-s", size, str(target)], timeout_s=60)
    words = ["mke2fs", "-q", "-F", "-t", "ext4", *options, "-d", str(tree), str(target)]
    run(words, timeout_s=60)
    return target


def diffuse(block: bytes, name: str) -> bytes:
    size = hashlib.new(name).digest_size
    parts = [block[at : at + size] for at in range(0, len(block), size)]
    return b"".join(
        hashlib.new(name, struct.pack(">I", index) + part).digest()[: len(part)]
        for index, part in enumerate(parts)
    )


def split_key(key: bytes, name: str) -> bytes:
    noise = hashlib.shake_256(b"noise").digest(len(key) * (STRIPES - 1))
    mixed = bytes(len(key))
    for at in range(0, len(noise), len(key)):
        mixed = diffuse(bytes(a ^ b for a, b in zip(mixed, noise[at : at + len(key)], strict=True)), name)
    return noise + bytes(a ^ b for a, b in zip(mixed, key, strict=True))


def encrypt(key: bytes, data: bytes, sector: int = 512) -> bytes:
    """XTS over sectors that count 512 bytes each from 0."""
    parts = []
    for at in range(0, len(data), sector):
        cipher = Cipher(algorithms.AES(key), modes.XTS((at // 512).to_bytes(16, "little")))
        parts.append(cipher.encryptor().update(data[at : at + sector]))
    return b"".join(parts)


def make_luks1(
    *, hash_name: str = "sha256", iterations: int = 1000, slot: int = 1, key: bytes = KEY
) -> bytes:
    """The bytes before the payload; one slot opens with PASSPHRASE."""
    digest = hashlib.pbkdf2_hmac(hash_name, key, b"d" * 32, 1000, 20)
    header = struct.pack(
        ">6sH32s32s32sII20s32sI40s", b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", hash_name.encode(), PAYLOAD // 512,
        len(key), digest, b"d" * 32, 1000, b"0b0e6d3c-3b43-4a9b-9a0f-5d3a3b1a2c4d",
    )  # fmt: skip
    for index in range(8):
        state = (0x00AC71F3, iterations) if index == slot else (0x0000DEAD, 0)
        header += struct.pack(">II32sII", *state, b"s" * 32, 8 + index * 504, STRIPES)
    area_key = hashlib.pbkdf2_hmac(hash_name, PASSPHRASE, b"s" * 32, min(iterations, 5000), len(key))
    found = bytearray(PAYLOAD)
    found[: len(header)] = header
    area = encrypt(area_key, split_key(key, hash_name))
    start = (8 + slot * 504) * 512
    found[start : start + len(area)] = area
    return bytes(found)


def make_footer(document: object) -> bytes:
    raw = json.dumps(document).encode()
    return raw + b"KRUN" + struct.pack("<Q", len(raw))


def make_disk(filesystem: Path, document: object = CONFIG) -> bytes:
    return make_luks1() + encrypt(KEY, filesystem.read_bytes()) + bytes(64) + make_footer(document)


def make_image(folder: Path, filesystem: Path, document: object = CONFIG) -> Path:
    """A directory with disk.img and krun-sev.json."""
    folder.mkdir()
    (folder / "disk.img").write_bytes(make_disk(filesystem))
    (folder / "krun-sev.json").write_text(json.dumps(document))
    return folder


def make_tree(folder: Path) -> Path:
    """A root file system with one of everything that needs no root."""
    (folder / "etc").mkdir(parents=True)
    (folder / "many").mkdir()
    (folder / "etc/os-release").write_text("ID=test\n")
    os.link(folder / "etc/os-release", folder / "hard")
    os.symlink("etc/os-release", folder / "short")
    os.symlink("x" * 200, folder / "long")
    os.mkfifo(folder / "fifo")
    (folder / "big").write_bytes(bytes(range(256)) * 2000)
    with open(folder / "sparse", "wb") as stream:
        stream.seek(1_000_000)
        stream.write(b"end")
    for number in range(150):
        (folder / f"many/a-rather-long-name-for-one-file-{number}").write_text(str(number))
    os.chmod(folder / "big", 0o4755)
    for each in (folder, *folder.rglob("*")):
        os.utime(each, (1_000_000, 1_000_000), follow_symlinks=False)
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/a"], "Env": ["A=b"]},
        "rootfs": {},
    }
    (folder / ".krun_config.json").write_text(json.dumps(document))
    return folder
