"""What a registered launch digest was made from, small enough to be kept beside it.

Instead of the firmware's bytes it holds the digest after them and the firmware's table, so that a digest
can be predicted again, and its neighbours too, without the files. Files have names here only for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest32, LaunchDigest
from krunpy.formats.narrow import Fields
from krunpy.formats.ovmf import FirmwareTable, SectionType, SevSection
from krunpy.formats.vmsa import FEATURE_SNP_ACTIVE, Vmm
from krunpy.measure.kernel_hashes import KernelHashes, hash_cmdline
from krunpy.measure.launch import (
    DEFAULT_VCPU_TYPE,
    MOST_VCPUS,
    Layout,
    Machine,
    fold_pages,
    iter_pages_after_firmware,
    make_firmware_pages,
    read_table,
)

_MOST_SECTIONS = 64
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredFile:
    """A kernel, initrd or command line: a name for people, and the SHA-256 that is measured."""

    name: str
    digest: Digest32


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredFirmware:
    """A firmware image: a name for people, its SHA-256, the launch digest after its pages, and its table."""

    name: str
    digest: Digest32
    folded: LaunchDigest
    table: FirmwareTable


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchDescription:
    """The inputs of one launch digest. kernel, initrd and cmdline are all given, or all None."""

    layout: Layout
    firmware: MeasuredFirmware
    kernel: MeasuredFile | None
    initrd: MeasuredFile | None
    cmdline: MeasuredFile | None
    vcpus: int
    vcpu_type: str = DEFAULT_VCPU_TYPE
    guest_features: int = FEATURE_SNP_ACTIVE
    vmm: Vmm = Vmm.QEMU

    @property
    def machine(self) -> Machine:
        """The inputs but the firmware, as `measure.launch` takes them."""
        hashes = None
        if self.kernel is not None and self.initrd is not None and self.cmdline is not None:
            hashes = KernelHashes(
                kernel=self.kernel.digest, initrd=self.initrd.digest, cmdline=self.cmdline.digest
            )
        return Machine(
            layout=self.layout,
            kernel_hashes=hashes,
            vcpus=self.vcpus,
            vcpu_type=self.vcpu_type,
            guest_features=self.guest_features,
            vmm=self.vmm,
        )

    def to_dict(self) -> dict[str, object]:
        """Return the JSON object that `parse_description` reads."""
        table = self.firmware.table
        firmware: dict[str, object] = {
            "name": self.firmware.name,
            "sha256": self.firmware.digest.hex(),
            "folded": self.firmware.folded.hex(),
        }
        if table.sections is not None:
            firmware["sections"] = [
                {"type": int(section.kind), "gpa": section.gpa, "size": section.size}
                for section in table.sections
            ]
        if table.hash_table_gpa is not None:
            firmware["hash_table_gpa"] = table.hash_table_gpa
        if table.ap_reset_eip is not None:
            firmware["ap_reset_eip"] = table.ap_reset_eip
        described: dict[str, object] = {
            "layout": str(self.layout),
            "firmware": firmware,
            "vcpus": self.vcpus,
            "vcpu_type": self.vcpu_type,
            "guest_features": self.guest_features,
            "vmm": str(self.vmm),
        }
        for field, file in (("kernel", self.kernel), ("initrd", self.initrd), ("cmdline", self.cmdline)):
            if file is not None:
                described[field] = {"name": file.name, "sha256": file.digest.hex()}
        return described


def measure_file(name: str, contents: bytes) -> MeasuredFile:
    """Return the measured form of a kernel or initrd file; an absent initrd is empty."""
    return MeasuredFile(name=name, digest=Digest32(sha256(contents).digest()))


def measure_cmdline(cmdline: str) -> MeasuredFile:
    """Return the measured form of a kernel command line, named by itself."""
    return MeasuredFile(name=cmdline, digest=hash_cmdline(cmdline))


def measure_firmware(name: str, firmware: bytes) -> MeasuredFirmware:
    """Return the measured form of a firmware image. Raises FormatError if its table is broken."""
    return MeasuredFirmware(
        name=name,
        digest=Digest32(sha256(firmware).digest()),
        folded=fold_pages(make_firmware_pages(firmware)),
        table=read_table(firmware),
    )


def predict_described(described: LaunchDescription) -> LaunchDigest:
    """Return the launch digest of a description. Raises FormatError as `measure.launch.iter_launch_pages`."""
    pages = iter_pages_after_firmware(described.firmware.table, described.machine)
    return fold_pages(pages, described.firmware.folded)


def _take_file(fields: Fields, name: str) -> MeasuredFile | None:
    if not fields.has(name):
        return None
    inner = fields.take_fields(name)
    file = MeasuredFile(name=inner.take_string("name"), digest=Digest32(inner.take_hex("sha256", 32)))
    inner.require_no_more()
    return file


def _take_section(fields: Fields) -> SevSection:
    kind = fields.take_integer("type", maximum=_U32)
    if kind not in SectionType.__members__.values():
        raise FormatError("cannot read a launch description", why=f"seen section type {kind}")
    section = SevSection(
        kind=SectionType(kind),
        gpa=fields.take_integer("gpa", maximum=_U32),
        size=fields.take_integer("size", maximum=1 << 24),
    )
    fields.require_no_more()
    return section


def _take_firmware(fields: Fields) -> MeasuredFirmware:
    sections = None
    if fields.has("sections"):
        sections = tuple(
            _take_section(item) for item in fields.take_objects("sections", limit=_MOST_SECTIONS)
        )
    table = FirmwareTable(
        sections=sections,
        hash_table_gpa=fields.take_integer("hash_table_gpa", maximum=_U32)
        if fields.has("hash_table_gpa")
        else None,
        ap_reset_eip=fields.take_integer("ap_reset_eip", maximum=_U32)
        if fields.has("ap_reset_eip")
        else None,
    )
    firmware = MeasuredFirmware(
        name=fields.take_string("name"),
        digest=Digest32(fields.take_hex("sha256", 32)),
        folded=LaunchDigest(fields.take_hex("folded", 48)),
        table=table,
    )
    fields.require_no_more()
    return firmware


def parse_description(value: object) -> LaunchDescription:
    """Return the description that a JSON value holds. Raises FormatError if it is not one."""
    fields = Fields(value, "launch description")
    try:
        layout, vmm = Layout(fields.take_string("layout")), Vmm(fields.take_string("vmm"))
    except ValueError as error:
        raise FormatError("cannot read a launch description", why=str(error)) from None
    described = LaunchDescription(
        layout=layout,
        vmm=vmm,
        firmware=_take_firmware(fields.take_fields("firmware")),
        kernel=_take_file(fields, "kernel"),
        initrd=_take_file(fields, "initrd"),
        cmdline=_take_file(fields, "cmdline"),
        vcpus=fields.take_integer("vcpus", minimum=1, maximum=MOST_VCPUS),
        vcpu_type=fields.take_string("vcpu_type"),
        guest_features=fields.take_integer("guest_features", maximum=_U64),
    )
    fields.require_no_more()
    given = [file is not None for file in (described.kernel, described.initrd, described.cmdline)]
    if any(given) and not all(given):
        raise FormatError(
            "cannot read a launch description",
            why="kernel, initrd and cmdline belong together, seen some of them",
        )
    return described
