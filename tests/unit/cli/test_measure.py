"""`krunpy measure` beyond the software TEE: what is predicted, what is refused, what a server is handed."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from krunpy.cli.measure_document import (
    load_document,
    load_signing_key,
    print_values,
    to_registered,
    write_document,
)
from krunpy.cli.measure_values import (
    BundleParts,
    NamedFile,
    Wish,
    build_wished_bundle,
    predict_values,
    require_possible,
)
from krunpy.core.errors import EvidenceError, FormatError, UsageError
from krunpy.core.octets import Digest32, Digest48, PublicKey32
from krunpy.formats.krun_kernel import KrunKernel
from krunpy.formats.manifest import ManifestIn, hash_manifest, make_mrconfigid, parse_manifest
from krunpy.formats.narrow import Fields
from krunpy.guest.payload import GuestPayload
from krunpy.measure.kernel_hashes import hash_direct_boot
from krunpy.measure.launch import LaunchInputs, Layout, predict_snp_digest
from krunpy.measure.reference_values import Tee
from krunpy.server.reference import parse_reference_value
from tests.fakes.firmware import build_sev_firmware
from tests.fakes.guest import make_manifest
from tests.fakes.pe import build_pe
from tests.fakes.qboot import make_qboot
from tests.fakes.tdvf import build_td_shim, build_tdvf

KERNEL = build_pe([b"kernel" * 100], setup=True)
CMDLINE = "console=ttyS0 quiet"
SEV = NamedFile(name="sev.fd", contents=build_sev_firmware())
TDVF = NamedFile(name="tdvf.fd", contents=build_tdvf([(0, 0x2000, 0xFFFFE000, 0x2000, 0, 1)]))
LIBKRUNFW = BundleParts(
    name="libkrunfw-sev.so.5",
    kernel=KrunKernel(image=bytes(0x10000), load_gpa=0x1000000, entry_gpa=0x1000123),
    qboot=make_qboot(0x10009A3),
)
KRUN = {"vmm": "libkrun", "firmware": None, "bundle": LIBKRUNFW}
SHIM = {"vmm": "libkrun", "tee": Tee.TDX, "firmware": NamedFile(name="td-shim.bin", contents=build_td_shim())}
WISH = Wish(
    tee=Tee.SNP,
    vmm="qemu",
    counts=(1, 2),
    firmware=SEV,
    bundle=None,
    vcpu_type="",
    memory_mib=0,
    usual_memory_mib=512,
    rtmr0=None,
)


@dataclass(frozen=True)
class Ready:
    """What `draft_plan` returns, without an image."""

    manifest: bytes
    payload: GuestPayload
    guest_name: str = "guest x"
    manifest_in: ManifestIn = ManifestIn.INITRD

    @property
    def parsed(self):
        return parse_manifest(self.manifest)

    @property
    def manifest_hash(self):
        return hash_manifest(self.manifest)


def draft(tee: Tee) -> Ready:
    manifest = make_manifest(PublicKey32(bytes(32)), tees=(str(tee),))
    payload = GuestPayload(firmware=bytes(8192), kernel=KERNEL, initrd=b"base" + manifest, cmdline=CMDLINE)
    return Ready(manifest=manifest, payload=payload)


def predict(wish: Wish):
    require_possible(wish)
    ready = draft(wish.tee)
    return ready, predict_values(ready, wish, build_wished_bundle(ready, wish, b"agent"))


def test_snp_values_are_those_of_a_launch_with_and_without_debug_swap() -> None:
    ready, values = predict(WISH)

    assert values.manifest_hash == hash_manifest(ready.manifest)
    assert [(value.inputs["vcpus"], value.inputs["guest_features"]) for value in values.values] == [
        (1, 0x1),
        (1, 0x21),
        (2, 0x1),
        (2, 0x21),
    ]
    inputs = LaunchInputs(
        firmware=SEV.contents,
        layout=Layout.SEV_METADATA,
        kernel_hashes=hash_direct_boot(KERNEL, ready.payload.initrd, CMDLINE),
        vcpus=2,
        guest_features=0x21,
    )
    assert values.values[3].registers["launch_digest"] == predict_snp_digest(inputs)


def test_the_vcpu_type_changes_the_values() -> None:
    assert predict(WISH)[1].values != predict(replace(WISH, vcpu_type="EPYC-Genoa"))[1].values


def test_the_software_tee_has_one_value_for_each_count() -> None:
    _, values = predict(replace(WISH, tee=Tee.SOFTWARE, firmware=None))

    assert [value.inputs["vcpus"] for value in values.values] == [1, 2]


def test_tdx_values_are_all_combinations_of_what_the_host_may_run() -> None:
    wish = replace(WISH, tee=Tee.TDX, firmware=TDVF)
    _, values = predict(wish)

    registers = [
        tuple(value.registers[name] for name in ("mrtd", "rtmr1", "rtmr2")) for value in values.values
    ]
    assert len(set(registers)) == 8
    assert [len(set(column)) for column in zip(*registers, strict=True)] == [2, 2, 2]
    assert {value.registers["rtmr3"] for value in values.values} == {Digest48(bytes(48))}
    _, more = predict(replace(wish, memory_mib=1024))
    assert [value.registers["mrtd"] for value in more.values] == [row[0] for row in registers]
    assert [value.registers["rtmr1"] for value in more.values] != [row[1] for row in registers]


def test_libkrun_values_are_one_for_each_count_and_variant() -> None:
    _, values = predict(replace(WISH, **KRUN))

    assert [(value.inputs["vcpus"], value.inputs["vmsa"]) for value in values.values] == [
        (count, variant) for count in (1, 2) for variant in "CBA"
    ]
    assert len({value.registers["launch_digest"] for value in values.values}) == 6


def test_of_a_td_shim_under_libkrun_only_mrtd_is_predicted_and_it_depends_on_memory() -> None:
    wish = replace(WISH, **SHIM)
    (value,), (more,) = (predict(each)[1].values for each in (wish, replace(wish, memory_mib=513)))

    assert list(value.registers) == ["mrtd"]
    assert value.inputs["memory_mib"] == 512
    assert value.registers != more.registers
    assert not wish.is_whole


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"firmware": None}, "no SEV metadata"),
        ({"tee": Tee.TDX}, "no TDVF metadata"),
        ({"tee": Tee.TDX, "firmware": None}, "no TDVF metadata"),
        ({"vcpu_type": "EPYC-Naples"}, "EPYC-Naples"),
        ({**KRUN, "bundle": replace(LIBKRUNFW, qboot=bytes(8192))}, "8192 bytes, wanted 65536"),
        ({**KRUN, "bundle": replace(LIBKRUNFW, qboot=bytes(65536))}, "seen 0 jumps"),
    ],
)
def test_firmware_that_cannot_start_the_machine_is_refused(change: dict, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        predict(replace(WISH, **change))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"vmm": "xen"}, "wanted --vmm"),
        ({"vmm": "libkrun", "tee": Tee.TDX, "firmware": None}, "could be anybody's"),
        ({**SHIM, "rtmr0": Digest48(bytes(48))}, "--rtmr0 does not belong"),
        ({**KRUN, "tee": Tee.SOFTWARE}, "--libkrunfw does not belong"),
        ({**KRUN, "firmware": SEV}, "--firmware does not belong"),
        ({"bundle": LIBKRUNFW}, "--libkrunfw does not belong"),
        ({"tee": Tee.SOFTWARE}, "--firmware does not belong"),
        ({"rtmr0": Digest48(bytes(48))}, "--rtmr0 does not belong"),
        ({"tee": Tee.TDX, "vcpu_type": "EPYC"}, "--vcpu-type does not belong"),
        ({"memory_mib": 512}, "--memory does not belong"),
    ],
)
def test_what_cannot_be_predicted_is_refused_with_its_reason(change: dict, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        require_possible(replace(WISH, **change))


def key_file(folder: Path) -> str:
    pem = Ed25519PrivateKey.from_private_bytes(bytes(32)).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    (folder / "key.pem").write_bytes(pem)
    return str(folder / "key.pem")


def test_a_document_is_written_signed_and_read_by_who_trusts_the_key(tmp_path: Path) -> None:
    _, values = predict(WISH)
    path, key = str(tmp_path / "values.json"), key_file(tmp_path)
    signer = load_signing_key(key).public_key().public_bytes_raw().hex()

    write_document(path, values, key)

    assert load_document(path, signer=signer) == values
    assert load_document(path, signer="") == values
    with pytest.raises(EvidenceError, match="wanted a signature of"):
        load_document(path, signer="00" * 32)
    with pytest.raises(UsageError, match="64 hex digits"):
        load_document(path, signer="00")


def test_an_unsigned_document_is_refused_where_a_signature_is_wanted(tmp_path: Path) -> None:
    path = str(tmp_path / "values.json")

    write_document(path, predict(WISH)[1], "")

    with pytest.raises(EvidenceError, match="no signature"):
        load_document(path, signer="00" * 32)


def test_what_is_no_signing_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"no PEM at all")

    with pytest.raises(UsageError, match="not an Ed25519 private key"):
        load_signing_key(str(tmp_path / "key"))


@pytest.mark.parametrize(
    "wish", [WISH, replace(WISH, tee=Tee.TDX, firmware=TDVF, rtmr0=Digest48(b"\x01" * 48))]
)
def test_a_server_reads_what_is_registered(wish: Wish) -> None:
    ready, values = predict(wish)

    registered = to_registered(values, manifest_hash=hash_manifest(ready.manifest))

    assert len(registered) == len(values.values)
    for item, value in zip(registered, values.values, strict=True):
        document = parse_reference_value(Fields(item, "item")).to_document()
        assert document["tee"] == str(wish.tee)
        assert document["inputs"] == value.inputs
        if wish.tee is Tee.SNP:
            assert document["launch_digest"] == value.registers["launch_digest"].hex()
            assert document["host_data"] == values.manifest_hash.hex()
        else:
            assert document["mrtd"] == value.registers["mrtd"].hex()
            assert document["mrconfigid"] == make_mrconfigid(values.manifest_hash).hex()
            assert document["rtmrs"] == [value.registers[f"rtmr{index}"].hex() for index in range(4)]


def test_values_of_another_manifest_too_many_or_without_rtmr0_are_not_registered() -> None:
    ready, values = predict(replace(WISH, counts=tuple(range(1, 34))))
    _, tdx = predict(replace(WISH, tee=Tee.TDX, firmware=TDVF))

    with pytest.raises(UsageError, match="they are for manifest"):
        to_registered(values, manifest_hash=Digest32(bytes(32)))
    with pytest.raises(UsageError, match="a server takes 64"):
        to_registered(values, manifest_hash=hash_manifest(ready.manifest))
    with pytest.raises(UsageError, match="do not say RTMR0"):
        to_registered(tdx, manifest_hash=tdx.manifest_hash)


def test_the_values_of_a_class_say_so_in_their_document_and_are_not_registered_for_the_initrd(
    tmp_path: Path,
) -> None:
    ready = replace(draft(Tee.SNP), manifest_in=ManifestIn.HOST_DATA)
    values = predict_values(ready, WISH)
    paths = [str(tmp_path / name) for name in ("class", "own")]
    write_document(paths[0], values, "")
    write_document(paths[1], predict(WISH)[1], "")

    assert load_document(paths[0], signer="") == values
    assert ["manifest_in" in Path(path).read_text() for path in paths] == [True, False]
    manifest_hash = hash_manifest(ready.manifest)
    with pytest.raises(UsageError, match="a manifest in host_data, this workload has it in initrd"):
        to_registered(values, manifest_hash=manifest_hash)
    assert to_registered(values, manifest_hash=manifest_hash, manifest_in=ManifestIn.HOST_DATA)
    with pytest.raises(UsageError, match="in initrd, this workload has it in host_data"):
        to_registered(predict(WISH)[1], manifest_hash=manifest_hash, manifest_in=ManifestIn.HOST_DATA)


def test_no_class_is_predicted_for_libkrun_which_sets_no_host_data() -> None:
    wish = replace(WISH, **KRUN)
    require_possible(wish)
    ready = replace(draft(Tee.SNP), manifest_in=ManifestIn.HOST_DATA)

    with pytest.raises(UsageError, match="sets no HOST_DATA"):
        predict_values(ready, wish, build_wished_bundle(ready, wish, b"agent"))


def test_the_table_shows_every_value_once_and_the_inputs_when_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, values = predict(replace(WISH, tee=Tee.TDX, firmware=TDVF))

    print_values(values, with_inputs=True)

    out = capsys.readouterr().out
    digests = {digest.hex() for value in values.values for digest in value.registers.values()}
    assert all(out.count(digest) == 1 for digest in digests)
    assert "tdvf.fd (sha256" in out
    assert "memory mib     512" in out
