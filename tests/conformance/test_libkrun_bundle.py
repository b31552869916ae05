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
from krunpy.measure.libkrun import predict_libkrun_digest
from tests.fakes.qboot import make_qboot

TOOL = os.environ.get("KRUNPY_KRUNFW_MEASUREMENT", "")


@pytest.mark.skipif(
    not TOOL, reason="KRUNPY_KRUNFW_MEASUREMENT names no krunfw_measurement: build libkrunfw's utils"
)
@pytest.mark.parametrize(("vcpus", "memory_mib"), [(1, 512), (2, 2048), (4, 4096), (8, 3000)])
def test_libkrunfws_tool_measures_the_same(tmp_path, vcpus, memory_mib):
    kernel = KrunKernel(image=os.urandom(1 << 20), load_gpa=0x1000000, entry_gpa=0x1000123)
    bundle = build_bundle(kernel, make_qboot(0x10009A3), agent=os.urandom(10000), manifest=b"{}")
    path = tmp_path / "bundle.so"
    path.write_bytes(pack_bundle(bundle, SONAMES[0]))
    launch = replace(describe_bundle(bundle, vcpus=vcpus, memory_mib=memory_mib), variant=VmsaVariant.A)

    said = subprocess.run(
        [TOOL, "-c", str(vcpus), "-m", str(memory_mib), path], capture_output=True, check=True
    )

    assert predict_libkrun_digest(launch).hex() in said.stdout.decode().lower()
