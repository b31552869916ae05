"""The digest of a bundle beside that of libkrunfw's own tool, which KRUNPY_KRUNFW_MEASUREMENT names.

utils/krunfw_measurement.c of libkrunfw has an old prototype of krunfw_get_kernel (two arguments): give it the third.
"""

import os
import subprocess
from dataclasses import replace

import pytest

from krunpy.formats.krun_bundle import SONAMES, pack_bundle
from krunpy.formats.krun_kernel import KrunKernel
from krunpy.formats.vmsa_libkrun import VmsaVariant
from krunpy.guest.bundle import build_bundle, describe_bundle
from krunpy.guest.payload import VmmKind, assemble_payload, load_guest
from krunpy.measure.libkrun import predict_libkrun_digest
from krunpy.runtime.krun_sev import load_bundle
from krunpy.runtime.predict import predict_bundled
from krunpy.tee.detect import TeeKind
from krunpy.vmm.files import read_sealed_file
from tests.fakes.guest_build import build_guest
from tests.fakes.qboot import make_qboot

TOOL = os.environ.get("KRUNPY_KRUNFW_MEASUREMENT", "")
pytestmark = pytest.mark.skipif(
    not TOOL, reason="KRUNPY_KRUNFW_MEASUREMENT names no krunfw_measurement: build libkrunfw's utils"
)


@pytest.mark.parametrize(("vcpus", "memory_mib"), [(1, 512), (2, 2048), (4, 4096), (8, 3000)])
def test_libkrunfws_tool_measures_the_same(tmp_path, vcpus, memory_mib):
    kernel = KrunKernel(image=os.urandom(1 << 20), load_gpa=0x1000000, entry_gpa=0x1000123)
    bundle = build_bundle(kernel, make_qboot(0x10009A3), agent=os.urandom(10000), manifest=b"{}")
    path = tmp_path / "bundle.so"
    path.write_bytes(pack_bundle(bundle, SONAMES[0]))
    launch = replace(describe_bundle(bundle, vcpus=vcpus, memory_mib=memory_mib), variant=VmsaVariant.A)

    assert predict_libkrun_digest(launch).hex() in measure(path, vcpus, memory_mib)


def test_it_measures_what_a_run_hands_over_as_what_a_run_registers(tmp_path):
    build_guest(tmp_path / "guest", krun_sev=True)
    guest = load_guest(str(tmp_path / "guest"), tee=TeeKind.SNP, vmm=VmmKind.LIBKRUN)
    payload = assemble_payload(guest, b"{}")
    files = load_bundle(payload, workload="w", cpus=3, memory_mib=700)
    path = tmp_path / "bundle.so"
    path.write_bytes(read_sealed_file(files.bundle))
    for descriptor in files.descriptors:
        os.close(descriptor)

    predicted = predict_bundled(payload, cpus=3, memory_mib=700, name="guest")

    (of_a,) = [item for item in predicted if item.description.variant is VmsaVariant.A]
    assert of_a.digest.hex() in measure(path, 3, 700)


def measure(path, vcpus, memory_mib):
    """Return what the tool says of a bundle, in lower case."""
    argv = [TOOL, "-c", str(vcpus), "-m", str(memory_mib), path]
    return subprocess.run(argv, capture_output=True, check=True).stdout.decode().lower()
