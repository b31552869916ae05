from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from krunpy.core.errors import StateError
from krunpy.core.settings import Settings
from krunpy.runtime.prepare import open_cache
from krunpy.runtime.vm_machine import convert_image, ensure_image, make_vm_config
from krunpy.runtime.vm_record import VmRecord

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), guest_dir="/none")


@pytest.fixture
def record(settings: Settings, tmp_path: Path) -> VmRecord:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_text("x")
    source = f"dir:{tmp_path}/root"
    image, user = convert_image(settings, source, None)
    return VmRecord(
        name="web",
        source=source,
        image=image.image_id,
        fingerprint=image.source,
        user=user,
        cpus=1,
        memory_mib=256,
        args=("/file",),
    )


def test_an_image_that_was_pruned_is_converted_again_and_that_one_runs(settings: Settings, record: VmRecord):
    shutil.rmtree(settings.cache_dir)

    image = ensure_image(settings, record, None)

    assert open_cache(settings).load(image.image_id).source == record.fingerprint
    config = make_vm_config(record, image)
    assert config["annotations"]["io.krunpy.source"] == f"image:{image.image_id}"


def test_another_source_in_its_place_is_not_run(settings: Settings, record: VmRecord):
    shutil.rmtree(settings.cache_dir)

    with pytest.raises(StateError, match="is another one now"):
        ensure_image(settings, replace(record, fingerprint="0" * 64), None)
