"""Answer the cases of the vectors' folders `measure` and `eventlog`, without looking at what they expect.

`run.py` strips a case of its answers and calls `answer_measure_case` for each entry of a cases.json, and
`answer_eventlog_case` for each member of eventlog/expected.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.eventlog_dstack import parse_event_log
from krunpy.formats.tdx_quote import parse_tdx_quote
from krunpy.formats.vmsa import Vmm
from krunpy.measure.kernel_hashes import hash_direct_boot
from krunpy.measure.launch import LaunchInputs, Layout, predict_snp_digest
from krunpy.measure.replay import replay_events
from krunpy.measure.tdx_mrtd import PageOrder, predict_mrtd
from krunpy.measure.tdx_rtmr import predict_rtmr2

if TYPE_CHECKING:
    from pathlib import Path


def read_named(folder: Path, case: dict, member: str) -> bytes | None:
    return (folder / case[member]).read_bytes() if case.get(member) else None


def predict_snp(folder: Path, case: dict) -> str:
    hashes = None
    kernel = read_named(folder, case, "kernel")
    if kernel is not None:
        hashes = hash_direct_boot(kernel, read_named(folder, case, "initrd") or b"", case.get("append") or "")
    inputs = LaunchInputs(
        firmware=(folder / case["ovmf"]).read_bytes(),
        layout=Layout.SEV_METADATA,
        kernel_hashes=hashes,
        vcpus=case["vcpus"],
        vcpu_type=case["vcpu_type"],
        guest_features=int(str(case["guest_features"]), 0),
        vmm=Vmm(case.get("vmm", "qemu").lower()),
    )
    return predict_snp_digest(inputs).hex()


def predict_tdx_mrtd(folder: Path, case: dict) -> str:
    word = case["page_add_order"].split()[0]
    return predict_mrtd((folder / case["firmware"]).read_bytes(), PageOrder(word)).hex()


def predict_tdx_rtmr2(folder: Path, case: dict) -> str:
    return predict_rtmr2(case["load_options"], read_named(folder, case, "initrd")).hex()


PREDICTIONS = {
    "snp-launch-digest": predict_snp,
    "tdx-mrtd": predict_tdx_mrtd,
    "tdx-rtmr2-direct-boot": predict_tdx_rtmr2,
}


def answer_measure_case(folder: Path, index: int, case: dict) -> dict:
    """Return {"id", "kind", "verdict": "computed" | "reject" | "unsupported", "value": hex or None}."""
    answer = {"id": f"{folder.name}/{index}", "kind": case["kind"], "verdict": "unsupported", "value": None}
    predict = PREDICTIONS.get(case["kind"])
    if predict is None:
        return answer
    try:
        return answer | {"verdict": "computed", "value": predict(folder, case)}
    except FormatError as error:
        return answer | {"verdict": "reject", "why": str(error)}


def answer_eventlog_case(folder: Path, name: str, case: dict) -> dict:
    """Return {"id", "kind": "eventlog", "verdict": "computed" | "reject", "value": four hex RTMRs or None,
    "events": count or None, "quote": "matches" | "differs" | None}.

    name: the log's file name, the key of expected.json; case: its value without "rtmr" and "events".
    A log that does not lead to its quote's registers is rejected; its value is where it leads.
    """
    answer = {"id": f"{folder.name}/{name}", "kind": "eventlog", "verdict": "reject", "value": None}
    answer |= {"events": None, "quote": None}
    try:
        events = parse_event_log((folder / name).read_bytes())
    except FormatError as error:
        return answer | {"why": str(error)}
    rtmrs = replay_events(events).rtmrs
    answer |= {"verdict": "computed", "value": [rtmr.hex() for rtmr in rtmrs], "events": len(events)}
    quote = read_named(folder, case, "quote")
    if quote is None:
        return answer
    if parse_tdx_quote(quote).td.rtmrs == rtmrs:
        return answer | {"quote": "matches"}
    return answer | {"verdict": "reject", "quote": "differs"}
