import hashlib
import json
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError, HostError
from krunpy.formats.bzimage import parse_kernel_release
from krunpy.formats.cpio import parse_cpio
from krunpy.formats.modinfo import cut_signature, parse_modinfo
from krunpy.guest.fetch import fetch_kernel
from krunpy.guest.initrd import build_base, build_manifest_member
from krunpy.guest.kernel import find_kernels, require_kernel
from krunpy.guest.modules import REQUIRED, Module, load_modules
from krunpy.guest.payload import assemble_payload, load_guest, require_unchanged


def make_module(name, depends=(), release="6.1.0-1-cloud", softdep=""):
    info = f"name={name}\0depends={','.join(depends)}\0vermagic={release} SMP\0softdep={softdep}\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    body = info + names
    header_size, section = 64, struct.Struct("<IIQQQQIIQQ")
    sections = (
        section.pack(*[0] * 10)
        + section.pack(1, 1, 0, 0, header_size, len(info), 0, 0, 1, 0)
        + section.pack(10, 3, 0, 0, header_size + len(info), len(names), 0, 0, 1, 0)
    )
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        1,
        62,
        1,
        0,
        0,
        header_size + len(body),
        0,
        64,
        0,
        0,
        64,
        3,
        2,
    )
    return header + body + sections


def make_kernel_tree(root, release="6.1.0-1-cloud", missing=()):
    image = bytearray(0x400)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x100).to_bytes(2, "little")
    image[0x300 : 0x300 + len(release) + 4] = release.encode() + b" (x)"
    (root / "boot").mkdir(parents=True, exist_ok=True)
    (root / "boot" / f"vmlinuz-{release}").write_bytes(image)
    folder = root / "lib/modules" / release
    (folder / "kernel").mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/fs/erofs/erofs.ko\n")
    depends = {"dm_verity": ("dm-mod", "dm-bufio"), "dm_bufio": ("dm-mod",), "dm_crypt": ("dm-mod",)}
    for name in (*REQUIRED, "dm_mod", "dm_bufio"):
        if name not in ("erofs", *missing):
            file = folder / "kernel" / f"{name.replace('_', '-')}.ko"
            file.write_bytes(make_module(name, depends.get(name, ()), release))
    return root


def test_modules_come_after_what_they_need_and_builtin_ones_are_left_out(tmp_path):
    kernel = require_kernel([str(make_kernel_tree(tmp_path))])

    modules = load_modules(kernel)
    names = [module.name for module in (*modules.early, *modules.late)]

    assert "erofs" not in names
    assert set(REQUIRED) - {"erofs"} <= set(names)
    assert names.index("dm_mod") < names.index("dm_bufio") < names.index("dm_verity")
    assert len(names) == len(set(names))
    assert modules.early[-1].name == "virtio_console"


def sign(module, size=300):
    return module + bytes(size) + struct.pack(">8xI", size) + b"~Module signature appended~\n"


@pytest.mark.parametrize(
    ("setting", "is_cut"),
    [
        ("# CONFIG_MODULE_SIG_FORCE is not set\n", True),
        ("CONFIG_MODULE_SIG_FORCE=y\n", False),
        (None, False),
    ],
)
def test_signatures_are_cut_off_only_if_the_kernel_says_it_does_without(tmp_path, setting, is_cut):
    root = make_kernel_tree(tmp_path)
    plain = make_module("xts")
    (root / "lib/modules/6.1.0-1-cloud/kernel/xts.ko").write_bytes(sign(plain))
    if setting is not None:
        (root / "boot/config-6.1.0-1-cloud").write_text(f"CONFIG_MODULE_SIG=y\n{setting}")

    modules = load_modules(require_kernel([str(root)]))

    (found,) = [module.contents for module in modules.late if module.name == "xts"]
    assert found == (plain if is_cut else sign(plain))


def test_a_module_without_a_signature_stays_as_it_is():
    assert cut_signature(make_module("xts")) == make_module("xts")


def test_a_signature_longer_than_the_file_is_refused():
    with pytest.raises(FormatError, match="signature of 4000 bytes is cut off"):
        cut_signature(b"short" + struct.pack(">8xI", 4000) + b"~Module signature appended~\n")


@given(st.binary(max_size=400), st.integers(0, 300))
def test_cutting_undoes_signing(module, size):
    assert cut_signature(sign(module, size)) == module


def test_a_missing_module_is_named(tmp_path):
    kernel = require_kernel([str(make_kernel_tree(tmp_path, missing=("overlay",)))])

    with pytest.raises(HostError, match="module overlay is neither"):
        load_modules(kernel)


