"""The argument lists of launches in hardware TEEs, word by word."""

import base64
import json
from dataclasses import replace

import pytest

from krunpy.core.errors import HostError
from krunpy.core.octets import Digest48, HostData
from krunpy.formats.vmsa import VCPU_SIGNATURES
from krunpy.measure.launch import DEFAULT_VCPU_TYPE
from krunpy.runtime.children import _PLACE
from krunpy.tee.software import DEFAULT_POLICY
from krunpy.vmm.qemu import build_argv
from krunpy.vmm.spec import SNP_POLICY, Accel, IdBlock, SnpLaunch, TdxLaunch, VmSpec

HOST_DATA = HostData(bytes(range(32)))
SNP = SnpLaunch(host_data=HOST_DATA, c_bit=51, reduced_phys_bits=1, vcpu_type="EPYC-v4")
TDX = TdxLaunch(mrconfigid=Digest48(bytes(range(48))))
PLAIN = VmSpec(
    accel=Accel.KVM, memory_mib=300, cpus=2, cmdline="quiet a=b", firmware_fd=0, kernel_fd=1, initrd_fd=2, channel_fd=3,
    disk_fd=4,
)  # fmt: skip
# what a machine without a TEE has before and after the words in question; test_qemu.py holds those
ARGV = build_argv(PLAIN, "/q")
MACHINE = ARGV[ARGV.index("-machine") + 1]
HEAD, TAIL = ARGV[: ARGV.index("-machine")], ARGV[ARGV.index("-smp") :]
MEMORY = "memory-backend-memfd,id=ram,size=300M,share=on,prealloc=off"
SNP_OBJECT = (
    "sev-snp-guest,id=tee,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on,"
    "host-data=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
)
TDX_OBJECT = (
    '{"qom-type":"tdx-guest","id":"tee",'
    '"mrconfigid":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v",'
    '"sept-ve-disable":true,'
    '"quote-generation-socket":{"type":"unix","path":"/var/run/tdx-qgs/qgs.socket"}}'
)


def argv_of(tee):
    return build_argv(replace(PLAIN, tee=tee), "/q")


def object_of(tee):
    argv = argv_of(tee)
    values = [argv[index + 1] for index, word in enumerate(argv) if word == "-object"]
    return values[-1]


def options_of(launch):
    return dict(word.split("=", 1) for word in object_of(launch).split(",")[1:])


def test_an_snp_launch_is_this_argument_list():
    assert argv_of(SNP) == [
        *HEAD,
        *("-machine", f"{MACHINE},smm=off,confidential-guest-support=tee,memory-backend=ram"),
        *("-accel", "kvm", "-cpu", "EPYC-v4", "-object", MEMORY, "-object"),
        SNP_OBJECT,
        *TAIL,
    ]


def test_a_tdx_launch_is_this_argument_list():
    assert argv_of(TDX) == [
        *HEAD,
        *("-machine", f"{MACHINE},smm=off,confidential-guest-support=tee,memory-backend=ram,pic=off"),
        *("-accel", "kvm,kernel-irqchip=split", "-cpu", "host,pmu=off", "-object", MEMORY, "-object"),
        TDX_OBJECT,
        *TAIL,
    ]


def test_a_machine_without_a_tee_has_nothing_of_this():
    assert [*HEAD, "-machine", MACHINE, "-accel", "kvm", "-cpu", "host", *TAIL] == ARGV
    assert not {"confidential", "memory-backend", "-object"} & set(" ".join(ARGV).replace(",", " ").split())


def test_an_id_block_is_handed_over_with_its_keys():
    block, auth = bytes(range(96)), bytes(4095) + b"x"

    with_author, without = (
        options_of(replace(SNP, id_block=IdBlock(block=block, auth=auth, has_author_key=has)))
        for has in (True, False)
    )

    assert base64.b64decode(with_author["id-block"]) == block
    assert base64.b64decode(with_author["id-auth"]) == auth
    assert with_author["author-key-enabled"] == "on"
    assert without["author-key-enabled"] == "off"
    assert "id-block" not in options_of(SNP)


@pytest.mark.parametrize(("block", "auth"), [(95, 4096), (97, 4096), (96, 4095), (96, 4097)])
def test_an_id_block_of_another_size_is_a_mistake(block, auth):
    with pytest.raises(ValueError, match="96 and 4096 bytes"):
        IdBlock(block=bytes(block), auth=bytes(auth), has_author_key=False)


@pytest.mark.parametrize("policy", [0x10000, 0x30000 | 1 << 18, 0x30000 | 1 << 19, 1 << 64 | 0x30000])
def test_a_guest_policy_that_lets_the_host_in_cannot_be_launched(policy):
    with pytest.raises(ValueError, match="DEBUG and MIGRATE_MA clear"):
        replace(SNP, policy=policy)


def test_a_stricter_guest_policy_is_handed_over():
    assert options_of(replace(SNP, policy=0x20000 | 1 << 20))["policy"] == "0x120000"


def test_hardware_launches_as_the_software_tee_plays_it():
    assert SNP_POLICY == DEFAULT_POLICY
    assert DEFAULT_VCPU_TYPE in VCPU_SIGNATURES


def test_a_quote_socket_with_any_name_stays_one_value():
    path = '/run/a,b "c"={x}'

    value = object_of(replace(TDX, quote_socket=path))

    assert json.loads(value)["quote-generation-socket"]["path"] == path
    assert _PLACE.search(value) is None


@pytest.mark.parametrize("tee", [SNP, TDX])
def test_a_tee_without_kvm_is_refused(tee):
    with pytest.raises(HostError, match="accel is tcg, wanted kvm"):
        build_argv(replace(PLAIN, accel=Accel.TCG, tee=tee), "/q")
