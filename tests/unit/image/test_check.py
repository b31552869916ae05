import os

import pytest
from disk_fakes import MemorySource, directory, file

from krunpy.core.errors import EvidenceError, HostError
from krunpy.core.octets import Secret
from krunpy.image.cache import ImageCache
from krunpy.image.check import _read, find_wrong_block, require_intact
from krunpy.image.convert import ConvertOptions, convert

BLOCK = 4096


@pytest.fixture(params=["encrypted", "integrity-only"])
def image(request, tmp_path):
    tree = directory({b"a": file(bytes(range(256)) * 4000), b"b": file(b"x" * 5)})
    is_encrypted = request.param == "encrypted"
    options = ConvertOptions(encrypt=is_encrypted, key=Secret(bytes(64)) if is_encrypted else None)
    return convert(MemorySource(tree), cache=ImageCache(str(tmp_path), lambda: 0.0), options=options)


def flip(path, at, bit=0):
    with open(path, "r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1 << bit]))


def open_disk(image):
    return os.open(image.disk_path, os.O_RDONLY)


def test_a_disk_as_it_was_made_is_intact(image):
    assert find_wrong_block(open_disk(image), image.disk, image.size) is None
    require_intact(image, open_disk(image))


def test_a_flipped_bit_in_any_block_is_found_and_the_block_is_named(image):
    for block in range(image.size // BLOCK):
        at = block * BLOCK + (block * 97) % BLOCK
        flip(image.disk_path, at)
        found = find_wrong_block(open_disk(image), image.disk, image.size)
        flip(image.disk_path, at)

        assert found is not None
        if block < image.disk.data_blocks:
            assert found == block
    assert find_wrong_block(open_disk(image), image.disk, image.size) is None


def test_a_shorter_or_longer_disk_is_refused(image):
    with open(image.disk_path, "ab") as stream:
        stream.write(b"\0")
    assert find_wrong_block(open_disk(image), image.disk, image.size) is not None
    os.truncate(image.disk_path, image.size - BLOCK)
    assert find_wrong_block(open_disk(image), image.disk, image.size) is not None


def test_a_disk_that_changed_after_it_was_checked_is_checked_again(image):
    require_intact(image, open_disk(image))
    flip(image.disk_path, image.size - 1, 7)

    with pytest.raises(EvidenceError, match="disk integrity"):
        require_intact(image, open_disk(image))


def test_an_unchanged_disk_is_not_read_again(image):
    require_intact(image, open_disk(image))
    status = os.stat(image.disk_path)

    with open(os.path.join(image.directory, "checked")) as stream:
        assert f"{status.st_ino} {status.st_size}" in stream.read()


def test_a_disk_that_ends_early_while_read_is_an_error(tmp_path):
    (tmp_path / "short").write_bytes(b"x" * 100)
    with open(tmp_path / "short", "rb") as stream, pytest.raises(HostError, match="ends before"):
        _read(stream.fileno(), 0, 1)
