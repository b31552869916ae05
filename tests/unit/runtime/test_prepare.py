"""One workload is the same to `krunpy measure`, `krunpy register` and `krunpy run`, in every TEE."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from krunpy.cli.measure_document import to_registered
from krunpy.cli.measure_values import Wish, build_wished_bundle, predict_values
from krunpy.core.errors import BundleError, HostError, UsageError
from krunpy.core.octets import Digest48
from krunpy.core.settings import Settings
from krunpy.formats.manifest import make_mrconfigid
from krunpy.guest.payload import VmmKind
from krunpy.measure.reference_values import Tee
from krunpy.oci.annotations import parse_annotations
from krunpy.oci.bundle import parse_bundle
from krunpy.runtime.broker import open_broker
from krunpy.runtime.launch import Job, _draft, launch
from krunpy.runtime.plan import Plan, make_config
from krunpy.runtime.planned import draft_plan, prepare_plan
from krunpy.runtime.prepare import complete, convert_source, load_key
from krunpy.runtime.steps import Clock
from krunpy.runtime.vm_shares import Shares
from krunpy.tee.detect import TeeKind
from tests.fakes.guest_build import build_guest
from tests.fakes.serving import serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from krunpy.runtime.broker import Broker

RTMR0 = Digest48(b"\x01" * 48)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Return the settings of an installation with a guest for every TEE, and with a server that runs."""
    folder = tmp_path_factory.mktemp("house")
    build_guest(folder / "guest", "snp", "tdx")
    with serve(str(folder / "store")) as serving:
        yield Settings(
            data_dir=str(folder / "data"),
            cache_dir=str(folder / "cache"),
            guest_dir=str(folder / "guest"),
            server_url=serving.url,
            server_key=serving.key,
            token_file=str(folder / "store/admin.token"),
            tee="software",
        )


@pytest.fixture
def broker(settings: Settings) -> Broker:
    return open_broker(settings)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_text("x")
    return Plan(
        source=f"dir:{tmp_path / 'root'}", args=("/bin/true", str(tmp_path)), cpus=2, integrity_only=True
    )


@pytest.fixture
def shim() -> Iterator[socket.socket]:
    with socket.socket() as unused:
        yield unused


def run_of(settings: Settings, plan: Plan, tee: TeeKind, shim: socket.socket, folder: Path) -> Job:
    bundle = parse_bundle(json.dumps(make_config(plan)).encode(), str(folder))
    return Job(
        directory=str(folder),
        settings=settings,
        bundle=bundle,
        wishes=parse_annotations(bundle.annotations),
        tee=tee,
        vmm=VmmKind.QEMU,
        shares=Shares(),
        clock=Clock(lambda *_: None),
        shim=shim,
    )


def wish_for(tee: TeeKind) -> Wish:
    return Wish(
        tee=Tee(tee),
        vmm="qemu",
        counts=(2,),
        firmware=None,
        bundle=None,
        vcpu_type="",
        memory_mib=0,
        usual_memory_mib=512,
        rtmr0=RTMR0 if tee is TeeKind.TDX else None,
    )


def test_measure_register_and_run_agree_on_a_machine_of_libkrun_in_snp(
    settings: Settings, broker: Broker, plan: Plan, shim: socket.socket, tmp_path: Path
) -> None:
    build_guest(tmp_path / "guest", krun_sev=True)
    settings = replace(settings, vmm="libkrun", guest_dir=str(tmp_path / "guest"), memory_mib=777)
    identity = broker.identity()
    measured = draft_plan(settings, plan, identity=identity, tee=TeeKind.SNP)
    registered = prepare_plan(settings, plan, identity=identity, tee=TeeKind.SNP)
    job = replace(run_of(settings, plan, TeeKind.SNP, shim, tmp_path), vmm=VmmKind.LIBKRUN)
    run, held = _draft(job, broker)
    os.close(held)

    wish = replace(wish_for(TeeKind.SNP), vmm="libkrun", usual_memory_mib=777)
    values = predict_values(measured, wish, build_wished_bundle(measured, wish, b""))
    completed = complete(run, cpus=2, memory_mib=777)
    digests = [value.registers["launch_digest"] for value in values.values]
    assert run.payload == measured.payload == registered.payload
    assert [item.digest for item in completed.predicted] == digests
    assert [item.digest for item in registered.predicted] == digests
    assert [item.description.to_dict() for item in registered.predicted] == [
        dict(value.inputs) for value in values.values
    ]
    shown = broker.register(registered, key=load_key(settings, registered.image), uses=1)
    assert [item["launch_digest"] for item in shown["reference_values"]] == [item.hex() for item in digests]
    assert not any("host_data" in item for item in shown["reference_values"])


