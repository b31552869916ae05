"""Our LUKS2 containers against cryptsetup itself. No device-mapper is needed."""

from __future__ import annotations

import os
import re

import pytest

from krunpy.core.errors import ToolError
from krunpy.core.octets import Secret
from krunpy.core.proc import find_program, run
from krunpy.formats.luks2 import build_header, derive_passphrase
from krunpy.formats.luks2_parse import parse_header
from krunpy.image.disk import DiskWriter, plan_disk
from krunpy.image.xts import SectorCipher

pytestmark = pytest.mark.skipif(find_program("cryptsetup") is None, reason="cryptsetup is not installed")

KEY = Secret(os.urandom(64))
PAYLOAD = os.urandom(64 * 4096)


def cryptsetup(*arguments: str) -> str:
    return run(["cryptsetup", *arguments], timeout_s=60).stdout.decode()


def dumped_key(path: str, key_file: str) -> bytes:
    text = cryptsetup("luksDump", "--dump-volume-key", "-q", "--key-file", key_file, path)
    return bytes.fromhex(re.sub(r"\s", "", text.split("MK dump:")[1]))


@pytest.fixture
def disk(tmp_path) -> str:
    path = str(tmp_path / "disk.img")
    geometry = plan_disk(len(PAYLOAD), encrypt=True)
    with open(path, "w+b") as stream, DiskWriter(stream.fileno(), geometry, KEY) as writer:
        writer.write(0, PAYLOAD)
        writer.finish()
    return path


@pytest.fixture
def key_file(tmp_path) -> str:
    (tmp_path / "passphrase").write_bytes(derive_passphrase(KEY).reveal())
    return str(tmp_path / "passphrase")


def test_the_passphrase_opens_it(disk: str, key_file: str) -> None:
    cryptsetup("open", "--test-passphrase", "--key-file", key_file, disk)


def test_another_passphrase_does_not(disk: str, tmp_path) -> None:
    (tmp_path / "wrong").write_bytes(b"0" * 64)

    with pytest.raises(ToolError, match="No key available with this passphrase"):
        cryptsetup("open", "--test-passphrase", "--key-file", str(tmp_path / "wrong"), disk)


def test_the_volume_key_is_ours(disk: str, key_file: str) -> None:
    assert dumped_key(disk, key_file) == KEY.reveal()


def test_the_segment_is_described_as_it_is(disk: str) -> None:
    text = cryptsetup("luksDump", disk)

    assert re.search(
        r"offset: 1048576 \[bytes\]\s+length: 262144 \[bytes\]\s+cipher: aes-xts-plain64\s+sector: 4096", text
    )
    assert cryptsetup("luksUUID", disk).strip() == parse_header(build_header(KEY, len(PAYLOAD))).uuid


def test_the_second_header_serves_when_the_first_is_lost(disk: str, key_file: str) -> None:
    with open(disk, "r+b") as stream:
        stream.write(bytes(4096))

    assert dumped_key(disk, key_file) == KEY.reveal()


def test_cryptsetup_decrypts_the_payload(disk: str, key_file: str, tmp_path) -> None:
    # in-place decryption moves the data over the header, so the segment has to end where the file does
    with open(disk, "r+b") as stream:
        stream.truncate((1 << 20) + len(PAYLOAD))
    header = str(tmp_path / "header")
    arguments = [
        "reencrypt",
        "--decrypt",
        "-q",
        "--force-offline-reencrypt",
        "--header",
        header,
        "--key-file",
        key_file,
        disk,
    ]
    try:
        cryptsetup(*arguments)
    except ToolError as error:
        pytest.skip(f"this cryptsetup cannot decrypt a file without device-mapper: {error.why}")

    with open(disk, "rb") as stream:
        assert stream.read(len(PAYLOAD)) == PAYLOAD


def test_cryptsetup_encrypts_as_we_do(tmp_path) -> None:
    path, key_file = str(tmp_path / "img"), str(tmp_path / "key")
    (tmp_path / "img").write_bytes(PAYLOAD + bytes(32 << 20))
    (tmp_path / "key").write_bytes(b"passphrase")
    cryptsetup(
        "reencrypt", "--encrypt", "-q", "--type", "luks2", "--resilience", "none", "--pbkdf", "pbkdf2",
        "--pbkdf-force-iterations", "1000", "--sector-size", "4096", "--reduce-device-size", "32M",
        "--key-file", key_file, path,
    )  # fmt: skip

    raw = (tmp_path / "img").read_bytes()
    header = parse_header(raw)
    ours = SectorCipher(Secret(dumped_key(path, key_file)), len(PAYLOAD)).encrypt(PAYLOAD, 0)

    assert raw[header.offset : header.offset + len(PAYLOAD)] == ours
