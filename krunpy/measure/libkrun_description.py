"""What the launch digest of a SEV-SNP machine of libkrun was made from, small enough to be kept beside it.

In place of the bytes it holds the digest after them, so that a digest can be predicted again for other vCPUs, memory
and save areas. Files have names here only for people.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest32, LaunchDigest
from krunpy.formats.krun_bundle import LARGEST_INITRD
from krunpy.formats.narrow import Fields
from krunpy.formats.vmsa_libkrun import VmsaVariant
from krunpy.measure.description import MeasuredFile
from krunpy.measure.explain import Change
from krunpy.measure.libkrun import MOST_MEMORY_MIB, MOST_VCPUS, predict_folded_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LAYOUT = "libkrun-sev"  # where other launches have theirs
_PARTS = ("firmware", "kernel", "initrd")
_TRIED_VCPUS = range(1, 17)
_TRIED_MEMORY_MIB = (128, 256, 512, 1024, 1536, 2048, 3072, 3328, 4096, 6144, 8192, 16384, 32768, 65536)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleDescription:
    """The inputs of one launch digest.

    folded:      the digest after firmware, kernel and initrd.
    initrd_size: bytes, with the padding; the boot parameters say it.
    """

    firmware: MeasuredFile
    kernel: MeasuredFile
    initrd: MeasuredFile
    initrd_size: int
    folded: LaunchDigest
    vcpus: int
    memory_mib: int
    variant: VmsaVariant = VmsaVariant.C

    def to_dict(self) -> dict[str, object]:
        """Return the JSON object that `parse_bundle_description` reads."""
        files = {name: _describe(getattr(self, name)) for name in _PARTS}
        return {
            "layout": LAYOUT,
            **files,
            "initrd_bytes": self.initrd_size,
            "folded": self.folded.hex(),
            "memory_mib": self.memory_mib,
            "vcpus": self.vcpus,
            "vmsa": str(self.variant),
        }


def _describe(file: MeasuredFile) -> dict[str, str]:
    return {"name": file.name, "sha256": file.digest.hex()}


def predict_bundle(described: BundleDescription) -> LaunchDigest:
    """Return the launch digest of a description. Raises FormatError if libkrun has no such machine."""
    return predict_folded_digest(
        described.folded,
        vcpus=described.vcpus,
        memory_mib=described.memory_mib,
        initrd_size=described.initrd_size,
        variant=described.variant,
    )


def list_variants(described: BundleDescription) -> Iterator[BundleDescription]:
    """Yield the description in each variant of the save area, the newest libkrun's first."""
    for variant in reversed(VmsaVariant):
        yield replace(described, variant=variant)


def is_bundle_description(value: object) -> bool:
    """Return whether a JSON value says that it describes such a launch."""
    return isinstance(value, dict) and value.get("layout") == LAYOUT


def parse_bundle_description(value: object) -> BundleDescription:
    """Return the description that a JSON value holds. Raises FormatError if it is not one."""
    fields = Fields(value, "launch description")
    if fields.take_string("layout") != LAYOUT:
        raise FormatError("cannot read a launch description", why=f"its layout is not {LAYOUT}")
    variant = fields.take_string("vmsa")
    if variant not in VmsaVariant.__members__:
        raise FormatError("cannot read a launch description", why="seen an unknown vmsa, wanted A, B or C")
    files = {name: _take_file(fields.take_fields(name)) for name in _PARTS}
    described = BundleDescription(
        **files,
        initrd_size=fields.take_integer("initrd_bytes", maximum=LARGEST_INITRD),
        folded=LaunchDigest(fields.take_hex("folded", 48)),
        vcpus=fields.take_integer("vcpus", minimum=1, maximum=MOST_VCPUS),
        memory_mib=fields.take_integer("memory_mib", minimum=1, maximum=MOST_MEMORY_MIB),
        variant=VmsaVariant(variant),
    )
    fields.require_no_more()
    return described


def _take_file(fields: Fields) -> MeasuredFile:
    file = MeasuredFile(name=fields.take_string("name"), digest=Digest32(fields.take_hex("sha256", 32)))
    fields.require_no_more()
    return file


def find_bundle_explanation(
    seen: LaunchDigest, registered: BundleDescription, known: Sequence[BundleDescription]
) -> tuple[Change, ...] | None:
    """Return the inputs that explain `seen`, None if no known bundle, vCPU count and memory does.

    known: other launches and builds that this host knows of.
    """
    sizes = dict.fromkeys((registered.memory_mib, *(each.memory_mib for each in known), *_TRIED_MEMORY_MIB))
    counts = dict.fromkeys((registered.vcpus, *_TRIED_VCPUS))
    bundles = {each.folded: each for each in (*known, registered)}
    for bundle, size, count, variant in product(
        sorted(bundles.values(), key=lambda each: each.folded != registered.folded),
        sizes,
        counts,
        VmsaVariant,
    ):
        tried = replace(bundle, vcpus=count, memory_mib=size, variant=variant)
        try:
            found = predict_bundle(tried) == seen
        except FormatError:
            continue  # libkrun starts no such machine
        if found:
            return _compare(registered, tried)
    return None


def _compare(registered: BundleDescription, launched: BundleDescription) -> tuple[Change, ...]:
    changes = []
    for name in (*_PARTS, "vcpus", "memory_mib", "variant"):
        one, other = getattr(registered, name), getattr(launched, name)
        is_same = one.digest == other.digest if isinstance(one, MeasuredFile) else one == other
        if not is_same:
            changes.append(Change(input=name, registered=_show(one), explains=_show(other)))
    return tuple(changes)


def _show(value: object) -> str:
    return (
        f"{value.name} (sha256 {value.digest.hex()[:16]})" if isinstance(value, MeasuredFile) else str(value)
    )
