"""A dishonest host: whatever one bit it changes, no byte of the workload is executed or printed."""

from __future__ import annotations

import os
import random
import re
import shutil
import time

import pytest

from krunpy.core.errors import EvidenceError
from krunpy.image.cache import ImageCache
from krunpy.image.check import require_intact

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.slow]
SAYS = "the-workload-spoke"
# what is changed -> the reason on standard error, and the cause that `krunpy explain` names
REFUSALS = {
    "disk": ("disk integrity: the disk was changed", r"cause: +disk integrity"),
    "initrd": ("the launch digest is not registered", r"cause: +initrd differs"),
    "cmdline": ("the launch digest is not registered", r"cause: +cmdline differs"),
    "kernel": ("the launch digest is not registered", r"cause: +kernel differs"),
    "manifest": ("no workload has this manifest", r"cause: +the guest's manifest is registered nowhere"),
    "nonce": ("report_data is not for this session", r"cause: +the evidence is not for this session"),
    "server-key": ("not signed by the server that the manifest names", r"cause: +server signature"),
    "evidence": (
        "the evidence's signature does not hold",
        r"cause: +the evidence was changed after it was signed",
    ),
    "report-data": (
        "the evidence's signature does not hold",
        r"cause: +the evidence was changed after it was signed",
    ),
    "sealed": ("not signed by the server that the manifest names", r"cause: +server signature"),
}
RELEASED = {"disk", "server-key", "sealed"}  # what only the guest can see, after the release


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_change_by_the_host_ends_in_the_refusal_that_belongs_to_it(lab, kind):
    reason, cause = REFUSALS[kind]

    done = lab.krunpy("quickstart", "--tamper", kind)

    assert done.code not in (0, None), done
    assert done.out == ""
    assert reason in done.err
    assert ("the disk key was released" in done.err) == (kind in RELEASED)
    explained = lab.krunpy("explain")
    assert re.search(cause, explained.out), explained
    assert ("KEY RELEASED" in explained.out) == (kind in RELEASED)


@pytest.fixture(scope="module")
def victim(make_lab, rootfs):
    """An installation with one image in its cache that has run once."""
    lab = make_lab("victim")
    done = speak(lab, rootfs)
    assert (done.code, done.out) == (0, SAYS + "\n"), done
    (lab.image,) = lab.images()
    return lab


def speak(lab, rootfs):
    return lab.krunpy("run", rootfs, "--", "echo", SAYS)


def flip(path, offset):
    """Change one bit of a file in place."""
    with open(path, "r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1 << offset % 8]))


def spread(size, count, seed):
    """Return offsets: the first and last byte, some near the start, and the rest anywhere."""
    dice = random.Random(seed)
    return [
        0,
        size - 1,
        *(dice.randrange(8192) for _ in range(4)),
        *(dice.randrange(size) for _ in range(count - 6)),
    ]


def test_one_flipped_bit_anywhere_on_the_disk_is_found_before_a_machine_is_started(victim, rootfs):
    disk = victim.image / "disk.img"
    image = ImageCache(str(victim.cache), time.time).load(victim.image.name)
    for number, offset in enumerate(spread(disk.stat().st_size, 50, "disk")):
        flip(disk, offset)
        block = (
            offset // 4096 if offset // 4096 < image.disk.data_blocks else r"\d+"
        )  # of the tree: any it covers
        with disk.open("rb") as stream, pytest.raises(EvidenceError, match=f"block {block} does not fit"):
            require_intact(image, stream.fileno())
        done = speak(victim, rootfs) if number < 3 else None
        flip(disk, offset)
        if done is not None:
            assert (done.code, done.out) == (125, ""), (offset, done)
            assert re.search(f"disk integrity: it was changed: block {block} does not fit", done.err), done
    assert speak(victim, rootfs).out == SAYS + "\n"


def test_a_flipped_bit_that_the_host_hides_is_refused_by_the_guest_itself(victim, rootfs):
    """The host's own check is told that nothing changed, so that only dm-verity in the guest is left."""
    disk, checked = victim.image / "disk.img", victim.image / "checked"
    size = disk.stat().st_size
    outcomes = set()
    for offset in (0, size // 2, size - 4096, *spread(size, 10, "hidden")[6:]):
        before = checked.read_bytes()
        flip(disk, offset)
        status = disk.stat()
        checked.write_text(f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n")
        done = speak(victim, rootfs)
        flip(disk, offset)
        checked.write_bytes(before)

        # A block that the workload does not read harms nothing; then every byte of its output is right.
        if done.code == 0:
            assert done.out == SAYS + "\n", (offset, done)
            outcomes.add("unread")
        else:
            assert done.out == "", (offset, done)
            outcomes.add("refused")
    assert "refused" in outcomes


@pytest.mark.parametrize("name", ["vmlinuz", "base.cpio", "firmware.bin"])
def test_one_flipped_bit_in_a_part_of_the_guest_is_refused_by_name(make_lab, lab, rootfs, tmp_path, name):
    folder = os.path.realpath(os.path.join(lab.guest_dir, "current"))
    shutil.copytree(
        os.path.dirname(os.path.dirname(folder)), tmp_path / "guest", symlinks=True, ignore=_kernels
    )
    changed = make_lab(f"changed-{name}", guest_dir=str(tmp_path / "guest"))
    part = os.path.join(os.path.realpath(tmp_path / "guest/current"), name)
    assert str(tmp_path) in part
    for offset in spread(os.path.getsize(part), 7, name)[5:]:
        flip(part, offset)
        done = changed.krunpy("run", rootfs, "--", "echo", SAYS)
        flip(part, offset)

        assert done.code == 125, done
        assert SAYS not in done.out
        assert name in done.err, done


def _kernels(_directory, names):
    return [name for name in names if name == "kernels"]
