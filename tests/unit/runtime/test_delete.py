import pytest

from krunpy.core.errors import FormatError
from krunpy.runtime.lifecycle import delete_container


def test_a_container_whose_record_is_damaged_is_removed_by_force_only(tmp_path):
    (tmp_path / "c1").mkdir()
    (tmp_path / "c1/state").write_bytes(b"\xff garbage")

    with pytest.raises(FormatError):
        delete_container(str(tmp_path), "c1", force=False)
    assert delete_container(str(tmp_path), "c1", force=True) == []

    assert not (tmp_path / "c1").exists()