def test_a_module_of_another_kernel_is_refused(tmp_path):
    root = make_kernel_tree(tmp_path)
    (root / "lib/modules/6.1.0-1-cloud/kernel/xts.ko").write_bytes(make_module("xts", release="5.0"))

    with pytest.raises(HostError, match=r"for kernel 5\.0, wanted 6\.1\.0-1-cloud"):
        load_modules(require_kernel([str(root)]))


def test_the_newest_cloud_kernel_wins(tmp_path):
    for release in ("6.1.0-9-cloud", "6.1.0-10-cloud", "6.12.0-1"):
        make_kernel_tree(tmp_path, release)

    assert [kernel.release for kernel in find_kernels([str(tmp_path)])] == [
        "6.1.0-10-cloud",
        "6.1.0-9-cloud",
        "6.12.0-1",
    ]


def test_no_kernel_says_how_to_get_one(tmp_path):
    with pytest.raises(HostError) as caught:
        require_kernel([str(tmp_path)])
    assert "fetch-kernel" in caught.value.next


def test_the_same_inputs_give_the_same_initrd():
    modules = [Module(name="a", contents=b"1"), Module(name="b", contents=b"2")]

    base = build_base(b"agent", modules[:1], modules[1:])

    assert base == build_base(b"agent", list(modules[:1]), list(modules[1:]))
    members = {member.path: member for member in parse_cpio(base + build_manifest_member(b"{}"))}
    assert members["init"].contents == b"agent"
    assert members["init"].mode & 0o111
    assert members["modules/order"].contents == b"a.ko\n\nb.ko\n"
    assert members["manifest.json"].contents == b"{}"


def write_guest(folder):
    build = folder / "current"
    build.mkdir(parents=True)
    parts = {"vmlinuz": b"kernel", "base.cpio": b"base", "firmware.bin": b"fw"}
    for name, data in parts.items():
        (build / name).write_bytes(data)
    description = {
        "cmdline": "quiet",
        "kernel": {"release": "6.1"},
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
    }
    (build / "guest.json").write_text(json.dumps(description))
    return build


def test_a_payload_holds_the_manifest_behind_the_base(tmp_path):
    write_guest(tmp_path)

    guest = load_guest(str(tmp_path))
    require_unchanged(guest)
    payload = assemble_payload(guest, b"{}")

    assert payload.initrd == b"base" + build_manifest_member(b"{}")
    assert (payload.kernel, payload.firmware, payload.cmdline) == (b"kernel", b"fw", "quiet")


@pytest.mark.parametrize("part", ["vmlinuz", "base.cpio", "firmware.bin"])
def test_a_part_that_changed_since_the_build_is_refused(tmp_path, part):
    build = write_guest(tmp_path)
    (build / part).write_bytes(b"evil")

    with pytest.raises(HostError, match=part):
        require_unchanged(load_guest(str(tmp_path)))


def test_no_guest_says_how_to_build_one(tmp_path):
    with pytest.raises(HostError) as caught:
        load_guest(str(tmp_path))
    assert "guest build" in caught.value.next


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_give_a_module_or_a_format_error(head, tail):
    for data in (head, b"\x7fELF\x02\x01" + head, make_module("x")[: len(head)] + tail):
        try:
            parse_modinfo(data)
        except FormatError:
            pass


@given(st.binary(max_size=0x500))
def test_any_bytes_give_a_release_or_a_format_error(data):
    try:
        parse_kernel_release(data)
    except FormatError:
        pass


def test_a_kernel_is_unpacked_beside_what_another_process_of_the_same_number_left(tmp_path, monkeypatch):
    """Launchers live in process namespaces of their own, where all have the same few numbers."""
    programs = {
        "apt-cache": "echo '  Depends: linux-image-9'",
        "apt-get": "touch linux.deb",
        "dpkg-deb": 'mkdir -p "$3/boot" && touch "$3/boot/vmlinuz-9"',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setattr("krunpy.core.proc.PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    kernels = tmp_path / "guest/kernels"
    left = kernels / f"linux-image-9.{os.getpid()}.new"
    left.mkdir(parents=True)
    (left / "half.deb").touch()

    folder = fetch_kernel(str(tmp_path / "guest"))

    assert folder == str(kernels / "linux-image-9")
    assert os.listdir(folder) == ["boot"]
    assert sorted(os.listdir(kernels)) == sorted(["linux-image-9", left.name])