@pytest.mark.parametrize("tee", TeeKind)
@pytest.mark.parametrize("workload", ["", "web"])
def test_measure_register_and_run_make_the_same_manifest_for_one_tee_alone(
    settings: Settings,
    broker: Broker,
    plan: Plan,
    shim: socket.socket,
    tee: TeeKind,
    workload: str,
    tmp_path: Path,
) -> None:
    plan, identity = replace(plan, workload=workload), broker.identity()
    measured = draft_plan(settings, plan, identity=identity, tee=tee)
    documented = draft_plan(settings, plan, identity=identity, tee=tee, has_firmware=False)
    registered = prepare_plan(settings, plan, identity=identity, tee=tee)
    run, held = _draft(run_of(settings, plan, tee, shim, tmp_path), broker)
    os.close(held)

    assert {measured.manifest, documented.manifest, registered.manifest, run.manifest} == {run.manifest}
    assert run.payload == measured.payload == registered.payload
    assert run.payload.initrd == documented.payload.initrd
    assert run.parsed.tees == (str(tee),)
    values = predict_values(measured, wish_for(tee))
    digests = [value.registers.get("launch_digest") for value in values.values]
    if tee is TeeKind.TDX:
        assert complete(run, cpus=2, memory_mib=512).predicted == ()
    else:
        assert [item.digest for item in complete(run, cpus=2, memory_mib=512).predicted] == digests
        assert [item.digest for item in registered.predicted] == digests
        assert [dict(value.inputs) for value in values.values] == [
            item.description.to_dict() for item in registered.predicted
        ]


def test_a_manifest_is_another_one_in_each_tee(settings: Settings, broker: Broker, plan: Plan) -> None:
    drafts = [draft_plan(settings, plan, identity=broker.identity(), tee=tee) for tee in TeeKind]

    assert len({drafted.manifest_hash for drafted in drafts}) == 3
    assert len({drafted.parsed.workload for drafted in drafts}) == 3


def test_a_run_in_snp_registers_its_digests_with_and_without_debug_swap(
    settings: Settings, broker: Broker, plan: Plan
) -> None:
    prepared = prepare_plan(settings, plan, identity=broker.identity(), tee=TeeKind.SNP)

    assert broker.register_run(prepared, key=load_key(settings, prepared.image)) is True

    shown = broker.client.show_workload(prepared.parsed.workload)
    assert [(value["tee"], value["launch_digest"]) for value in shown["reference_values"]] == [
        ("snp", item.digest.hex()) for item in prepared.predicted
    ]
    assert [value["inputs"]["guest_features"] for value in shown["reference_values"]] == [0x1, 0x21]
    assert {value["host_data"] for value in shown["reference_values"]} == {prepared.manifest_hash.hex()}
    assert {value["inputs"]["vcpu_type"] for value in shown["reference_values"]} == {"EPYC-v4"}
    assert (shown["policy"], shown["uses_left"]) == ({}, 1)


def test_a_run_on_tdx_is_not_registered_for_want_of_rtmr0(
    settings: Settings, broker: Broker, plan: Plan
) -> None:
    prepared = prepare_plan(settings, plan, identity=broker.identity(), tee=TeeKind.TDX)

    with pytest.raises(UsageError, match="does not predict RTMR0") as caught:
        broker.register_run(prepared, key=load_key(settings, prepared.image))

    assert "--rtmr0" in caught.value.next
    assert "krunpy register --reference-values" in caught.value.next


def test_a_run_on_tdx_uses_what_was_registered_beforehand_with_krunpys_policy_and_its_mrconfigid(
    settings: Settings, broker: Broker, plan: Plan
) -> None:
    identity = broker.identity()
    drafted = draft_plan(settings, plan, identity=identity, tee=TeeKind.TDX)
    values = predict_values(drafted, wish_for(TeeKind.TDX))
    key = load_key(settings, drafted.image)
    broker.register_values(
        drafted, to_registered(values, manifest_hash=drafted.manifest_hash), key=key, uses=3
    )

    prepared = prepare_plan(settings, plan, identity=identity, tee=TeeKind.TDX)
    assert broker.register_run(prepared, key=key) is False

    shown = broker.client.show_workload(drafted.parsed.workload)
    assert shown["policy"] == {"tdx": {"require_sept_ve_disable": True}}
    wanted = make_mrconfigid(drafted.manifest_hash).hex()
    assert {value["mrconfigid"] for value in shown["reference_values"]} == {wanted}
    assert shown["uses_left"] == 3
    broker.client.revoke(drafted.parsed.workload)
    with pytest.raises(UsageError, match="does not predict RTMR0"):
        broker.register_run(prepared, key=key)


@pytest.mark.parametrize("tee", [TeeKind.SNP, TeeKind.TDX])
def test_a_launch_in_hardware_that_is_not_here_fails_before_anything_is_made(
    settings: Settings, plan: Plan, shim: socket.socket, tee: TeeKind, tmp_path: Path
) -> None:
    fresh = replace(
        settings, data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), server_url=""
    )
    with pytest.raises(HostError, match=f"cannot launch a machine in {tee}"):
        launch(run_of(fresh, plan, tee, shim, tmp_path), shim)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "rootfs"]


def test_the_outside_of_a_confidential_image_is_not_taken_for_the_workload(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "disk.img").write_bytes(b"LUKS")
    (tmp_path / "krun-sev.json").write_text("{}")

    with pytest.raises(BundleError, match=r"the workload is in the disk\.img") as caught:
        convert_source(settings, f"dir:{tmp_path}")

    assert caught.value.next == f"krunpy image import --passphrase-file FILE dir:{tmp_path}"


@pytest.mark.parametrize("name", ["disk.img", "krun-sev.json"])
def test_one_of_its_files_alone_is_a_workload_like_any_other(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"x")

    assert convert_source(settings, f"dir:{tmp_path}").image_id
