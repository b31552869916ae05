"""Launches in hardware TEEs, put to a real QEMU that knows them; without the hardware it goes as far as KVM.

KRUNPY_QEMU names the QEMU to ask where the system's own is too old: SNP needs 9.1, TDX 10.1.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest

from krunpy.core.errors import ToolError
from krunpy.core.octets import Digest48, HostData
from krunpy.core.proc import find_program, run
from krunpy.vmm import qemu_snp, qemu_tdx
from krunpy.vmm.qemu import PROGRAM, build_argv
from krunpy.vmm.qemu_objects import list_objects
from krunpy.vmm.spec import Accel, IdBlock, SnpLaunch, TdxLaunch, VmSpec

QEMU = os.environ.get("KRUNPY_QEMU") or find_program(PROGRAM)
OWNER = IdBlock(block=bytes(96), auth=bytes(4096), has_author_key=True)
SNP = SnpLaunch(host_data=HostData(bytes(range(32))), c_bit=51, reduced_phys_bits=1, vcpu_type="EPYC-v4")
TDX = TdxLaunch(mrconfigid=Digest48(bytes(range(48))))
LAUNCHES = {"snp": SNP, "snp with an ID block": replace(SNP, id_block=OWNER), "tdx": TDX}
PLAIN = VmSpec(
    accel=Accel.KVM, memory_mib=256, cpus=2, cmdline="quiet", firmware_fd=0, kernel_fd=1, initrd_fd=2, channel_fd=3,
    disk_fd=None,
)  # fmt: skip
# what is said once every word was understood
NO_HARDWARE = re.compile(r"not supported by KVM|Could not access KVM|failed to initialize kvm", re.IGNORECASE)


def require(tee: object) -> str:
    wanted = qemu_tdx.OBJECT if isinstance(tee, TdxLaunch) else qemu_snp.OBJECT
    if QEMU is None:
        pytest.skip(f"{PROGRAM} is not installed")
    if wanted not in list_objects(QEMU):
        pytest.skip(f"{QEMU} does not know {wanted}: name a newer one with KRUNPY_QEMU")
    return QEMU


def words_of(tee: object, program: str) -> list[str]:
    """Return argv up to the files, which come after the TEE's words."""
    argv = build_argv(replace(PLAIN, tee=tee), program)
    return argv[: argv.index("-bios")]


def refuse(argv: list[str]) -> str:
    with pytest.raises(ToolError) as caught:
        run(argv, timeout_s=30)
    return caught.value.why


@pytest.mark.parametrize("name", LAUNCHES)
def test_qemu_understands_every_word_of_a_launch(name: str) -> None:
    program = require(LAUNCHES[name])

    assert NO_HARDWARE.search(refuse(words_of(LAUNCHES[name], program)))


@pytest.mark.parametrize(
    ("name", "word", "wrong"),
    [
        ("snp", "host-data=AAEC", "host-data=AA=="),
        ("snp", "policy=", "polici="),
        ("snp", "kernel-hashes=on", "kernel-hashes=perhaps"),
        ("snp with an ID block", "id-block=AAAA", "id-block="),
        ("snp with an ID block", "author-key-enabled=on", "author-keys-enabled=on"),
        ("tdx", '"sept-ve-disable":true', '"sept-ve-disable":3'),
        ("tdx", '"mrconfigid"', '"mrconfig"'),
        ("tdx", '"type":"unix"', '"type":"carrier-pigeon"'),
        ("tdx", "pic=off", "pick=off"),
        ("tdx", "kernel-irqchip=split", "kernel-irqchip=divided"),
    ],
)
def test_qemu_refuses_a_launch_with_one_wrong_word(name: str, word: str, wrong: str) -> None:
    """What the test above would say if a word were wrong."""
    argv = words_of(LAUNCHES[name], require(LAUNCHES[name]))
    assert sum(word in argument for argument in argv) == 1

    text = refuse([argument.replace(word, wrong) for argument in argv])

    assert not NO_HARDWARE.search(text), text
