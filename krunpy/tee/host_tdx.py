"""Is this host ready for TDX guests: one finding a subject, each gap with what closes it.

Source: Linux Documentation/arch/x86/tdx.rst and arch/x86/kvm/vmx/tdx.c of 6.16; Intel TDX Enabling Guide; Intel SDM
volume 4: IA32_TME_ACTIVATE 982h, IA32_MKTME_KEYID_PARTITIONING 87h, IA32_SEAMRR_PHYS_MASK 1401h.
"""

from __future__ import annotations

from krunpy.tee.detect import ON, QUOTE_SOCKET, TDX_PARAMETER
from krunpy.tee.host_tree import Finding, HostTree, gap, ready, unknown

VENDOR = "GenuineIntel"
QUOTE_CONFIG = "/etc/sgx_default_qcnl.conf"
_FLAG = "tdx_host_platform"
_OLDEST_KERNEL = (6, 16)
_PARAMETERS = {
    "kvm_intel.tdx": TDX_PARAMETER,
    "kvm_intel.ept": "/sys/module/kvm_intel/parameters/ept",
    "kvm.tdp_mmu": "/sys/module/kvm/parameters/tdp_mmu",
    "kvm.mmio_caching": "/sys/module/kvm/parameters/mmio_caching",
}
_NO_TDX = frozenset({"kvm_intel.tdx=0", "kvm_intel.ept=0", "kvm.tdp_mmu=0", "nosgx"})
_SGX_DEVICES = ("/dev/sgx_enclave", "/dev/sgx_provision")
_TME_ACTIVATE, _KEYIDS, _SEAMRR_MASK = 0x982, 0x87, 0x1401
_TME_ENABLED, _SEAMRR_ENABLED = 1 << 1, 1 << 11
_BIOS = "enable TME, TME-MT, TDX and the SEAM loader in the BIOS, with TDX key ids above 0"


def find_tdx_findings(tree: HostTree) -> tuple[Finding, ...]:
    """Return the findings in the order in which gaps are best closed."""
    return (
        _check_cpu(tree),
        _check_seam(tree),
        tree.check_kernel(_OLDEST_KERNEL, "install a kernel of 6.16 or newer with CONFIG_KVM_INTEL_TDX"),
        tree.check_command_line(_NO_TDX, why="the kernel leaves TDX off"),
        _check_hibernation(tree),
        tree.check_parameters(
            _PARAMETERS, fix='boot with kvm_intel.tdx=1; if it stays N, see "cpu", "seam" and "sleep"'
        ),
        _check_sgx(tree),
        _check_quoting(tree),
        _check_keys(tree),
    )


def _check_cpu(tree: HostTree) -> Finding:
    vendor, flags = tree.cpu()
    if vendor != VENDOR:
        return gap(
            "cpu",
            f"vendor {vendor}, wanted {VENDOR}",
            "use a host with a Xeon of the 5th generation or newer",
        )
    if _FLAG in flags:
        return ready("cpu", f"flag {_FLAG}")
    if "hypervisor" in flags:
        return gap("cpu", f"flag {_FLAG} is missing, and this is a virtual machine", "use a physical host")
    return gap("cpu", f"flag {_FLAG} is missing", _BIOS)


def _check_seam(tree: HostTree) -> Finding:
    tme, keys, seam = (tree.read_msr(number) for number in (_TME_ACTIVATE, _KEYIDS, _SEAMRR_MASK))
    if tme is None or keys is None or seam is None:
        return unknown("seam", "the MSRs cannot be read", "modprobe msr, and run as root")
    lacking = []
    if not tme & _TME_ENABLED:
        lacking.append("memory encryption is off")
    if not seam & _SEAMRR_ENABLED:
        lacking.append("the SEAM range is off")
    if not keys >> 32:
        lacking.append("no key ids are for TDX")
    if lacking:
        return gap("seam", ", ".join(lacking), _BIOS)
    return ready("seam", f"SEAM range on, {keys >> 32} key ids for TDX")


def _check_hibernation(tree: HostTree) -> Finding:
    states = (tree.read("/sys/power/state") or "").split()
    if "disk" not in states:
        return ready("sleep", "no hibernation")
    if (tree.read(TDX_PARAMETER) or "").strip() in ON:
        return ready("sleep", "hibernation is possible, and KVM has TDX all the same")
    fix = "boot with nohibernate: key ids and the TDX module do not survive it, and many kernels refuse TDX with it"
    return gap("sleep", "this kernel can hibernate", fix)


def _check_sgx(tree: HostTree) -> Finding:
    missing = [path for path in _SGX_DEVICES if not tree.exists(path)]
    if missing:
        fix = "enable SGX in the BIOS: quotes are signed in an enclave of the host"
        return gap("sgx", f"{', '.join(missing)} missing", fix)
    return ready("sgx", ", ".join(_SGX_DEVICES))


def _check_quoting(tree: HostTree) -> Finding:
    if not tree.is_socket(QUOTE_SOCKET):
        listens = "is no socket" if tree.exists(QUOTE_SOCKET) else "does not exist"
        fix = (
            "install and start the quote generation service (tdx-qgs, qgsd.service); if /etc/qgs.conf has a line "
            "`port =`, remove it"
        )
        return gap("qgs", f"{QUOTE_SOCKET} {listens}", fix)
    if "pccs_url" not in (tree.read(QUOTE_CONFIG) or ""):
        fix = f"name a certificate caching service as pccs_url in {QUOTE_CONFIG}, and register the platform with it"
        return gap("qgs", f"it listens, but {QUOTE_CONFIG} names no pccs_url", fix)
    return ready("qgs", f"listens on {QUOTE_SOCKET}")


def _check_keys(tree: HostTree) -> Finding:
    count = tree.misc_capacity("tdx")
    if count is None:
        keys = tree.read_msr(_KEYIDS)
        # one of them is the TDX module's own
        count = None if keys is None else max((keys >> 32) - 1, 0)
    if count is None:
        fix = "mount cgroup v2 with the misc controller, or modprobe msr and run as root"
        return unknown("keys", "neither cgroup misc nor an MSR says how many guests there can be", fix)
    if count == 0:
        return gap("keys", "no key ids for TDX guests", "raise the number of TDX key ids in the BIOS")
    return ready("keys", f"{count} TDX guests at a time")
